"""People get along: however many jobs one of them has, another one's trace is in one of the next batches."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import pytest

import telepatch
from telepatch_protocol.errors import Forbidden, TimeLimit
from telepatch_protocol.jobs import ENDED, new_job_id

BATCH = 128
"""Jobs that a worker has in hand at the most, as its setting has it."""


def many(http: httpx.Client, count: int, length: int = 60, **more: Any) -> list[str]:
    """Queue jobs of one structure, each with a prompt of its own."""
    document = {
        "protocol": [1, 0],
        "model": {"id": "gpt2-random"},
        "constants": {"p": []},
        "runs": [{"id": "r", "invokes": [{"id": "a", "ids": "$p"}]}],
        "nodes": [{"kind": "get", "id": "h", "site": "lm_head:output", "invoke": "a", "index": [":", -1, 0]}],
        "saves": {"h": "$h"},
    }
    ids: list[str] = []
    for start in range(0, count, 1000):
        jobs = [
            {"id": new_job_id(), "document": 0, "constants": {"p": [(at + place) % 256 for place in range(length)]}}
            | more
            for at in range(start, min(count, start + 1000))
        ]
        answer = http.post("/v1/jobs", json={"documents": [document], "jobs": jobs}).raise_for_status().json()
        assert all("error" not in job for job in answer["jobs"])
        ids += [job["id"] for job in jobs]
    return ids


def everything(http: httpx.Client) -> list[dict[str, Any]]:
    """All jobs of a person, as they are now."""
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = http.get(f"/v1/jobs?limit=1000{cursor}").raise_for_status().json()
        found += page["jobs"]
        if page.get("cursor") is None:
            return found
        cursor = f"&cursor={page['cursor']}"


def client(shared: Any, key: str) -> httpx.Client:
    return httpx.Client(base_url=shared.url, headers={"authorization": f"Bearer {key}"}, timeout=60)


def asked(model: Any, number: int) -> Any:
    with model.trace() as t, t.invoke(ids=[number, 2, 3, 4, 5]):
        return t.job, model.lm_head.output[:, -1, 0].save()


def test_a_visitor_waits_for_few_batches_beside_thousands_of_jobs_of_somebody_else(shared: Any) -> None:
    with client(shared, shared.ada) as http, telepatch.connect(shared.url, shared.bob, progress=False) as lab:
        model = lab.model("gpt2-random")
        asked(model, 0)[1].numpy()
        hog = set(many(http, 3000))
        visits = []
        for number in range(1, 6):
            job, value = asked(model, number)
            value.numpy()
            visits.append(lab.status(job).timings)
        theirs = [job for job in everything(http) if job["id"] in hog]
        over = [job["timings"]["ended"] for job in theirs if job["state"] in ENDED]
        assert len(over) < 3000, "the visits were over before the queue was"
        assert http.post("/v1/jobs/cancel", json={"jobs": "all"}).raise_for_status()
    for one in visits:
        between = sum(one.submitted <= at <= (one.ended or 0) for at in over)
        assert between <= 3 * BATCH, f"{between} jobs of somebody else ended while a visitor waited"


def test_a_visitor_gets_in_where_two_large_sweeps_have_filled_the_worker(shared: Any) -> None:
    with (
        telepatch.connect(shared.url, shared.ada, progress=False) as theirs,
        telepatch.connect(shared.url, shared.bob, progress=False) as lab,
    ):
        model, other = lab.model("gpt2-random"), theirs.model("gpt2-random")
        asked(model, 0)[1].numpy()
        prompts = [[(at + place) % 256 for place in range(60)] for at in range(3000)]
        sweeps = []
        for _ in range(3):
            with other.each(prompts) as row:
                row.mean(other.lm_head.output[0, -1]).save("mean")
            sweeps.append(row)
        until = time.monotonic() + 60
        while sum(theirs.status(one).state == "running" for one in sweeps) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        for number in range(1, 4):
            asked(model, number)[1].numpy()
        states = [theirs.status(one).state for one in sweeps]
        assert "completed" not in states, "their sweeps take long, and visitors do not wait for them"
        assert theirs.cancel() == 3


def test_ones_own_jobs_of_low_priority_come_last(shared: Any) -> None:
    with (
        client(shared, shared.ada) as http,
        telepatch.connect(shared.url, shared.ada, progress=False, priority="low") as low,
        telepatch.connect(shared.url, shared.ada, progress=False) as usual,
    ):
        model, patient = usual.model("gpt2-random"), low.model("gpt2-random")
        asked(model, 0)[1].numpy()
        queue = set(many(http, 600))
        last, _ = asked(patient, 1)
        low.flush()
        many_more = set(many(http, 600))
        first, value = asked(model.queued(priority="high"), 2)
        value.numpy()
        low.wait()
        ended = {job["id"]: job["timings"]["ended"] for job in everything(http)}
    assert sum(ended[job] < ended[first] for job in queue | many_more) < 800, "it came last, and was not the last"
    assert sum(ended[job] <= ended[last] for job in queue | many_more) > 1000, "it came in the middle, and waited"


def test_high_priority_is_for_those_whom_the_operator_has_named(shared: Any) -> None:
    with telepatch.connect(shared.url, shared.bob, progress=False) as lab:
        _, value = asked(lab.model("gpt2-random").queued(priority="high"), 1)
        with pytest.raises(Forbidden, match="'high' is not among what this key may ask for; 'normal' and 'low' are"):
            value.numpy()
        _, value = asked(lab.model("gpt2-random").queued(priority="low"), 1)
        assert value.numpy().shape == (1,)


def test_a_limit_of_time_ends_a_job_where_it_is(shared: Any) -> None:
    with telepatch.connect(shared.url, shared.bob, progress=False, timeout_seconds=0.4) as lab:
        model = lab.model("gpt2-random")
        with model.session():
            with telepatch.repeat(100_000, y=1.0) as loop:
                loop.y = loop.y * 0.5 + 1
            end = loop.y.save()
        _, value = asked(model, 1)
        with pytest.raises(TimeLimit, match=r"it was given 0\.4 s"):
            end.numpy()
        assert value.numpy().shape == (1,)
        _, value = asked(model.queued(timeout_seconds=1e6), 1)
        with pytest.raises(
            telepatch.errors.BadArgument, match=r"timeout_seconds is 1e\+06; .* gives a job like this 120 s"
        ):
            value.numpy()


def progress(http: httpx.Client, job: str) -> tuple[int, int]:
    """Steps that a fit has told of, and how often it was in line again."""
    with http.stream("GET", f"/v1/events?after=0-0&job={job}") as answer:
        steps, turns = 0, 0
        for line in answer.iter_lines():
            if not line.startswith("data: "):
                continue
            event = json.loads(line.removeprefix("data: "))
            kind = event.get("type", "missed")
            steps = event["data"]["done"] if kind == "progress" else steps
            turns += kind == "queued"
            if kind in ENDED:
                return steps, turns
    raise AssertionError("the stream ended before the job")


def test_fits_of_several_people_come_equally_far(shared: Any) -> None:
    xs = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
    fits = []
    with ExitStack() as stack:
        for key in (shared.ada, shared.bob):
            lab = stack.enter_context(telepatch.connect(shared.url, key, progress=False))
            with lab.model("gpt2-random").fit({"x": xs}, batch_size=8, steps=200_000) as f:
                weight = f.param("w", telepatch.zeros(48))
                f.loss((f.row.x @ weight - 1).square().mean())
            lab.flush()
            fits.append((f, stack.enter_context(client(shared, key))))
        time.sleep(8)
        assert [f.cancel() for f, _ in fits] == ["cancelled", "cancelled"]
        found = [progress(http, f.job) for f, http in fits]
    steps = [one for one, _ in found]
    assert min(turns for _, turns in found) >= 4, found
    assert max(steps) <= 2 * min(steps), found
