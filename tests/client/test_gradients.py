"""Gradients: what is asked for, edits of the way back, and refusals at the author's line."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import telepatch
from telepatch.model import Model
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import check
from telepatch_protocol.errors import BadArgument, CausalLoop, DtypeError, ShapeError, TraceError
from telepatch_protocol.graph import Get, Grad, Set


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def saved(t: Any, card: ModelCard) -> dict[str, str]:
    return {name: str(meta) for name, meta in check(t.graph, card).saves.items()}


def test_gradients_are_with_respect_to_sites_and_values(model: Model, card: ModelCard) -> None:
    with model.trace("Hello") as t:
        h = model.blocks[1].output
        x = h[:, -1] * 2
        model.blocks[2].output[:, -1] = x
        logit = model.lm_head.output[0, -1, 7]
        telepatch.grad(logit, h).save("site")
        value, all_heads = telepatch.grad(logit, [x, model.blocks[:].attn.output])
        (value * x).save("value")
        all_heads.save("every")
    assert saved(t, card) == {
        "site": "float32 (1, len(x0), 8)",
        "value": "float32 (1, 8)",
        "every": "float32 (4, 1, len(x0), 8)",
    }


def test_attribution_patching_is_one_job(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with model.trace("bad"):
            corrupted = model.blocks[:].resid_post[:, :, -1]
        with model.trace("clean"):
            clean = model.blocks[:].resid_post
            difference = model.lm_head.output[0, -1, 5] - model.lm_head.output[0, -1, 7]
            g = telepatch.grad(difference, clean)
        ((corrupted - clean[:, :, -1]) * g[:, :, -1]).sum((1, 2)).save("effect")
    assert saved(s, card) == {"effect": "float32 (4)"}


def test_integrated_gradients_are_a_sweep_of_gradients(model: Model, card: ModelCard) -> None:
    with model.session() as s:
        with model.trace([1, 2, 3]):
            start = model.blocks[0].resid_pre
        with model.trace([4, 5, 6]):
            end = model.blocks[0].resid_pre
        with model.sweep(alpha=[0.25, 0.5, 0.75]) as v, model.trace([4, 5, 6]):
            x = start + (end - start) * v.alpha
            model.blocks[0].resid_pre = x
            g = telepatch.grad(model.lm_head.output[0, -1, 7], x)
        ((end - start) * v.mean(g)).sum(-1).save("ig")
    assert saved(s, card) == {"ig": "float32 (1, 3)"}


def test_the_way_back_is_read_and_edited_as_sites_are(model: Model, card: ModelCard) -> None:
    with model.trace("Hello") as t:
        h = model.blocks[1].output
        x = h[:, -1] * 3
        loss = model.lm_head.output[0, -1].sum() + x.sum()
        with loss.backward():
            model.blocks[2].attn.output.grad[:, -1] = 0
            model.blocks[2].attn.output.grad *= 2
            model.blocks[3].output.grad[:, 0] += 1
            model.blocks[3].attn.outputs[1].grad = 0
            kept = h.grad.save("kept")
            later = h.grad[:, -1]
            x.grad.save("computed")
        (later * 2).save("later")
    assert saved(t, card) == {
        "kept": "float32 (1, len(x0), 8)",
        "later": "float32 (1, 8)",
        "computed": "float32 (1, 8)",
    }
    assert str(kept.shape) == "(1, len(x0), 8)"
    (node,) = (one for one in t.graph.nodes if isinstance(one, Grad))
    assert node.body is not None
    sites = [one.site for one in node.body.nodes if isinstance(one, Get | Set)]
    assert "blocks.{c9}.attn:output.grad" in sites or any(site.endswith("attn:output.grad") for site in sites)
    assert any(site.endswith("attn:outputs.1.grad") for site in sites)
    assert all(site.endswith(".grad") for site in sites)


def test_a_gradient_is_used_after_its_block_without_having_been_read_inside(model: Model, card: ModelCard) -> None:
    with model.trace("Hello") as t:
        h = model.blocks[1].output
        with model.lm_head.output[0, -1, 7].backward():
            g = h.grad
            model.blocks[2].output.grad[:, 0] = 0
        g.norm().save("norm")
    assert saved(t, card) == {"norm": "float32 ()"}


def test_a_gradient_of_several_numbers_is_refused_at_its_line(model: Model) -> None:
    with pytest.raises(ShapeError, match=r"sum\(\)") as caught, model.trace("x"):
        h = model.blocks[1].output
        wrong = line() + 1
        telepatch.grad(model.lm_head.output, h)
    assert caught.value.line == wrong
    with pytest.raises(ShapeError, match=r"sum\(\)") as caught, model.trace("x"):
        h = model.blocks[1].output
        wrong = line() + 1
        with model.lm_head.output.backward():
            h.grad.save()
    assert caught.value.line == wrong


def test_what_has_no_gradient_is_refused(model: Model) -> None:
    def ask(of: Any, wrt: Any) -> None:
        with model.trace("x"):
            h = model.blocks[1].output
            telepatch.grad(h.sum() if of is None else of(h), wrt(h)).save()

    with pytest.raises(DtypeError, match="floating"):
        ask(lambda h: h.argmax(), lambda h: h)
    with pytest.raises(DtypeError, match="floating"):
        ask(None, lambda h: h > 0)
    with pytest.raises(BadArgument, match="found 3"):
        ask(None, lambda h: 3)
    with pytest.raises(BadArgument, match="nothing"):
        ask(None, lambda h: [])
    with pytest.raises(TraceError, match="weights never change"), model.trace("x"):  # noqa: SIM117
        with model.lm_head.output.sum().backward():
            model.lm_head.weight.grad.save()


def test_gradients_are_read_where_there_are_any(model: Model) -> None:
    with pytest.raises(TraceError, match="backward"), model.trace("x"):
        model.blocks[1].output.grad.save()
    with pytest.raises(TraceError, match="no gradient"), model.trace("x"), model.lm_head.output.sum().backward():
        pass
    with pytest.raises(TraceError, match="reads no gradient"), model.trace("x"):
        model.lm_head.output[:, -1].save()
        with model.lm_head.output.sum().backward():
            model.blocks[0].output.grad[:, 0] = 0


def test_nothing_else_happens_on_the_way_back(model: Model) -> None:
    for wrong in ("sweep", "grad", "write"):
        with pytest.raises(TraceError), model.trace("x"):
            h = model.blocks[1].output
            loss = model.lm_head.output.sum()
            with loss.backward():
                h.grad.save()
                if wrong == "sweep":
                    model.sweep(a=range(2)).__enter__()
                elif wrong == "grad":
                    telepatch.grad(loss, h)
                else:
                    h[:, -1] = 0


def test_an_edit_that_needs_a_gradient_that_comes_later_is_refused(model: Model) -> None:
    with pytest.raises(CausalLoop, match="last module to the first"), model.trace("x"):  # noqa: SIM117
        with model.lm_head.output.sum().backward():
            early = model.blocks[0].output.grad.save()
            model.blocks[2].output.grad[:, -1] = early[:, -1]
