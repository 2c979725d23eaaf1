"""Models of a hub: from a cache laid out like the hub's, and over HTTP from a small hub of our own."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from telepatch_worker.byte_tokenizer import byte_tokenizer
from telepatch_worker.cards import CardFile, LoadError, read_card
from telepatch_worker.hub import fetch_snapshot, missing_files
from telepatch_worker.load import load
from telepatch_worker.memory import Space
from telepatch_worker.progress import silent
from telepatch_worker.random_weights import build

MODELS = Path(__file__).parents[2] / "models"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = CardFile(id="hosted", source=f"hub:lab/tiny@{COMMIT}", dtype="bfloat16")


def save(folder: Path) -> None:
    """A sharded Llama with its tokenizer, as a repository holds it."""
    build(read_card(MODELS / "llama-random.toml")).save_pretrained(folder, max_shard_size="300KB")
    byte_tokenizer(256).save_pretrained(folder)


def snapshot(cache: Path) -> Path:
    """A hub cache with one snapshot: contents in `blobs`, names that link to them in `snapshots`."""
    repository = cache / "hub" / "models--lab--tiny"
    save(repository / "saved")
    folder = repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for path in (repository / "saved").iterdir():
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        path.rename(blob)
        (folder / path.name).symlink_to(Path("../../blobs") / blob.name)
    return folder


def test_a_snapshot_in_the_cache_is_loaded_sharded_in_the_dtype_of_the_card(tmp_path):
    folder = snapshot(tmp_path)
    assert len(list(folder.glob("*.safetensors"))) > 1
    loaded = load(CARD, cache=tmp_path)
    assert {parameter.dtype for parameter in loaded.module.parameters()} == {torch.bfloat16}
    assert loaded.card.dtype == "bfloat16"
    expected = build(read_card(MODELS / "llama-random.toml")).lm_head.weight.bfloat16()
    assert torch.equal(loaded.module.lm_head.weight, expected)
    assert loaded.tokenizer("ab").input_ids == [97, 98]


def test_a_shard_that_is_missing_is_noticed(tmp_path):
    folder = snapshot(tmp_path)
    assert missing_files(folder) == []
    shard = min(folder.glob("*.safetensors"))
    shard.unlink()
    assert missing_files(folder) == [shard.name]


class Hub(BaseHTTPRequestHandler):
    """Just so much of a hub as one repository at one commit needs; gated behind a token."""

    folder: Path
    asked: list[str]

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if self.headers.get("Authorization") != "Bearer secret":
            self.answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        elif path.startswith("/api/models/lab/tiny/tree/"):
            self.answer(200, json.dumps([self.entry(file) for file in sorted(self.folder.iterdir())]).encode())
        elif path == f"/api/models/lab/tiny/revision/{COMMIT}":
            about = {"id": "lab/tiny", "sha": COMMIT, "siblings": []}
            count = {"parameters": {"F32": 248_640}, "total": 248_640}
            self.answer(200, json.dumps({**about, "safetensors": count}).encode())
        elif path.startswith(f"/lab/tiny/resolve/{COMMIT}/"):
            content = (self.folder / path.rpartition("/")[2]).read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self.answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        else:
            self.answer(404, b"{}")

    def entry(self, file: Path) -> dict[str, object]:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": digest[:40]}

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path) -> Iterator[tuple[str, list[str]]]:
    """Address of a running hub, and the paths it was asked for."""
    save(tmp_path / "repository")
    asked: list[str] = []
    handler = type("One", (Hub,), {"folder": tmp_path / "repository", "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def secret(folder: Path) -> Path:
    path = folder / "token"
    path.write_text("secret\n")
    return path


def space(free: int) -> Space:
    return Space(torch.device("cpu"), torch.bfloat16, free)


def test_weights_are_fetched_with_the_token_once_and_then_come_from_the_cache(hub, tmp_path):
    address, asked = hub
    cache, token = tmp_path / "cache", secret(tmp_path)
    folder = fetch_snapshot(CARD, cache, silent, space(2**30), token, address)
    assert missing_files(folder) == []
    asked.clear()
    assert fetch_snapshot(CARD, cache, silent, space(2**30), None, address) == folder
    assert asked == []
    assert load(CARD, cache=cache).card.parameters == 248_640


def test_the_parts_that_were_fetched_and_read_are_told(hub, tmp_path):
    told: dict[str, list[float]] = {"fetch": [], "load": []}

    def tell(stage: str, part: float | None) -> None:
        if part is not None and stage in told:
            told[stage].append(part)

    cache = tmp_path / "cache"
    fetch_snapshot(CARD, cache, tell, space(2**30), secret(tmp_path), hub[0])
    load(CARD, cache=cache, progress=tell)
    for parts in told.values():
        assert parts == sorted(parts)
        assert len(set(parts)) > 3
        assert 0 <= parts[0] < parts[-1] <= 1


def test_a_model_too_large_for_its_device_is_refused_before_a_weight_is_read(tmp_path):
    snapshot(tmp_path)
    told: list[str] = []
    with pytest.raises(LoadError, match=r"its weights need 0.00 GiB in bfloat16 on cpu, 0.00 GiB are free"):
        load(CARD, cache=tmp_path, free_bytes=100_000, progress=lambda stage, part: told.append(stage))
    assert "load" not in told


def test_what_will_not_fit_is_refused_before_it_is_fetched(hub, tmp_path):
    address, asked = hub
    with pytest.raises(LoadError, match="its weights need"):
        fetch_snapshot(CARD, tmp_path / "cache", silent, space(1000), secret(tmp_path), address)
    assert not any("resolve" in path for path in asked)


def test_gated_weights_without_a_token_are_refused_with_what_is_needed(hub, tmp_path):
    with pytest.raises(LoadError, match="gated weights need a token file"):
        fetch_snapshot(CARD, tmp_path / "cache", silent, space(2**30), None, hub[0])


def test_a_token_file_that_is_missing_or_empty_is_refused_by_name(tmp_path):
    with pytest.raises(LoadError, match="nowhere cannot be read"):
        fetch_snapshot(CARD, tmp_path, silent, None, tmp_path / "nowhere")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(LoadError, match="empty is empty"):
        fetch_snapshot(CARD, tmp_path, silent, None, tmp_path / "empty")
