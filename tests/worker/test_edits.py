"""What happens on the way back: hooks of PyTorch, on the tensors of the same forwards, are the measure."""

from __future__ import annotations

import torch

from telepatch_protocol.errors import ExecutionError, IndexOutOfRange
from telepatch_worker.edits import Edits

GPT2 = "gpt2-random"
A, B = [5, 6, 7, 8, 9], [20, 21, 22]


def task(build, nodes, out=None, saves=None, ids=A, **more):
    """The gradient of a logit at the first block's output, with something on the way back."""
    grad = {"kind": "grad", "id": "g", "of": "$z", "wrt": ["$h"], "body": {"nodes": nodes, "out": out or {}}}
    return build.task(
        GPT2,
        {"a": ids},
        build.get("h", "blocks.0:resid_post"),
        build.get("z", "lm_head:output", [0, -1, 11]),
        grad,
        saves={"g": "$g.0", **(saves or {})},
        **more,
    )


def by_hooks(gpt2, change, ids=A, watch=(1, 2, 3)):
    """The same in plain PyTorch: `change(name, gradient)` at what the MLPs and the blocks return."""
    kept, handles = {}, []

    def hook(name):
        def of(module, args, output):
            tensor = output[0] if isinstance(output, tuple) else output
            if not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
            kept[name] = tensor
            if name != "first":
                tensor.register_hook(lambda gradient: change(name, gradient))
            return (tensor, *output[1:]) if isinstance(output, tuple) else tensor

        return of

    blocks = gpt2.loaded.module.transformer.h
    handles.append(blocks[0].register_forward_hook(hook("first")))
    for at in watch:
        handles.append(blocks[at].mlp.register_forward_hook(hook(f"mlp{at}")))
        handles.append(blocks[at].register_forward_hook(hook(f"block{at}")))
    try:
        with torch.enable_grad():
            logits = gpt2.loaded.module(input_ids=torch.tensor([ids]), use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return torch.autograd.grad(logits[0, -1, 11], [kept["first"]])[0]


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_one_computed_value_is_written_into_the_gradients_of_several_modules(gpt2, build, saved):
    nodes = [
        build.get("q", "blocks.3:resid_post.grad", [":", -1]),
        build.call("s", "mul", "$q", 0.5),
        *(build.set(f"blocks.{at}.mlp:output.grad", "$s", [":", -1]) for at in (1, 2, 3)),
    ]
    seen = {}

    def change(name, gradient):
        if name == "block3":
            seen["q"] = gradient[:, -1] * 0.5
        if name.startswith("mlp"):
            gradient = gradient.clone()
            gradient[:, -1] = seen["q"]
            return gradient
        return None

    wanted = by_hooks(gpt2, change)
    close(saved(gpt2, task(build, nodes))["g"], wanted)
    starred = [*nodes[:2], build.set("blocks.*.mlp:output.grad", "$s", [":", ":", -1])]
    close(saved(gpt2, task(build, starred))["g"], wanted)


def test_a_starred_gradient_is_read_from_the_last_module_to_the_first(gpt2, build, saved):
    body = [build.get("q", "blocks.*:resid_post.grad", [":", ":", -1])]
    found = saved(gpt2, task(build, body, {"q": "$q"}, {"q": "$g.q"}))
    assert found["q"].shape == (4, 1, 48)
    close(found["q"][0], found["g"][:, -1])


def test_an_edit_leaves_no_hook_behind(gpt2, build, saved, monkeypatch):
    made = []
    plain = Edits.__init__
    monkeypatch.setattr(Edits, "__init__", lambda self, *args: made.append(self) or plain(self, *args))
    watched = []
    fulfilled = Edits._watch

    def watch(self, moment, tensor, rows):
        watched.append(tensor)
        fulfilled(self, moment, tensor, rows)

    monkeypatch.setattr(Edits, "_watch", watch)
    saved(gpt2, task(build, [build.set("blocks.2.mlp:output.grad", 0)]))
    assert len(watched) == 1
    assert not any(tensor._backward_hooks for tensor in watched)
    assert made[0].tensors == []


def test_what_goes_wrong_on_the_way_back_fails_its_job_and_no_other(gpt2, build, saved):
    wrong = [
        build.get("q", "blocks.3:resid_post.grad", [0, -1]),
        build.call("big", "mul", "$q", 0.0),
        build.call("at", "to", "$big", "int64"),
        build.call("far", "add", "$at", 99),
        build.call("bad", "index", "$q", ["$far"]),
        build.set("blocks.1.mlp:output.grad", "$bad", [":", -1]),
    ]
    good = task(build, [build.set("blocks.2.mlp:output.grad", 0)], ids=B)
    alone = saved(gpt2, good)["g"]
    failed, kept = gpt2.run([task(build, wrong), good])
    assert isinstance(failed.error, IndexOutOfRange)
    assert failed.error.node == "bad"
    assert failed.saved is None
    close(kept.saved["g"], alone)


def test_a_gradient_that_never_comes_by_is_told_by_name(gpt2, build):
    """The number does not depend on the last block: nothing flows back through it."""
    body = [build.get("q", "blocks.3:resid_post.grad")]
    grad = {"kind": "grad", "id": "g", "of": "$s", "wrt": ["$h"], "body": {"nodes": body, "out": {"q": "$q"}}}
    nodes = [build.get("h", "blocks.0:resid_post"), build.call("s", "sum", "$h"), grad]
    [outcome] = gpt2.run([build.task(GPT2, {"a": A}, *nodes, saves={"q": "$g.q"})])
    assert isinstance(outcome.error, ExecutionError)
    assert "$q" in str(outcome.error)
