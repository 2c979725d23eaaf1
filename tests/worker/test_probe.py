"""Watching a forward leaves the model as it was."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from telepatch_worker.probe import flatten, probe_inputs, watch, watching


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_hooks_are_gone_after_a_forward_and_after_a_failure():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with watching(model) as record:
        assert hooks(model) == 6
        model(torch.zeros(2, 3))
    assert hooks(model) == 0
    assert [(event.module, event.port) for event in record.events] == [
        ("", "input"),
        ("0", "input"),
        ("0", "output"),
        ("1", "input"),
        ("1", "output"),
        ("", "output"),
    ]
    with pytest.raises(RuntimeError), watching(model):
        model(torch.zeros(2, 4))
    assert hooks(model) == 0


def test_watching_computes_no_gradient_and_changes_no_value():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4))
    ids = torch.arange(6).reshape(2, 3)
    plain = model(ids)
    seen = []
    handle = model[1].register_forward_hook(lambda module, args, output: seen.append(output))
    wrapped = nn.Module()
    wrapped.inner = model
    wrapped.forward = lambda input_ids: model(input_ids)
    watch(wrapped, {"input_ids": ids})
    handle.remove()
    assert torch.equal(seen[0], plain)
    assert not seen[0].requires_grad


def test_tensors_are_found_in_every_structure_and_other_objects_are_passed_over():
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    value = OrderedDict(logits=one, cache=object(), states=(two, None, [three]))
    assert [(path, tensor.numel()) for path, tensor in flatten(value)] == [
        ("logits", 1),
        ("states.0", 2),
        ("states.2.0", 3),
    ]
    assert [path for path, _ in flatten(one)] == [""]


def test_an_encoder_is_probed_with_rows_of_different_lengths():
    inputs = probe_inputs("encoder", 3, 8, 50, torch.device("cpu"))
    assert len(set(inputs["attention_mask"].sum(1).tolist())) == 2
    assert "attention_mask" not in probe_inputs("causal", 3, 8, 50, torch.device("cpu"))
