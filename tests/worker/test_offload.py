"""A model larger than its device: weights that wait on disk, and jobs that do not notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from telepatch_worker.cards import CardError, CardFile, LoadError, read_card
from telepatch_worker.engine import Engine, Task
from telepatch_worker.load import load

CARD = Path(__file__).parents[2] / "models" / "llama-random.toml"
IDS = [5, 17, 3, 44, 29, 8]
HALF = {
    **dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm"), "cpu"),
    **{f"model.layers.{layer}": "disk" if layer in (1, 3) else "cpu" for layer in range(5)},
    "lm_head": "disk",
}
Place = Callable[..., Engine]


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Place:
    cache = tmp_path_factory.mktemp("cache")

    def place(**given: object) -> Engine:
        return Engine(load(read_card(CARD).model_copy(update=given), cache=cache))

    return place


@pytest.fixture(scope="module")
def plain(placed: Place) -> Engine:
    return placed()


@pytest.fixture(scope="module")
def half(placed: Place) -> Engine:
    return placed(device_map=HALF)


def jobs(build) -> dict[str, Task]:
    inputs, logits = {"a": [IDS]}, build.get("z", "lm_head:output", [0, -1])
    one = build.get("one", "lm_head:output", [0, -1, 7])
    hidden = build.get("h", "model.layers.1.mlp.down_proj:input")
    asked = {"kind": "grad", "id": "g", "of": "$one", "wrt": ["$h"]}
    weight = build.get("w", "model.layers.3.mlp.up_proj:param.weight")
    zeroed = build.set("model.layers.3:output", 0.5, [":", 2])
    scores = build.get("s", "model.layers.1.self_attn:source.query_states_0.output")
    return {
        "read and write": build.task(
            "llama-random", inputs, zeroed, build.get("x", "model.layers.3.mlp:output"), logits
        ),
        "inside a forward": build.task("llama-random", inputs, scores),
        "a gradient through what waits on disk": build.task(
            "llama-random", inputs, hidden, one, asked, saves={"g": "$g.0"}
        ),
        "a parameter and a module applied": build.task(
            "llama-random",
            inputs,
            weight,
            build.get("h", "model.layers.2:output"),
            build.module("lens", "lm_head", "$h"),
            saves={"w": "$w", "lens": "$lens"},
        ),
    }


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal but for what kernels make of weights at other addresses."""
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def waiting(engine: Engine) -> set[str]:
    """Names of the weights that are not there now."""
    return {name for name, one in engine.loaded.module.named_parameters() if one.device.type == "meta"}


def test_jobs_get_the_same_numbers_from_weights_that_wait_on_disk(half: Engine, plain: Engine, build):
    before = waiting(half)
    assert {name.partition(".self")[0].partition(".mlp")[0] for name in before} >= {"model.layers.1", "model.layers.3"}
    for name, task in jobs(build).items():
        [found], [wanted] = half.run([task]), plain.run([task])
        assert (found.error, wanted.error) == (None, None), name
        for key, value in wanted.saved.items():
            same(found.saved[key], value)
    assert waiting(half) == before


def test_generations_are_the_same_too(half: Engine, plain: Engine, build):
    run = {"id": "r", "generate": {"max_new_tokens": 6}, "invokes": [{"id": "x", "ids": [IDS]}]}
    task = build.task("llama-random", {}, runs=[run], saves={"t": "$r.tokens"})
    [found], [wanted] = half.run([task]), plain.run([task])
    assert found.saved["t"].tolist() == wanted.saved["t"].tolist()


def test_a_model_published_from_disk_has_the_card_of_any_other(half: Engine, plain: Engine):
    assert half.card == plain.card


def test_auto_puts_on_disk_what_memory_has_no_room_for(placed: Place, plain: Engine, build):
    engine = placed(device_map="auto", max_memory={"cpu": "400KB"})
    assert waiting(engine)
    task = jobs(build)["read and write"]
    same(engine.run([task])[0].saved["z"], plain.run([task])[0].saved["z"])
    engine.close()


def test_a_closed_model_still_fetches_its_weights(placed: Place, plain: Engine):
    engine = placed(device_map=HALF)
    engine.close()
    with torch.no_grad():
        found, wanted = (one.loaded.module(torch.tensor([IDS])).logits for one in (engine, plain))
    same(found, wanted)


def test_a_map_over_several_devices_is_refused_with_what_is_there(placed: Place):
    with pytest.raises(
        LoadError, match=r"device_map has 3 for 'model.layers.0'; a worker computes on one device, here c"
    ):
        placed(device_map={**HALF, "model.layers.0": 3})
    with pytest.raises(LoadError, match="device_map has '' and 'lm_head', which lies inside of it"):
        placed(device_map={"": "cpu", "lm_head": "disk"})
    with pytest.raises(LoadError, match="max_memory names 1; here it is for 'cpu', 'cpu' and 'disk'"):
        placed(device_map="auto", max_memory={"1": "1GB"})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('tp_size = 2\ndevice_map = "auto"', "leave one out"),
        ('max_memory = {cpu = "1GB"}', "'max_memory' goes with device_map"),
        ('tp_size = 2\ndevice = "cuda:1"', "each rank has a device of its own"),
        ('device_map = "auto"\nquantisation = {method = "torch-int8"}', "'quantisation' does not go with"),
        ('tp_size = 2\nadapters = {a = "x"}', "'adapters' do not go with 'tp_size'"),
        ("tp_size = 0", "tp_size"),
    ],
)
def test_a_card_says_where_a_model_goes_in_one_way(tmp_path: Path, line: str, said: str):
    text = CARD.read_text().replace('tokenizer = "bytes"', f'tokenizer = "bytes"\n{line}')
    (tmp_path / "card.toml").write_text(text)
    with pytest.raises(CardError, match=said):
        read_card(tmp_path / "card.toml")


def test_named_tensors_and_loaders_are_held_on_one_device():
    with pytest.raises(ValueError, match="are for models of transformers that take tokens"):
        CardFile(id="m", source="config:m", kind="module", loader="a:b", tp_size=2)
