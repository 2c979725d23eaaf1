"""Models that take named tensors under the engine: the numbers of plain hooks, alone and with strangers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tests.worker.named_graphs import digits, hooked, task

from telepatch_protocol.errors import DtypeError, IndexOutOfRange, NotFound, ShapeError
from telepatch_worker.cards import CardFile
from telepatch_worker.engine import Engine, Task
from telepatch_worker.load import load

VIT, MLP = "vit-digits", "mlp-digits"
EXACT = {"options": {"exact": True}}


def own(name: str, **fields) -> CardFile:
    """A card of one of the modules beside these tests."""
    about = {"id": name, "source": "config:none", "kind": "module", "loader": f"tests.worker.named_graphs:{name}"}
    return CardFile.model_validate({**about, **fields})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Callable[..., Engine]]:
    cache: Path = tmp_path_factory.mktemp("models")
    engines: dict[str, Engine] = {}

    def engine(name: str, **fields) -> Engine:
        if name not in engines:
            engines[name] = Engine(load(own(name, **fields), cache=cache))
        return engines[name]

    yield engine
    for one in engines.values():
        one.close()


@pytest.fixture
def recurrent(made) -> Engine:
    return made("recurrent")


def normal(images: torch.Tensor) -> torch.Tensor:
    return (images.float() / 255 - 0.5) / 0.5


def zeroed(out: torch.Tensor) -> torch.Tensor:
    out[:, 3] = 0
    return out


def vit_job(build, images: torch.Tensor, **more) -> Task:
    return task(
        VIT,
        {"a": {"pixel_values": images}},
        build.set("vit.layers.1.mlp:output", 0, [":", 3]),
        build.get("h", "vit.layers.2:output"),
        build.get("attn", "blocks.3.attn:output"),
        build.get("z", "head:output"),
        **more,
    )


def vit_hooks(module: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    reads = {"h": "vit.layers.2", "attn": "vit.layers.3.attention", "z": "classifier"}
    seen = hooked(module, {"pixel_values": normal(images)}, [*reads.values()], {"vit.layers.1.mlp": zeroed})
    return {name: seen[path] for name, path in reads.items()}


def test_a_vit_gives_the_numbers_of_hooks_bit_for_bit_when_it_runs_exactly(engines, build, saved):
    engine, images = engines(VIT), digits(0, 5)
    wanted = vit_hooks(engine.loaded.module, images)
    found = saved(engine, vit_job(build, images, **EXACT))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_vit_gives_the_same_in_company_of_other_images(engines, build, saved, monkeypatch):
    engine = engines(VIT)
    parts = [digits(0, 1), digits(1, 17), digits(18, 4), digits(22, 2)]
    forwards = counted(engine, monkeypatch)
    results = saved(engine, *(vit_job(build, images) for images in parts))
    assert forwards == [24]
    for images, found in zip(parts, results, strict=True):
        wanted = vit_hooks(engine.loaded.module, images)
        assert all(torch.allclose(found[name], wanted[name], rtol=0, atol=2e-5) for name in wanted)
        assert all(found[name].shape == wanted[name].shape for name in wanted)


def counted(engine: Engine, monkeypatch) -> list[int]:
    """The rows of the inputs in each forward from here on, those that are shared counted as often."""
    rows: list[int] = []
    plain = engine.model.forward

    def forward(inputs, parts, *rest, **more):
        rows.append(sum(seat.rows.count for part in parts for seat in part.seats.values()))
        return plain(inputs, parts, *rest, **more)

    monkeypatch.setattr(engine.model, "forward", forward)
    return rows


def test_a_perceptron_is_read_and_written_like_any_other_model(engines, build, saved):
    engine = engines(MLP)
    x, other = digits(0, 3).flatten(1) / 255, digits(3, 9).flatten(1) / 255

    def job(pixels):
        return task(
            MLP,
            {"a": {"x": pixels}},
            build.set("blocks.0.act:output", 0.5, [":", "10:20"]),
            build.get("h", "blocks.1:output"),
            build.get("z", "head:output"),
        )

    def change(out):
        out[:, 10:20] = 0.5
        return out

    for pixels, found in zip((x, other), saved(engine, job(x), job(other)), strict=True):
        wanted = hooked(engine.loaded.module, {"x": pixels}, ["blocks.1", "head"], {"blocks.0.act": change})
        assert torch.allclose(found["h"], wanted["blocks.1"], atol=1e-6)
        assert torch.allclose(found["z"], wanted["head"], atol=1e-6)


def test_patching_between_two_images_of_one_job(engines, build, saved):
    engine = engines(VIT)
    found = saved(
        engine,
        task(
            VIT,
            {"a": {"pixel_values": digits(0, 2)}, "b": {"pixel_values": digits(2, 2)}},
            build.get("c", "vit.layers.3:output"),
            build.set("vit.layers.0:output", "$c", invoke="b"),
            build.get("z", "vit.layers.1:output", invoke="b"),
        ),
        task(VIT, {"a": {"pixel_values": digits(4, 3)}}, build.get("z", "head:output")),
    )[0]
    module = engine.loaded.module
    clean = hooked(module, {"pixel_values": normal(digits(0, 2))}, ["vit.layers.3"], {})["vit.layers.3"]
    wanted = hooked(module, {"pixel_values": normal(digits(2, 2))}, ["vit.layers.1"], {"vit.layers.0": lambda o: clean})
    assert torch.allclose(found["z"], wanted["vit.layers.1"], atol=2e-5)


def test_one_image_needs_no_axis_of_rows(engines, build, saved):
    engine = engines(VIT)
    one = task(VIT, {"a": {"pixel_values": digits(7, 1)[0]}}, build.get("z", "head:output"))
    assert saved(engine, one)["z"].shape == (1, 10)


def test_uint8_images_are_normalised_as_the_models_own_processor_does_it(engines, build, saved):
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    engine, images = engines(VIT), digits(0, 6)
    read = build.get("x", ":input")
    found = saved(engine, task(VIT, {"a": {"pixel_values": images}}, read))["x"]
    processor = ViTImageProcessorPil.from_pretrained(engine.loaded.file.origin.name)
    wanted = processor([image.numpy() for image in images], return_tensors="np", input_data_format="channels_first")
    assert torch.equal(found, torch.from_numpy(wanted["pixel_values"]))


def test_floats_are_taken_as_they_are_with_nan_and_other_widths_converted(engines, build, saved):
    engine = engines(VIT)
    images = normal(digits(0, 2)).double()
    images[1, 0, 0, 0] = torch.nan
    found = saved(engine, task(VIT, {"a": {"pixel_values": images}}, build.get("x", ":input")))["x"]
    assert found.dtype == torch.float32
    assert torch.equal(found[0], images[0].float())
    assert bool(found[1].isnan().any())
    half = task(VIT, {"a": {"pixel_values": images.half()}}, build.get("x", ":input"))
    assert saved(engine, half)["x"].dtype == torch.float32


def test_nan_in_one_job_is_no_strangers_nan(engines, build, saved):
    engine = engines(VIT)
    bad = torch.full((2, 1, 8, 8), torch.nan)
    poisoned, clean = saved(
        engine,
        task(VIT, {"a": {"pixel_values": bad}}, build.get("z", "head:output")),
        task(VIT, {"a": {"pixel_values": digits(0, 2)}}, build.get("z", "head:output")),
    )
    assert bool(poisoned["z"].isnan().all())
    assert not bool(clean["z"].isnan().any())


def test_literal_numbers_and_saved_values_are_inputs_too(engines, build, saved):
    engine = engines(MLP)
    literal = task(MLP, {}, build.get("z", "head:output"))
    graph = literal.graph.model_copy(update={"runs": one_run({"x": "$x"}), "constants": {"x": [[0] * 64, [1] * 64]}})
    zeros = torch.stack([torch.zeros(64), torch.ones(64)])
    wanted = hooked(engine.loaded.module, {"x": zeros}, ["head"], {})["head"]
    assert torch.allclose(saved(engine, Task("literal", graph))["z"], wanted, atol=1e-6)
    form = {"result": "20261124000000-aaaaaaaaaaaa", "name": "x"}
    graph = literal.graph.model_copy(update={"runs": one_run({"x": "$x"}), "constants": {"x": form}})
    results = {(form["result"], "x"): zeros}
    assert torch.allclose(saved(engine, Task("result", graph, results=results))["z"], wanted, atol=1e-6)
    part = {**form, "index": ["1:"]}
    graph = literal.graph.model_copy(update={"runs": one_run({"x": "$x"}), "constants": {"x": part}})
    assert torch.allclose(saved(engine, Task("part", graph, results=results))["z"], wanted[1:], atol=1e-6)
    with pytest.raises(NotFound):
        saved(engine, Task("gone", graph))


def one_run(inputs):
    from telepatch_protocol.graph import Invoke, Run

    return (Run(id="r", invokes=(Invoke(id="a", inputs=inputs),)),)


# Series: inputs with positions, that nobody may fill up


def series(length: int, rows: int = 1) -> torch.Tensor:
    return torch.sin(torch.arange(rows * length * 3).reshape(rows, length, 3).float() + length)


def test_the_axes_of_series_are_found(recurrent):
    card = recurrent.card
    assert card.inputs["series"].axes == ("row", "pos", 3)
    assert card.by_path["gru"].output.leaves[0].axes == ("row", "pos", 16)
    assert card.by_path["head"].output.leaves[0].axes == ("row", "pos", 2)
    assert card.shares


def test_series_of_one_length_share_a_forward_and_others_are_never_filled_up(recurrent, build, saved, monkeypatch):
    forwards = counted(recurrent, monkeypatch)
    lengths = [5, 7, 5, 4, 7]
    jobs = [
        task(
            "recurrent",
            {"a": {"series": series(n, 2)}},
            build.get("z", "head:output"),
            build.get("l", ":output", [":", -1]),
        )
        for n in lengths
    ]
    results = saved(recurrent, *jobs)
    assert forwards == [4, 4, 2]
    for length, found in zip(lengths, results, strict=True):
        wanted = hooked(recurrent.loaded.module, {"series": series(length, 2)}, ["head"], {})["head"]
        assert torch.allclose(found["z"], wanted, atol=1e-6)
        assert torch.allclose(found["l"], wanted[:, -1], atol=1e-6)


def test_series_of_several_lengths_in_one_job_run_one_by_one(recurrent, build, saved):
    job = task(
        "recurrent",
        {"a": {"series": series(3)}, "b": {"series": series(6)}},
        build.get("c", "up:output", [":", -1]),
        build.set("up:output", "$c", [":", 0], invoke="b"),
        build.get("z", "head:output", invoke="b"),
    )
    module = recurrent.loaded.module
    last = hooked(module, {"series": series(3)}, ["up"], {})["up"][:, -1]

    def change(out):
        out[:, 0] = last
        return out

    wanted = hooked(module, {"series": series(6)}, ["head"], {"up": change})["head"]
    assert torch.allclose(saved(recurrent, job)["z"], wanted, atol=1e-6)


def test_who_gives_an_optional_tensor_shares_no_forward_with_who_does_not(recurrent, build, saved, monkeypatch):
    forwards = counted(recurrent, monkeypatch)
    scale = torch.tensor([[2.0, 0.5, 1.0]])
    plain = task("recurrent", {"a": {"series": series(5)}}, build.get("z", "head:output"))
    scaled = task("recurrent", {"a": {"series": series(5), "scale": scale}}, build.get("z", "head:output"))
    results = saved(recurrent, plain, scaled)
    assert forwards == [1, 1]
    wanted = hooked(recurrent.loaded.module, {"series": series(5), "scale": scale}, ["head"], {})["head"]
    assert torch.allclose(results[1]["z"], wanted, atol=1e-6)
    assert not torch.allclose(results[0]["z"], wanted, atol=1e-3)


def test_a_module_whose_rows_depend_on_each_other_runs_each_job_alone(made, build, saved, monkeypatch):
    engine = made("centred", inputs={"x": {"axes": ["row", 4]}})
    assert not engine.card.shares
    forwards = counted(engine, monkeypatch)
    given = [torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    results = saved(engine, *(task("centred", {"a": {"x": x}}, build.get("z", "head:output")) for x in given))
    assert forwards == [3, 3]
    for x, found in zip(given, results, strict=True):
        assert torch.equal(found["z"], hooked(engine.loaded.module, {"x": x}, ["head"], {})["head"])


def test_integers_that_the_model_does_not_have_are_refused_before_the_forward(made, build, saved):
    engine = made("words", inputs={"codes": {"axes": ["row", 3], "dtype": "int64", "below": 6}})
    good = task("words", {"a": {"codes": torch.tensor([[0, 5, 2]], dtype=torch.int16)}}, build.get("h", "table:output"))
    bad = task("words", {"a": {"codes": torch.tensor([[0, 6, 2]])}}, build.get("h", "table:output"))
    first, second = engine.run([good, bad])
    assert torch.equal(first.saved["h"], engine.loaded.module.table.weight[[0, 5, 2]][None])
    assert isinstance(second.error, IndexOutOfRange)
    assert "integers from 0 to 6; the model takes 0 to 5" in str(second.error)
    floats = task("words", {"a": {"codes": torch.ones(1, 3)}}, build.get("h", "table:output"))
    with pytest.raises(DtypeError, match="takes int64, found float32"):
        saved(engine, floats)


def test_a_module_without_weights_can_be_served(made, build, saved):
    engine = made("bare", inputs={"x": {"axes": ["row", 2]}})
    job = task("bare", {"a": {"x": torch.tensor([[1.0, 2.0]])}}, build.get("y", ":output"))
    assert saved(engine, job)["y"].tolist() == [[2.0, 4.0]]


def test_more_rows_than_the_limit_are_refused_with_both_numbers(engines, build, saved):
    engine = engines(MLP)
    job = task(MLP, {"a": {"x": torch.zeros(2000, 64)}}, build.get("z", "head:output"))
    with pytest.raises(Exception, match="2000 rows; the limit is 1024"):
        saved(engine, job)


def test_a_tensor_of_another_shape_is_refused_with_both(engines, build, saved):
    job = task(MLP, {"a": {"x": torch.zeros(2, 63)}}, build.get("z", "head:output"))
    with pytest.raises(ShapeError, match=r"has shape \(rows, 64\), found \(2, 63\)"):
        saved(engines(MLP), job)
