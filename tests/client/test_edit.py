"""Edits as an author writes and applies them, without a service: the documents that come of it, and the refusals."""

from __future__ import annotations

import inspect
import json
from typing import Any

import numpy as np
import pytest

import telepatch
from telepatch.lab import Lab
from telepatch.model import Model
from telepatch_protocol import wire
from telepatch_protocol.errors import BadArgument, ShapeError, TelepatchError, TraceError, UnknownName, UnknownSite
from telepatch_protocol.expanding import expand
from telepatch_protocol.graph import Graph


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def plain(t: Any) -> Graph:
    """What a trace runs, once its edits are in place."""
    return expand(t.graph, wire.edits_of(t.graph), most=1000).graph


def test_a_block_becomes_a_fragment_without_an_input(model: Model) -> None:
    with model.edit(scale=2.0) as e:
        model.blocks[1].resid_post[:, -1] *= e.scale
    found = json.loads(e.document.to_json())
    assert found["model"] == {"id": "tiny", "revision": "abc"}
    assert found["arguments"] == {"scale": {"default": 2.0}}
    assert [node["kind"] for node in found["nodes"]] == ["get", "call", "set"]
    assert all("invoke" not in node for node in found["nodes"])
    assert found["nodes"][1]["args"] == ["$n0", "$scale"]
    assert set(found["constants"].values()) == {-1, 1}
    assert found["lines"]["n0"].startswith("test_edit.py:")
    assert wire.decode_edit(e.document.to_json()) == e.document


def test_an_edit_without_a_name_goes_with_the_document_once(model: Model) -> None:
    with model.edit(scale=2.0) as e:
        model.blocks[1].resid_post *= e.scale
    with model.trace(edits=[e(scale=3)]) as t:
        with t.invoke("a"):
            model.unembed.output.save()
        with t.invoke("b", edits=e):
            model.unembed.output.save()
    assert t.graph.protocol == (1, 1)
    assert list(t.graph.edits) == ["edit0"]
    assert [len(invoke.edits) for invoke in t.graph.runs[0].invokes] == [1, 2]
    assert wire.decode(t.graph.to_json()) == t.graph
    sets = [node.invoke for node in plain(t).nodes if node.kind == "set"]
    assert sets == ["x0", "x1", "x1"]


def test_a_document_without_edits_says_the_lowest_version(model: Model) -> None:
    with model.trace("a") as t:
        model.unembed.output.save()
    assert json.loads(t.graph.to_json())["protocol"] == [1, 0]


def test_variants_of_a_trace_with_an_edit_share_one_structure(model: Model) -> None:
    with model.edit(by=...) as e:
        model.blocks[1].resid_post += e.by
    keys = set()
    for value in (1.0, 2.0):
        with model.trace("a", edits=e(by=value)) as t:
            model.unembed.output.save()
        keys |= {t.graph.structure_key, plain(t).structure_key}
    assert len(keys) == 2


def test_an_edited_model_has_its_edits_in_every_kind_of_block(model: Model) -> None:
    edited = model.edited("first", ("second", {"k": 1})).edited("third")
    names = ["first", "second", "third"]
    with edited.session() as t:
        with edited.trace("a", edits="fourth"):
            model.unembed.output[:, -1].save()
        with model.trace("b"):
            model.unembed.output[:, -1].save()
    first, second = (run.invokes[0] for run in t.graph.runs)
    assert [one.name for one in first.edits] == [*names, "fourth"]
    assert second.edits == ()
    with edited.each(["a", "bc"]) as t:
        model.unembed.output[:, -1].save()
    (node,) = t.graph.nodes
    assert [one.name for one in node.body.runs[0].invokes[0].edits] == names
    with model.sweep(k=[1, 2]) as v, edited.trace("a", edits=("fifth", {"k": v.k})):
        model.unembed.output[:, -1].save()
    (node,) = v.graph.nodes
    assert node.body.runs[0].invokes[0].edits[-1].arguments == {"k": "$k"}
    assert model.edited() is not model
    assert repr(edited.blocks[1]) == repr(model.blocks[1])


def test_arguments_stand_in_arithmetic_indices_and_paths(model: Model) -> None:
    with model.edit(layer=1, at=-1, by=..., scale=0.5, v=np.ones(8)) as e:
        model.blocks[e.layer].resid_post[:, e.at] += e.by * e.scale + e.v
        assert e.v.shape == (8,)
    nodes = json.loads(e.document.to_json())["nodes"]
    assert nodes[0]["site"] == "blocks.{layer}:resid_post"
    assert nodes[0]["index"] == [":", "$at"]
    with model.trace("a", edits=e(by=1, layer=2, at=0)) as t:
        model.unembed.output.save()
    found = plain(t)
    layer = found.nodes[0].site.removeprefix("blocks.{").removesuffix("}:resid_post")
    assert found.constants[layer] == 2


def test_loops_choices_and_maps_may_stand_in_an_edit(model: Model) -> None:
    with model.edit(times=3) as e:
        h = model.blocks[1].resid_post
        with telepatch.repeat(e.times, y=h) as loop:
            loop.y = loop.y * 0.5
        big = telepatch.cond(h.norm() > 1, lambda: loop.y * 2, loop.y)
        rows = telepatch.map(lambda row: row * e.times, model.blocks[0].attn.param("scale"))
        model.blocks[1].resid_post = big * rows
    with model.trace("a", edits=[e, e]) as t:
        model.unembed.output.save()
    kinds = [node.kind for node in plain(t).nodes]
    assert kinds.count("repeat") == kinds.count("cond") == 2


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (lambda m: m.blocks[0].output.save(), TraceError, "an edit saves nothing"),
        (lambda m: m.trace("a").__enter__(), TraceError, "a trace cannot stand in an edit; an edit runs nothing"),
        (lambda m: m.sweep(k=[1]).__enter__(), TraceError, "a sweep cannot stand in an edit"),
        (lambda m: telepatch.grad(m.lm_head.output.sum(), m.blocks[0].output), TraceError, "takes no gradients"),
        (lambda m: m.lm_head.output.sum().backward().__enter__(), TraceError, "takes no gradients"),
        (lambda m: m.blocks[0].output.norm(), BadArgument, "writes to no site"),
        (lambda m: m.blocks[9].output, UnknownSite, "blocks"),
    ],
)
def test_what_no_edit_does_is_refused_at_its_line(
    model: Model, body: Any, kind: type[TelepatchError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught, model.edit() as e:
        body(model)
    assert caught.value.file == __file__
    with pytest.raises(TraceError, match="has not ended, or was left by an error"), model.trace("a", edits=e):
        pass


def test_a_shape_that_does_not_fit_is_told_at_its_line(model: Model) -> None:
    with pytest.raises(ShapeError) as caught, model.edit():
        model.blocks[1].resid_post = np.ones(7)
    assert (caught.value.file, caught.value.line) == (__file__, line() - 1)


@pytest.mark.parametrize(
    ("edits", "kind", "says"),
    [
        ("a b", BadArgument, "named by letters"),
        ([3], BadArgument, "an edit is given by its name"),
        (("steer", {"by": object()}), BadArgument, "cannot be sent"),
    ],
)
def test_what_is_no_edit_is_refused_where_it_is_given(
    model: Model, edits: Any, kind: type[TelepatchError], says: str
) -> None:
    with pytest.raises(kind, match=says) as caught, model.trace("a", edits=edits):
        pass
    assert caught.value.file == __file__


def test_arguments_of_an_edit_at_hand_are_held_against_it_at_once(model: Model) -> None:
    with model.edit(by=..., scale=1.0) as e:
        model.blocks[1].resid_post += e.by * e.scale
    with pytest.raises(UnknownName, match="has no argument 'too'; it takes by, scale"):
        e(too=1)
    with pytest.raises(UnknownName, match="no argument 'too'"), model.trace("a", edits=[(e, {"too": 1})]):
        pass
    with pytest.raises(BadArgument, match="needs a value for its argument 'by'"), model.trace("a", edits=e):
        pass
    with pytest.raises(TelepatchError, match="has no argument 'other'"):
        e.other  # noqa: B018


@pytest.mark.parametrize("name", ["delete", "n1", "step", "_x", "graph"])
def test_an_argument_that_means_something_else_is_refused(model: Model, name: str) -> None:
    with pytest.raises(BadArgument, match=name):
        model.edit(**{name: 1})


def test_a_name_needs_a_connection_and_a_default_is_a_number_or_an_array(model: Model) -> None:
    with pytest.raises(TraceError, match="without a connection leave out its name"):
        model.edit("steer")
    for value in ("text", None):
        with pytest.raises(BadArgument, match="argument 'by' is a number"), model.edit(by=value):
            pass


def test_an_edit_is_no_part_of_a_trace_and_its_values_have_no_numbers(model: Model) -> None:
    with pytest.raises(TraceError, match="no part of a job"), model.trace("a"), model.edit():
        pass
    with model.edit(by=1.0) as e:
        h = model.blocks[1].resid_post
        model.blocks[1].resid_post = h * e.by
        assert repr(e.by) == "<e.by: float32 (), an argument of an edit>"
    with pytest.raises(TraceError, match="has no numbers"):
        h.numpy()
    with pytest.raises(TraceError, match="used before"), e:
        pass


def test_an_edit_of_another_model_is_refused(model: Model) -> None:
    other = telepatch.Model(model.card.model_copy(update={"id": "other"}))
    with other.edit() as e:
        other.blocks[1].resid_post = 0
    with pytest.raises(BadArgument, match="of model 'other', and the trace of 'tiny'"), model.trace("a", edits=e):
        pass


def test_an_edit_that_is_refused_by_the_service_is_told_at_its_line(lab: Lab) -> None:
    model = lab.model("tiny")
    with pytest.raises(TelepatchError) as caught, model.edit("steer"):
        model.blocks[1].resid_post = 0
    assert caught.value.file == __file__
