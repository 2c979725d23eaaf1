"""One service for all tests that leave it as they found it; what the model gives here, without any service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.faults.parts import MODEL, MODELS, Stack, stack
from tests.faults.people import Document, Person

from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.wire import from_dict
from telepatch_worker.engine import Engine, Task
from telepatch_worker.load import load


@pytest.fixture(scope="session")
def service() -> Iterator[Stack]:
    """Two gateways, and two workers of one model; a test that kills one starts it again (`mended`)."""
    with stack() as made:
        for _ in range(2):
            made.gateway()
            made.worker()
        made.ready()
        yield made


@pytest.fixture
def mended(service: Stack) -> Iterator[Stack]:
    """The service, whole again after the test."""
    yield service
    for part in service.parts():
        if not part.alive:
            part.start()
    service.ready(2)


@pytest.fixture
def ada(service: Stack) -> Iterator[Person]:
    """Somebody who sends jobs."""
    person = Person(service)
    yield person
    person.close()


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The same weights here."""
    torch.set_num_threads(1)
    made = Engine(load(MODELS / f"{MODEL}.toml", cache=tmp_path_factory.mktemp("models")))
    yield made
    made.close()


@pytest.fixture(scope="session")
def expected(engine: Engine) -> Callable[..., dict[str, Any]]:
    """What a document gives; `results` are what it refers to."""

    def run(document: Document, results: dict[tuple[str, str], Any] | None = None) -> dict[str, Any]:
        given = {key: torch.from_numpy(value) for key, value in (results or {}).items()}
        [outcome] = engine.run([Task(new_job_id(), from_dict(document), results=given)])
        if outcome.error is not None:
            raise outcome.error
        assert outcome.saved is not None
        return {name: value.numpy() for name, value in outcome.saved.items()}

    return run
