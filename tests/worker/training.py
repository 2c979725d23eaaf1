"""Fits as short calls, and the same loops in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from telepatch_protocol.graph import Graph
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Engine, Task

MODEL = "gpt2-random"
Nodes = list[dict[str, Any]]


def call(id: str, op: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"kind": "call", "id": id, "op": op, "args": list(args), "kwargs": kwargs}


def get(id: str, site: str, index: list[Any] | None = None, invoke: str = "x") -> dict[str, Any]:
    return {"kind": "get", "id": id, "site": site, "invoke": invoke} | ({} if index is None else {"index": index})


def put(id: str, site: str, value: Any, index: list[Any] | None = None, invoke: str = "x") -> dict[str, Any]:
    node = {"kind": "set", "id": id, "site": site, "invoke": invoke, "value": value}
    return node | ({} if index is None else {"index": index})


def runs(**inputs: Any) -> Nodes:
    return [{"id": "rr", "invokes": [{"id": name, "ids": ids} for name, ids in inputs.items()]}]


def fit(over: dict[str, Any], nodes: Nodes, params: dict[str, Any], out: dict[str, str], **more: Any) -> dict[str, Any]:
    body = {"nodes": nodes, "out": out, "runs": more.pop("runs", [])}
    adam = {"name": "adam", "lr": 0.01}
    found = {"kind": "fit", "id": "f", "over": over, "batch_size": 4, "params": params, "body": body, "optimiser": adam}
    found |= more
    return found if "epochs" in found else {"steps": 6, **found}


def graph(*nodes: dict[str, Any], saves: dict[str, str], **more: Any) -> Graph:
    head = {"protocol": [1, 0], "model": {"id": MODEL}}
    return from_dict({**head, "nodes": list(nodes), "saves": saves, **more})


def task(*nodes: dict[str, Any], saves: dict[str, str], **more: Any) -> Task:
    """Tensors among the constants are attached."""
    constants = more.pop("constants", {})
    attached = {name: value for name, value in constants.items() if isinstance(value, torch.Tensor)}
    plain = {name: {"tensor": name} if name in attached else value for name, value in constants.items()}
    own = {name: more.pop(name) for name in ("checkpoint",) if name in more}
    return Task(new_job_id(), graph(*nodes, saves=saves, constants=plain, **more), attachment=attached, **own)


def trained(engine: Engine, one: Task) -> dict[str, torch.Tensor]:
    [outcome] = engine.run([one])
    if outcome.error is not None:
        raise outcome.error
    assert outcome.saved is not None
    return outcome.saved


def stepped(
    params: list[torch.Tensor],
    loss: Callable[[int], torch.Tensor],
    steps: int,
    optimiser: Callable[[list[torch.Tensor]], torch.optim.Optimizer],
    after: Callable[[int], None] = lambda step: None,
    before: Callable[[int], None] = lambda step: None,
) -> list[float]:
    """The plain loop; the losses of its steps."""
    leaves = [one.requires_grad_() for one in params]
    made, losses = optimiser(leaves), []
    for step in range(steps):
        made.zero_grad()
        found = loss(step)
        found.backward()
        before(step)
        made.step()
        with torch.no_grad():
            after(step)
        losses.append(float(found.detach()))
    return losses
