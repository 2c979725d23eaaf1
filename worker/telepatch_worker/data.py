"""Uploads as a job takes them: columns of tensors and texts, each row within reach."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from telepatch_protocol import data
from telepatch_protocol.data_files import Rows, describe, with_values
from telepatch_worker import results
from telepatch_worker.values import Value

Columns = Mapping[str, Rows[torch.Tensor]]
"""The columns of one upload, by name: ``len(rows)``, ``rows[i]`` a tensor or a text, ``rows.meta(i)``."""


def decode(file: bytes) -> dict[str, Rows[torch.Tensor]]:
    """The columns of an upload, on the CPU.

    Raises:
        ProtocolError: the file is not what the gateway has seen.
    """
    return with_values(describe(file), results.decode(file), torch.Tensor.numpy)


def described(columns: Columns) -> data.Columns:
    """What is known of columns without their values."""
    return data.Columns({name: rows.column for name, rows in columns.items()})


def column_of(columns: Columns, name: str | None) -> Rows[torch.Tensor]:
    """One column; the only one, if no name is given."""
    return columns[name] if name is not None else next(iter(columns.values()))


def value_of(columns: Columns, device: torch.device) -> Value:
    """What ``{data: sha256}`` stands for: the only column, or one output per column.

    A column that is a tensor is one value, on `device`. Others stay rows, where they are, until something iterates.
    """
    found = {name: rows.values.to(device) if rows.column.kind == "tensor" else rows for name, rows in columns.items()}
    return found if len(found) > 1 else next(iter(found.values()))
