"""Which GPU a worker is started on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from telepatch_server.gpus import gpu_with_most_room, most_room

TOLD = "GPU-a, 1000\nGPU-b, 70000\nGPU-c, 300\n"


def test_the_one_with_most_memory_free_is_shown_alone() -> None:
    assert most_room(TOLD) == {"CUDA_VISIBLE_DEVICES": "GPU-b"}


@pytest.mark.parametrize("told", ["", "GPU-a, 1000\n", "No devices were found\n", "GPU-a, [N/A]\nGPU-b, [N/A]\n"])
def test_where_there_is_no_choice_nothing_is_said(told: str) -> None:
    assert most_room(told) == {}


def test_the_driver_is_asked_unless_the_environment_has_decided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{TOLD}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert subprocess.run(["nvidia-smi"], capture_output=True, check=True).stdout.decode() == TOLD
    assert gpu_with_most_room({}) == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert gpu_with_most_room({"CUDA_VISIBLE_DEVICES": "1"}) == {}
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpu_with_most_room({}) == {}
