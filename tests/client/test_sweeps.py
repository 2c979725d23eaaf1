"""Sweeps and rows: what they put on the wire, what comes out of them, and what they refuse at which line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import telepatch
from telepatch.model import Model
from telepatch.trace import TraceWarning
from telepatch_protocol import wire
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import (
    BadArgument,
    IndexOutOfRange,
    ShapeError,
    TelepatchError,
    TooLarge,
    TraceError,
    UnknownSite,
)
from telepatch_protocol.graph import Graph, Map
from telepatch_protocol.subgraphs import all_nodes, all_runs
from telepatch_protocol.tensors import metas


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def saved(t: Any, card: ModelCard) -> dict[str, str]:
    """What the gateway would make of the document that a block became."""
    graph = wire.decode(t.graph.to_json())
    attachment = metas(t.attachment) if t.attachment else {}
    return {name: str(meta) for name, meta in check(graph, card, attachment=attachment).saves.items()}


def only_map(graph: Graph) -> Map:
    (found,) = (node for node in graph.nodes if isinstance(node, Map))
    return found


def test_a_patching_grid_is_under_ten_lines_and_under_ten_nodes(model: Model, card: ModelCard) -> None:
    begin = line()
    with model.session() as s:
        with model.trace("clean"):
            ref = model.blocks[:].resid_post
        with model.sweep(layer=range(4), pos=range(15)) as v, model.trace("bad"):
            model.blocks[v.layer].resid_post[:, v.pos] = ref[v.layer][:, v.pos]
            z = model.lm_head.output[:, -1]
            ld = (z[:, 5] - z[:, 7]).save()
    assert line() - begin - 1 < 10
    assert len(list(all_nodes(s.graph))) < 10
    assert len(list(all_runs(s.graph))) == 2
    assert only_map(s.graph).grid
    assert saved(s, card) == {"s0": "float32 (4, 15, 1)"}
    assert ld.shape == (4, 15, 1)


def test_an_outermost_sweep_is_a_job_of_its_own(model: Model, card: ModelCard) -> None:
    with model.sweep(scale=[0.0, 0.5, 1.0]) as v, model.trace("Hello") as t:
        model.blocks[1].attn.output *= v.scale
        logits = model.lm_head.output[:, -1].save("logits")
    assert saved(v, card) == saved(t, card) == {"logits": "float32 (3, 1, 50)"}
    assert v.job == t.job
    assert logits.shape == (3, 1, 50)
    assert not only_map(v.graph).grid  # one name needs no grid


def test_a_swept_number_stands_wherever_a_number_can(model: Model, card: ModelCard) -> None:
    with model.sweep(layer=np.arange(4), pos=[0, 2], ids=[[1, 2, 3], [4, 5, 6]]) as v, model.trace(v.ids):
        block = model.blocks[v.layer]
        block.attn.output[:, v.pos] = block.resid_pre[:, : v.pos + 1].mean(1) * v.pos
        block.norm(block.output[:, v.pos]).save("n")
    assert saved(v, card) == {"n": "float32 (4, 2, 2, 1, 8)"}
    sites = [node.site for node in all_nodes(v.graph) if hasattr(node, "site")]
    assert set(sites) == {"blocks.{layer}.attn:output", "blocks.{layer}:resid_pre", "blocks.{layer}:output"}


def test_variants_of_a_sweep_share_one_structure(model: Model) -> None:
    def sweep(numbers: Any, prompt: str) -> Graph:
        with model.sweep(layer=numbers) as v, model.trace(prompt):
            model.blocks[v.layer].output[:, -1].save()
        return v.graph

    assert sweep(range(4), "a").structure_key == sweep([3, 1], "another").structure_key


def test_values_and_arrays_are_gone_over_along_their_first_axis(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with model.trace("Hello"):
            every = model.blocks[:].output[:, 0, -1]
        vectors = np.random.default_rng(0).normal(size=(5, 8)).astype("float32")
        with model.sweep(h=every, vector=vectors, flag=[True, False], part=[every[0], every[1]]) as v:
            x = telepatch.where(v.flag, v.h + v.vector, v.part)
        x.save("x")
    assert saved(s, card) == {"x": "float32 (4, 5, 2, 2, 8)"}


def test_rows_of_any_length_run_the_model_each_for_itself(model: Model, card: ModelCard) -> None:
    with model.each(["one", "two words", "and three words"], label=[0, 1, 1]) as row:
        model.blocks[0].output[:, -1] = 0
        h = model.blocks[2].resid_post[0, -1]
        mean = row.mean(h).save("mean")
        row.sum(h > 0).save("count")
        row.max(h).save("max")
        joined = row.cat(model.blocks[2].resid_post[0])
        joined.save("all")
        joined.lengths.save("lengths")
        row.weighted(h, row.label).save("weighted")
        (h * row.label).save("each")
    assert saved(row, card) == {
        "mean": "float32 (8)",
        "count": "int64 (8)",
        "max": "float32 (8)",
        "all": "float32 (?, 8)",
        "lengths": "int64 (3)",
        "weighted": "float32 (8)",
        "each": "float32 (3, 8)",
    }
    assert mean.shape == (8,)
    assert only_map(row.graph).body.runs[0].invokes[0].text == "$prompt"
    assert row.graph.constants["c0"] == ["one", "two words", "and three words"]


def test_columns_are_zipped_and_generators_are_gone_through_once(model: Model, card: ModelCard) -> None:
    prompts = (text for text in ("a", "b"))
    with model.each(prompt=prompts, at=(0, 1)) as row, model.trace(row.prompt):
        model.blocks[row.at].output[0, -1].save("h")
    assert saved(row, card) == {"h": "float32 (2, 8)"}


def test_token_ids_of_different_lengths_have_a_length_that_is_not_known_inside(model: Model, card: ModelCard) -> None:
    with model.each([[1, 2, 3], [4]]) as row:
        h = model.blocks[0].output
        assert not isinstance(h.shape[1], int)
        (h.sum(1) / h.shape[1]).save("mean")
    assert "size" in [getattr(node, "op", "") for node in all_nodes(row.graph)]
    assert saved(row, card) == {"mean": "float32 (2, 1, 8)"}


def test_what_is_made_inside_is_stacked_outside_and_reduced_after_the_block(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with model.sweep(a=range(2), b=range(3)) as v, model.trace("Hello"):
            x = model.blocks[v.a].output[0, -1] * v.b
            site = model.blocks[3].output
        assert x.shape == (2, 3, 8)
        (x.mean((0, 1)) + v.mean(x)).save("m")
        site[:, :, 0, -1].save("site")
        v.max(x).save("max")
    assert saved(s, card) == {"m": "float32 (8)", "site": "float32 (2, 3, 8)", "max": "float32 (8)"}


def test_nested_sweeps_give_their_values_out_one_by_one(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with model.sweep(a=range(2)) as v:
            with model.sweep(b=range(3)) as w, model.trace("Hello"):
                x = model.blocks[w.b].output[0, -1] * v.a
            inner = w.mean(x) + 1
        x.save("x")
        inner.save("inner")
    assert saved(s, card) == {"x": "float32 (2, 3, 8)", "inner": "float32 (2, 8)"}


def test_names_that_the_document_uses_itself_are_renamed(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with model.sweep(n0=range(2), step=range(3), c1=range(2)) as v, model.trace("Hello"):
            (model.blocks[v.n0].output[0, -1] * v.step * v.c1).save("x")
        with model.sweep(n0=range(2)) as w, model.trace("Hello"):
            model.blocks[w.n0].output[0, -1].save("y")
    assert saved(s, card) == {"x": "float32 (2, 3, 2, 8)", "y": "float32 (2, 8)"}


def test_an_outer_input_is_read_inside_a_sweep_once(model: Model, card: ModelCard) -> None:
    with model.trace("Hello") as t:
        h = model.blocks[1].output
        with model.sweep(scale=[0.5, 2.0]) as v:
            (h[:, -1] * v.scale + model.blocks[2].output[:, -1]).save("x")
    assert [node.kind for node in t.graph.nodes] == ["get", "get", "map"]
    assert saved(t, card) == {"x": "float32 (2, 1, 8)"}


def refused(kind: type[TelepatchError], match: str, run: Callable[[], Any]) -> TelepatchError:
    with pytest.raises(kind, match=match) as caught:
        run()
    assert caught.value.file == __file__
    return caught.value


def test_an_element_that_cannot_run_is_named_at_the_line_where_it_is_used(model: Model) -> None:
    def run() -> None:
        with model.sweep(layer=range(2), pos=[0, 9]) as v, model.trace([1, 2, 3]):
            model.blocks[v.layer].output[:, v.pos].save()

    error = refused(IndexOutOfRange, r"index 9 .*in element 1 of map .*layer=0, pos=9", run)
    assert error.line == run.__code__.co_firstlineno + 2
    assert error.within[0].place == f"test_sweeps.py:{run.__code__.co_firstlineno + 1}"


def test_a_module_that_is_not_there_is_named_at_its_line(model: Model) -> None:
    def run() -> None:
        with model.sweep(layer=range(5)) as v, model.trace("x"):
            model.blocks[v.layer].output.save()

    error = refused(UnknownSite, "v.layer goes to 4", run)
    assert error.line == run.__code__.co_firstlineno + 2


@pytest.mark.parametrize(
    ("given", "kind", "match"),
    [
        ({"a": []}, BadArgument, "empty list"),
        ({}, BadArgument, "goes over nothing"),
        ({"a": "text"}, BadArgument, r"found 'text'"),
        ({"a": 5}, BadArgument, r"\[5\]"),
        ({"a": [1, "x"]}, BadArgument, "different kinds"),
        ({"mean": [1]}, BadArgument, "choose another name"),
        ({"a": {1, 2}}, BadArgument, "a list"),
        ({"a": [object()]}, BadArgument, "elements are"),
        ({"a": [[1], [[2]]]}, BadArgument, "axes"),
        ({"a": range(10**7)}, TooLarge, "at most"),
        ({"a": iter(int, 1)}, TooLarge, "limit"),
    ],
)
def test_what_has_no_elements_is_refused(model: Model, given: Any, kind: Any, match: str) -> None:
    def run() -> None:
        with model.sweep(**given):
            pass

    refused(kind, match, run)


def test_lists_of_unequal_length_are_refused_with_their_lengths(model: Model) -> None:
    def run() -> None:
        with model.each(prompt=["a", "b"], label=[1, 2, 3]) as row, model.trace(row.prompt):
            pass

    error = refused(ShapeError, "prompt has 2, label has 3", run)
    assert error.line == run.__code__.co_firstlineno + 1


def test_a_name_is_bound_inside_its_block_alone(model: Model) -> None:
    def run() -> None:
        with model.session():
            with model.sweep(layer=range(2)) as v, model.trace("x"):
                model.blocks[v.layer].output[:, -1].save()
            telepatch.zeros(3) + v.layer

    error = refused(TraceError, "v.layer stands for something only inside its sweep", run)
    assert error.line == run.__code__.co_firstlineno + 4

    def use_a_module() -> None:
        with model.session():
            with model.sweep(layer=range(2)) as v, model.trace("x"):
                module = model.blocks[v.layer]
                module.output[:, -1].save()
            with model.trace("y"):
                module.output.save()

    refused(TraceError, "names a module only inside its sweep", use_a_module)


def test_python_cannot_go_through_what_a_sweep_binds(model: Model) -> None:
    for wrong in (list, int, len, lambda one: range(one), bool):

        def run(wrong: Any = wrong) -> None:
            with model.sweep(layer=range(2)) as v, model.trace("x"):
                wrong(v.layer)

        refused(TraceError, "written once", run)


def test_a_module_is_not_picked_by_a_computed_number(model: Model) -> None:
    def run() -> None:
        with model.sweep(layer=range(2)) as v, model.trace("x"):
            model.blocks[v.layer + 1].output.save()

    refused(BadArgument, r"model.blocks\[:\]", run)


def test_a_sweep_of_which_nothing_is_used_is_refused_at_its_line(model: Model) -> None:
    def alone() -> None:
        with model.sweep(layer=range(2)) as v, model.trace("x"):
            model.blocks[v.layer].output[:, -1] * 2

    def within() -> None:
        with model.session():
            with model.trace("x"):
                model.blocks[0].output.save()
            with model.sweep(layer=range(2)) as v, model.trace("x"):
                model.blocks[v.layer].output[:, -1] * 2

    assert refused(TraceError, "sweep saves nothing", alone).line == alone.__code__.co_firstlineno + 1
    assert refused(TraceError, "sweep saves nothing", within).line == within.__code__.co_firstlineno + 4


def test_an_outer_input_is_not_written_from_inside_a_sweep(model: Model) -> None:
    def run() -> None:
        with model.trace("x"), model.sweep(a=range(2)):
            model.blocks[0].output[:, -1] = 0

    error = refused(TraceError, "outside this sweep", run)
    assert error.line == run.__code__.co_firstlineno + 2


def test_a_text_is_no_number(model: Model) -> None:
    def run() -> None:
        with model.sweep(word=["a", "b"]) as v, model.trace("x"):
            model.blocks[0].output * v.word

    refused(TelepatchError, "'a'", run)

    def module() -> None:
        with model.sweep(word=["a", "b"]) as v, model.trace("x"):
            model.blocks[v.word].output.save()

    refused(BadArgument, "binds to numbers", module)


def test_elements_of_different_shapes_are_joined_not_stacked(model: Model) -> None:
    def run() -> None:
        with model.each([[1, 2], [3]]):
            model.blocks[0].output.save()

    refused(ShapeError, "reduce with 'cat'|have shapes", run)


def test_an_error_inside_gives_the_whole_job_up_also_where_it_is_caught(model: Model) -> None:
    def run() -> None:
        with model.sweep(a=range(2)), model.trace("x"):
            model.blocks[0].output.save()
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        run()

    def caught() -> None:
        with model.session():
            try:
                with model.trace("x"):
                    model.blocks[0].output.save()
                    raise ValueError("mine")
            except ValueError:
                pass
            with model.trace("y"):
                model.blocks[0].output.save()

    refused(TraceError, "given up .*mine", caught)
    with model.trace("x"):
        model.blocks[0].output.save()  # the next job begins anew


def test_a_reduction_is_not_computed_with_before_the_block_is_over(model: Model) -> None:
    def run() -> None:
        with model.each(["a", "b"]) as row:
            row.mean(model.blocks[0].output[:, -1]) + 1

    refused(TraceError, "once the each is over", run)


def test_what_was_not_made_inside_is_not_reduced(model: Model) -> None:
    def run() -> None:
        with model.trace("x"):
            h = model.blocks[0].output[0, -1]
            with model.sweep(a=range(2)) as v:
                v.mean(h)

    refused(BadArgument, "not made inside", run)


def test_weighted_means_of_a_block_have_one_weight(model: Model) -> None:
    def run() -> None:
        with model.each(["a", "b"], w=[1, 2], u=[3, 4]) as row:
            h = model.blocks[0].output[0, -1]
            row.weighted(h, row.w).save()
            row.weighted(h, row.u).save()

    refused(BadArgument, "same weight", run)


def test_unknown_names_are_missing(model: Model) -> None:
    with model.sweep(layer=range(2)) as v, model.trace("x"):
        assert not hasattr(v, "head")
        model.blocks[v.layer].output[:, -1].save()


def test_a_write_inside_that_nothing_sees_is_warned_of_once_at_its_line(model: Model) -> None:
    def run() -> int:
        with model.sweep(layer=range(2)) as v, model.trace("x"):
            model.blocks[v.layer].output[:, -1].save()
            model.lm_head.output[:, -1] = 0
            return line() - 1

    with pytest.warns(TraceWarning, match="no effect") as caught:
        where = run()
    assert [one.lineno for one in caught] == [where]


def test_results_of_earlier_jobs_are_gone_over_without_being_fetched(model: Model) -> None:
    with model.trace([1, 2, 3]):
        kept = model.blocks[:].output[:, 0, -1].save("kept")
    with model.sweep(vector=kept) as v, model.trace([4, 5]):
        model.blocks[0].output[:, -1] += v.vector
        out = model.lm_head.output[0, -1].save()
    assert out.shape == (4, 50)
    assert {"result", "name"} <= set(v.graph.constants["c0"])  # type: ignore[arg-type]


def test_vectors_and_words_come_as_lists_and_arrays(model: Model, card: ModelCard) -> None:
    words = np.array(["one", "two"])
    with model.sweep(word=words, vector=[[1, 0.5] * 4, [0] * 8]) as v, model.trace(v.word):
        (model.blocks[0].output[0, -1] * v.vector).save("x")
    assert saved(v, card) == {"x": "float32 (2, 2, 8)"}


def test_rows_that_run_themselves_are_not_run_again(model: Model) -> None:
    def run() -> None:
        with model.each(["a", "b"]) as row, model.trace(row.prompt):
            pass

    refused(TraceError, r"each\(prompt=inputs\)", run)
