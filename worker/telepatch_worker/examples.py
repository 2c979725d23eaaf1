"""The data of a fit: batches of examples, and batches of rows out of a buffer that is refilled and mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from telepatch_protocol.errors import BadArgument, ShapeError
from telepatch_protocol.graph import Fit
from telepatch_worker.requests import Work
from telepatch_worker.row_streams import Column, Reader
from telepatch_worker.tensor_values import seed_of
from telepatch_worker.values import as_tensor

Rows = dict[str, torch.Tensor]
Key = Sequence[Any] | None


class Batches(Protocol):
    """Batches one after the other, which can be begun again where they were.

    Attributes:
        total: how many there are; 0 where they have no end, or it is not known.
    """

    total: int

    def next(self) -> Work[Any]:
        """The next batch; None where the data is over."""

    def kept(self) -> tuple[Rows, dict[str, Any]]:
        """What a checkpoint holds: tensors, and plain data."""

    def restore(self, rows: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """Go back to what a checkpoint holds."""

    def close(self) -> None:
        """No more batches."""


def shuffled(count: int, key: Key, number: int) -> torch.Tensor | None:
    """An order of so many things, the `number`th of a key; None without a key, for the order in which they stand."""
    if key is None:
        return None
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed_of([*key, number])))


class Examples:
    """Places of elements, a batch at a time; the last batch of an epoch may be smaller.

    Args:
        count: how many elements there are.
        size: of a batch.
        epochs: how often all are gone through; None for without end.
        key: of the order.
    """

    def __init__(self, count: int, size: int, epochs: int | None, key: Key) -> None:
        self._count, self._size, self._epochs, self._key = count, size, epochs, key
        self.total = 0 if epochs is None else epochs * -(-count // size)
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self._epoch, self._at = epoch, 0
        order = shuffled(self._count, self._key, epoch)
        self._order = list(range(self._count)) if order is None else order.tolist()

    def next(self) -> Work[list[int] | None]:
        """The places of the next batch."""
        yield from ()
        if self._at >= self._count:
            self._begin(self._epoch + 1)
        if self._epochs is not None and self._epoch >= self._epochs:
            return None
        self._at += self._size
        return self._order[self._at - self._size : self._at]

    def kept(self) -> tuple[Rows, dict[str, Any]]:
        """The cursor."""
        return {}, {"epoch": self._epoch, "at": self._at}

    def restore(self, rows: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """Go back to a cursor."""
        self._begin(plain["epoch"])
        self._at = plain["at"]

    def close(self) -> None:
        """No more batches."""


class Buffer:
    """Rows of a stream or of whole tensors, mixed, a batch at a time.

    The buffer holds `most` rows in a random order. Once fewer than `refill` of them are unused, or too few for a batch,
    the unused ones are mixed with new ones. Rows that are left at the end of a pass, and fill no batch, are left out.

    Args:
        node: the fit.
        over: what its names go over.
        size: of a batch.
        most: rows of the buffer; None for all.
        refill: part of them.
        epochs: how often all rows are gone through; None for without end.
        key: of the order.
        device: where rows live.
    """

    def __init__(
        self,
        node: Fit,
        over: Mapping[str, Any],
        *,
        size: int,
        most: int | None,
        refill: float,
        epochs: int | None,
        key: Key,
        device: torch.device,
    ) -> None:
        self._node, self._size, self._most, self._epochs, self._key = node, size, most, epochs, key
        self._low = max(size, int(refill * most)) if most is not None else size
        self._source: _Whole | _Flowing = _source(node, over, most, device)
        if most is None and isinstance(self._source, _Flowing):
            raise BadArgument(f"fit '{node.id}' reads a stream; say in buffer.rows how many rows it may hold")
        if most is not None and most < size:
            raise BadArgument(f"fit '{node.id}': a buffer of {most} rows holds no batch of {size}")
        self._epoch = self._fills = 0
        self.total = 0 if epochs is None else epochs * (self._source.known // size)
        self._source.begin(0)
        self._empty()

    def _empty(self) -> None:
        self._pool: Rows = {}
        self._order: torch.Tensor | None = None
        self._used = self._held = self._drawn = 0
        self._pending: Rows = {}
        self._ended = False

    @property
    def _left(self) -> int:
        return self._held - self._used

    def next(self) -> Work[Rows | None]:
        """The next batch of rows."""
        if self._epochs is not None and self._epoch >= self._epochs:
            return None
        if self._left < self._low and not self._ended:
            yield from self._fill()
        if self._left < self._size:
            yield from self._again()
            if self._epochs is not None and self._epoch >= self._epochs:
                return None
        begin, self._used = self._used, self._used + self._size
        self._drawn += 1
        if self._order is None:
            return {name: rows[begin : self._used] for name, rows in self._pool.items()}
        chosen = self._order[begin : self._used]
        return {name: rows[chosen] for name, rows in self._pool.items()}

    def _again(self) -> Work[None]:
        """The next pass over all rows."""
        if not self._drawn:
            raise ShapeError(f"fit '{self._node.id}' takes batches of {self._size} rows, and there are {self._left}")
        self._epoch += 1
        if self._epochs is not None and self._epoch >= self._epochs:
            return
        self._source.begin(0)
        self._empty()
        yield from self._fill()

    def _fill(self) -> Work[None]:
        """Mix what is unused with new rows."""
        parts = [self._unused(), self._pending]
        held = sum(_count(part) for part in parts)
        while self._most is None or held < self._most:
            new = yield from self._source.take()
            if new is None:
                self._ended = True
                break
            parts.append(new)
            held += _count(new)
            if self._most is None:
                self._ended = True
                break
        self._pool, self._pending = self._cut(_joined(parts), held)
        self._held, self._used = _count(self._pool), 0
        order = shuffled(self._held, self._key, self._fills)
        device = next(iter(self._pool.values())).device if self._pool else None
        self._order = None if order is None else order.to(device)
        self._fills += 1

    def _cut(self, rows: Rows, held: int) -> tuple[Rows, Rows]:
        if self._most is None or held <= self._most:
            return rows, {}
        most = self._most
        return (
            {name: one[:most] for name, one in rows.items()},
            {name: one[most:].clone() for name, one in rows.items()},
        )

    def _unused(self) -> Rows:
        if not self._left:
            return {}
        if self._order is None:
            return {name: rows[self._used :] for name, rows in self._pool.items()}
        return {name: rows[self._order[self._used :]] for name, rows in self._pool.items()}

    @property
    def bytes(self) -> int:
        """Bytes that the buffer takes beside the data itself."""
        own = self._most is not None
        return sum(rows.nbytes for rows in (*self._pool.values(), *self._pending.values())) if own else 0

    def kept(self) -> tuple[Rows, dict[str, Any]]:
        """The rows of the buffer, unless the data itself can be read again; and the cursor."""
        plain = {"epoch": self._epoch, "fills": self._fills, "used": self._used, "drawn": self._drawn}
        plain["ended"] = self._ended
        if self._most is None:
            return {}, plain
        rows = {f"pool.{name}": one.clone() for name, one in self._unused().items()}
        rows |= {f"pending.{name}": one.clone() for name, one in self._pending.items()}
        return rows, {**plain, "element": self._source.element}

    def restore(self, rows: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """Go back to what a checkpoint holds."""
        self._epoch, self._fills, self._ended = plain["epoch"], plain["fills"], plain["ended"]
        self._drawn = plain["drawn"]
        device = self._source.device
        if self._most is None:
            self._restore_whole(plain)
            return
        self._pool = {key[5:]: one.to(device) for key, one in rows.items() if key.startswith("pool.")}
        self._pending = {key[8:]: one.to(device) for key, one in rows.items() if key.startswith("pending.")}
        self._held, self._used, self._order = _count(self._pool), 0, None
        self._source.begin(plain["element"])

    def _restore_whole(self, plain: Mapping[str, Any]) -> None:
        if not self._fills:
            return
        assert isinstance(self._source, _Whole)
        self._pool, self._used = self._source.rows, plain["used"]
        self._held = _count(self._pool)
        order = shuffled(self._held, self._key, self._fills - 1)
        self._order = None if order is None else order.to(self._source.device)

    def close(self) -> None:
        """No more batches."""
        self._source.close()
        self._empty()


class _Whole:
    """Tensors, all rows at once, or as many as a buffer holds."""

    def __init__(self, rows: Rows, most: int | None) -> None:
        self.rows = rows
        self._most = most
        self.device = next(iter(rows.values())).device
        self.element, self.known = 0, _count(rows)

    def begin(self, element: int) -> None:
        self.element = element

    def take(self) -> Work[Rows | None]:
        yield from ()
        begin, count = self.element, _count(self.rows)
        if begin >= count:
            return None
        self.element = count if self._most is None else min(count, begin + self._most)
        return {name: one[begin : self.element] for name, one in self.rows.items()}

    def close(self) -> None:
        """Nothing is open."""


class _Flowing:
    """Columns of one stream."""

    def __init__(self, columns: Mapping[str, Column], device: torch.device) -> None:
        self._columns = columns
        self._stream = next(iter(columns.values())).stream
        self._reader: Reader | None = None
        self.device, self.known = device, 0

    @property
    def element(self) -> int:
        assert self._reader is not None
        return self._reader.element

    def begin(self, element: int) -> None:
        self.close()
        self._reader = self._stream.open(element)

    def take(self) -> Work[Rows | None]:
        assert self._reader is not None
        found = yield from self._reader.take()
        return None if found is None else {name: found[one.name] for name, one in self._columns.items()}

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def _source(node: Fit, over: Mapping[str, Any], most: int | None, device: torch.device) -> _Whole | _Flowing:
    columns = {name: one for name, one in over.items() if isinstance(one, Column)}
    if columns and (len(columns) < len(over) or len({id(one.stream) for one in columns.values()}) > 1):
        raise BadArgument(f"fit '{node.id}' reads several streams at once; make them outputs of one map")
    if columns:
        return _Flowing(columns, device)
    rows = {name: as_tensor(one, device).detach() for name, one in over.items()}
    if len({len(one) for one in rows.values()}) > 1:
        listed = ", ".join(f"'{name}' {len(one)}" for name, one in rows.items())
        raise ShapeError(f"fit '{node.id}' takes its data together, and they have {listed} rows")
    return _Whole(rows, most)


def _count(rows: Rows) -> int:
    counts = {one.shape[0] for one in rows.values()}
    if len(counts) > 1:
        raise ShapeError(f"the columns of a stream go together, and they have {sorted(counts)} rows")
    return counts.pop() if counts else 0


def _joined(parts: Sequence[Rows]) -> Rows:
    full = [part for part in parts if part]
    if len(full) == 1:
        return dict(full[0])
    return {name: torch.cat([part[name] for part in full]) for name in (full[0] if full else ())}
