"""Blocks that nothing runs."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

from telepatch.lab import Lab
from telepatch.model import Model
from telepatch_protocol.errors import CausalLoop, IndexOutOfRange, ShapeError, TooLarge, TraceError


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_every_value_has_a_shape_and_a_dtype_inside_and_after_the_block(lab: Lab, gateway: Any) -> None:
    model = lab.model("tiny")
    with model.scan("five!") as s:
        whole = model.blocks[1].resid_post
        part = whole[:, -1]
        best = model.unembed.output.argmax(-1)
        long = model.blocks[:].attn.output
        never_read = model.blocks[3].resid_pre
        assert whole.shape == (1, 5, 8)
        assert part.dtype == "float32"
    assert (whole.shape, part.shape, best.shape, long.shape) == ((1, 5, 8), (1, 8), (1, 5), (4, 1, 5, 8))
    assert (best.dtype, never_read.shape, never_read.dtype) == ("int64", (1, 5, 8), "float32")
    assert len(s.graph.nodes) == 3
    assert gateway.posts == []
    assert len(gateway.tokenized) == 1


def test_an_index_past_the_prompts_end_is_refused_at_its_line(lab: Lab) -> None:
    model = lab.model("tiny")
    with pytest.raises(IndexOutOfRange) as caught, model.scan("abc"):
        model.blocks[0].resid_post[:, 3]
    assert (caught.value.file, caught.value.line) == (__file__, line() - 1)
    with pytest.raises(ShapeError, match="aligned"), model.scan(aligned=True) as s:  # noqa: SIM117
        with s.invoke("abc"), s.invoke("ab"):
            pass


def test_without_a_connection_lengths_stay_symbols(model: Model) -> None:
    with model.scan("Hello") as s:
        h = model.blocks[1].resid_post
        assert repr(h.shape) == "(1, len(x0), 8)"
    assert repr(h.shape) == "(1, len(x0), 8)"
    with pytest.raises(TraceError, match="saves nothing"):
        s.price  # noqa: B018
    with model.scan("Hello") as s:
        model.unembed.output.save()
    with pytest.raises(TraceError, match="length of input 'x0' is not known"):
        s.price  # noqa: B018


def test_of_token_ids_the_price_is_known_without_a_connection(model: Model) -> None:
    with model.scan([1, 2, 3]) as s:
        (model.unembed.output * np.ones(50)).save()
    assert (s.price.tokens, s.price.saved_bytes) == (3, 3 * 50 * 4)


def test_what_is_only_scanned_has_no_numbers(lab: Lab) -> None:
    model = lab.model("tiny")
    with model.scan("x"):
        kept = model.unembed.output.save()
        with pytest.raises(TraceError, match="nothing has run yet"):
            kept.numpy()
    with pytest.raises(TraceError, match=r"scan\(...\) runs nothing; write model.trace"):
        kept.numpy()
    with pytest.raises(TraceError, match="runs nothing"), model.trace("y"):
        model.unembed.output[:] = kept


def test_what_could_not_run_is_refused_in_a_scan_too(model: Model) -> None:
    with pytest.raises(CausalLoop), model.scan("x"):
        late = model.blocks[3].resid_post[:, -1]
        model.blocks[0].resid_post[:, -1] = late
        model.unembed.output  # noqa: B018
    with model.trace("a trace after it"):
        model.unembed.output.save()


def test_the_price_is_the_gateways(lab: Lab, gateway: Any) -> None:
    model = lab.model("tiny")
    with model.scan("abc") as s:
        model.unembed.output.save()
    gateway.dry = {"price": {"rows": 1, "tokens": 3, "passes": 1, "peak_bytes": 4, "saved_bytes": 600, "flops": 7.0}}
    assert s.price.saved_bytes == 600
    assert s.price.tokens == 3
    with model.scan("abc") as s:
        (model.unembed.output * np.ones(50)).save()
        where = line() - 1
    gateway.dry = {"error": {"code": "too_large", "detail": "600 over 5", "node": s.graph.nodes[-1].id}}
    with pytest.raises(TooLarge, match="600 over 5") as caught:
        s.price  # noqa: B018
    assert (caught.value.file, caught.value.line) == (__file__, where)
    assert gateway.jobs == {}


async def test_scans_are_asynchronous_too(model: Model) -> None:
    async with model.scan([1, 2]):
        h = model.unembed.output
    assert h.shape == (1, 2, 50)
