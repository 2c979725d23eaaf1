"""What will not fit is refused before it is read."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from telepatch_worker.cards import LoadError, read_card
from telepatch_worker.load import load
from telepatch_worker.memory import Space, _container_room, free_memory, room_for_caches, stored_counts
from telepatch_worker.random_weights import build
from telepatch_worker.sources import prepare

MODELS = Path(__file__).parents[2] / "models"
CPU = torch.device("cpu")


def path_card(folder: Path, **changes):
    return read_card(MODELS / "gpt2-random.toml").model_validate(
        {"id": "there", "source": f"path:{folder}", "tokenizer": "bytes", **changes}
    )


def test_the_headers_alone_tell_how_much_is_stored(tmp_path):
    model = build(read_card(MODELS / "llama-random.toml"))
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert stored_counts(tmp_path) == {"F32": sum(parameter.numel() for parameter in model.parameters())}


def test_a_model_of_a_hundred_gigabytes_is_refused_though_only_its_header_is_there(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [25, 10**9], "data_offsets": [0, 10**11]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(LoadError, match=r"there: its weights need 102\.45 GiB in float32 on cpu, 50\.00 GiB are free"):
        load(path_card(tmp_path), cache=tmp_path, free_bytes=50 * 2**30)
    space = Space(CPU, torch.bfloat16, 52 * 2**30)
    assert prepare(path_card(tmp_path, dtype="bfloat16"), tmp_path, space=space).folder == tmp_path


def test_floats_count_in_the_dtype_of_the_card_and_integers_in_their_own():
    assert Space(CPU, torch.bfloat16, None).bytes_of({"F32": 10, "I64": 3, "U8": 1}) == 45


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 2**40) + b"{}"])
def test_a_file_cut_short_is_refused_by_name(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(LoadError, match=r"model\.safetensors is not a safetensors file"):
        stored_counts(tmp_path)


def test_free_memory_is_what_the_system_or_the_container_leaves(tmp_path):
    assert free_memory(CPU) > 2**20
    assert _container_room(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("300\n")
    assert _container_room(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    assert _container_room(tmp_path) == 700


def test_caches_take_a_part_of_what_is_free_and_nobody_guesses_where_the_system_does_not_say(monkeypatch):
    monkeypatch.setattr("telepatch_worker.memory.free_memory", lambda device: 1000)
    assert (room_for_caches(CPU), room_for_caches(torch.device("cuda"))) == (250, 500)
    monkeypatch.setattr("telepatch_worker.memory.free_memory", lambda device: None)
    assert room_for_caches(CPU) is None
