"""The event stream, as a client reads it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.jobs import Event, new_job_id
from telepatch_protocol.tensors import Tensor, decode
from telepatch_server.routes.events import TOGETHER

Make = Callable[..., dict[str, Any]]


class Stream:
    """Frames of a stream, one after the other."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines

    def frame(self) -> dict[str, str]:
        """The next frame: its fields, or a comment under the name ""."""
        found: dict[str, str] = {}
        for line in self._lines:
            if not line:
                return found
            name, _, value = line.partition(": ")
            found[name.rstrip(":")] = value
        return found

    def event(self) -> Event:
        """The next event."""
        patience = 50
        while "data" not in (found := self.frame()):
            assert found, "the stream has ended"
            patience -= 1
            assert patience, "nothing but heartbeats"
        event = Event.model_validate_json(found["data"])
        assert (event.id, event.type) == (found["id"], found["event"])
        return event

    def until(self, *types: str) -> list[Event]:
        """Events up to one of these types."""
        found = [self.event()]
        while found[-1].type not in types:
            found.append(self.event())
        return found


@contextmanager
def listening(http: httpx.Client, **request: Any) -> Iterator[Stream]:
    with http.stream("GET", "/v1/events", **request) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        stream = Stream(answer.iter_lines())
        assert stream.frame().keys() == {"retry", "id"}
        yield stream


def test_a_job_is_followed_to_its_end_and_its_result_rides_along(
    http: httpx.Client, worker: Any, graph: Make, submit: Make
) -> None:
    worker.behave = lambda job: {"h": Tensor.of(np.arange(8, dtype=np.float32))}
    with listening(http) as stream:
        [job] = http.post("/v1/jobs", json=submit(graph())).json()["jobs"]
        found = stream.until("completed")
    assert [event.type for event in found] == ["queued", "running", "completed"]
    assert {event.job for event in found} == {job["id"]}
    assert found[0].data["position"] == 0
    assert found[-1].data["saves"] == {"h": {"shape": [8], "dtype": "float32"}}
    values = decode(base64.b64decode(found[-1].data["result"]))["h"].array
    assert values.tolist() == list(range(8))


def test_the_place_that_a_submission_tells_misses_nothing(
    http: httpx.Client, worker: Any, graph: Make, submit: Make
) -> None:
    http.post("/v1/jobs?wait=10", json=submit(graph()))
    answer = http.post("/v1/jobs?wait=10", json=submit(graph())).json()
    with listening(http, headers={"Last-Event-ID": answer["events"]}) as stream:
        found = stream.until("completed")
    assert [event.type for event in found] == ["queued", "running", "completed"]
    assert {event.job for event in found} == {answer["jobs"][0]["id"]}


def test_a_client_that_comes_back_goes_on_where_it_was(
    http: httpx.Client, worker: Any, graph: Make, submit: Make
) -> None:
    with listening(http) as stream:
        http.post("/v1/jobs", json=submit(graph()))
        [seen] = stream.until("queued")
    http.post("/v1/jobs?wait=10", json=submit(graph()))
    for request in ({"headers": {"Last-Event-ID": seen.id}}, {"params": {"after": seen.id}}):
        with listening(http, **request) as stream:
            found = stream.until("completed") + stream.until("completed")
        assert sorted(event.type for event in found) == ["completed", "completed", "queued", "running", "running"]


def test_without_a_place_the_stream_begins_now(http: httpx.Client, worker: Any, graph: Make, submit: Make) -> None:
    http.post("/v1/jobs?wait=10", json=submit(graph()))
    with listening(http) as stream:
        assert "" in stream.frame()
        [later] = http.post("/v1/jobs", json=submit(graph())).json()["jobs"]
        assert {event.job for event in stream.until("completed")} == {later["id"]}


def test_events_of_other_jobs_are_left_out_where_asked(
    http: httpx.Client, worker: Any, graph: Make, submit: Make
) -> None:
    wanted = new_job_id()
    with listening(http, params={"job": [wanted, new_job_id()]}) as stream:
        http.post("/v1/jobs?wait=10", json=submit(graph()))
        http.post("/v1/jobs", json={"documents": [graph()], "jobs": [{"id": wanted}]})
        assert {event.job for event in stream.until("completed")} == {wanted}


def test_a_failure_says_why(http: httpx.Client, worker: Any, graph: Make, submit: Make) -> None:
    worker.behave = lambda job: ExecutionError("it broke", node="h")
    with listening(http) as stream:
        http.post("/v1/jobs", json=submit(graph()))
        assert stream.until("failed")[-1].data["error"] == {
            "code": "execution_error", "detail": "it broke", "node": "h"
        }  # fmt: skip


def test_large_results_do_not_ride_along(http: httpx.Client, worker: Any, graph: Make, submit: Make) -> None:
    worker.behave = lambda job: {"h": Tensor.of(np.zeros(100_000, np.float32))}
    with listening(http) as stream:
        http.post("/v1/jobs", json=submit(graph()))
        assert "result" not in stream.until("completed")[-1].data


def test_of_many_results_that_are_told_together_the_first_ride_along(
    http: httpx.Client, worker: Any, graph: Make, submit: Make
) -> None:
    worker.behave = lambda job: {"h": Tensor.of(np.zeros(25_000, np.float32))}
    answer = http.post("/v1/jobs?wait=10", json=submit(*[graph()] * 5)).json()
    with listening(http, headers={"Last-Event-ID": answer["events"]}) as stream:
        ended = [event.data for _ in answer["jobs"] for event in stream.until("completed") if event.type == "completed"]
    assert ["result" in data for data in ended] == [True, True, False, False, False]
    assert sum(data["bytes"] for data in ended if "result" in data) <= TOGETHER


def test_a_quiet_stream_shows_that_it_is_alive(http: httpx.Client) -> None:
    began = time.monotonic()
    with listening(http) as stream:
        assert [stream.frame(), stream.frame()] == [{"": "heartbeat"}] * 2
    assert time.monotonic() - began > 0.35


def test_events_that_are_gone_are_said_to_be_missed(
    http: httpx.Client, redis_url: str, worker: Any, graph: Make, submit: Make
) -> None:
    import redis

    http.post("/v1/jobs?wait=10", json=submit(graph()))
    with redis.Redis.from_url(redis_url) as client:
        client.xtrim("telepatch:person:local:events", maxlen=1, approximate=False)
    with http.stream("GET", "/v1/events", headers={"Last-Event-ID": "1-0"}) as answer:
        stream = Stream(answer.iter_lines())
        stream.frame()
        missed = stream.frame()
        assert (missed["event"], json.loads(missed["data"])) == ("missed", {"after": "1-0"})
        assert stream.event().type == "completed"


@pytest.mark.parametrize("place", ["yesterday", "1", "-1-0", "1-0 "])
def test_a_place_that_is_none_is_refused(http: httpx.Client, place: str) -> None:
    answer = http.get("/v1/events", params={"after": place})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_argument")
