"""The small models, loaded once, each under an engine; and a short way to write graphs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from telepatch_protocol.card import Limits
from telepatch_protocol.graph import Graph
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Engine, Outcome, Task
from telepatch_worker.load import load

MODELS = Path(__file__).parents[2] / "models"


class Build:
    """Nodes, graphs and tasks as short calls."""

    def get(self, id: str, site: str, index: list[Any] | None = None, invoke: str = "a", **more: Any) -> dict[str, Any]:
        return {"kind": "get", "id": id, "site": site, **_invoke(site, invoke), **_index(index), **more}

    def set(self, site: str, value: Any, index: list[Any] | None = None, invoke: str = "a") -> dict[str, Any]:
        return {
            "kind": "set",
            "id": f"s{next(_NUMBERS)}",
            "site": site,
            "invoke": invoke,
            "value": value,
            **_index(index),
        }

    def call(self, id: str, op: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"kind": "call", "id": id, "op": op, "args": list(args), "kwargs": kwargs}

    def module(self, id: str, path: str, *args: Any) -> dict[str, Any]:
        return {"kind": "module", "id": id, "path": path, "args": list(args)}

    def graph(self, model: str, inputs: dict[str, list[Any]], *nodes: dict[str, Any], **more: Any) -> Graph:
        """A graph that saves whatever is not a write, unless `saves` says what."""
        saves = more.pop("saves", None) or {node["id"]: f"${node['id']}" for node in nodes if node["kind"] != "set"}
        invokes = [{"id": name, "ids": ids} for name, ids in inputs.items()]
        runs = [{"id": "r", "invokes": invokes}] if invokes else []
        return from_dict(
            {"protocol": [1, 0], "model": {"id": model}, "runs": runs, "nodes": list(nodes), "saves": saves, **more}
        )

    def task(self, model: str, inputs: dict[str, list[Any]], *nodes: dict[str, Any], **more: Any) -> Task:
        """A task; `attachment`, `results` and `tokens` are its, everything else the graph's."""
        own = {name: more.pop(name) for name in ("attachment", "results", "tokens", "id") if name in more}
        return Task(own.pop("id", new_job_id()), self.graph(model, inputs, *nodes, **more), **own)


_NUMBERS = itertools.count()


def _invoke(site: str, invoke: str) -> dict[str, str]:
    return {} if ":param." in site else {"invoke": invoke}


def _index(index: list[Any] | None) -> dict[str, Any]:
    return {} if index is None else {"index": index}


@pytest.fixture
def build() -> Build:
    return Build()


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Bit for bit needs the same number of threads everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Callable[[str], Engine]]:
    cache = tmp_path_factory.mktemp("models")
    made: dict[str, Engine] = {}

    def engine(name: str) -> Engine:
        if name not in made:
            made[name] = Engine(load(MODELS / f"{name}.toml", cache=cache))
        return made[name]

    yield engine
    for one in made.values():
        one.close()


@pytest.fixture
def gpt2(engines: Callable[[str], Engine]) -> Engine:
    return engines("gpt2-random")


@pytest.fixture
def limited(gpt2: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """The GPT-2 engine with other limits of its card, for one test."""

    def change(**limits: Any) -> Engine:
        changed = Limits.model_validate({**gpt2.card.limits.model_dump(), **limits})
        monkeypatch.setattr(gpt2, "card", gpt2.card.model_copy(update={"limits": changed}))
        return gpt2

    return change


@pytest.fixture
def saved() -> Callable[..., dict[str, torch.Tensor]]:
    """What a job saved; its error where it failed."""

    def of(engine: Engine, *tasks: Task) -> Any:
        found = [_saved(outcome) for outcome in engine.run(tasks)]
        return found[0] if len(found) == 1 else found

    return of


def _saved(outcome: Outcome) -> dict[str, torch.Tensor]:
    if outcome.error is not None:
        raise outcome.error
    assert outcome.saved is not None
    return outcome.saved


@pytest.fixture
def weights() -> Callable[[torch.nn.Module], str]:
    """A digest of all parameters and buffers."""

    def digest(module: torch.nn.Module) -> str:
        found = hashlib.sha256()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            found.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
        return found.hexdigest()

    return digest
