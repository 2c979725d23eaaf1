"""Modules of one's own: what a card's loader gives, and what is said when it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tests.worker.test_engine_named import own

from telepatch_worker.cards import CardError, CardFile, LoadError, read_card
from telepatch_worker.load import load

MODELS = Path(__file__).parents[2] / "models"
X = {"x": {"axes": ["row", 4]}}


def test_the_perceptron_recognises_digits_and_publishes_what_it_takes(tmp_path):
    from tests.worker.named_graphs import digits

    loaded = load(MODELS / "mlp-digits.toml", cache=tmp_path)
    one = loaded.card.inputs["x"]
    assert (one.axes, one.dtype, loaded.card.kind) == (("row", 64), "float32", "module")
    assert (loaded.card.tokenizer, loaded.card.vocabulary, loaded.card.limits.max_positions) == (None, 0, 1)
    scores = loaded.module(digits(0, 4).flatten(1) / 255)
    assert scores.shape == (4, 10)
    assert not loaded.module.training


def test_what_a_loader_says_of_its_inputs_is_published_unless_the_card_says_otherwise(tmp_path):
    said = load(own("recurrent"), cache=tmp_path).card.inputs
    assert said["series"].axes == ("row", "pos", 3)
    assert said["scale"].optional
    assert (
        "pos"
        not in load(own("recurrent", inputs={"series": {"axes": ["row", 5, 3]}}), cache=tmp_path)
        .card.inputs["series"]
        .axes
    )


def test_a_module_is_held_in_the_dtype_of_its_card(tmp_path):
    loaded = load(own("centred", inputs=X, dtype="bfloat16"), cache=tmp_path)
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.bfloat16}
    assert loaded.card.inputs["x"].dtype == "bfloat16"
    stated = {"x": {"axes": ["row", 4], "dtype": "float32"}}
    with pytest.raises(LoadError, match=r"cannot be called with x float32 \(rows, 4\)"):
        load(own("centred", inputs=stated, dtype="bfloat16"), cache=tmp_path)


def test_loading_draws_nothing_from_the_global_generator(tmp_path):
    before = torch.get_rng_state()
    load(own("centred", inputs=X), cache=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"loader": "no_such_package.models:make"}, "cannot be imported: No module named 'no_such_package'"),
        ({"loader": "tests.worker.named_graphs:absent"}, "has no function 'absent'"),
        ({"loader": "tests.worker.named_graphs:MODELS"}, "has no function 'MODELS'"),
        ({"loader": "tests.worker.named_graphs:broken"}, "raised KeyError: 'sizes'"),
        ({"loader": "tests.worker.named_graphs:nothing"}, "returned dict; a loader returns a torch.nn.Module"),
        ({"inputs": {}}, r"nothing says what this module model is called with; give the card a table \[inputs"),
        ({"inputs": {"y": {"axes": ["row", 4]}}}, "Centred takes no 'y'; its forward takes x"),
        ({"inputs": {"x": {"axes": ["row", 5]}}}, r"Centred cannot be called with x float32 \(rows, 5\)"),
    ],
)
def test_what_is_wrong_with_a_loader_is_said(fields, says, tmp_path):
    with pytest.raises(LoadError, match=says):
        load(own("centred", **{"inputs": X, **fields}), cache=tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loader": None}, "kind 'module' goes with a 'loader'"),
        ({"kind": "vision", "loader": "a:b"}, "kind 'module' goes with a 'loader'"),
        ({"loader": "a.b"}, "loader"),
        ({"loader": "a:b.c"}, "loader"),
        ({"inputs": {"x": {"axes": [4, "row"]}}}, "begin with 'row'"),
        ({"inputs": {"x": {"axes": ["row", 0]}}}, "sizes above 0"),
        ({"inputs": {"x": {"axes": ["row"], "dtype": "int64"}}}, "says what its numbers are 'below'"),
        ({"inputs": {"x": {"axes": ["row"], "dtype": "complex64"}}}, "dtype 'complex64' is not known"),
        ({"inputs": {"x": {"axes": ["row", 2], "pixels": {"mean": [0.5], "std": [0.5]}}}}, "each of 2 channels"),
        ({"inputs": {"x": {"axes": ["row", 1], "pixels": {"mean": [0.5], "std": [0]}}}}, "no std is 0"),
        ({"tokenizer": "bytes"}, "takes named tensors and has no tokenizer"),
        ({"kind": "causal", "loader": None, "tokenizer": "bytes", "inputs": X}, "takes tokens"),
    ],
)
def test_a_card_that_cannot_be_is_refused(changes, says):
    fields = {"id": "m", "source": "config:none", "kind": "module", "loader": "a.b:c", **changes}
    with pytest.raises(ValueError, match=says):
        CardFile.model_validate({name: value for name, value in fields.items() if value is not None})


def test_another_weight_another_table_and_other_code_are_another_model(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def make(folder, config):\n"
        "    model = torch.nn.Linear(2, config['gives'])\n"
        "    model.weight.data.fill_(float((folder / 'scale.txt').read_text()))\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    weights = tmp_path / "weights"
    weights.mkdir()
    (tmp_path / "mine.toml").write_text(
        'id = "mine"\nsource = "path:weights"\nkind = "module"\nloader = "mine:make"\n'
        '[config]\ngives = 3\n[inputs.input]\naxes = ["row", 2]\n'
    )

    def revision(scale: str, **changes) -> str:
        sys.modules.pop("mine", None)
        (weights / "scale.txt").write_text(scale)
        return load(read_card(tmp_path / "mine.toml").model_copy(update=changes), cache=tmp_path).revision

    first = revision("1.0")
    others = {revision("2.0"), revision("1.0", config={"gives": 4})}
    assert revision("1.0", id="renamed") == first
    with (tmp_path / "mine.py").open("a") as code:
        code.write("# changed\n")
    others.add(revision("1.0"))
    assert len({first, *others}) == 4


def test_a_folder_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(LoadError, match="there is no folder"):
        load(own("centred", inputs=X, source=f"path:{tmp_path}/absent"), cache=tmp_path)


def test_a_table_for_a_source_that_reads_none_is_refused(tmp_path):
    (tmp_path / "m.toml").write_text('id = "m"\nsource = "path:x"\n[config]\nn = 1\n')
    with pytest.raises(CardError, match="'config' is for config: sources and loaders"):
        read_card(tmp_path / "m.toml")
