"""safetensors without PyTorch, held against the safetensors library."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from telepatch_protocol.dtypes import ITEM_BYTES
from telepatch_protocol.errors import ProtocolError
from telepatch_protocol.meta import Meta
from telepatch_protocol.tensors import Tensor, decode, encode, metas

NUMPY = sorted(set(ITEM_BYTES) - {"bfloat16"})


def lying(header: dict, data: bytes = b"\0" * 16) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("dtype", NUMPY)
def test_the_library_reads_what_we_write_and_we_read_what_it_writes(dtype: str):
    arrays = {
        "a": np.arange(6).reshape(2, 3).astype(dtype),
        "empty": np.zeros((0, 3), dtype),
        "scalar": np.asarray(1, dtype),
    }
    theirs = safetensors.numpy.load(encode({name: Tensor.of(array) for name, array in arrays.items()}))
    ours = decode(safetensors.numpy.save(arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)
        np.testing.assert_array_equal(ours[name].array, array)
        assert ours[name].dtype == dtype


def test_several_dtypes_in_one_file_and_arrays_that_are_not_contiguous():
    tensors = {"a": Tensor.of(np.arange(12.0).reshape(3, 4).T), "b": Tensor.of(np.array([True, False, True]))}
    back = decode(encode(tensors))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(back[name].array, tensor.array)


def test_bfloat16_rounds_to_nearest_even_as_torch_does():
    torch = pytest.importorskip("torch")
    numbers = np.concatenate(
        [np.random.default_rng(0).normal(size=1000), [np.inf, -np.inf, np.nan, 0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8]]
    )
    array = numbers.astype(np.float32)
    found = decode(encode({"x": Tensor(array, "bfloat16")}))["x"]
    np.testing.assert_array_equal(found.array, torch.tensor(array).to(torch.bfloat16).float().numpy())
    assert found.dtype == "bfloat16"


def test_shapes_are_known_without_reading_the_data():
    assert metas(encode({"x": Tensor.of(np.zeros((2, 3), np.float16))})) == {"x": Meta((2, 3), "float16")}


def test_an_array_of_a_dtype_that_values_cannot_have_is_refused():
    with pytest.raises(ProtocolError, match="complex128"):
        Tensor.of(np.zeros(2, complex))


ONE = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"nope",
        lying({"x": {**ONE, "data_offsets": [0, 32]}}),
        lying({"x": {**ONE, "shape": [2**40, 2**40]}}),
        lying({"x": {**ONE, "shape": [-4]}}),
        lying({"x": {**ONE, "shape": "four"}}),
        lying({"x": {**ONE, "dtype": "C64"}}),
        lying({"x": {**ONE, "more": 1}}),
        lying({"x": ONE, "y": ONE}),
        lying({"x": {**ONE, "shape": [2], "data_offsets": [0, 8]}}),
        lying({"x": {**ONE, "shape": [2], "data_offsets": [8, 16]}}),
        lying({"x": {**ONE, "shape": [True]}}),
        lying({"x": 1}),
    ],
)
def test_a_header_that_lies_is_refused(data: bytes):
    with pytest.raises(ProtocolError):
        decode(data)


@given(st.binary(max_size=120), st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_the_reader_do_anything_but_read_or_refuse(data: bytes, framed: bool):
    try:
        decode(struct.pack("<Q", max(0, len(data) - 8)) + data if framed else data)
    except ProtocolError:
        return
