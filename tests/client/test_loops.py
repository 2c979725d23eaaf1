"""`repeat`: carried values, counts, conditions, and what they refuse at which line."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import telepatch
from telepatch.model import Model
from telepatch_protocol import wire
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, DtypeError, ShapeError, TraceError, UnknownName
from telepatch_protocol.graph import Repeat


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def saved(t: Any, card: ModelCard) -> dict[str, str]:
    return {name: str(meta) for name, meta in check(t.graph, card).saves.items()}


def test_a_carried_value_is_renewed_and_ends_as_the_last(model: Model, card: ModelCard) -> None:
    with model.trace("Hello") as t:
        with telepatch.repeat(5, y=model.blocks[2].output[0, -1]) as loop:
            loop.y = loop.y * 0.5
            loop.y = loop.y + loop.step
            norm = loop.y.norm()
        loop.y.save("end")
        norm.save("norms")
        (loop.y - loop.y.mean()).save("centred")
    assert saved(t, card) == {"end": "float32 (8)", "norms": "float32 (5)", "centred": "float32 (8)"}
    assert (loop.y.shape, norm.shape) == ((8,), (5,))
    (node,) = (one for one in t.graph.nodes if isinstance(one, Repeat))
    assert list(node.carry) == ["y"]
    assert len(node.body.nodes) == 3


def test_what_a_repeat_carries_is_stacked_where_its_steps_are_asked_for(model: Model, card: ModelCard) -> None:
    with model.trace("Hello") as t:
        with telepatch.repeat(3, y=1.0) as loop:
            now = loop.y * 2.0
            loop.y = now
        now.save("steps")
        loop.y.save("end")
    assert saved(t, card) == {"end": "float32 ()", "steps": "float32 (3)"}


def test_a_repeat_may_run_the_model_and_stop_early(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with telepatch.repeat(4, h=telepatch.zeros(8), n=0) as loop:
            with model.trace("Hello"):
                model.blocks[1].output[:, -1] = loop.h
                out = model.blocks[3].output[0, -1]
            loop.h = out
            loop.n = loop.n + 1
            loop.while_(out.norm() > 1)
        loop.h.save("h")
        loop.n.save("n")
        out.sum().save("total")
    found = saved(s, card)
    assert found == {"h": "float32 (8)", "n": "int64 ()", "total": "float32 ()"}
    (node,) = (one for one in s.graph.nodes if isinstance(one, Repeat))
    assert node.while_ is not None
    assert len(node.body.runs) == 1


def test_how_large_a_computed_n_may_be_is_said_and_needs_the_version_that_knows_it(
    model: Model, card: ModelCard
) -> None:
    def traced(**more: Any) -> Any:
        with model.trace([1, 2, 3]) as t:
            n = model.blocks[0].output[0, -1].argmax()
            with telepatch.repeat(n, y=1.0, **more) as loop:
                loop.y = loop.y * 0.5
                seen = loop.y * 1
            seen.save("seen")
        return t

    assert traced().graph.protocol == (1, 0)
    t = traced(most=7)
    assert t.graph.protocol == (1, 1)
    graph = wire.decode(t.graph.to_json())
    assert check(graph, card).saves["seen"].bytes_at_most({}) == 7 * 4
    with pytest.raises(BadArgument, match=r"most is an integer.*found 2\.5"):
        telepatch.repeat(3, most=2.5)  # type: ignore[arg-type]


def test_the_count_of_an_outer_repeat_is_its_own_inside_an_inner_one(model: Model, card: ModelCard) -> None:
    with model.trace("Hello") as t:
        with telepatch.repeat(3) as outer, telepatch.repeat(2) as inner:
            both = outer.step * 10 + inner.step
        both.save("both")
        model.lm_head.output.save()
    assert saved(t, card)["both"] == "int64 (3, 2)"
    (node,) = (one for one in t.graph.nodes if isinstance(one, Repeat))
    count, inside = node.body.nodes
    assert count.op == "full"  # type: ignore[union-attr]
    assert f"${count.id}" in inside.body.nodes[0].args  # type: ignore[union-attr]


def test_a_carried_value_of_another_kind_is_refused_where_it_is_assigned(model: Model) -> None:
    with pytest.raises(DtypeError, match="begins as int64") as caught, model.trace("x"):
        with telepatch.repeat(2, n=0) as loop:
            wrong = line() + 1
            loop.n = loop.n * 0.5
        loop.n.save()
    assert caught.value.line == wrong
    with pytest.raises(ShapeError, match="shapes must stay") as caught2, model.trace("x"):
        with telepatch.repeat(2, h=model.blocks[0].output[0, -1]) as loop:
            wrong = line() + 1
            loop.h = loop.h[:3]
        loop.h.save()
    assert caught2.value.line == wrong


def test_a_repeat_says_what_it_carries(model: Model) -> None:
    with model.trace("x"):
        with telepatch.repeat(2, y=1.0) as loop:
            with pytest.raises(BadArgument, match=r"repeat\(n, z=start\)"):
                loop.z = 3
            with pytest.raises(UnknownName, match="carries y"):
                loop.z  # noqa: B018
            loop.y = loop.y * 2.0
        with pytest.raises(TraceError, match="inside the block"):
            loop.y = 3
        loop.y.save()
    with pytest.raises(BadArgument, match="choose another name"):
        telepatch.repeat(2, step=1)
    with pytest.raises(TraceError, match="none is open"), telepatch.repeat(2):
        pass


def test_a_carried_value_is_renewed_in_its_own_block_alone(model: Model) -> None:
    with pytest.raises(TraceError, match="own block"), model.trace("x"):  # noqa: SIM117
        with telepatch.repeat(2, y=1.0) as loop, model.sweep(a=range(2)) as v:
            loop.y = v.a * 1.0


def test_an_error_inside_a_repeat_gives_the_job_up(model: Model) -> None:
    def run() -> None:
        with model.trace("x"):
            try:
                with telepatch.repeat(2, y=1.0):
                    raise ValueError("mine")
            except ValueError:
                pass
            model.lm_head.output.save()

    with pytest.raises(TraceError, match="given up"):
        run()


def test_the_count_of_an_outer_repeat_scales_a_value_inside_an_inner_one(model: Model, card: ModelCard) -> None:
    with model.trace("Hello") as t:
        h = model.blocks[0].output[0, -1]
        with telepatch.repeat(3) as outer, telepatch.repeat(2) as inner:
            x = h * outer.step
            y = h * inner.step
        x.save("x")
        y.save("y")
    assert saved(t, card) == {"x": "float32 (3, 2, 8)", "y": "float32 (3, 2, 8)"}
    (node,) = (one for one in t.graph.nodes if isinstance(one, Repeat))
    count, inside = node.body.nodes
    uses = [one.args[1] for one in inside.body.nodes]  # type: ignore[union-attr]
    assert uses == [f"${count.id}", "$step"]
