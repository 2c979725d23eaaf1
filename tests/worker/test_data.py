"""Data that was sent along once: columns as values, rows within reach, ids from a column."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from telepatch_protocol.data_files import encode
from telepatch_protocol.errors import BadArgument, ProtocolError
from telepatch_protocol.meta import Meta
from telepatch_protocol.tensors import Tensor
from telepatch_worker import data
from telepatch_worker.plan import Task

MODEL = "gpt2-random"
IDS = [5, 6, 7, 8]
PAIRS, ONE, RAGGED = "a" * 64, "b" * 64, "c" * 64
X = np.linspace(-1, 1, 2 * 48, dtype=np.float32).reshape(2, 48)


def columns(**columns: Any) -> data.Columns:
    return data.decode(encode(columns))


@pytest.fixture
def task(build: Any) -> Any:
    """A task with three uploads."""

    def make(*nodes: dict[str, Any], inputs: Any = None, **more: Any) -> Task:
        constants = {"pairs": {"data": PAIRS}, "one": {"data": ONE}, "ragged": {"data": RAGGED}}
        found = build.task(MODEL, {"a": IDS} if inputs is None else inputs, *nodes, constants=constants, **more)
        uploads = {
            PAIRS: columns(bf=Tensor(X, "bfloat16"), ids=Tensor.of(np.array([[1, 2, 3], [4, 5, 6]])), text=["a", "b"]),
            ONE: columns(x=Tensor.of(X)),
            RAGGED: columns(ids=[Tensor.of(np.arange(n)) for n in (2, 3)]),
        }
        return dataclasses.replace(found, data=uploads)

    return make


def test_a_column_is_a_value_by_its_name_alone_and_inline(gpt2: Any, build: Any, task: Any):
    nodes = (
        build.get("h", "blocks.0:resid_post", [":", -1]),
        build.call("sum", "add", "$h", "$one"),
        build.call("named", "add", "$h", {"data": ONE}),
        build.call("half", "to", "$pairs.bf", "float32"),
    )
    [found] = gpt2.run([task(*nodes)])
    assert found.error is None, found.error
    saves = found.saved
    torch.testing.assert_close(saves["sum"], saves["h"] + torch.tensor(X))
    torch.testing.assert_close(saves["named"], saves["sum"])
    assert torch.equal(saves["half"], torch.tensor(X).to(torch.bfloat16).float())


@pytest.mark.parametrize("ids", ["$pairs.ids", [[1, 2, 3], [4, 5, 6]]])
def test_a_column_of_ids_is_an_input(gpt2: Any, build: Any, task: Any, ids: Any):
    [found] = gpt2.run([task(build.get("l", "lm_head:output"), inputs={"a": ids})])
    assert found.error is None, found.error
    [plain] = gpt2.run([build.task(MODEL, {"a": [[1, 2, 3], [4, 5, 6]]}, build.get("l", "lm_head:output"))])
    torch.testing.assert_close(found.saved["l"], plain.saved["l"])


@pytest.mark.parametrize("argument", ["$ragged", "$pairs.text", {"data": RAGGED}])
def test_a_column_without_a_shape_is_refused(gpt2: Any, build: Any, task: Any, argument: Any):
    [found] = gpt2.run([task(build.call("x", "add", argument, 1))])
    assert isinstance(found.error, BadArgument)
    assert "map or fit" in found.error.detail


def test_rows_are_tensors_and_texts():
    found = columns(text=["é", ""], h=[Tensor(X[:1], "bfloat16"), Tensor(X, "bfloat16")], x=Tensor.of(X))
    assert [found["text"][row] for row in range(2)] == ["é", ""]
    assert torch.equal(found["h"][1], torch.tensor(X).to(torch.bfloat16))
    assert (found["h"].meta(0), found["h"].meta(1)) == (Meta((1, 48), "bfloat16"), Meta((2, 48), "bfloat16"))
    assert torch.equal(found["x"][1], torch.tensor(X[1]))
    assert found["x"].nbytes == X.nbytes


def test_a_file_that_was_changed_in_the_store_is_refused():
    with pytest.raises(ProtocolError):
        data.decode(encode({"text": ["abc"]})[:-1] + b"\xff")
