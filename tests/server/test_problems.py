"""Errors as answers."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from telepatch_protocol.errors import ERRORS, ShapeError, from_record
from telepatch_server import problems
from telepatch_server.app import create_app
from telepatch_server.settings import Settings


def test_every_error_of_the_tree_has_a_status_and_no_other() -> None:
    assert set(problems.STATUSES) == set(ERRORS.values())
    assert all(400 <= status < 600 for status in problems.STATUSES.values())


def test_a_problem_becomes_the_same_error_again() -> None:
    body = problems.problem(ShapeError("too long", node="h", file="study.py", line=3)).body
    import json

    found = json.loads(bytes(body))
    assert (found["status"], found["type"], found["title"]) == (
        422, "urn:telepatch:error:shape_error", "Shapes that do not fit together"
    )  # fmt: skip
    error = from_record({name: found[name] for name in ("code", "detail", "node", "file", "line")})
    assert isinstance(error, ShapeError)
    assert (str(error), error.node) == ("study.py:3: too long", "h")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("PATCH", "/v1/jobs", 405, "service_error"),
        ("GET", "/v1/jobs?limit=0", 422, "bad_argument"),
        ("GET", "/v1/jobs?state=asleep", 422, "bad_argument"),
        ("GET", "/v1/jobs/no-uuid", 422, "bad_argument"),
        ("GET", "/v1/models/nobody", 404, "not_found"),
        ("PUT", "/v1/data/abc", 422, "bad_argument"),
    ],
)
def test_every_refusal_is_a_problem(http: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


def test_a_fault_of_ours_says_a_number_and_nothing_else(
    settings: Settings, serve: Callable[[Settings], httpx.Client]
) -> None:
    from fastapi.testclient import TestClient

    app = create_app(settings)

    @app.get("/broken")
    async def broken() -> None:
        raise ValueError("password=hunter2")

    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "telepatch_error")
    assert "hunter2" not in answer.text


def test_a_gateway_without_redis_says_so(tmp_path: object) -> None:
    from fastapi.testclient import TestClient

    from telepatch_broker.connection import LOST

    app = create_app(Settings())

    @app.get("/lost")
    async def lost() -> None:
        raise LOST[0]("gone")

    answer = TestClient(app).get("/lost")
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "unavailable", "1")
