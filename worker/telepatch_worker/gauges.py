"""How a worker stands now: memory of its device, and the caches of its generations."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from telepatch_broker.worker_measures import CACHE, MEMORY
from telepatch_worker.load import Loaded
from telepatch_worker.memory import free_memory
from telepatch_worker.serving import Serving
from telepatch_worker.watching import Gauges


def gauges(serving: Serving, loaded: Loaded) -> Gauges:
    """What is so now."""
    used, limit = serving.cache_bytes, serving.engine.cache_bytes
    cache = {"used": float(used)} | ({"limit": float(limit)} if limit is not None else {})
    return {MEMORY: memory(loaded.device), CACHE: cache}


def memory(device: torch.device) -> dict[str, float]:
    """Bytes of the device: free, total, and what this process holds there, as far as the system says."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return {"free": float(free), "total": float(total), "used": float(torch.cuda.memory_allocated(device))}
    found = {"free": free_memory(device), "total": _host_total(), "used": _resident()}
    return {kind: float(number) for kind, number in found.items() if number is not None}


def _host_total() -> int | None:
    names = {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} & set(os.sysconf_names)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if len(names) == 2 else None


def _resident() -> int | None:
    """Bytes of this process that are in memory."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
