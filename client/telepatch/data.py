"""Data that was sent to the service once, as an author holds it: handles that stand for columns inside traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from telepatch import operations, uploading
from telepatch.courier import Courier
from telepatch.lines import points_home
from telepatch.looking import looked
from telepatch.names import missing_operation
from telepatch.transport import Transport
from telepatch.values import Value
from telepatch_protocol import data_files
from telepatch_protocol.data import Column, Columns, no_column
from telepatch_protocol.data_files import Rows
from telepatch_protocol.errors import TraceError
from telepatch_protocol.meta import Meta
from telepatch_protocol.sizes import Dim

if TYPE_CHECKING:
    from telepatch.builder import Builder

Array = np.ndarray[Any, Any]


class Dataset:
    """Columns that the service holds, made by `Lab.dataset`; the data itself is not kept here.

    ``data.label`` and ``data["label"]`` are columns; ``len(data)`` is the number of rows.

    Attributes:
        digest: sha256 of its bytes, by which graphs and HTTP know it.
        bytes: how many these are.
        columns: what is known of each column: kind, rows, dtype, shape, longest.

    Example:
        >>> data = lab.dataset(prompt=["Paris is", "Rome is"], label=np.array([0, 1]))
        >>> with model.trace("Hello"):
        ...     shifted = (model.lm_head.output[:, -1, :2] + data.label).save()
        >>> data.delete()
    """

    def __init__(self, courier: Courier, digest: str, bytes: int, columns: Columns) -> None:
        self._courier = courier
        self._rows: dict[str, Rows[Any]] | None = None
        self.digest = digest
        self.bytes = bytes
        self.columns = columns

    def __len__(self) -> int:
        return self.columns.rows

    __iter__ = None

    @points_home
    def __getitem__(self, name: str) -> DataColumn:
        if name not in self.columns.names:
            raise missing_operation(f"there is no column {name!r}; there are: {', '.join(self.columns.names)}")
        return DataColumn(self, name)

    def __getattr__(self, name: str) -> DataColumn:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name]

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self.columns.names})

    @points_home
    def delete(self) -> None:
        """Have the service forget it; jobs that were submitted before still get it.

        Raises:
            NotFound: it is gone already.
        """
        self._courier.flush()
        self._courier.run(self._delete)

    async def delete_soon(self) -> None:
        """As `delete`, in an asynchronous program."""
        import asyncio

        await asyncio.to_thread(self._courier.flush)
        await self._courier.run_soon(self._delete)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}: {column}" for name, column in self.columns.items())
        return f"<data {self.digest[:12]}, {self.bytes:,} bytes; {shown}>"

    def rows(self, name: str) -> Rows[Any]:
        """A column with its values, fetched when they are first asked for."""
        if self._rows is None:
            self._rows = data_files.decode(self._courier.run(self._fetch))
        return self._rows[name]

    async def _delete(self, transport: Transport) -> None:
        await uploading.delete(transport, self.digest)

    async def _fetch(self, transport: Transport) -> bytes:
        return await uploading.fetch(transport, self.digest)


class DataColumn(Value):
    """A column that the service holds.

    Where its rows have one shape it is a value like any other: inside a trace operations on it are nodes, and outside
    it is an array that is fetched at the first look. Ragged columns and texts have no shape as a whole; `map` and `fit`
    iterate over them.
    """

    def __init__(self, dataset: Dataset, name: str) -> None:
        self.dataset = dataset
        self.name = name
        super().__init__(None, None, self.column.whole or Meta(None, self.column.dtype))

    @property
    def column(self) -> Column:
        """What is known of it: kind, rows, dtype, shape of a row, the longest."""
        return self.dataset.columns[self.name]

    @property
    def digest(self) -> str:
        """Of the data that it belongs to."""
        return self.dataset.digest

    @property
    def bytes(self) -> int:
        """Of the data that it belongs to."""
        return self.dataset.bytes

    @property
    def shape(self) -> tuple[Any, ...]:
        """Rows first; refused where they differ."""
        return self._dims()

    @points_home
    def delete(self) -> None:
        """Have the service forget the data; see `Dataset.delete`."""
        self.dataset.delete()

    async def delete_soon(self) -> None:
        """As `delete`, in an asynchronous program."""
        await self.dataset.delete_soon()

    @points_home
    def rows(self) -> Rows[Any]:
        """All rows, fetched at the first look: ``rows[i]`` is an array or a text."""
        return self.dataset.rows(self.name)

    @points_home
    def numpy(self) -> Array:
        """The numbers, fetched at the first look. A bfloat16 column comes as float32."""
        self._dims()
        return np.asarray(self.rows().values)

    @points_home
    def __getitem__(self, key: Any) -> Any:
        builder = self._tracing()
        return looked(self)[looked(key)] if builder is None else operations.apply_in(builder, "index", (self, key), {})

    def __len__(self) -> int:
        return self.column.rows

    def __repr__(self) -> str:
        return f"<column '{self.name}' of data {self.digest[:12]}: {self.column}>"

    def reference_in(self, builder: Builder) -> str:
        """The constant that stands for this column in a trace, which has one for all columns of this data."""
        constant = builder.data(self.digest, self.dataset.columns)
        return f"${constant}" if len(self.dataset.columns.names) == 1 else f"${constant}.{self.name}"

    def _dims(self) -> tuple[Dim, ...]:
        no_column(self._meta if self.column.whole else self.column)
        return self._meta.shape or ()

    def _saved_name(self) -> NoReturn:
        raise TraceError("data that was sent along is no result of a trace; numpy() and rows() fetch it")
