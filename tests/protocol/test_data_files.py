"""Files of columns: what is written is described and read alike, and what lies is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from telepatch_protocol import data_files
from telepatch_protocol.data import Column
from telepatch_protocol.data_files import decode, describe, encode, scan
from telepatch_protocol.errors import BadArgument, IndexOutOfRange, ProtocolError
from telepatch_protocol.meta import Meta
from telepatch_protocol.tensors import Tensor


def of(*numbers: Any, dtype: str = "int64") -> Tensor:
    return Tensor.of(np.asarray(numbers, dtype))


ROWS = [of(1, 2), of(), of(3, 4, 5)]
TEXTS = ["hé", "", "x€z"]


def test_every_kind_of_column_comes_back():
    data = encode({"x": Tensor.of(np.arange(6.0).reshape(3, 2)), "ids": ROWS, "text": TEXTS})
    columns, found = describe(data), decode(data)
    assert columns["x"] == Column(kind="tensor", rows=3, dtype="float64", tail=(2,))
    assert columns["ids"] == Column(kind="ragged", rows=3, dtype="int64", longest=3, total=5)
    assert columns["text"] == Column(kind="text", rows=3, longest=5, total=8)
    assert [found["text"][row] for row in range(3)] == TEXTS
    assert [found["ids"][row].tolist() for row in range(3)] == [[1, 2], [], [3, 4, 5]]
    assert [found["ids"].meta(row) for row in range(3)] == [Meta((n,), "int64") for n in (2, 0, 3)]
    assert found["x"][2].tolist() == [4.0, 5.0]
    assert (len(found["x"]), found["x"].meta(0), found["text"].meta(0)) == (3, Meta((2,), "float64"), None)


def test_ragged_rows_of_vectors_keep_their_other_axes_and_bfloat16():
    rows = [Tensor(np.full((n, 4), n, np.float32), "bfloat16") for n in (1, 3)]
    found = decode(encode({"h": rows}))["h"]
    assert found.column == Column(kind="ragged", rows=2, dtype="bfloat16", tail=(4,), longest=3, total=4)
    assert found[1].shape == (3, 4)
    assert found.meta(1) == Meta((3, 4), "bfloat16")


def test_another_language_writes_them_with_any_library_of_the_format():
    text = "".join(TEXTS).encode()
    data = safetensors.numpy.save(
        {
            "text.utf8": np.frombuffer(text, np.uint8),
            "text.lengths": np.array([len(one.encode()) for one in TEXTS]),
            "label": np.arange(3),
        },
        metadata={"made": "by hand"},
    )
    found = decode(data)
    assert [found["text"][row] for row in range(3)] == TEXTS
    assert found["label"][1] == 1


def test_the_same_columns_are_the_same_bytes_in_whatever_order_they_are_named():
    assert encode({"a": ROWS, "b": TEXTS}) == encode({"b": TEXTS, "a": ROWS})


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_that_is_not_there_is_refused(row: int):
    with pytest.raises(IndexOutOfRange, match="has 3"):
        decode(encode({"ids": ROWS}))["ids"][row]


UTF8 = {"x.utf8": np.frombuffer("ab€".encode(), np.uint8)}


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "0 columns"),
        ({"x": np.float32(1)}, r"'x' is float32 of shape \[\]"),
        ({"x": np.zeros((0, 3))}, "0 rows"),
        ({"x.lengths": np.array([1])}, "column 'x' has 'x.lengths'"),
        ({"x.utf8": np.zeros(3, np.uint8)}, "column 'x' has 'x.utf8'"),
        ({"x": np.zeros(3), "x.lengths": np.array([3]), **UTF8}, "'x' and 'x.lengths' and 'x.utf8'"),
        ({"x": np.zeros(3), "x.lengths": np.array([1, 1])}, "adds up to 2; column 'x' has 3"),
        ({"x": np.zeros(3), "x.lengths": np.array([4, -1])}, "row 0 the length 4"),
        ({"x": np.zeros(3), "x.lengths": np.array([3, 1, -1])}, "row 2 the length -1"),
        ({"x": np.zeros(3), "x.lengths": np.array([2**62] * 4 + [3])}, "row 0 the length"),
        ({"x": np.zeros(3), "x.lengths": np.array([1.0, 2.0])}, "'x.lengths' is float64"),
        ({"x": np.zeros(3), "x.lengths": np.array([[1, 2]])}, r"of shape \[1, 2\]"),
        ({"x.utf8": np.zeros(3, np.int8), "x.lengths": np.array([3])}, "should be uint8"),
        ({"x.utf8": np.zeros((3, 1), np.uint8), "x.lengths": np.array([3])}, "should be uint8 with one axis"),
        ({**UTF8, "x.lengths": np.array([3, 2])}, "row 1 of text column 'x' begins in the middle of a character"),
        ({"x.utf8": np.array([97, 255, 98], np.uint8), "x.lengths": np.array([1, 2])}, "row 1 of text .* not UTF-8"),
        ({"x.utf8": np.array([97, 226, 130], np.uint8), "x.lengths": np.array([1, 2])}, "row 1 of text .* not UTF-8"),
        ({"x": np.zeros(3), "y": np.zeros(2)}, "equally many rows; found 'x' 3, 'y' 2"),
        ({"x y": np.zeros(3)}, "identifier"),
        ({"x.other": np.zeros(3)}, "identifier"),
        ({"x.": np.zeros(3)}, "identifier"),
        ({"ä": np.zeros(3)}, "identifier"),
        ({"x" * 65: np.zeros(3)}, "identifier"),
        ({f"x{at}": np.zeros(1) for at in range(257)}, "257 columns; 1 to 256"),
    ],
)
def test_a_file_that_lies_is_refused_by_name(arrays: dict[str, Any], said: str):
    with pytest.raises(ProtocolError, match=said):
        describe(safetensors.numpy.save({name: np.asarray(array) for name, array in arrays.items()}))


@pytest.mark.parametrize("data", [b"", b"1234567", b"\xff" * 20, b"\x02\0\0\0\0\0\0\0[]"])
def test_what_is_no_such_file_is_refused(data: bytes):
    with pytest.raises(ProtocolError):
        describe(data)


def test_too_many_rows_are_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(data_files, "MAX_ROWS", 2)
    with pytest.raises(ProtocolError, match="3 rows; 1 to 2 can be"):
        describe(encode({"ids": ROWS}))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_texts_are_checked_across_the_pieces_they_are_read_in(monkeypatch: pytest.MonkeyPatch, size: int):
    monkeypatch.setattr(data_files, "_CHUNK", size)
    texts = ["a€b", "", "𝛼", "é" * 3, ""]
    found = decode(encode({"text": texts}))["text"]
    assert [found[row] for row in range(5)] == texts
    broken = encode({"text": texts}).replace("𝛼".encode(), b"\xf0\x9d\x9b\xff")
    with pytest.raises(ProtocolError, match="row 2 of text column 'text' is not UTF-8"):
        describe(broken)


def test_numbers_are_never_asked_for_and_texts_only_piece_by_piece():
    data = encode({"x": Tensor.of(np.zeros((4, 2**19))), "text": ["a" * 2**21] * 4})
    asking, asked = scan(len(data)), []
    wanted = next(asking)
    with pytest.raises(StopIteration):
        while True:
            asked.append(wanted[1] - wanted[0])
            wanted = asking.send(data[slice(*wanted)])
    assert max(asked) == 2**20
    assert sum(asked) < 2**23 + 1000 < len(data)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ([], "at least one"),
        (["a", of(1)], "all texts or all tensors"),
        ([of(1), of(1.0, dtype="float32")], "differ along their first axis only; found float32"),
        ([Tensor.of(np.zeros((1, 2))), Tensor.of(np.zeros((1, 3)))], r"\(\?, 2\), float64 \(\?, 3\)"),
        ([Tensor.of(np.asarray(1))], "first axis only"),
    ],
)
def test_a_column_that_cannot_be_is_not_written(column: Any, said: str):
    with pytest.raises(BadArgument, match=f"column 'x'.*{said}"):
        encode({"x": column})


def test_a_text_that_is_none_is_refused_with_its_row():
    with pytest.raises(ProtocolError, match="row 1 of text column 'x' is not UTF-8"):
        describe(encode({"x": ["ok", "\ud800"]}))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 255))
def test_bytes_that_were_changed_are_refused_or_described(noise: bytes, at: int, byte: int):
    data = bytearray(encode({"x": of(1, 2, 3), "ids": ROWS, "text": TEXTS}))
    data[at % len(data)] = byte
    for one in (noise, bytes(data), bytes(data[:at])):
        try:
            columns = describe(one)
        except ProtocolError:
            continue
        assert set(decode(one)) == set(columns.names)
