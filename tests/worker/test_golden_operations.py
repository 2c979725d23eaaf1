"""The golden documents of operations run, and give the shapes and dtypes that stand beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.wire.golden import Entry, file_of, read

from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.ops import GROUPS
from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Engine, Task
from telepatch_worker.tensor_values import DTYPES


def numbers(values: Any) -> Any:
    return [numbers(one) for one in values] if isinstance(values, list) else float(values)


def task(entry: Entry) -> Task:
    attachment = {
        name: torch.tensor(numbers(one["values"])).to(DTYPES[one["dtype"]]).reshape(one["shape"])
        for name, one in entry["attachment"].items()
    }
    return Task(new_job_id(), from_dict(entry["document"]), attachment=attachment)


def like(said: dict[str, Any], found: torch.Tensor) -> bool:
    """Whether a value has the dtype and the shape that were stated; null is any size."""
    shape = found.shape if said["shape"] is None else said["shape"]
    same = len(shape) == found.ndim and all(size in (None, real) for size, real in zip(shape, found.shape, strict=True))
    return same and found.dtype == DTYPES[said["dtype"]]


@pytest.mark.parametrize("group", GROUPS)
def test_golden_documents_give_what_stands_beside_them(group: str, gpt2: Engine) -> None:
    entries = read(file_of(group))
    for entry, outcome in zip(entries, gpt2.run([task(entry) for entry in entries]), strict=True):
        assert outcome.error is None, f"{entry['op']}: {outcome.error}"
        assert outcome.saved is not None
        assert outcome.saved.keys() == entry["gives"].keys()
        for name, found in outcome.saved.items():
            assert like(entry["gives"][name], found), f"{entry['op']}: {name} is {found.dtype} {tuple(found.shape)}"
