"""Nobody's clock matters but the queue's: leases, waiting and expiry go by that alone."""

from __future__ import annotations

import ast
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.faults.parts import LEASE_SECONDS, Stack, stack
from tests.faults.people import Person, fit, terminal_events, trace

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
TOLD = {
    "broker/telepatch_broker/registry.py": 1,  # when a worker was last heard of, which is shown
    "broker/telepatch_broker/blobs.py": 1,  # the age of files that were left half-written, by the clock of their disk
    "broker/telepatch_broker/events.py": 1,  # when something happened that a gateway tells, which is shown
    "protocol/telepatch_protocol/jobs.py": 1,  # the beginning of ids, so that they sort
    "server/telepatch_server/keys.py": 1,  # when a key was made, which is shown
    "server/telepatch_server/templates.py": 1,  # what a chat template writes as today's date
    "server/telepatch_server/up.py": 2,  # starting everything on this machine
    "worker/telepatch_worker/service.py": 1,  # when a worker began, which is shown
}
"""Where the time of day is read, how often, and what it is for."""


def wall_clocks(path: Path) -> int:
    """How often a module reads the time of day."""
    names = {"time", "time_ns", "now", "utcnow", "today"}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return sum(
        isinstance(one, ast.Attribute)
        and one.attr in names
        and isinstance(one.value, ast.Name)
        and one.value.id in {"time", "datetime", "date"}
        for one in calls
    )


def test_the_time_of_day_is_read_only_to_be_shown() -> None:
    rooms = [ROOT / room for room in ("protocol", "broker", "server", "worker")]
    found = {str(path.relative_to(ROOT)): wall_clocks(path) for room in rooms for path in room.rglob("*.py")}
    assert {path: count for path, count in found.items() if count} == TOLD


SITE = """
import time
_real, _begun = time.time, time.monotonic()
def jumping():
    # An hour ahead, and in the next few seconds a day behind.
    return _real() + (3600 if (time.monotonic() - _begun) % 6 < 3 else -86400)
time.time = jumping
time.time_ns = lambda: int(jumping() * 1e9)
"""


@pytest.fixture(scope="module")
def jumping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service whose gateway and worker have clocks that jump by a day every few seconds."""
    folder = tmp_path_factory.mktemp("clock")
    (folder / "sitecustomize.py").write_text(SITE)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    with stack(settings={"PYTHONPATH": path}) as made:
        made.gateway()
        made.worker()
        made.ready()
        yield made


def test_jobs_run_once_while_the_clocks_of_gateway_and_worker_jump(jumping: Stack, expected) -> None:
    with jumping.redis() as client:
        seen = json.loads(client.get(jumping.serving()[0]))["seen"]
    assert abs(seen - time.time()) > 1800, "the clock of the worker is right"
    person = Person(jumping)
    documents = [trace([1 + at, 3]) for at in range(10)]
    long = fit(4000)
    [training] = person.submit(long)
    ids = []
    for document in documents:
        ids += person.submit(document)
        time.sleep(LEASE_SECONDS / 4)
    states = person.ended([training, *ids])
    assert set(states.values()) == {"completed"}
    assert person.status(training)["attempts"] == 1
    assert all(person.status(id)["attempts"] == 1 for id in ids)
    for id, document in zip(ids, documents, strict=True):
        np.testing.assert_allclose(person.values(id)["l"], expected(document)["l"], rtol=1e-4, atol=1e-5)
    ends = terminal_events(jumping, "local")
    assert {ends[id] for id in [training, *ids]} == {1}
    person.close()
