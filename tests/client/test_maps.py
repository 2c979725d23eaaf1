"""`telepatch.map`: a function of any element."""

from __future__ import annotations

import pytest

import telepatch
from telepatch.model import Model
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, ShapeError, TraceError


def test_a_function_is_written_once_and_done_for_every_element(model: Model, card: ModelCard) -> None:
    calls = []

    def both(h: telepatch.Value, scale: telepatch.Value) -> dict[str, telepatch.Value]:
        calls.append(1)
        return {"scaled": h * scale, "norm": h.norm()}

    with model.trace("Hello") as t:
        every = model.blocks[:].output[:, 0, -1]
        found = telepatch.map(both, every, [1.0, 2.0, 3.0, 4.0])
        found["scaled"].save("scaled")
        found["norm"].save("norm")
        telepatch.map(lambda h: h.abs(), every, reduce="max").save("max")
        telepatch.map(lambda h: h, every, reduce="cat").lengths.save("lengths")
    assert {name: str(meta) for name, meta in check(t.graph, card).saves.items()} == {
        "scaled": "float32 (4, 8)",
        "norm": "float32 (4)",
        "max": "float32 (8)",
        "lengths": "int64 (4)",
    }
    assert len(calls) == 1


def test_a_function_may_run_the_model_in_a_session(model: Model, card: ModelCard) -> None:
    def last(ids: telepatch.Value) -> telepatch.Value:
        with model.trace(ids):
            return model.blocks[2].output[0, -1]

    with model.session() as s:
        telepatch.map(last, [[1, 2, 3], [4, 5]]).save("last")
    assert {name: str(meta) for name, meta in check(s.graph, card).saves.items()} == {"last": "float32 (2, 8)"}


def test_what_a_map_cannot_do_is_refused(model: Model) -> None:
    with pytest.raises(TraceError, match="none is open"):
        telepatch.map(lambda x: x, [1])
    with pytest.raises(ShapeError, match="one length"), model.trace("x"):
        telepatch.map(lambda x, y: x * y, [1, 2], [3])
    with pytest.raises(BadArgument, match="gives values"), model.trace("x"):
        telepatch.map(lambda x: None, [1, 2])
    with pytest.raises(BadArgument, match="become one by"), model.trace("x"):
        telepatch.map(lambda x: x * 2, [1, 2], reduce="median")  # type: ignore[arg-type]
