"""Data as authors give it and as they hold it: which columns it becomes, and what it stands for in a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from telepatch.data import DataColumn, Dataset
from telepatch.model import Model
from telepatch.uploading import PART, File, Sending
from telepatch_protocol import data_files
from telepatch_protocol.data import Column
from telepatch_protocol.errors import BadArgument, ProtocolError, TraceError, UnknownOperation

torch = pytest.importorskip("torch")


def column(value: Any) -> Column:
    return File.of({"x": value}).columns["x"]


def held(**columns: Any) -> Dataset:
    """Data as if it had been sent."""
    file = File.of(columns)
    return Dataset(None, file.digest, len(file.data), file.columns)  # type: ignore[arg-type]


PAIRS = {"x": np.ones((3, 8), np.float32), "text": ["a", "bc", "d"], "ids": [[1], [2, 3], [4]]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.zeros((3, 2)), Column(kind="tensor", rows=3, dtype="float32", tail=(2,))),
        (np.zeros(3, np.int16), Column(kind="tensor", rows=3, dtype="int16")),
        ([1, 2, 3], Column(kind="tensor", rows=3, dtype="int64")),
        ([1, 2.5], Column(kind="tensor", rows=2, dtype="float32")),
        ([True, False], Column(kind="tensor", rows=2, dtype="bool")),
        ([[1, 2], [3, 4]], Column(kind="tensor", rows=2, dtype="int64", tail=(2,))),
        ([[1, 2], [3]], Column(kind="ragged", rows=2, dtype="int64", longest=2, total=3)),
        ([np.arange(3), np.arange(2)], Column(kind="ragged", rows=2, dtype="int64", longest=3, total=5)),
        (
            (np.zeros((1, 4)), np.zeros((2, 4))),
            Column(kind="ragged", rows=2, dtype="float32", tail=(4,), longest=2, total=3),
        ),
        (["a", "é"], Column(kind="text", rows=2, longest=2, total=3)),
        (np.array(["a", "é"]), Column(kind="text", rows=2, longest=2, total=3)),
        (torch.zeros(3, 2), Column(kind="tensor", rows=3, dtype="float32", tail=(2,))),
        (torch.zeros(3, 2, dtype=torch.bfloat16), Column(kind="tensor", rows=3, dtype="bfloat16", tail=(2,))),
        ([torch.arange(2), torch.arange(3)], Column(kind="ragged", rows=2, dtype="int64", longest=3, total=5)),
        ([torch.ones(2, dtype=torch.bfloat16)] * 2, Column(kind="tensor", rows=2, dtype="bfloat16", tail=(2,))),
        ([torch.tensor(1), torch.tensor(2)], Column(kind="tensor", rows=2, dtype="int64")),
    ],
)
def test_what_an_author_gives_becomes_a_column(value: Any, expected: Column) -> None:
    assert column(value) == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text", "str 'text' is no column"),
        (5, "int 5 is no column"),
        ([], "at least one"),
        ({"a": 1}, "dict"),
        (["a", 1], "found both"),
        ([[1, [2, 3]], [4]], "ragged itself"),
        ([np.zeros(2), np.zeros(3, np.int64)], "differ along their first axis only"),
        ([1, [2, 3]], "first axis only"),
        (np.zeros(2, complex), "complex128"),
    ],
)
def test_what_is_no_column_is_refused_by_its_name(value: Any, said: str) -> None:
    with pytest.raises(BadArgument, match=f"column 'x': .*{said}"):
        column(value)


def test_columns_of_different_numbers_of_rows_are_refused() -> None:
    with pytest.raises(ProtocolError, match="'a' 1, 'b' 2"):
        File.of({"a": [1], "b": [1, 2]})
    with pytest.raises(ProtocolError, match="identifier"):
        File.of({"a b": [1]})


def test_the_same_data_has_the_same_digest_and_other_data_another() -> None:
    assert held(**PAIRS).digest == held(**dict(reversed(PAIRS.items()))).digest
    assert held(**PAIRS).digest != held(**{**PAIRS, "text": ["a", "bc", "e"]}).digest
    assert held(x=PAIRS["x"]).digest != held(y=PAIRS["x"]).digest


def test_a_tensor_column_is_a_value_inside_a_trace(model: Model) -> None:
    data, alone = held(**PAIRS), held(x=PAIRS["x"])
    with model.trace(ids=[1, 2, 3]) as t:
        h = model.blocks[0].resid_post
        assert (data.x.shape, data.x.dtype, data.x.ndim, len(data.x)) == ((3, 8), "float32", 2, 3)
        product = h @ data.x.T
        assert product.shape[-1] == 3
        (product + 2 * data["x"][0, :3]).save()
        (h + alone["x"]).save()
        np.add(alone.x, 1).save()
    graph = t.graph
    forms = [value for value in graph.constants.values() if isinstance(value, dict)]
    assert forms == [{"data": data.digest}, {"data": alone.digest}]
    names = {form["data"]: name for name, form in graph.constants.items() if isinstance(form, dict)}
    text = graph.to_json()
    assert f'"${names[data.digest]}.x"' in text
    assert f'"${names[alone.digest]}"' in text


@pytest.mark.parametrize("name", ["text", "ids"])
def test_other_columns_are_refused_at_the_line_that_uses_them(model: Model, name: str) -> None:
    data = held(**PAIRS)
    with pytest.raises(BadArgument, match="map or fit") as caught, model.trace(ids=[1, 2, 3]):
        model.blocks[0].resid_post + data[name]
    assert caught.value.file == __file__
    with pytest.raises(BadArgument, match="map or fit"), model.trace(ids=[1, 2, 3]):
        data[name][0].save()
    with pytest.raises(BadArgument, match="map or fit"):
        _ = data[name].shape
    assert len(data[name]) == 3


def test_a_column_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UnknownOperation, match="ids, text, x"):
        _ = held(**PAIRS).label
    with pytest.raises(UnknownOperation, match="ids, text, x"):
        held(**PAIRS)["label"]
    assert not hasattr(held(**PAIRS), "label")


def test_a_handle_tells_what_it_stands_for() -> None:
    data = held(**PAIRS)
    assert (len(data), data.columns.names) == (3, ("ids", "text", "x"))
    assert {"x", "text", "ids", "delete"} <= set(dir(data))
    assert data.digest[:12] in repr(data)
    assert "ragged int64 column of 3 rows" in repr(data)
    assert isinstance(data.x, DataColumn)
    assert (data.x.digest, data.x.bytes) == (data.digest, data.bytes)
    assert "float32 column of shape (3, 8)" in repr(data.x)
    with pytest.raises(TypeError):
        iter(data)
    with pytest.raises(TraceError, match="rows"):
        data.x._saved_name()


def test_progress_is_a_line_with_both_sizes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("telepatch.progress.PATIENCE_S", 0.0)
    file = File.of({"x": np.zeros((1, PART // 2), np.float32)})
    with Sending(file, shown=True) as progress:
        for at in range(PART, PART + 1000):
            progress.sent(at)
    said = capsys.readouterr().err
    assert said.startswith("telepatch: sending data, 40 % of 16.0 MiB (")
    assert said.count("\n") == 1
    with Sending(file, shown=False) as progress:
        progress.sent(PART)
    assert capsys.readouterr().err == ""


def test_files_are_read_back_as_they_were_given() -> None:
    found = data_files.decode(File.of(PAIRS).data)
    assert [found["text"][row] for row in range(3)] == PAIRS["text"]
    assert [found["ids"][row].tolist() for row in range(3)] == PAIRS["ids"]
