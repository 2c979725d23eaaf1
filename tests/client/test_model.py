"""The tree of a model: attributes, standard names, items, completion, drawing, and applying modules."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from telepatch.model import Model
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, ShapeError, TraceError, UnknownSite
from telepatch_protocol.graph import Get, Module, Set


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_own_paths_and_standard_names_lead_to_the_same_modules(model: Model) -> None:
    assert model.model.layers[2] == model.blocks[2] == model["model.layers.2"] == model["blocks.2"]
    assert model.blocks[2].attn == model.model.layers[2].attn_impl == model.model.layers[2].attn
    assert model.unembed == model.lm_head


def test_negative_indices_count_from_the_end(model: Model) -> None:
    assert model.blocks[-1] == model.blocks[3]
    with model.trace("x") as t:
        model.blocks[-1].resid_post.save()
    assert 3 in t.graph.constants.values()


def test_lists_have_lengths_parts_and_can_be_walked(model: Model) -> None:
    assert len(model.blocks) == 4
    assert list(model.blocks) == [model.blocks[at] for at in range(4)]
    assert model.blocks[1:3] == [model.blocks[1], model.blocks[2]]


def test_children_with_taken_names_are_items(model: Model) -> None:
    with model.trace("x") as t:
        layer = model.model.layers[0]
        layer["output"].output[:, -1] = 0
        layer.output.save()
    first, second = t.graph.nodes
    assert isinstance(first, Set)
    assert isinstance(second, Get)
    assert first.site == "model.layers.{c3}.output:output"
    assert second.site == "model.layers.{c4}:output"


def test_the_drawing_folds_layers_and_marks_taken_names(model: Model) -> None:
    drawn = str(model)
    assert drawn == repr(model)
    assert "[0..3]: 4 x Block" in drawn
    assert drawn.count("Attention") == 1
    assert 'reach it as ["output"]' in drawn
    assert "resid_post" in drawn
    assert "= unembed" in drawn
    assert "= blocks.*.attn" in drawn


def test_completion_offers_children_ports_and_parameters(model: Model) -> None:
    assert {"model", "lm_head", "blocks", "unembed", "trace", "output"} <= set(dir(model))
    assert {"attn_impl", "attn", "norm", "resid_post", "output"} <= set(dir(model.blocks[0]))
    assert "weight" in dir(model.lm_head)
    assert model.blocks[0]._ipython_key_completions_() == ["attn_impl", "output", "norm"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda m: m.modl, "model"),
        (lambda m: m.model.layer, "layers"),
        (lambda m: m.blocks[9], "0 to 3"),
        (lambda m: m.blocks["x"], "modules 0 to 3"),
        (lambda m: m.blocks[0].mlp, "attn_impl"),
        (lambda m: m.lm_head.bias, "weight"),
        (lambda m: m["model.layers.0.attnimpl"], "attn_impl"),
        (lambda m: m.lm_head[0], "no list"),
        (lambda m: m.lm_head[:], "no list"),
        (lambda m: m.model.output, "does not fire"),
        (lambda m: m.blocks[0].attn.outputs[7], r"\[0\], \[1\]"),
        (lambda m: m.blocks[0].attn.inputs.states, "hidden_states"),
    ],
)
def test_a_mistyped_path_says_what_exists_there(model: Model, wrong: object, says: str) -> None:
    assert callable(wrong)
    with pytest.raises(UnknownSite, match=says) as caught:
        wrong(model)
    assert caught.value.file == __file__
    assert caught.value.line == wrong.__code__.co_firstlineno  # type: ignore[attr-defined]


def test_hasattr_tells_whether_a_name_exists(model: Model) -> None:
    assert hasattr(model, "lm_head")
    assert not hasattr(model, "lm_haed")
    assert not hasattr(model.blocks[0], "_repr_html_")


def test_parts_of_structures_are_read_and_written(model: Model) -> None:
    with model.trace("x") as t:
        attn = model.blocks[0].attn
        attn.outputs[0] = 0
        attn.outputs[1][:, 0] += 1
        attn.outputs[-1].save()
        attn.inputs.hidden_states.save()
        assert len(attn.outputs) == 2
        assert [part.shape[0] for part in attn.outputs] == [1, 1]
        assert dir(attn.inputs) == ["attention_mask", "hidden_states"]
        with pytest.raises(BadArgument, match="one by one"):
            attn.outputs = (1, 2)
    sites = [node.site.partition(":")[2] for node in t.graph.nodes if isinstance(node, Get | Set)]
    assert sites == ["outputs.0", "outputs.1", "outputs.1", "outputs.1", "inputs.hidden_states"]


def test_a_module_is_applied_to_a_value(model: Model) -> None:
    with model.trace("x") as t:
        h = model.blocks[:].resid_post[:, :, -1]
        lens = model.lm_head(h).save()
        assert lens.shape == (4, 1, 50)
        model.blocks[1].norm(h + np.ones(8)).save()
        with pytest.raises(ShapeError, match="50") as caught:
            model.lm_head(lens)
        assert caught.value.line == line() - 1
        with pytest.raises(BadArgument, match="found"):
            model.lm_head()
    modules = [node for node in t.graph.nodes if isinstance(node, Module)]
    assert [node.path for node in modules] == ["lm_head", "model.layers.{c5}.norm"] or modules[1].path.startswith(
        "blocks"
    )


def test_a_module_is_not_applied_outside_a_trace(model: Model) -> None:
    with pytest.raises(TraceError, match="inside"):
        model.lm_head(np.ones(8))


def test_only_ports_are_assigned(model: Model) -> None:
    with model.trace("x"):
        model.lm_head.output.save()
        with pytest.raises(UnknownSite, match="resid_post"):
            model.blocks[0].resid_pots = 0
    with pytest.raises(TraceError, match="inside"):
        model.blocks[0].output = 0


def test_a_card_without_a_connection_says_so(model: Model) -> None:
    with pytest.raises(TraceError, match="lab"):
        model.tokenize("x")


def test_a_place_of_another_model_is_refused(model: Model, card: ModelCard) -> None:
    other = Model(card.model_copy(update={"id": "other"}))
    with model.trace("x"):
        for use in (
            lambda: other.blocks[0].resid_post,
            lambda: other.lm_head.weight,
            lambda: other.lm_head(np.ones(8, np.float32)),
        ):
            with pytest.raises(TraceError, match=r"'other', and the trace that is open .* is of 'tiny'") as caught:
                use()
            assert caught.value.line == use.__code__.co_firstlineno
        model.lm_head.output.save()


def test_a_slice_of_modules_says_how_to_go_on(model: Model) -> None:
    with pytest.raises(UnknownSite, match=r"\[:\].resid_post\[1:3\]"):
        model.blocks[1:3].resid_post  # type: ignore[attr-defined]  # noqa: B018


def test_standard_names_are_drawn_wherever_they_lead(model: Model) -> None:
    drawn = str(model)
    assert "layers: ModuleList   = blocks" in drawn
    assert "= blocks.*.attn" in drawn
    assert "= unembed" in drawn


def test_a_module_applied_outside_a_trace_is_named_by_its_path(model: Model) -> None:
    with pytest.raises(TraceError, match=r"^[^\n]*model.blocks\[1\] is applied to values inside") as caught:
        model.blocks[1](np.ones(8, np.float32))
    assert "\n" not in str(caught.value)


def test_names_of_a_module_are_listed_once(model: Model) -> None:
    with pytest.raises(UnknownSite) as caught:
        model.blocks[1].nothing  # noqa: B018
    listed = caught.value.detail.partition("it has: ")[2].split(", ")
    assert len(listed) == len(set(listed))


def test_a_list_of_modules_has_no_output_of_its_own(model: Model) -> None:
    with model.trace("x"):
        with pytest.raises(UnknownSite, match=r"model.blocks\[0\].output, or all, model.blocks\[:\].output") as caught:
            model.blocks.output  # noqa: B018
        assert caught.value.line == line() - 1
        with pytest.raises(UnknownSite, match="does not fire itself"):
            model.model.output = 0
        model.lm_head.output.save()


def test_a_place_looked_at_outside_a_trace_says_that_it_is_one(model: Model) -> None:
    with pytest.raises(TraceError, match=r"model.lm_head.param\['weight'\] is a place in the model"):
        model.lm_head.weight.numpy()


def test_what_is_no_text_and_no_token_is_refused_before_it_is_sent(model: Model) -> None:
    with pytest.raises(BadArgument, match="a list of texts or chat messages; found 3"):
        model.tokenize(3)  # type: ignore[arg-type]
    with pytest.raises(BadArgument, match="found 'abc'"):
        model.decode("abc")
