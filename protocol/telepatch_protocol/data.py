"""Data sent along once and used by many jobs: what is known of its columns without their values.

An upload is one safetensors file with one or more named columns of equally many rows, known by the sha256 of its bytes.
`telepatch_protocol.data_files` reads and writes such files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import ConfigDict, Field, JsonValue, RootModel

from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.meta import Meta, shown
from telepatch_protocol.sizes import Dim

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Column(Frozen):
    """What is known of a column.

    Attributes:
        kind: ``tensor``, rows along its leading axis; ``ragged``, tensors that differ along their first axis; ``text``.
        rows: how many.
        dtype: of its numbers; None for text.
        tail: the shape of a row of a tensor; of a ragged one, what follows its first axis.
        longest: elements along the first axis of the longest row of a ragged column; bytes of the longest text.
        total: the same of all rows together.
    """

    kind: Literal["tensor", "ragged", "text"]
    rows: int = Field(ge=1)
    dtype: str | None = None
    tail: tuple[int, ...] = ()
    longest: int | None = None
    total: int | None = None

    def __len__(self) -> int:
        return self.rows

    @property
    def whole(self) -> Meta | None:
        """The column as one value; None where it is none, and only its rows are."""
        return Meta((self.rows, *self.tail), self.dtype) if self.kind == "tensor" else None

    def row(self, length: Dim | None = None) -> Meta | None:
        """What is known of any one row, a ragged one having `length`, the longest if left out; None for text."""
        if self.kind == "text":
            return None
        first = () if self.kind == "tensor" else (self.longest or 0 if length is None else length,)
        return Meta((*first, *self.tail), self.dtype)

    def __str__(self) -> str:
        if self.kind == "text":
            return f"text column of {self.rows} rows"
        if self.kind == "ragged":
            return f"ragged {self.dtype} column of {self.rows} rows, the longest of {self.longest}"
        return f"{self.dtype} column of shape {(self.rows, *self.tail)}"


class Columns(RootModel[dict[str, Column]]):
    """The columns of an upload, by name."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns."""
        return tuple(self.root)

    @property
    def rows(self) -> int:
        """How many rows each of them has."""
        return next(iter(self.root.values())).rows

    def items(self) -> Iterator[tuple[str, Column]]:
        """Names and columns."""
        return iter(self.root.items())

    def __getitem__(self, name: str) -> Column:
        return self.root[name]

    def value(self) -> object:
        """What a constant ``{data: sha256}`` stands for: its only column, or one output per column.

        A column that is a tensor is known as a `Meta`, others as a `Column`.
        """
        found = {name: column.whole or column for name, column in self.items()}
        return found if len(found) > 1 else next(iter(found.values()))


class Upload(Frozen):
    """An upload, as its owner sees it.

    Attributes:
        sha256: of its bytes, in hexadecimal.
        bytes: how many it has.
        received: how many of them have come, from the first one on.
        columns: what is in it; None until all has come and was found to be right.
        created: Unix time at which it began.
    """

    sha256: str
    bytes: int
    received: int
    columns: Columns | None = None
    created: float

    @property
    def complete(self) -> bool:
        """Whether jobs may use it."""
        return self.columns is not None


def is_digest(text: str) -> bool:
    """Whether a text is a sha256 as uploads are named by it."""
    return _SHA256.fullmatch(text) is not None


def check_digest(text: JsonValue) -> str:
    """A sha256 as uploads are named by it.

    Raises:
        BadArgument: something else.
    """
    if not isinstance(text, str) or not is_digest(text):
        raise BadArgument(
            f"data is named by the sha256 of its bytes, 64 of 0-9 a-f; found {shown(text)}. PUT /v1/data/{{sha256}} "
            "makes it known"
        )
    return text


def no_column(found: object) -> object:
    """A value, unless it is one that only `map` and `fit` can take.

    Raises:
        BadArgument: a ragged or a text column, or all columns of an upload together.
    """
    if isinstance(found, Column):
        row = "a text, for the input of a run" if found.kind == "text" else "a tensor"
        raise BadArgument(
            f"a {found} is no tensor and cannot be used as a whole; iterate over it with map or fit, "
            f"where each row is {row}"
        )
    if isinstance(found, dict):
        raise BadArgument(
            f"this upload has several columns: {', '.join(found)}; name it in 'constants' and use one as '$name.column'"
        )
    return found
