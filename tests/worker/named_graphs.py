"""Graphs over named tensors, and modules of one's own that are loaded by name, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Task

MODELS = Path(__file__).parents[2] / "models"


def digits(start: int, count: int) -> torch.Tensor:
    """Held-out images, uint8 (count, 1, 8, 8)."""
    return load_file(MODELS / "digits.safetensors")["images"][start : start + count]


def task(model: str, inputs: dict[str, dict[str, torch.Tensor]], *nodes: dict[str, Any], **more: Any) -> Task:
    """A task whose invokes are named tensors, all attached; it saves whatever is not a write."""
    attached = {f"{invoke}_{name}": one for invoke, named in inputs.items() for name, one in named.items()}
    invokes = [
        {"id": invoke, "inputs": {name: {"tensor": f"{invoke}_{name}"} for name in named}}
        for invoke, named in inputs.items()
    ]
    saves = {node["id"]: f"${node['id']}" for node in nodes if node["kind"] != "set"}
    document = {"protocol": [1, 0], "model": {"id": model}, "runs": [{"id": "r", "invokes": invokes}]}
    return Task(
        new_job_id(),
        from_dict({**document, "nodes": list(nodes), "saves": saves, **more}),
        attachment=attached,
    )


def hooked(
    module: nn.Module, inputs: dict[str, torch.Tensor], reads: list[str], writes: dict[str, Callable[[Any], Any]]
) -> dict[str, torch.Tensor]:
    """What plain PyTorch hooks see at modules' outputs in one forward, after what other hooks write there."""
    seen: dict[str, torch.Tensor] = {}
    handles = []

    def first(out: Any) -> torch.Tensor:
        return out[0] if isinstance(out, tuple) else out

    for path, change in writes.items():

        def write(m: Any, a: Any, out: Any, change: Callable[[Any], Any] = change) -> Any:
            return (change(out[0].clone()), *out[1:]) if isinstance(out, tuple) else change(out.clone())

        handles.append(module.get_submodule(path).register_forward_hook(write))
    for path in reads:

        def read(m: Any, a: Any, out: Any, path: str = path) -> None:
            seen[path] = first(out).clone()

        handles.append(module.get_submodule(path).register_forward_hook(read))
    try:
        with torch.no_grad():
            module(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


class Recurrent(nn.Module):
    """Takes series of any length, and gives a state at each step: padding in front or behind would be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 8)
        self.gru = nn.GRU(8, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 2)

    def forward(self, series: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        """From (rows, length, 3) to (rows, length, 2)."""
        states, _ = self.gru(self.up(series if scale is None else series * scale[:, None]))
        return self.head(states)


class Centred(nn.Module):
    """Subtracts the mean of its batch, so that every row depends on all others."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """From (rows, 4) to (rows, 2)."""
        return self.head(x - x.mean(0))


class Words(nn.Module):
    """Takes integers that are no tokens of a tokenizer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """From (rows, 3) to (rows, 3, 4)."""
        return self.table(codes)


class Bare(nn.Module):
    """Has no parameters at all."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice its input."""
        return x * 2


def recurrent(folder: Path | None, config: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A loader that says what its module takes."""
    torch.manual_seed(3)
    inputs = {"series": {"axes": ("row", "pos", 3)}, "scale": {"axes": ("row", 3), "optional": True}}
    return Recurrent(), inputs


def centred(folder: Path | None, config: dict[str, Any]) -> nn.Module:
    """A loader of a module whose rows depend on each other."""
    torch.manual_seed(4)
    return Centred()


def words(folder: Path | None, config: dict[str, Any]) -> nn.Module:
    """A loader of a module of integers."""
    return Words()


def bare(folder: Path | None, config: dict[str, Any]) -> nn.Module:
    """A loader of a module without weights."""
    return Bare()


def broken(folder: Path | None, config: dict[str, Any]) -> nn.Module:
    """A loader that cannot."""
    raise KeyError("sizes")


def nothing(folder: Path | None, config: dict[str, Any]) -> Any:
    """A loader that gives no module."""
    return {"weights": 1}
