"""Names bound to sites: what is read when, and which statements write."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from telepatch.model import Model
from telepatch_protocol.errors import BadArgument, ShapeError, TraceError, UnknownSite
from telepatch_protocol.graph import Call, Get, Set


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def kinds(model_nodes: tuple[object, ...]) -> list[str]:
    return [str(getattr(node, "op", None) or getattr(node, "kind", "")) for node in model_nodes]


def test_index_assignment_and_in_place_operators_on_a_site_write(model: Model) -> None:
    with model.trace("x") as t:
        h = model.blocks[0].resid_post
        h[:, -1] = 0
        h[:, -1] += 1
        h *= 2
        model.blocks[1].resid_post = h
        model.blocks[1].resid_post[:, 0] -= 3
        model.blocks[2].attn.output += 1
        model.lm_head.output.save()
    assert [node.kind for node in t.graph.nodes].count("set") == 6
    sets = [node for node in t.graph.nodes if isinstance(node, Set)]
    assert [node.index is None for node in sets] == [False, False, True, True, False, True]


def test_a_write_through_a_name_is_seen_by_reads_through_it(model: Model) -> None:
    with model.trace("x") as t:
        h = model.blocks[0].resid_post
        before = h[:, -1]
        h[:, -1] = 0
        (before + h[:, -1]).save()
    assert kinds(t.graph.nodes) == ["get", "set", "get", "add"]


def test_a_later_write_does_not_change_what_was_bound_before(model: Model) -> None:
    with model.trace("x") as t:
        clean = model.blocks[0].resid_post
        model.blocks[0].resid_post[:, -1] = 0
        clean.save("clean")
        model.blocks[0].resid_post.save("written")
    place = {node.id: at for at, node in enumerate(t.graph.nodes)}
    wrote = next(at for at, node in enumerate(t.graph.nodes) if isinstance(node, Set))
    assert place[t.graph.saves["clean"][1:]] < wrote < place[t.graph.saves["written"][1:]]


def test_a_save_made_before_a_write_keeps_the_earlier_value(model: Model) -> None:
    with model.trace("x") as t:
        h = model.blocks[0].resid_post.save("early")
        h[:, -1] = 0
        h.save("late")
    assert kinds(t.graph.nodes) == ["get", "set", "get"]
    assert t.graph.saves == {"early": "$n0", "late": "$n2"}


def test_a_site_that_nobody_uses_makes_no_node(model: Model) -> None:
    with model.trace("x") as t:
        _ = model.blocks[0].resid_post
        model.lm_head.output[:, -1].save()
    assert len(t.graph.nodes) == 1


def test_only_the_slice_is_read(model: Model) -> None:
    with model.trace("x") as t:
        model.lm_head.output[:, -1].save()
    (node,) = t.graph.nodes
    assert isinstance(node, Get)
    assert node.index is not None


def test_in_place_on_a_slice_is_refused_with_the_spelling_that_writes(model: Model) -> None:
    with model.trace("x"):
        s = model.blocks[0].resid_post[:, -1].save()
        with pytest.raises(TraceError, match=r"model\.blocks\[0\]\.resid_post\[:, -1\] \+= \.\.\.") as caught:
            s += 1
        assert caught.value.line == line() - 1
        with pytest.raises(TraceError, match=r"model\.blocks\[0\]\.resid_post") as caught:
            s[0] = 1
        assert caught.value.line == line() - 1


def test_in_place_on_a_computed_value_is_refused(model: Model) -> None:
    with model.trace("x"):
        a = (model.blocks[0].resid_post * 2).save()
        with pytest.raises(TraceError, match="value = value"):
            a += 1
        with pytest.raises(TraceError, match="site"):
            a[0] = 1
        kept = [a]
        with pytest.raises(TraceError, match="value = value"):
            kept[0] += 1


def test_a_changed_slice_that_is_stored_elsewhere_is_refused_at_its_line(model: Model) -> None:
    with pytest.raises(TraceError, match="writes nothing") as caught:  # noqa: SIM117
        with model.trace("x"):
            kept = {"part": model.blocks[0].resid_post[:, -1]}
            kept["part"] += 1
            wrong = line() - 1
            model.lm_head.output.save()
    assert caught.value.line == wrong


def test_the_main_tensor_of_a_tuple_is_not_taken_for_the_tuple(model: Model) -> None:
    with model.trace("x"):
        attn = model.blocks[0].attn
        with pytest.raises(BadArgument, match=r"outputs\[0\].*output\[0:1\]") as caught:
            attn.output[0]
        assert caught.value.line == line() - 1
        with pytest.raises(BadArgument, match=r"outputs\[1\]"):
            attn.output[1] = 0
        attn.output[:1].save()
        attn.output[0, -1].save()
        attn.outputs[0].save()
        model.blocks[0].resid_post[0].save()


def test_a_module_that_returns_no_tuple_takes_an_integer(model: Model) -> None:
    with model.trace("x") as t:
        model.blocks[0].output[0].save()
    (node,) = t.graph.nodes
    assert isinstance(node, Get)


def test_all_layers_at_once_are_stacked(model: Model) -> None:
    with model.trace("x") as t:
        every = model.blocks[:].resid_post
        assert every.shape[0] == 4
        every[:, :, -1].save()
        model.blocks[:].attn.output[:, :, -1] = 0
        model.lm_head.output.save()
    sites = [node.site for node in t.graph.nodes if isinstance(node, Get | Set)]
    assert sites == ["blocks.*:resid_post", "blocks.*.attn:output", "lm_head:output"]


def test_numbers_of_layers_are_constants(model: Model) -> None:
    graphs = []
    for layer, position in ((0, -1), (3, 2)):
        with model.trace(f"prompt {layer}") as t:
            model.blocks[layer].resid_post[:, position] = 1.0 * layer
            model.lm_head.output[:, position:].save()
        graphs.append(t.graph)
    assert graphs[0].structure_key == graphs[1].structure_key
    assert graphs[0] != graphs[1]


def test_a_weight_is_read_and_not_written(model: Model) -> None:
    with model.trace("x") as t:
        assert model.lm_head.weight.shape == (50, 8)
        (model.blocks[0].resid_post @ model.lm_head.weight.mT).save()
        model.lm_head.param("weight")[0].save()
        with pytest.raises(BadArgument, match="weights never change"):
            model.lm_head.weight[0] = 0
        with pytest.raises(BadArgument, match="weights never change"):
            model.lm_head.weight = 0
        with pytest.raises(UnknownSite, match="weight"):
            model.lm_head.param("bias")
    assert [node.site for node in t.graph.nodes if isinstance(node, Get)][1] == "lm_head:param.weight"


def test_what_the_engine_owns_is_not_written(model: Model) -> None:
    with model.trace("x"):
        model.lm_head.output.save()
        mask = model.blocks[0].attn.inputs["attention_mask"]
        with pytest.raises(BadArgument, match="engine"):
            mask[:] = 0


def test_a_write_of_the_wrong_shape_is_refused_at_its_line(model: Model) -> None:
    with model.trace("x"):
        model.lm_head.output.save()
        with pytest.raises(ShapeError) as caught:
            model.blocks[0].resid_post[:, -1] = np.ones(5)
        assert caught.value.line == line() - 1
        with pytest.raises(ShapeError) as caught:
            model.blocks[0].resid_post = np.ones((7, 7, 7))
        assert caught.value.line == line() - 1


def test_a_site_named_outside_a_trace_describes_itself_and_works_inside(model: Model) -> None:
    site = model.blocks[1].resid_post
    assert "row, pos, 8" in repr(site)
    with pytest.raises(TraceError, match="inside"):
        site[:, -1] = 0
    with pytest.raises(TraceError, match="inside"):
        site[:, -1]
    with model.trace("x") as t:
        site[:, -1] += 1
        model.lm_head.output.save()
    assert kinds(t.graph.nodes) == ["get", "add", "set", "get"]


def test_a_site_is_read_for_an_invoke(model: Model) -> None:
    with model.trace() as t:
        with pytest.raises(TraceError, match="invoke") as caught:
            _ = model.blocks[0].resid_post
        assert caught.value.line == line() - 1
        with t.invoke("a"):
            clean = model.blocks[0].resid_post
        with t.invoke("b"):
            model.blocks[0].resid_post = clean
            model.lm_head.output.save()
    first, wrote, last = t.graph.nodes
    assert isinstance(first, Get)
    assert isinstance(wrote, Set)
    assert (first.invoke, wrote.invoke, wrote.value) == ("x0", "x1", "$n0")
    assert isinstance(last, Get)
    assert not any(isinstance(node, Call) for node in t.graph.nodes)


def test_a_module_of_several_calls_asks_which(model: Model) -> None:
    with model.trace("x") as t:
        with pytest.raises(UnknownSite, match="2 times"):
            _ = model.blocks[0].norm.output
        model.blocks[0].norm.calls[1].output.save()
    (node,) = t.graph.nodes
    assert isinstance(node, Get)
    assert node.call == 1
