"""What people send over HTTP, and what they get: with patience, and nothing else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import httpx
import numpy as np
from tests.faults.parts import MODEL, Stack

from telepatch_protocol import tensors
from telepatch_protocol.jobs import ENDED, new_job_id

Document = dict[str, Any]


def trace(ids: Sequence[int], layer: int = 1, value: float | None = None, model: str = MODEL) -> Document:
    """Reads a block and the logits at the last position; with a value, that is written to the block before."""
    write = {"kind": "set", "id": "w", "site": f"blocks.{layer}:resid_post", "invoke": "a", "value": "$v"}
    return {
        "protocol": [1, 0],
        "model": {"id": model},
        "constants": {} if value is None else {"v": value},
        "runs": [{"id": "r", "invokes": [{"id": "a", "ids": list(ids)}]}],
        "nodes": [
            *([] if value is None else [write | {"index": [":", 0]}]),
            {"kind": "get", "id": "h", "site": "blocks.2:resid_post", "invoke": "a", "index": [":", -1]},
            {"kind": "get", "id": "l", "site": "lm_head:output", "invoke": "a", "index": [":", -1]},
        ],
        "saves": {"h": "$h", "l": "$l"},
    }


def child(parent: str, ids: Sequence[int]) -> Document:
    """Writes the value that another job has saved."""
    found = trace(ids, layer=2, value=0.0)
    found["constants"] = {"v": {"result": parent, "name": "h", "index": [0]}}
    return found


def generation(ids: Sequence[int], new: int) -> Document:
    """Tokens."""
    run = {"id": "r", "generate": {"max_new_tokens": new}, "invokes": [{"id": "a", "ids": list(ids)}]}
    return {"protocol": [1, 0], "model": {"id": MODEL}, "runs": [run], "nodes": [], "saves": {"tokens": "$r.tokens"}}


def call(id: str, op: str, *args: Any, **kwargs: Any) -> Document:
    return {"kind": "call", "id": id, "op": op, "args": list(args), "kwargs": kwargs}


def fit(steps: int, seed: int = 0, **more: Any) -> Document:
    """A small probe on numbers that are computed in the job."""
    body = {
        "nodes": [call("m", "matmul", "$x", "$W"), call("ce", "cross_entropy", "$m", "$y")],
        "out": {"loss": "$ce"},
        "runs": [],
    }
    node = {
        "kind": "fit",
        "id": "f",
        "over": {"x": "$xs", "y": "$ys"},
        "buffer": {},
        "batch_size": 8,
        "shuffle": [3],
        "steps": steps,
        "params": {"W": {"init": "$w0"}},
        "optimiser": {"name": "adam", "lr": 0.01},
        "body": body,
        **more,
    }
    numbers = [
        call("n", "arange", 1 + seed, 145 + seed, dtype="float32"),
        call("wide", "reshape", "$n", [24, 6]),
        call("xs", "sin", "$wide"),
        call("i", "arange", 0, 24),
        call("ys", "remainder", "$i", 3),
        call("k", "arange", 0, 18, dtype="float32"),
        call("kk", "reshape", "$k", [6, 3]),
        call("w0", "cos", "$kk"),
    ]
    return {
        "protocol": [1, 0],
        "model": {"id": MODEL},
        "runs": [],
        "nodes": [*numbers, node],
        "saves": {"W": "$f.W", "loss": "$f.loss"},
    }


def fragile(first: float, *others: float) -> Document:
    """One row for the model that does what its row asks for; what its head gives."""
    row = [first, *others, *[0.5] * (3 - len(others))]
    return {
        "protocol": [1, 0],
        "model": {"id": "fragile"},
        "constants": {"row": [row]},
        "runs": [{"id": "r", "invokes": [{"id": "a", "inputs": {"x": "$row"}}]}],
        "nodes": [{"kind": "get", "id": "y", "site": "head:output", "invoke": "a"}],
        "saves": {"y": "$y"},
    }


class Person:
    """Somebody who sends jobs, and sends them again until the service has taken them.

    Args:
        stack: the service.
        name: whose key is shown; nobody's for a service without.
        at: which gateway is asked.
    """

    def __init__(self, stack: Stack, name: str | None = None, at: int = 0) -> None:
        self.name = name
        headers = {"Authorization": f"Bearer {stack.keys[name]}"} if name is not None else {}
        self.http = httpx.Client(base_url=stack.urls[at], headers=headers, timeout=60)

    def close(self) -> None:
        self.http.close()

    def ask(self, method: str, path: str, *, seconds: float = 120.0, **more: Any) -> httpx.Response:
        """One answer, however often it takes."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = self.http.request(method, path, **more)
                if answer.status_code != 503:
                    return answer
                trouble = answer.text
            except httpx.TransportError as error:
                trouble = repr(error)
            assert time.monotonic() < deadline, f"no answer in {seconds:g} s: {trouble}"
            time.sleep(0.2)

    def submit(self, *documents: Document, ids: Sequence[str] | None = None) -> list[str]:
        """Have jobs accepted, one for each document; their ids."""
        ids = ids or [new_job_id() for _ in documents]
        jobs = [{"id": id, "document": at} for at, id in enumerate(ids)]
        answer = self.ask("POST", "/v1/jobs", json={"documents": list(documents), "jobs": jobs})
        assert answer.status_code in (200, 202), answer.text
        assert [one.get("error") for one in answer.json()["jobs"]] == [None] * len(ids), answer.text
        return list(ids)

    def status(self, id: str) -> dict[str, Any]:
        answer = self.ask("GET", f"/v1/jobs/{id}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def state(self, id: str) -> str:
        return str(self.status(id)["state"])

    def ended(self, ids: Iterable[str], seconds: float = 120.0) -> dict[str, str]:
        """Wait until all have ended; their states."""
        deadline, states, left = time.monotonic() + seconds, {}, list(ids)
        while left:
            states |= {id: self.state(id) for id in left}
            left = [id for id in left if states[id] not in ENDED]
            assert time.monotonic() < deadline, f"{len(left)} jobs did not end: {Counter(states.values())}"
            time.sleep(0.05 if left else 0)
        return states

    def values(self, id: str) -> dict[str, np.ndarray[Any, Any]]:
        """What a completed job saved."""
        answer = self.ask("GET", f"/v1/jobs/{id}/result")
        assert answer.status_code == 200, answer.text
        return {name: one.array for name, one in tensors.decode(answer.content).items()}


def terminal_events(stack: Stack, person: str) -> Counter[str]:
    """How many ends of each job were told."""
    with stack.redis() as client:
        rows = client.xrange(f"telepatch:person:{person}:events")
    return Counter(fields[b"job"].decode() for _, fields in rows if fields[b"type"].decode() in ENDED)
