"""Jobs as ranks hand them to each other: words as JSON, tensors as safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from telepatch_protocol import wire
from telepatch_protocol.data import Column
from telepatch_protocol.data_files import Rows
from telepatch_worker import results
from telepatch_worker.plan import Task

_Words = dict[str, Any]


def encode(tasks: Sequence[Task]) -> tuple[list[_Words], bytes]:
    """Jobs as words and a file of all their tensors."""
    tensors: list[torch.Tensor] = []
    words = [_words(task, tensors) for task in tasks]
    return words, results.encode({str(at): tensor for at, tensor in enumerate(tensors)}) if tensors else b""


def decode(words: Sequence[_Words], body: bytes) -> list[Task]:
    """The jobs again, their tensors on the CPU."""
    tensors = results.decode(body)
    return [_task(one, tensors) for one in words]


def _words(task: Task, tensors: list[torch.Tensor]) -> _Words:
    def at(tensor: torch.Tensor) -> str:
        tensors.append(tensor)
        return str(len(tensors) - 1)

    return {
        "id": task.id,
        "graph": task.graph.to_json(),
        "tokens": dict(task.tokens),
        "attachment": {name: at(tensor) for name, tensor in task.attachment.items()},
        "results": [[job, name, at(tensor)] for (job, name), tensor in task.results.items()],
        "data": {
            digest: {name: _rows(rows, at) for name, rows in found.items()} for digest, found in task.data.items()
        },
        "checkpoint": at(torch.frombuffer(bytearray(task.checkpoint), dtype=torch.uint8)) if task.checkpoint else "",
        "spent": task.spent,
        "timeout_seconds": task.timeout_seconds,
    }


def _rows(rows: Rows[torch.Tensor], at: Any) -> _Words:
    ends = None if rows.ends is None else at(torch.from_numpy(np.ascontiguousarray(rows.ends)))
    return {"column": rows.column.model_dump(mode="json"), "values": at(rows.values), "ends": ends}


def _task(words: _Words, tensors: dict[str, torch.Tensor]) -> Task:
    return Task(
        id=words["id"],
        graph=wire.decode(words["graph"].encode()),
        tokens=words["tokens"],
        attachment={name: tensors[at] for name, at in words["attachment"].items()},
        results={(job, name): tensors[at] for job, name, at in words["results"]},
        data={
            digest: {name: _column(rows, tensors) for name, rows in found.items()}
            for digest, found in words["data"].items()
        },
        checkpoint=tensors[words["checkpoint"]].numpy().tobytes() if words["checkpoint"] else b"",
        spent=words["spent"],
        timeout_seconds=words["timeout_seconds"],
    )


def _column(words: _Words, tensors: dict[str, torch.Tensor]) -> Rows[torch.Tensor]:
    ends = None if words["ends"] is None else tensors[words["ends"]].numpy()
    return Rows(Column.model_validate(words["column"]), tensors[words["values"]], ends)
