"""What is refused of a fit before anything runs, and what is known of its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from telepatch_protocol import errors, wire
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.data import Column, Columns
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError, TooLarge, UnknownName
from telepatch_protocol.fitting import streams
from telepatch_protocol.graph import Fit, Graph
from telepatch_protocol.meta import Meta
from telepatch_protocol.price import price
from telepatch_protocol.subgraphs import all_nodes
from telepatch_protocol.wire import from_dict

ATTACHED = {
    "x": Meta((40, 8), "float32"),
    "y": Meta((40,), "int64"),
    "z": Meta((39,), "int64"),
    "w": Meta((8, 3), "float32"),
    "n": Meta((8, 3), "int64"),
}
TEXTS = "a" * 64


def call(id: str, op: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"kind": "call", "id": id, "op": op, "args": list(args), "kwargs": kwargs}


PROBE = [call("m", "matmul", "$bx", "$W"), call("ce", "cross_entropy", "$m", "$by")]


def fit(**more: Any) -> dict[str, Any]:
    given = {
        "kind": "fit",
        "id": "f",
        "over": {"bx": "$x", "by": "$y"},
        "batch_size": 8,
        "buffer": {},
        "params": {"W": {"init": "$w"}},
        "optimiser": {"name": "adam", "lr": 0.1},
        "body": {"nodes": PROBE, "out": {"loss": "$ce"}},
    }
    given |= {} if "epochs" in more else {"steps": 5}
    return {name: value for name, value in (given | more).items() if value is not None}


def graph(*nodes: dict[str, Any], saves: dict[str, str] | None = None) -> Graph:
    constants = {**{name: {"tensor": name} for name in ATTACHED}, "texts": {"data": TEXTS}}
    return from_dict(
        {
            "protocol": [1, 0],
            "model": {"id": "tiny"},
            "nodes": list(nodes),
            "saves": saves or {"W": "$f.W"},
            "constants": constants,
        }
    )


def checked(card: ModelCard, *nodes: dict[str, Any], **more: Any) -> Any:
    data = {TEXTS: Columns({"text": Column(kind="text", rows=40, longest=9, total=99)})}
    return check(graph(*nodes, **more), card, attachment=ATTACHED, data=data)


def test_the_outputs_of_a_fit_are_its_parameters_its_state_and_its_history(card: ModelCard):
    after = {"nodes": [call("s2", "add", "$s", "$f.loss")], "carry": {"s": "$s2"}}
    evaluate = {"every": 2, "body": {"nodes": [call("no", "norm", "$W")], "out": {"size": "$no"}}}
    names = ("W", "s", "loss", "steps", "stopped", "log.l", "eval.size")
    saves = {name.replace(".", "_"): f"$f.{name}" for name in names}
    one = fit(state={"s": 0.0}, after=after, evaluate=evaluate, emit={"l": "$f.loss"})
    found = checked(card, one, saves=saves).saves
    assert found["W"] == Meta((8, 3), "float32")
    assert found["s"] == Meta((), "float32")
    assert found["steps"] == found["stopped"] == Meta((), "int64")
    for name in ("loss", "log_l", "eval_size"):
        assert (len(found[name].shape), found[name].dtype) == (1, "float32")
        assert found[name].bytes_at_most({}) <= 20


REFUSED: dict[str, tuple[dict[str, Any], type[errors.TelepatchError], str]] = {
    "no loss": ({"body": {"nodes": PROBE, "out": {"ce": "$ce"}}}, BadArgument, "no output 'loss'; there are: ce"),
    "loss of many": (
        {"body": {"nodes": PROBE, "out": {"loss": "$m"}}},
        ShapeError,
        "'loss' is one number; found float32",
    ),
    "loss of integers": (
        {"body": {"nodes": [*PROBE, call("a", "argmax", "$m")], "out": {"loss": "$a"}}},
        DtypeError,
        "the loss is a floating number",
    ),
    "integers": ({"params": {"W": {"init": "$n"}}}, DtypeError, r"begins as int64 \(8, 3\); only floating"),
    "nothing to train": ({"params": {}}, BadArgument, "trains nothing"),
    "no steps": ({"steps": None}, BadArgument, "either 'steps' or 'epochs'"),
    "both": ({"steps": 3, "epochs": 1}, BadArgument, "either 'steps' or 'epochs'"),
    "steps": ({"steps": 0}, BadArgument, "steps is an integer from 1; found 0"),
    "too many": ({"steps": 2_000_000}, TooLarge, "the limit is 1,000,000"),
    "batch": ({"batch_size": 2.5}, BadArgument, "batch_size is an integer from 1"),
    "lengths": ({"over": {"bx": "$x", "by": "$z"}}, ShapeError, "'bx' 40, 'by' 39 elements"),
    "nothing": ({"over": {}}, BadArgument, "goes over nothing"),
    "texts in a buffer": ({"over": {"bx": "$texts"}}, BadArgument, "'bx' is no tensor of rows"),
    "few rows": ({"batch_size": 41, "epochs": 1}, ShapeError, "batches of 41 rows, and there are 40"),
    "orthogonal": (
        {"params": {"W": {"init": "$w"}, "o": {"init": [1.0, 2.0], "constraint": "orthogonal"}}},
        ShapeError,
        "'orthogonal' is of a matrix",
    ),
    "unit norm": (
        {"params": {"W": {"init": "$w", "constraint": "unit_norm", "dim": 2}}},
        ShapeError,
        "'unit_norm' along 2 has no such axis",
    ),
    "dim": ({"params": {"W": {"init": "$w", "dim": 0}}}, BadArgument, "only 'unit_norm' needs"),
    "rate": ({"optimiser": {"name": "sgd", "lr": -1}}, BadArgument, "lr of the optimiser is a number from 0"),
    "rates": ({"optimiser": {"name": "sgd", "lr": "$w"}}, ShapeError, "lr of the optimiser is one number"),
    "betas": ({"optimiser": {"name": "sgd", "lr": 1, "betas": [0, 0]}}, BadArgument, "'sgd' has no betas"),
    "momentum": ({"optimiser": {"name": "adam", "lr": 1, "momentum": 0.9}}, BadArgument, "'adam' has no momentum"),
    "reduce": ({"reduce": {"loss": "mean"}}, BadArgument, "sees whole batches, which nothing reduces"),
    "refill": ({"buffer": {"rows": 10, "refill": 1}}, BadArgument, "refill is a part from 0 to below 1"),
    "name": ({"state": {"steps": 0}}, BadArgument, "'steps' is a name of its own"),
    "carry": ({"after": {"carry": {"V": "$W"}}}, UnknownName, "carries 'V', which is no state and no parameter"),
    "carry shape": ({"after": {"carry": {"W": 0.0}}}, ShapeError, "shapes must stay"),
    "moments": ({"after": {"reset_moments": {"V": True}}}, UnknownName, "'V', which is no parameter"),
    "stop": ({"after": {"stop": "$W"}}, ShapeError, "stops by one value"),
    "outside": ({"after": {"stop": "$m"}}, UnknownName, "refers to nothing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_trained_is_refused_with_what_would_work(card: ModelCard, name: str):
    change, error, says = REFUSED[name]
    with pytest.raises(error, match=says):
        checked(card, fit(**change))


def test_an_example_is_refused_by_its_values(card: ModelCard):
    nodes = [call("i", "index", "$by", ["$bx"])]
    one = fit(over={"bx": [0, 60]}, buffer=None, body={"nodes": nodes, "out": {"loss": "$i"}})
    one["body"]["nodes"][0]["args"] = ["$y", ["$bx"]]
    with pytest.raises(errors.GraphError, match=r"in element 1 of fit 'f' \(bx=60\)"):
        checked(card, one)


def test_a_loss_that_is_no_mean_of_any_kind_is_refused(card: ModelCard):
    with pytest.raises(BadArgument, match="a mean, weighted, or a sum; found 'max'"):
        checked(card, fit(buffer=None, over={"bx": "$x", "by": "$y"}, reduce={"loss": "max"}, body=_example()))
    with pytest.raises(BadArgument, match="no output 'weight'"):
        checked(card, fit(buffer=None, over={"bx": "$x", "by": "$y"}, reduce={"loss": "weighted"}, body=_example()))


def _example() -> dict[str, Any]:
    return {"nodes": [call("m", "matmul", "$bx", "$W"), call("l", "sum", "$m")], "out": {"loss": "$l"}}


def _stream() -> dict[str, Any]:
    body = {
        "runs": [{"id": "r", "invokes": [{"id": "a", "ids": "$ids"}]}],
        "nodes": [{"kind": "get", "id": "h", "site": "layers.0:output", "invoke": "a", "index": [0]}],
        "out": {"h": "$h"},
    }
    return {"kind": "map", "id": "src", "over": {"ids": [[1, 2], [3]]}, "body": body, "reduce": {"h": "cat"}}


def test_a_map_is_a_stream_only_if_nothing_but_buffers_take_it(card: ModelCard):
    nodes = [call("m", "matmul", "$bx", "$W"), call("l", "sum", "$m")]
    one = fit(over={"bx": "$src.h"}, buffer={"rows": 16}, batch_size=2, body={"nodes": nodes, "out": {"loss": "$l"}})
    for saves, flowing in (({"W": "$f.W"}, {"src"}), ({"W": "$f.W", "h": "$src.h"}, set())):
        found = graph(_stream(), one, saves=saves)
        assert streams(found, all_nodes(found)) == flowing
    again = {**one, "buffer": None}
    found = graph(_stream(), {name: value for name, value in again.items() if value is not None})
    assert streams(found, all_nodes(found)) == set()


def test_the_fit_of_the_protocols_page_is_one():
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    block = page.split("## Training")[1].split("```json")[1].split("```")[0]
    (found,) = [node for node in wire.decode(block.encode()).nodes if isinstance(node, Fit)]
    assert found.optimiser.name == "adam"


def test_the_price_of_a_fit_is_that_of_all_its_examples(card: ModelCard):
    body = {
        "runs": [{"id": "r", "invokes": [{"id": "a", "ids": "$bx"}]}],
        "nodes": [
            {"kind": "get", "id": "h", "site": "layers.0:output", "invoke": "a", "index": [0, -1]},
            call("m", "matmul", "$h", "$W"),
            call("l", "sum", "$m"),
        ],
        "out": {"loss": "$l"},
    }
    one = fit(over={"bx": [[1, 2, 3], [4, 5, 6]]}, buffer=None, batch_size=2, epochs=5, steps=None, body=body)
    found = price(checked(card, one), card)
    assert (found.rows, found.tokens) == (10, 30)
