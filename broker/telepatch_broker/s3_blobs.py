"""Blobs in a bucket that speaks the S3 protocol: Amazon's, or MinIO, Ceph, R2 and their like."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

from telepatch_broker.blobs import CHUNK, Source, check_name, chunks_of, missing
from telepatch_protocol.errors import BadArgument, Unavailable

SCHEME: Final = "s3://"
_PLACE = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._/=-]*)?")
_LONGEST = "21600s"
"""How long one transfer may take: results are large, and are passed on as fast as who asked for them reads."""


def check_place(place: str) -> str:
    """The name of a bucket and of what all blobs there begin with, if it is one.

    Raises:
        ValueError: it is not; the message has one that is.
    """
    if not _PLACE.fullmatch(place):
        raise ValueError(f"{place!r} is no bucket, such as s3://my-bucket/telepatch")
    return place.rstrip("/")


class S3Blobs:
    """Blobs as objects of a bucket, which every process that uses them must reach.

    Keys, region and endpoint come from the variables ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``
    and ``AWS_ENDPOINT_URL`` (of a server that is not Amazon's; ``http://`` for one without TLS) and their like, or from
    what the machine is given where it runs. An object is there as a whole once it is written, and not before.

    Args:
        place: ``s3://BUCKET/PREFIX``.

    Raises:
        BadArgument: the package `obstore` is not installed, or a variable cannot be.

    Example:
        >>> blobs = S3Blobs("s3://results/telepatch")
        >>> await blobs.put("one", b"data")
        >>> await read_all(blobs, "one")
        b'data'
    """

    def __init__(self, place: str) -> None:
        try:
            import obstore
            from obstore.exceptions import BaseError
            from obstore.store import S3Store
        except ModuleNotFoundError:
            raise BadArgument(f"blobs at {place} need one more package: pip install 'telepatch[s3]'") from None
        self.place = check_place(place)
        self._obstore: Any = obstore
        self._trouble: type[Exception] = BaseError
        options: Any = {"allow_http": True, "timeout": _LONGEST, "connect_timeout": "10s", "user_agent": "telepatch"}
        try:
            self._store = S3Store.from_url(self.place, client_options=options)
        except BaseError as error:
            raise BadArgument(f"blobs at {place}: {_first_line(error)}") from None

    async def put(self, name: str, data: Source) -> None:
        """Write a blob."""
        check_name(name)
        with self._told(name, writing=True):
            if isinstance(data, bytes):
                await self._obstore.put_async(self._store, name, data)
                return
            chunks = chunks_of(data)
            first = await anext(chunks, b"")
            if first:
                await self._obstore.put_async(self._store, name, _again(first, chunks))
            else:  # many parts of nothing are refused
                await self._obstore.put_async(self._store, name, b"")

    async def get(self, name: str, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Read bytes `start` to `stop` of a blob."""
        check_name(name)
        options: dict[str, Any] = {}
        if start or stop is not None:
            size = await self.size(name)
            last = size if stop is None else min(stop, size)
            if start >= last:
                return
            options = {"range": (start, last)}
        with self._told(name):
            found = await self._obstore.get_async(self._store, name, options=options)
            if found.meta["size"] == 0:
                return
            async for chunk in found.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    async def size(self, name: str) -> int:
        """Bytes of a blob."""
        with self._told(check_name(name)):
            return int((await self._obstore.head_async(self._store, name))["size"])

    async def delete(self, name: str) -> None:
        """Remove a blob, if it is there."""
        with self._told(check_name(name)):
            try:
                await self._obstore.delete_async(self._store, name)
            except FileNotFoundError:
                return

    async def list(self, prefix: str = "") -> AsyncIterator[str]:
        """Names of all blobs that start with `prefix`, in order."""
        names: list[str] = []
        with self._told(prefix):
            async for page in self._obstore.list(self._store):
                names += [entry["path"] for entry in page if entry["path"].startswith(prefix)]
        for name in sorted(names):
            yield name

    @contextmanager
    def _told(self, name: str, *, writing: bool = False) -> Iterator[None]:
        """What goes wrong in the bucket, in our words."""
        try:
            yield
        except FileNotFoundError as error:
            if writing:
                raise Unavailable(f"the blob store {self.place} is not there: {_first_line(error)}") from error
            raise missing(name) from None
        except self._trouble as error:
            raise Unavailable(f"the blob store {self.place} failed at {name!r}: {_first_line(error)}") from error


async def _again(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
