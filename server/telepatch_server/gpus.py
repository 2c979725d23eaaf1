"""Which GPU of this machine has most memory free, without holding one of them."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Final

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"
_ASK: Final = ("nvidia-smi", "--query-gpu=uuid,memory.free", "--format=csv,noheader,nounits")
_SECONDS: Final = 10.0


def gpu_with_most_room(environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to the environment of a worker, so that it sees that GPU alone.

    Nothing where the machine has at most one, or where the environment says already which ones may be used.
    """
    if environment.get(VISIBLE):
        return {}
    try:
        told = subprocess.run(_ASK, capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return most_room(told)


def most_room(told: str) -> dict[str, str]:
    """The variable that shows the roomiest of several GPUs, from what ``nvidia-smi`` tells of them."""
    rows = [line.split(",") for line in told.splitlines() if line.count(",") == 1]
    free = {uuid.strip(): int(room) for uuid, room in rows if room.strip().isdigit()}
    return {VISIBLE: max(free, key=lambda uuid: free[uuid])} if len(free) > 1 else {}
