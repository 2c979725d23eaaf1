"""Saved values as bytes and back."""

from __future__ import annotations

import pytest
import torch

from telepatch_protocol.errors import ProtocolError
from telepatch_protocol.tensors import metas as metas_of_bytes
from telepatch_worker import results


def test_every_dtype_layout_and_size_survives():
    shared = torch.randn(4, 3)
    tensors = {
        "half": torch.randn(2, 3).to(torch.bfloat16),
        "scalar": torch.tensor(3),
        "mask": torch.tensor([True, False]),
        "turned": shared.T,
        "again": shared,
        "once more": shared,
        "nothing": torch.zeros(0, 5),
        "special": torch.tensor([float("inf"), float("nan")]),
    }
    found = results.decode(results.encode(tensors))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].nan_to_num(), tensor.nan_to_num())


def test_the_thin_side_reads_what_is_written_here():
    data = results.encode({"x": torch.ones(2, dtype=torch.bfloat16)})
    assert metas_of_bytes(data)["x"].dtype == "bfloat16"


def test_what_is_saved_is_described():
    meta = results.metas({"x": torch.ones(1, 2)})["x"]
    assert (meta.shape, meta.dtype) == ((1, 2), "float32")


@pytest.mark.parametrize("data", [b"x", b"\xff" * 40, b"\x08\0\0\0\0\0\0\0{}      x"])
def test_bytes_that_are_no_tensors_are_refused(data):
    with pytest.raises(ProtocolError):
        results.decode(data)
    assert results.decode(b"") == {}
