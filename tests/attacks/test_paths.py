"""Names that are paths: nothing outside of its folder is read, written, listed or deleted, however it is spelled."""

from __future__ import annotations

import base64
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.attacks.raw import Line

from telepatch_broker import blobs as broker_blobs
from telepatch_broker.blobs import DirectoryBlobs, read_all
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.jobs import new_job_id

Make = Callable[..., dict[str, Any]]

TOKEN = "a-token-of-some-length"
METHODS = ("GET", "HEAD", "PUT", "DELETE")
SECRET = "the operator's own"

TRICKS = [
    "..",
    ".",
    "../secret",
    "../../secret",
    "a/../../secret",
    "/etc/passwd",
    "//etc/passwd",
    "..\\secret",
    "C:\\secret",
    "\\\\host\\share",
    "secret\x00.bin",
    "\x00",
    "%2e%2e%2fsecret",
    "..%2fsecret",
    "%2e%2e/secret",
    "..%c0%af",
    "%252e%252e%252fsecret",
    "~/secret",
    "$HOME",
    "file:///etc/passwd",
    "a\nb",
    "a\r\nb",
    " ",
    "a ",
    "\u2025/secret",
    "\uff0e\uff0e/secret",
    "․․/secret",
    "..\u2215secret",
    "\u202e",
    "x" * 5000,
    "CON",
    ".hidden",
    "-rf",
    "*",
    "?",
    "{a,b}",
    "|true",
    ";true",
    "`true`",
    "$(true)",
]
FINE = {"CON", "-rf"}
"""Names that are allowed in a folder, and mean nothing else there."""


@pytest.mark.parametrize("name", TRICKS)
async def test_the_blob_store_leaves_its_folder_for_no_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "blobs").mkdir()
    store = DirectoryBlobs(tmp_path / "blobs")
    if name in FINE:
        await store.put(name, b"x")
        assert [path.name for path in (tmp_path / "blobs").iterdir()] == [name]
        return
    with pytest.raises(BadArgument):
        broker_blobs.check_name(name)
    for use in (store.put(name, b"x"), store.size(name), store.delete(name), read_all(store, name)):
        with pytest.raises(BadArgument):
            await use
    assert (tmp_path / "secret").read_text() == SECRET
    assert list((tmp_path / "blobs").iterdir()) == []


async def test_what_lies_in_the_folder_and_is_no_blob_is_not_listed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    folder = tmp_path / "blobs"
    (folder / "inner").mkdir(parents=True)
    (folder / ".draft").write_text("x")
    assert [name async for name in DirectoryBlobs(folder).list("")] == []


def spelled(name: str) -> list[str]:
    """A name in a path of HTTP: with every byte in percent, and as plainly as a line allows."""
    every = "".join(f"%{byte:02x}" for byte in name.encode())
    plain = name if name.isascii() and name.isprintable() and " " not in name else every
    return [every, plain]


def test_workers_reach_nothing_but_blobs_through_the_gateway(
    serve: Callable[..., httpx.Client], settings: Any, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    at = serve(settings.model_copy(update={"worker_token": TOKEN, "blobs": tmp_path / "blobs"})).base_url
    for method, path in [(method, path) for name in TRICKS for path in spelled(name) for method in METHODS]:
        with closing(Line(at.host, at.port or 80)) as wire:
            key = f"Authorization: Bearer {TOKEN}"
            answer = wire.ask(method, f"/v1/worker/blobs/{path}", key, "Content-Length: 1", body=b"x")
        assert answer.status < 500, (method, path)
        assert SECRET.encode() not in answer.body
    assert (tmp_path / "secret").read_text() == SECRET
    inside = {path.name for path in (tmp_path / "blobs").iterdir()}
    assert {one for one in inside if not one.startswith("nonce-")} <= FINE
    assert {path.name for path in tmp_path.iterdir()} == {"secret", "blobs"}


@pytest.mark.parametrize("name", TRICKS)
def test_ids_digests_and_names_in_paths_are_only_that(http: httpx.Client, line: Callable[[], Line], name: str) -> None:
    calls = [
        ("GET", "/v1/jobs/{}"),
        ("GET", "/v1/jobs/{}/result"),
        ("DELETE", "/v1/jobs/{}"),
        ("GET", "/v1/data/{}"),
        ("PUT", "/v1/data/{}"),
        ("DELETE", "/v1/data/{}"),
        ("GET", "/v1/edits/{}"),
        ("PUT", "/v1/edits/{}"),
        ("DELETE", "/v1/edits/{}"),
        ("GET", "/v1/models/{}"),
    ]
    for path in spelled(name):
        for method, call in calls:
            wire = line()
            answer = wire.ask(method, call.format(path), "Content-Length: 1", body=b"x")
            assert answer.status in (307, 400, 404, 405, 413, 422), (method, call, path)
            assert b"root:" not in answer.body


@pytest.mark.parametrize("name", TRICKS)
def test_names_in_documents_are_names(http: httpx.Client, graph: Make, name: str) -> None:
    plain = {"documents": [graph()], "jobs": [{"id": new_job_id()}]}
    node = {"kind": "get", "id": "h", "site": "blocks.1:resid_post"}
    documents = [
        graph(model={"id": name}),
        graph(saves={name: "$h"}),
        graph(nodes=[{**node, "id": name}]),
        graph(nodes=[{**node, "site": f"{name}:output"}]),
        graph(nodes=[{**node, "site": f"blocks.1:param.{name}"}]),
        graph(nodes=[{"kind": "module", "id": "h", "path": name, "args": [1.0]}]),
        graph(nodes=[{"kind": "call", "id": "h", "op": name}]),
        graph(constants={"prompt": "a", "layer": 1, "t": {"tensor": name}}, nodes=[{**node, "index": ["$t"]}]),
        graph(constants={"prompt": "a", "layer": 1, "t": {"data": name}}, nodes=[{**node, "index": ["$t"]}]),
        graph(
            constants={"prompt": "a", "layer": 1, "t": {"result": name, "name": "h"}}, nodes=[{**node, "index": ["$t"]}]
        ),
        graph(runs=[{"id": "r", "invokes": [{"id": "a", "text": "hi", "edits": [{"name": name}]}]}]),
        graph(options={"adapter": name}),
        graph(protocol=[1, 1], edits={name: {}}),
    ]
    bodies = [{**plain, "documents": [one], "jobs": [{"id": new_job_id()}]} for one in documents]
    bodies += [{**plain, "jobs": [{"id": name}]}, {**plain, "attachment": base64.b64encode(name.encode()).decode()}]
    for body in bodies:
        answer = http.post("/v1/jobs", json=body)
        told = answer.json()
        fine = answer.status_code == 202 and name in FINE | {"x"}
        assert fine or answer.status_code in (400, 404, 422), (answer.status_code, told)
        assert all(job.get("state") is None for job in told.get("jobs", ())) or fine
