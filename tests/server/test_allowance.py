"""Limits of people, at a real gateway and as the client meets them."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import redis.asyncio

import telepatch
from telepatch_broker.blobs import DirectoryBlobs
from telepatch_broker.jobs import TakenJob
from telepatch_broker.lane import Lane
from telepatch_broker.people import People
from telepatch_protocol.errors import ComputeSpent, JobOverLimit, ModelNotAllowed, StorageFull
from telepatch_protocol.jobs import new_job_id

Make = Callable[..., dict[str, Any]]
Sign = Callable[..., httpx.Client]


@pytest.fixture
def http(serve: Callable[..., httpx.Client], settings: Any, published: Any) -> httpx.Client:
    return serve(settings)


@pytest.fixture
def ada(http: httpx.Client, signed: Sign) -> httpx.Client:
    return signed(http.base_url, "ada")


@pytest.fixture
async def people(client: redis.asyncio.Redis) -> People:
    return People(client)


def lab_of(client: httpx.Client) -> telepatch.Lab:
    """The Python client, as the same person."""
    key = client.headers["authorization"].removeprefix("Bearer ")
    return telepatch.connect(str(client.base_url), key, progress=False)


def one(lab: telepatch.Lab, text: str = "hello") -> Any:
    """A trace with one saved value."""
    with lab.model("tiny").trace(text):
        return lab.model("tiny").blocks[2].resid_post[:, -1].save()


async def test_requests_over_the_limit_are_told_when_to_come_again(ada: httpx.Client, people: People) -> None:
    await people.limit("ada", {"requests_per_minute": "30"})
    answers = [ada.get("/v1/me") for _ in range(60)]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 20 <= len(refused) <= 30
    problem = refused[0].json()
    assert (refused[0].status_code, problem["code"], refused[0].headers["retry-after"]) == (429, "rate_limited", "2")
    assert "ada may make 30 requests a minute" in problem["detail"]


async def test_a_model_that_is_not_allowed_is_refused_by_every_call_that_names_one(
    ada: httpx.Client, people: People, graph: Make, submit: Make
) -> None:
    assert [model["id"] for model in ada.get("/v1/models").json()["models"]] == ["tiny"]
    await people.limit("ada", {"models": "other,more"})
    assert ada.get("/v1/models").json()["models"] == []
    nodes = [{"kind": "set", "id": "w", "site": "blocks.1:resid_post", "value": 0}]
    edit = {"protocol": [1, 1], "model": {"id": "tiny"}, "nodes": nodes}
    for answer in (
        ada.get("/v1/models/tiny"),
        ada.post("/v1/tokenize", json={"model": "tiny", "text": "x"}),
        ada.post("/v1/detokenize", json={"model": "tiny", "ids": [1]}),
        ada.put("/v1/edits/mine", json=edit),
        ada.post("/v1/jobs", json=graph()),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "model_not_allowed"), answer.request.url
        assert "ada may not use the model 'tiny'; allowed are: other, more" in answer.json()["detail"]
    nowhere = ada.get("/v1/models/nowhere")
    assert (nowhere.status_code, nowhere.json()["code"]) == (403, "model_not_allowed")
    assert ada.get("/v1/models/other").status_code == 404
    [job] = ada.post("/v1/jobs", json=submit(graph())).json()["jobs"]
    assert job["error"]["code"] == "model_not_allowed"
    with lab_of(ada) as lab, pytest.raises(ModelNotAllowed):
        one(lab)


async def test_a_job_that_is_too_large_says_how_large_one_may_be(
    ada: httpx.Client, people: People, worker: Any, graph: Make, submit: Make
) -> None:
    await people.limit("ada", {"job_tokens": "10"})
    answer = ada.post("/v1/jobs?wait=20", json=submit(graph("short"), graph("this is longer")))
    good, large = answer.json()["jobs"]
    assert (answer.status_code, good["state"], large["error"]["code"]) == (200, "completed", "job_over_limit")
    assert "priced at 14 tokens" in large["error"]["detail"]
    assert "a job of ada may have 10" in large["error"]["detail"]
    bare = ada.post("/v1/jobs?dry_run=true", json=graph("this is longer"))
    assert (bare.status_code, bare.json()["code"]) == (422, "job_over_limit")
    await people.limit("ada", {"job_tokens": None, "job_flops": "1"})
    assert "floating-point operations" in ada.post("/v1/jobs", json=graph()).json()["detail"]
    with lab_of(ada) as lab, pytest.raises(JobOverLimit) as refused:
        one(lab).numpy()
    assert refused.value.file == __file__
    assert "test_allowance.py:" in str(refused.value)


async def test_who_has_no_room_for_jobs_is_told_and_the_same_jobs_are_still_the_same(
    ada: httpx.Client, people: People, graph: Make, submit: Make
) -> None:
    await people.limit("ada", {"jobs_queued": "2"})
    first = submit(graph(), graph(), graph())
    answer = ada.post("/v1/jobs", json=first)
    assert answer.status_code == 202
    assert [job.get("error", {}).get("code") for job in answer.json()["jobs"]] == [None, None, "too_many_jobs"]
    full = ada.post("/v1/jobs", json=submit(graph(), graph()))
    assert (full.status_code, full.json()["code"], full.headers["retry-after"]) == (429, "too_many_jobs", "1")
    assert "ada has 2 unended jobs, may have 2, and asked for 2 more" in full.json()["detail"]
    assert ada.post("/v1/jobs", json=graph()).status_code == 429
    again = ada.post("/v1/jobs", json={**first, "jobs": first["jobs"][:2]})
    assert (again.status_code, [job["state"] for job in again.json()["jobs"]]) == (202, ["queued", "queued"])
    assert ada.post("/v1/jobs?dry_run=true", json=graph()).status_code == 200
    ada.delete(f"/v1/jobs/{first['jobs'][0]['id']}")
    assert ada.post("/v1/jobs", json={**first, "jobs": first["jobs"][2:]}).status_code == 202


async def test_many_gateways_and_senders_at_once_do_not_get_past_the_limit(
    http: httpx.Client,
    serve: Callable[..., httpx.Client],
    settings: Any,
    ada: httpx.Client,
    people: People,
    graph: Make,
) -> None:
    await people.limit("ada", {"jobs_queued": "10"})
    other = serve(settings)
    queued: list[int] = []

    def send(url: Any) -> None:
        with httpx.Client(base_url=url, headers=ada.headers, timeout=60) as client:
            queued.extend(client.post("/v1/jobs", json=graph()).status_code for _ in range(6))

    threads = [threading.Thread(target=send, args=(one.base_url,)) for one in (http, other) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(queued) == [202] * 10 + [429] * 14
    assert ada.get("/v1/me").json()["has"]["jobs_queued"] == 10


async def test_a_day_of_seconds_that_is_used_up_says_until_when(
    ada: httpx.Client, people: People, client: redis.asyncio.Redis, graph: Make, tmp_path: Any
) -> None:
    lane = Lane(client, DirectoryBlobs(tmp_path))
    await use_up(lane, "ada", 8.0)
    await people.limit("ada", {"seconds_per_day": "5"})
    refused = ada.post("/v1/jobs", json=graph())
    assert (refused.status_code, refused.json()["code"]) == (429, "compute_spent")
    assert "ada has used 8.0 of the 5 seconds" in refused.json()["detail"]
    midnight = 86400 - time.time() % 86400
    assert abs(int(refused.headers["retry-after"]) - midnight) < 60
    me = ada.get("/v1/me").json()
    assert (me["may"]["seconds_per_day"], me["has"]["today"]["seconds"], me["usage"][0]["seconds"]) == (5, 8.0, 8.0)
    if midnight > 360:  # the client waits for five minutes at most
        with lab_of(ada) as lab, pytest.raises(ComputeSpent, match="new day begins at midnight") as raised:
            one(lab).numpy()
        assert raised.value.file == __file__


async def use_up(lane: Lane, person: str, seconds: float) -> None:
    """Have a person use seconds of a worker."""
    from telepatch_broker.jobs import NewJob

    job = NewJob(new_job_id(), person, "other", b"{}", lane="long")
    await lane.submit([job])
    await lane.take("other", "w9")
    await lane.complete(job.id, "w9", saves={}, result=b"", seconds=seconds)


async def test_who_stores_too_much_is_told_how_much_it_is(
    ada: httpx.Client, people: People, worker: Any, graph: Make
) -> None:
    await people.limit("ada", {"bytes_stored": "40"})
    first = ada.post("/v1/jobs?wait=20", json=graph()).json()["jobs"][0]
    assert first["state"] == "completed"
    full = ada.post("/v1/jobs", json=graph())
    assert (full.status_code, full.json()["code"]) == (413, "storage_full")
    upload = ada.put(f"/v1/data/{'a' * 64}", headers={"Content-Range": "bytes */1000"})
    assert (upload.status_code, upload.json()["code"]) == (413, "storage_full")
    with lab_of(ada) as lab, pytest.raises(StorageFull) as raised:
        one(lab).numpy()
    assert raised.value.file == __file__


async def test_a_naive_loop_that_meets_the_limit_of_requests_waits_and_goes_on_with_one_warning(
    ada: httpx.Client, people: People, worker: Any
) -> None:
    with lab_of(ada) as lab:
        one(lab).numpy()
        await people.limit("ada", {"requests_per_minute": "60"})
        while ada.get("/v1/me").status_code == 200:
            pass
        begun = time.monotonic()
        with pytest.warns(telepatch.SlowedDown, match="may make 60 requests a minute") as caught:
            assert [one(lab, f"p{at}").numpy().shape for at in range(4)] == [(1, 8)] * 4
        assert time.monotonic() - begun > 2.0
        assert len(caught) == 1


async def test_a_loop_that_has_no_room_for_its_jobs_sends_them_as_others_end(
    ada: httpx.Client, people: People, worker: Any, graph: Make
) -> None:
    await people.limit("ada", {"jobs_queued": "4"})
    most = []
    real = worker.behave

    def slow(job: TakenJob) -> Any:
        most.append(ada.get("/v1/me").json()["has"]["jobs_queued"])
        time.sleep(0.3)
        return real(job)

    worker.behave = slow
    with lab_of(ada) as lab:
        with pytest.warns(telepatch.SlowedDown, match="may have 4") as caught:
            found = telepatch.gather([one(lab, f"p{at}") for at in range(20)])
        assert [array.shape for array in found] == [(1, 8)] * 20
        assert len(caught) == 1
    assert max(most) <= 4
    assert len(most) >= 20


async def test_whoever_has_warnings_raised_still_gets_the_results(
    ada: httpx.Client, people: People, worker: Any
) -> None:
    await people.limit("ada", {"jobs_queued": "1"})
    with warnings.catch_warnings(), lab_of(ada) as lab:
        warnings.simplefilter("error")
        values = [one(lab, f"p{at}") for at in range(3)]
        assert len(telepatch.gather(values)) == 3
