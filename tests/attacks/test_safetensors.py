"""Files of tensors that lie: as the attachment of a submission, as an upload, and as a blob that a worker reads."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.connection import connect
from telepatch_broker.jobs import NewJob
from telepatch_broker.lane import Lane
from telepatch_protocol import data_files, tensors
from telepatch_protocol.errors import ProtocolError, TelepatchError
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.printable import MOST
from telepatch_worker import checkpoints, data, results

Make = Callable[..., dict[str, Any]]


def file(header: Any, body: bytes = bytes(16), length: int | None = None) -> bytes:
    """A file with this header, whose length is told wrongly if `length` says so."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


FOUR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}

LIES: dict[str, bytes] = {
    "nothing but a length": struct.pack("<Q", 100),
    "a length beyond the file": file({"x": FOUR}, length=10_000),
    "a length of 2**63": file({"x": FOUR}, length=2**63),
    "a length of all ones": file({"x": FOUR}, length=2**64 - 1),
    "a header of a hundred megabytes that is not there": struct.pack("<Q", 100 * 2**20) + b"{}",
    "a header that is longer than any": file(b"{" + b" " * (17 * 2**20) + b"}", b""),
    "no JSON": file(b"nope"),
    "JSON that nests": file(b"[" * 100_000),
    "an integer of many digits": file(
        b'{"x": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 16]}}'
    ),
    "no object": file([1]),
    "not UTF-8": file(b'{"\xff": 1}'),
    "a tensor past the end": file({"x": {**FOUR, "shape": [8], "data_offsets": [0, 32]}}),
    "offsets that overlap": file({"x": FOUR, "y": FOUR}),
    "offsets that overlap by a byte": file({"x": FOUR, "y": {**FOUR, "data_offsets": [15, 31]}}, bytes(31)),
    "offsets that leave a gap": file({"x": {**FOUR, "data_offsets": [8, 24]}}, bytes(24)),
    "offsets backwards": file({"x": {**FOUR, "data_offsets": [16, 0]}}),
    "offsets below zero": file({"x": {**FOUR, "data_offsets": [-16, 0]}}),
    "offsets that are floats": file({"x": {**FOUR, "data_offsets": [0.0, 16.0]}}),
    "offsets of 2**64": file({"x": {**FOUR, "data_offsets": [2**64, 2**64 + 16]}}),
    "three offsets": file({"x": {**FOUR, "data_offsets": [0, 8, 16]}}),
    "a shape below zero": file({"x": {**FOUR, "shape": [-4]}}),
    "two of them": file({"x": {**FOUR, "shape": [-2, -2]}}),
    "a shape that overflows to its size": file({"x": {**FOUR, "shape": [2**32, 2**32, 4]}}),
    "a shape of 2**62": file({"x": {**FOUR, "shape": [2**62]}}),
    "a shape that is empty and vast": file({"x": {**FOUR, "shape": [0, 2**61, 2**61], "data_offsets": [0, 0]}}, b""),
    "a shape of very many axes": file({"x": {**FOUR, "shape": [1] * 64 + [4]}}),
    "a shape that is text": file({"x": {**FOUR, "shape": "4"}}),
    "a shape of truths": file({"x": {**FOUR, "shape": [True, 4]}}),
    "no shape": file({"x": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "a dtype that nobody knows": file({"x": {**FOUR, "dtype": "F128"}}),
    "a dtype of numpy's, with code in it": file({"x": {**FOUR, "dtype": "O"}}),
    "a dtype that is a list": file({"x": {**FOUR, "dtype": ["F32"]}}),
    "a dtype as long as a book": file({"x": {**FOUR, "dtype": "F" * 1_000_000}}),
    "a name as long as a book": file({"x" * 1_000_000: {**FOUR, "dtype": "?"}}),
    "a field too many": file({"x": {**FOUR, "exec": "import os"}}),
    "bytes behind the last tensor": file({"x": FOUR}, bytes(17)),
    "bytes and no tensor": file({}, bytes(16)),
    "a tensor that is a number": file({"x": 4}),
    "a doubled name": file(
        b'{"x": {"dtype":"F32","shape":[4],"data_offsets":[0,16]},"x": {"dtype":"F32","shape":[1],'
        b'"data_offsets":[0,4]}}'
    ),
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "a zip, as torch.save writes it": b"PK\x03\x04" + bytes(100),
    "an array of numpy's": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
}


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_lies_is_refused_by_every_reader(name: str) -> None:
    for read in (tensors.decode, tensors.metas, data_files.describe, data_files.decode, data.decode):
        with pytest.raises(ProtocolError) as refusal:
            read(LIES[name])
        assert len(refusal.value.detail) <= MOST


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_lies_gives_a_worker_no_more_than_it_holds(name: str) -> None:
    """The library reads what another worker has written; it is a little less strict, and as careful."""
    with suppress(ProtocolError):
        found = results.decode(LIES[name])
        assert sum(one.nbytes for one in found.values()) <= len(LIES[name])
    with suppress(ProtocolError):
        assert checkpoints.decode(LIES[name]) == {}


@pytest.mark.parametrize("name", LIES)
def test_an_attachment_that_lies_is_refused_at_the_door(http: httpx.Client, graph: Make, name: str) -> None:
    submission = {"documents": [graph()], "jobs": [{"id": new_job_id()}]}
    parts = {"submission": (None, json.dumps(submission)), "attachment": ("a", LIES[name])}
    inline = submission | {"attachment": base64.b64encode(LIES[name]).decode()}
    for answer in (http.post("/v1/jobs", files=parts), http.post("/v1/jobs", json=inline)):
        assert answer.status_code == 400
        assert len(answer.content) < MOST + 1000
    assert http.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize("name", LIES)
def test_an_upload_that_lies_is_thrown_away(http: httpx.Client, name: str, settings: Any) -> None:
    body = LIES[name]
    digest = hashlib.sha256(body).hexdigest()
    answer = http.put(f"/v1/data/{digest}", content=body)
    assert answer.status_code in (400, 422), answer.text[:300]
    assert http.get(f"/v1/data/{digest}").status_code == 404
    assert http.get("/v1/data").json()["bytes"] == 0


def test_texts_that_cut_characters_or_hold_none_are_no_columns() -> None:
    def column(text: bytes, lengths: list[int]) -> bytes:
        found = {
            "t.utf8": tensors.Tensor.of(np.frombuffer(text, np.uint8)),
            "t.lengths": tensors.Tensor.of(np.array(lengths, np.int64)),
        }
        return tensors.encode(found)

    euro = "€".encode()
    for lie in (
        column(euro, [1, 2]),
        column(euro, [3, 1]),
        column(euro, [-1, 4]),
        column(euro, [2**62, 2**62, 3]),
        column(b"\xff\xfe", [2]),
        column(b"\xed\xa0\x80", [3]),
        column(b"", []),
    ):
        with pytest.raises(ProtocolError):
            data_files.describe(lie)


async def test_a_result_that_somebody_changed_in_the_store_reaches_no_reader_s_memory(
    redis_url: str, tmp_path: Path
) -> None:
    """Whoever can write to the blob store may break a result, and nothing else."""
    client = connect(redis_url)
    lane = Lane(client, DirectoryBlobs(tmp_path))
    job = NewJob(new_job_id(), "ada", "m", b"{}")
    await lane.submit([job])
    await lane.take("m", "w")
    large = tensors.encode({"x": tensors.Tensor.of(np.zeros(100_000))})
    await lane.complete(job.id, "w", saves={}, result=large)
    kept = await lane.result("ada", job.id)
    assert kept.blob is not None
    for lie in LIES.values():
        (tmp_path / kept.blob).write_bytes(lie)
        read = b"".join([chunk async for chunk in lane.read(kept)])
        with pytest.raises(TelepatchError):
            tensors.decode(read)
    await client.aclose()
    await asyncio.sleep(0)
