"""Shards: which tensors are pieces follows from the shapes of the whole model; what cannot be told is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers.distributed.tensor_parallel import ColwiseParallel, ReplicatedWithGradAllReduce

from telepatch_protocol.card import Flow, Leaf, ModuleCard, Operation, PortCard, SourceCard
from telepatch_protocol.sites import Place
from telepatch_worker.cards import CardFile, LoadError, read_card
from telepatch_worker.load import load
from telepatch_worker.memory import Space
from telepatch_worker.random_weights import build
from telepatch_worker.sharded import local_device, saved_random, sharding, unwrapped, whole_model
from telepatch_worker.shards import is_wrapped
from telepatch_worker.sources import prepare
from telepatch_worker.wholes import Whole, Widening, cut_axis

CARD = read_card(Path(__file__).parents[2] / "models" / "llama-tp2-random.toml")


@pytest.mark.parametrize(
    ("shard", "whole", "axis"),
    [
        (("row", "pos", 64), ("row", "pos", 64), -1),
        (("row", "pos", 32), ("row", "pos", 64), 2),
        (("row", 4, "pos", 8), ("row", 8, "pos", 8), 1),
        (("row", 4, "pos", 4), ("row", 8, "pos", 8), None),
        (("row", "pos", 21), ("row", "pos", 64), None),
        (("row", "pos"), ("row", "pos", 64), None),
        (("row", None), ("row", 64), None),
        ((None, 64), (None, 64), None),
    ],
)
def test_a_tensor_is_a_piece_along_the_one_axis_that_is_shorter(shard, whole, axis):
    assert cut_axis(shard, whole, 2) == axis


def port(*axes: object, path: str = "", engine: bool = False) -> PortCard:
    return PortCard(order=(0,), leaves=(Leaf(path=path, axes=axes, dtype="float32", engine=engine),))


def flow(*axes: object) -> Flow:
    return Flow(at=((0, 0),), leaves=(Leaf(axes=axes, dtype="float32"),))


def test_ports_and_operations_get_the_sizes_of_the_whole_model():
    whole = Whole(
        {("q", "output"): port("row", "pos", 64), ("o", "output"): port("row", "pos", 48)},
        (ModuleCard(path="attn", kind="Attention", source="A"),),
        {"A": SourceCard(operations=(Operation(name="view_0", line=1, text="", output=flow("row", 8, "pos")),))},
    )
    widening = Widening(whole, 2)
    found = {
        ("q", "output"): port("row", "pos", 32),
        ("o", "output"): port("row", "pos", 48),
        ("q", "input"): port("row", "pos", 48),
    }
    ports = widening.ports(found)
    assert ports == {("q", "output"): whole.ports["q", "output"], ("o", "output"): found["o", "output"]}
    operations = (
        Operation(name="view_0", line=1, text="", output=flow("row", 4, "pos")),
        Operation(name="other_0", line=2, text="", output=flow("row", 4, "pos")),
    )
    modules, sources = widening.sources(
        (ModuleCard(path="attn", kind="Attention", source="B"), ModuleCard(path="mlp", kind="MLP", source="B")),
        {"B": SourceCard(operations=operations)},
    )
    assert [module.source for module in modules] == ["B", ""]
    assert sources["B"].operations == whole.sources["A"].operations
    assert widening.pieces == {Place("q", "output", ""): 2, Place("attn", "source.view_0.output", ""): 1}


def test_masks_that_no_axis_is_known_of_stay_as_they_are():
    whole = Whole({("a", "input"): port(None, 1, path="mask", engine=True)}, (), {})
    widening = Widening(whole, 2)
    assert widening.ports(whole.ports) == whole.ports
    assert widening.pieces == {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    made = saved_random(CARD, prepare(CARD, cache), cache)
    assert saved_random(CARD, prepare(CARD, cache), cache) == made
    assert made.folder is not None
    return made.folder


def test_the_whole_model_is_watched_without_its_numbers(folder, tmp_path):
    alone = load(CARD.model_copy(update={"tp_size": 1}), cache=tmp_path).card
    found = whole_model(CARD, folder)
    for module in alone.modules:
        for side in ("input", "output"):
            mine, fake = getattr(module, side), found.ports.get((module.path, side))
            if mine is not None:
                axes = {leaf.path: leaf.axes for leaf in fake.leaves}
                assert {leaf.path: leaf.axes for leaf in mine.leaves}.items() <= axes.items()


def test_random_weights_in_a_folder_are_those_of_the_card(folder):
    saved = load_file(folder / "model.safetensors")
    for name, value in build(CARD).named_parameters():
        assert saved[name].equal(value)


def test_a_model_that_cannot_be_cut_so_is_refused_with_why(folder, tmp_path):
    assert sharding(CARD, folder)["distributed_config"].tp_size == 2
    with pytest.raises(LoadError, match=r"tp_size = 3 does not divide num_attention_heads = 8, num_key"):
        sharding(CARD.model_copy(update={"tp_size": 3}), folder)
    gpt2 = read_card(Path(__file__).parents[2] / "models" / "gpt2-random.toml")
    other = saved_random(gpt2, prepare(gpt2, tmp_path), tmp_path).folder
    with pytest.raises(LoadError, match="no plan to shard a gpt2 over several ranks; leave tp_size out"):
        sharding(gpt2.model_copy(update={"tp_size": 2}), other)


def test_a_module_that_is_wrapped_for_gradients_of_its_parameters_alone_is_itself_again():
    model = torch.nn.Sequential(torch.nn.LayerNorm(4), torch.nn.Linear(4, 4))
    ReplicatedWithGradAllReduce().install_forward(model[0], None)
    ColwiseParallel().install_forward(model[1], None)
    assert is_wrapped(model[0])
    unwrapped(model)
    assert "forward" not in model[0].__dict__
    assert is_wrapped(model[1])


def test_one_process_does_not_load_what_several_hold(tmp_path):
    with pytest.raises(
        LoadError, match="this serves it: torchrun --nproc-per-node 2 -m telepatch worker --model llama"
    ):
        load(CARD, cache=tmp_path)


def test_each_rank_has_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert local_device(CARD, 1, 2).type == "cpu"
    with pytest.raises(LoadError, match="no CUDA device; use 'auto'"):
        local_device(CARD.model_copy(update={"device": "cuda"}), 0, 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert str(local_device(CARD, 1, 2)) == "cuda:1"
    with pytest.raises(LoadError, match="4 ranks on this host need a CUDA device each; it has 2"):
        local_device(CARD, 1, 4)
    with pytest.raises(LoadError, match="hide those: start it with CUDA_VISIBLE_DEVICES="):
        local_device(CARD.model_copy(update={"device": "cpu"}), 1, 2)


def test_a_shard_takes_its_part_of_a_gpu_and_all_shards_the_memory_of_one_host():
    counts = {"F32": 2**28}
    file = CardFile(id="m", source="config:llama", tokenizer="none")
    Space(torch.device("cuda"), torch.float32, 2**30, 2).refuse_too_big(file, counts)
    with pytest.raises(LoadError, match=r"its weights need 1\.10 GiB"):
        Space(torch.device("cpu"), torch.float32, 2**30, 2).refuse_too_big(file, counts)
