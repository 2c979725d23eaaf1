"""Query parameters that a call does not have."""

from __future__ import annotations

import httpx
import pytest


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            "/v1/jobs?dryrun=true",
            "'dryrun' (did you mean 'dry_run'?); it has: wait, format, dry_run, priority, timeout_seconds",
        ),
        ("/v1/tokenize?x=1", "'x'; it has: none"),
    ],
)
def test_a_slip_in_a_query_parameter_is_refused_and_nothing_is_queued(http: httpx.Client, call: str, says: str) -> None:
    answer = http.post(call, json={})
    assert answer.status_code == 422
    assert answer.json()["detail"] == f"this call has no query parameter {says}"
    assert http.get("/v1/jobs").json()["jobs"] == []


def test_known_ones_pass_on_every_kind_of_call(http: httpx.Client) -> None:
    assert http.get("/v1/jobs?limit=5&state=queued").status_code == 200
    assert http.get("/healthz").status_code == 200
