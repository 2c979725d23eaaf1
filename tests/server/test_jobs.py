"""Submitting, looking at, listing and cancelling jobs."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.jobs import JobStatus, SubmissionAnswer, new_job_id
from telepatch_protocol.tensors import Tensor, decode, encode

Make = Callable[..., dict[str, Any]]


def test_a_submission_that_waits_gets_its_result(http: httpx.Client, worker: Any, graph: Make, submit: Make) -> None:
    values = np.arange(8, dtype=np.float32)[None]
    worker.behave = lambda job: {"h": Tensor.of(values)}
    answer = http.post("/v1/jobs?wait=10", json=submit(graph()))
    assert answer.status_code == 200
    [job] = answer.json()["jobs"]
    assert job["state"] == "completed"
    assert job["saves"] == {"h": {"shape": [1, 8], "dtype": "float32"}}
    assert decode(base64.b64decode(job["result"]))["h"].array.tolist() == values.tolist()


def test_a_submission_that_does_not_wait_says_what_will_come(http: httpx.Client, graph: Make, submit: Make) -> None:
    answer = http.post("/v1/jobs", json=submit(graph()))
    assert answer.status_code == 202
    [job] = SubmissionAnswer.model_validate_json(answer.content).jobs
    assert (job.state, job.saves["h"].shape, job.saves["h"].dtype) == ("queued", (1, 8), "float32")
    assert job.price is not None
    assert (job.price.tokens, job.price.rows, job.price.passes) == (5, 1, 1)
    found = JobStatus.model_validate_json(http.get(f"/v1/jobs/{job.id}").content)
    assert (found.state, found.model, found.position, found.price) == ("queued", "tiny", 0, job.price)


def test_waiting_ends_with_the_time_and_the_job_goes_on(http: httpx.Client, graph: Make, submit: Make) -> None:
    began = time.monotonic()
    answer = http.post("/v1/jobs?wait=0.2", json=submit(graph()))
    assert (answer.status_code, answer.json()["jobs"][0]["state"]) == (202, "queued")
    assert 0.2 <= time.monotonic() - began < 5


def test_a_bare_document_is_one_job_and_its_values_come_as_json(http: httpx.Client, worker: Any, graph: Make) -> None:
    worker.behave = lambda job: {"h": Tensor.of(np.array([1.5, np.inf, -np.inf, np.nan], np.float32))}
    # As curl -d sends it.
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    import json

    answer = http.post("/v1/jobs?wait=10", content=json.dumps(graph()), headers=headers)
    [job] = answer.json()["jobs"]
    assert job["values"] == {"h": {"dtype": "float32", "shape": [4], "values": [1.5, "inf", "-inf", "nan"]}}
    assert "result" not in job
    binary = http.post("/v1/jobs?wait=10&format=safetensors", json=graph()).json()["jobs"][0]
    assert decode(base64.b64decode(binary["result"]))["h"].array.shape == (4,)


def test_a_bare_document_that_is_refused_is_a_problem_with_the_authors_line(http: httpx.Client, graph: Make) -> None:
    node = {"kind": "get", "id": "h", "site": "blocks.9:resid_post", "invoke": "a"}
    answer = http.post("/v1/jobs", json=graph(nodes=[node]))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert (found["code"], found["node"], found["file"], found["line"]) == ("unknown_site", "h", "study.py", 7)


def test_one_refused_job_does_not_keep_out_the_others(http: httpx.Client, graph: Make, submit: Make) -> None:
    bad = graph(saves={"h": "$nothing"})
    answer = http.post("/v1/jobs", json=submit(graph(), bad, {"protocol": [9, 0]}, graph()))
    assert answer.status_code == 202
    found = [(job.get("state"), job.get("error", {}).get("code")) for job in answer.json()["jobs"]]
    assert found == [("queued", None), (None, "unknown_name"), (None, "version_error"), ("queued", None)]


def test_a_submission_of_nothing_but_refused_jobs_is_refused(http: httpx.Client, graph: Make, submit: Make) -> None:
    answer = http.post("/v1/jobs?wait=5", json=submit(graph(model={"id": "huge"})))
    assert answer.status_code == 422
    assert "there is no model 'huge' here; there is tiny" in answer.json()["jobs"][0]["error"]["detail"]


def test_the_same_id_again_is_the_same_job(http: httpx.Client, graph: Make, submit: Make, worker: Any) -> None:
    body = submit(graph())
    first = http.post("/v1/jobs?wait=10", json=body).json()["jobs"][0]
    again = http.post("/v1/jobs", json=body).json()["jobs"][0]
    assert (again["id"], again["state"]) == (first["id"], "completed")
    assert http.post("/v1/jobs?wait=10", json=body).json()["jobs"][0]["result"] == first["result"]
    assert len(worker.taken) == 1


def test_the_same_id_with_another_content_is_a_conflict(http: httpx.Client, graph: Make, submit: Make) -> None:
    body = submit(graph())
    http.post("/v1/jobs", json=body)
    answer = http.post("/v1/jobs", json=body | {"documents": [graph("other")]})
    assert (answer.status_code, answer.json()["jobs"][0]["error"]["code"]) == (422, "conflict")


def test_a_job_that_fails_says_why_to_the_one_who_waits(
    http: httpx.Client, worker: Any, graph: Make, submit: Make
) -> None:
    worker.behave = lambda job: ExecutionError("it broke", node="h", file="study.py", line=7)
    answer = http.post("/v1/jobs?wait=10", json=submit(graph()))
    [job] = answer.json()["jobs"]
    assert (answer.status_code, job["state"], job["error"]["code"], job["error"]["line"]) == (
        200, "failed", "execution_error", 7
    )  # fmt: skip
    status = http.get(f"/v1/jobs/{job['id']}").json()
    assert (status["state"], status["error"]["detail"]) == ("failed", "it broke")


def test_a_dry_run_checks_and_prices_and_queues_nothing(http: httpx.Client, graph: Make, submit: Make) -> None:
    write = {"kind": "set", "id": "s", "site": "blocks.3:resid_post", "invoke": "a", "value": 0}
    body = submit(graph(nodes=[*graph()["nodes"], write]), dry_run=True)
    answer = http.post("/v1/jobs", json=body)
    [job] = answer.json()["jobs"]
    assert (answer.status_code, job["price"]["tokens"], "state" in job) == (200, 5, False)
    assert "seen by no read" in job["warnings"][0]
    assert http.post("/v1/jobs?dry_run=true", json=graph()).status_code == 200
    assert http.get("/v1/jobs").json()["jobs"] == []


def test_a_large_result_is_left_to_be_fetched(http: httpx.Client, worker: Any, graph: Make, submit: Make) -> None:
    worker.behave = lambda job: {"h": Tensor.of(np.ones(100_000, np.float32))}
    [job] = http.post("/v1/jobs?wait=10", json=submit(graph())).json()["jobs"]
    assert (job["state"], "result" in job) == ("completed", False)
    fetched = decode(http.get(f"/v1/jobs/{job['id']}/result").content)
    assert float(fetched["h"].array.sum()) == 100_000


def test_attachments_come_as_a_part_or_inside(http: httpx.Client, worker: Any, graph: Make, submit: Make) -> None:
    vector = Tensor.of(np.ones(8, np.float32))
    write = {"kind": "set", "id": "s", "site": "blocks.1:resid_post", "invoke": "a", "value": "$v"}
    constants = {"v": {"tensor": "steer"}, "prompt": "hi", "layer": 2}
    body = submit(graph(nodes=[write, *graph()["nodes"]], constants=constants))
    data = encode({"steer": vector, "unused": vector})
    import json

    parts = {"submission": (None, json.dumps(body), "application/json"), "attachment": ("a.safetensors", data)}
    assert http.post("/v1/jobs?wait=10", files=parts).status_code == 200
    inside = submit(body["documents"][0], attachment=base64.b64encode(data).decode())
    assert http.post("/v1/jobs?wait=10", json=inside).status_code == 200
    assert [list(decode(job.attachment)) for job in worker.taken] == [["steer"], ["steer"]]


@pytest.mark.parametrize(
    ("body", "status", "code", "hint"),
    [
        (b"", 400, "protocol_error", "not JSON"),
        (b"[]", 400, "protocol_error", "JSON object"),
        (b"\xff", 400, "protocol_error", "UTF-8"),
        (b'{"jobs": [], "documents": []}', 422, "bad_argument", "no jobs"),
        (b'{"jobs": 3, "documents": []}', 422, "bad_argument", "jobs"),
        (b'{"job": [], "documents": []}', 422, "bad_argument", "jobs"),
        (b'{"protocol": [1, 0], "nodes": "\\ud800"}', 400, "protocol_error", "surrogate"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "protocol_error", ""),
    ],
)
def test_a_body_that_is_no_submission_is_refused(
    http: httpx.Client, body: bytes, status: int, code: str, hint: str
) -> None:
    answer = http.post("/v1/jobs", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert hint in answer.json()["detail"]


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        ({"other": ("x", b"")}, "no part 'other'"),
        ({"attachment": ("x", b"")}, "'submission' is missing"),
        ({"submission": (None, "{}"), "attachment": ("x", b"abc")}, "documents"),
        ({"submission": (None, "{}"), "attachment": (None, b"abc")}, "attachment=@FILE"),
    ],
)
def test_parts_that_make_no_submission_are_refused(http: httpx.Client, files: Any, hint: str) -> None:
    answer = http.post("/v1/jobs", files=files)
    assert answer.status_code in (400, 422)
    assert hint in answer.json()["detail"]


def test_an_attachment_that_is_none_is_refused(http: httpx.Client, graph: Make, submit: Make) -> None:
    for text, hint in (("?", "base64"), ("é", "base64"), (base64.b64encode(b"x" * 50).decode(), "safetensors")):
        answer = http.post("/v1/jobs", json=submit(graph(), attachment=text))
        assert (answer.status_code, answer.json()["code"]) == (400, "protocol_error")
        assert hint in answer.json()["detail"]


def test_jobs_are_listed_newest_first_in_pages_and_by_state(http: httpx.Client, graph: Make, submit: Make) -> None:
    ids = [job["id"] for job in http.post("/v1/jobs", json=submit(*[graph()] * 5)).json()["jobs"]]
    http.delete(f"/v1/jobs/{sorted(ids)[0]}")
    first = http.get("/v1/jobs?limit=3").json()
    rest = http.get("/v1/jobs", params={"limit": 3, "cursor": first["cursor"]}).json()
    assert [job["id"] for job in first["jobs"] + rest["jobs"]] == sorted(ids, reverse=True)
    assert "cursor" not in rest
    assert [job["id"] for job in http.get("/v1/jobs?state=cancelled").json()["jobs"]] == [sorted(ids)[0]]


def test_deleting_cancels_a_job_and_then_its_result(http: httpx.Client, graph: Make, submit: Make, worker: Any) -> None:
    worker.paused = True
    time.sleep(0.3)
    [waiting] = http.post("/v1/jobs", json=submit(graph())).json()["jobs"]
    assert http.delete(f"/v1/jobs/{waiting['id']}").json()["state"] == "cancelled"
    assert http.get(f"/v1/jobs/{waiting['id']}/result").json()["code"] == "cancelled"
    worker.paused = False
    [done] = http.post("/v1/jobs?wait=10", json=submit(graph())).json()["jobs"]
    assert http.delete(f"/v1/jobs/{done['id']}").json()["state"] == "completed"
    answer = http.get(f"/v1/jobs/{done['id']}/result")
    assert (answer.status_code, answer.json()["code"]) == (410, "expired")
    assert [job.id for job in worker.taken] == [done["id"]]


def test_more_jobs_than_one_request_may_have_are_refused(
    serve: Callable[..., httpx.Client], settings: Any, published: object, graph: Make, submit: Make
) -> None:
    http = serve(settings.model_copy(update={"gateway_jobs": 2}))
    answer = http.post("/v1/jobs", json=submit(*[graph()] * 3))
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert http.get("/v1/jobs").json()["jobs"] == []


def test_one_document_serves_many_jobs_with_constants_of_their_own(
    http: httpx.Client, graph: Make, worker: Any
) -> None:
    import json

    jobs = [{"id": new_job_id(), "document": 0, "constants": {"layer": layer, "prompt": "x" * 3}} for layer in range(4)]
    answer = http.post("/v1/jobs?wait=10", json={"documents": [graph()], "jobs": jobs})
    assert [job["state"] for job in answer.json()["jobs"]] == ["completed"] * 4
    constants = [json.loads(job.document)["constants"] for job in worker.taken]
    assert constants == [{"prompt": "xxx", "layer": layer} for layer in range(4)]
    assert [json.loads(job.tokens) for job in worker.taken] == [{"xxx": [120, 120, 120]}] * 4
