"""What is checked before a job is queued."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import redis.asyncio

from telepatch_broker import keys
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.tensors import Tensor, encode

Make = Callable[..., dict[str, Any]]


def refusal(http: httpx.Client, document: dict[str, Any]) -> dict[str, Any]:
    """The error of the one job that this document is."""
    answer = http.post("/v1/jobs", json={"documents": [document], "jobs": [{"id": new_job_id()}]})
    assert answer.status_code == 422, answer.text
    found: dict[str, Any] = answer.json()["jobs"][0]["error"]
    return found


def test_an_index_behind_the_end_of_a_prompt_is_refused_at_the_authors_line(http: httpx.Client, graph: Make) -> None:
    node = {"kind": "get", "id": "h", "site": "blocks.0:resid_post", "invoke": "a", "index": [":", 5]}
    found = refusal(http, graph("hello", nodes=[node]))
    assert (found["code"], found["node"], found["file"], found["line"]) == ("index_out_of_range", "h", "study.py", 7)
    node["index"] = [":", 4]
    assert http.post("/v1/jobs", json=graph("hello", nodes=[node])).status_code == 202


@pytest.mark.parametrize(
    ("changes", "code", "hint"),
    [
        ({"constants": {"prompt": "x" * 65, "layer": 0}}, "shape_error", "65 tokens"),
        ({"constants": {"prompt": "x" * 65_000, "layer": 0}}, "shape_error", "65,000 characters"),
        ({"constants": {"prompt": "", "layer": 0}}, "shape_error", "0 tokens"),
        ({"constants": {"prompt": ["ab", "abc"], "layer": 0}}, "shape_error", "2, 3 tokens"),
        ({"constants": {"prompt": ["a"] * 17, "layer": 0}}, "too_large", "17 rows"),
        ({"constants": {"prompt": 5, "layer": 0}}, "bad_argument", "text is a string"),
        ({"constants": {"prompt": "a", "layer": {"data": "ab"}}}, "bad_argument", "sha256"),
        ({"constants": {"prompt": "a", "layer": {"tensor": "t"}}}, "unknown_name", "no attached tensor 't'"),
        ({"model": {"id": "tiny", "revision": "old"}}, "bad_argument", "revision old"),
        ({"saves": {}}, "bad_argument", "saves nothing"),
        (
            {
                "nodes": [
                    {
                        "kind": "fit",
                        "id": "c",
                        "over": {},
                        "batch_size": 1,
                        "params": {},
                        "optimiser": {"name": "sgd", "lr": 1},
                        "body": {},
                    }
                ]
            },
            "bad_argument",
            "goes over nothing",
        ),
        ({"nodes": [{"kind": "call", "id": "h", "op": "topkk"}]}, "unknown_operation", "topk"),
        ({"surprise": 1}, "protocol_error", "surprise"),
    ],
)
def test_what_cannot_run_is_not_queued(
    http: httpx.Client, graph: Make, changes: dict[str, Any], code: str, hint: str
) -> None:
    found = refusal(http, graph(**changes))
    assert (found["code"], hint in found["detail"]) == (code, True), found


@pytest.mark.parametrize("ids", [[257], [[1, 2], [3, -1]], [2**40], {"range": [250, 260]}])
def test_ids_that_are_no_tokens_are_refused(http: httpx.Client, graph: Make, ids: Any) -> None:
    runs = [{"id": "r", "invokes": [{"id": "a", "ids": "$prompt"}]}]
    found = refusal(http, graph(ids, runs=runs))
    assert (found["code"], found["node"]) == ("index_out_of_range", "a")


def test_attached_ids_that_are_no_tokens_are_refused(http: httpx.Client, graph: Make, submit: Make) -> None:
    runs = [{"id": "r", "invokes": [{"id": "a", "ids": "$prompt"}]}]
    for last, status in ((256, 202), (257, 422)):
        body = submit(graph({"tensor": "ids"}, runs=runs))
        data = encode({"ids": Tensor.of(np.array([1, last]))})
        parts = {"submission": (None, json.dumps(body)), "attachment": ("a", data)}
        assert http.post("/v1/jobs", files=parts).status_code == status


def test_a_model_without_tokenizer_takes_ids_only(
    http: httpx.Client, publish: Callable[..., None], published: Any, graph: Make
) -> None:
    publish(published.model_copy(update={"id": "mute", "tokenizer": None}), None)
    assert "no tokenizer" in refusal(http, graph(model={"id": "mute"}))["detail"]
    runs = [{"id": "r", "invokes": [{"id": "a", "ids": "$prompt"}]}]
    assert http.post("/v1/jobs", json=graph([1, 2], runs=runs, model={"id": "mute"})).status_code == 202


def test_constants_that_the_document_does_not_have_are_refused(http: httpx.Client, graph: Make) -> None:
    jobs = [{"id": new_job_id(), "constants": {"lair": 1}}]
    [job] = http.post("/v1/jobs", json={"documents": [graph()], "jobs": jobs}).json()["jobs"]
    assert job["error"]["code"] == "unknown_name"
    assert "'lair'" in job["error"]["detail"]
    assert "prompt, layer" in job["error"]["detail"]


@pytest.mark.parametrize(
    "spec", [{"id": "no-uuid"}, {"id": "0190A000-0000-7000-8000-000000000000"}, {"document": 3}, {"document": -1}]
)
def test_a_job_spec_that_cannot_be_is_refused_alone(http: httpx.Client, graph: Make, spec: dict[str, Any]) -> None:
    jobs = [{"id": new_job_id()}, {"id": new_job_id()} | spec]
    first, second = http.post("/v1/jobs", json={"documents": [graph()], "jobs": jobs}).json()["jobs"]
    assert (first["state"], second["error"]["code"]) == ("queued", "bad_argument")


def test_of_two_jobs_with_one_id_the_second_is_refused(http: httpx.Client, graph: Make) -> None:
    id = new_job_id()
    body = {"documents": [graph(), graph("x")], "jobs": [{"id": id}, {"id": id, "document": 1}]}
    first, second = http.post("/v1/jobs?wait=0.1", json=body).json()["jobs"]
    assert (first["state"], second["error"]["code"], "state" in second) == ("queued", "bad_argument", False)


def child_of(graph: Make, parent: str, name: str = "h", **changes: Any) -> dict[str, Any]:
    """A document that writes a value of another job."""
    write = {"kind": "set", "id": "w", "site": "blocks.0:resid_post", "invoke": "a", "index": [":", -1], "value": "$v"}
    constants = {"v": {"result": parent, "name": name}, "prompt": "hi", "layer": 2}
    lines = {"h": "study.py:7", "w": "study.py:9"}
    return graph(nodes=[write, *graph()["nodes"]], constants=constants, lines=lines) | changes


def test_a_value_of_a_job_of_the_same_submission_is_used_in_any_order(
    http: httpx.Client, graph: Make, worker: Any
) -> None:
    parent, child = new_job_id(), new_job_id()
    body = {
        "documents": [child_of(graph, parent), graph()],
        "jobs": [{"id": child, "document": 0}, {"id": parent, "document": 1}],
    }
    answer = http.post("/v1/jobs?wait=10", json=body)
    assert [job["state"] for job in answer.json()["jobs"]] == ["completed", "completed"]
    assert [job.id for job in worker.taken] == [parent, child]
    assert list(worker.taken[1].parents) == [parent]


def test_a_value_of_an_earlier_job_is_used_with_the_line_where_it_is(
    http: httpx.Client, graph: Make, worker: Any
) -> None:
    worker.paused = True
    [parent] = http.post("/v1/jobs", json=graph()).json()["jobs"]
    [child] = http.post("/v1/jobs", json=child_of(graph, parent["id"])).json()["jobs"]
    assert (parent["state"], child["state"]) == ("queued", "waiting")
    http.delete(f"/v1/jobs/{parent['id']}")
    status = http.get(f"/v1/jobs/{child['id']}").json()
    assert status["state"] == "failed"
    found = status["error"]
    assert (found["code"], found["parent"], found["file"], found["line"]) == (
        "dependency_failed", parent["id"], "study.py", 9
    )  # fmt: skip


def test_a_value_of_another_job_may_stand_where_it_is_used(http: httpx.Client, graph: Make, worker: Any) -> None:
    [parent] = http.post("/v1/jobs", json=graph()).json()["jobs"]
    reference = {"result": parent["id"], "name": "h", "index": [0]}
    total = {"kind": "call", "id": "t", "op": "sum", "args": [reference]}
    answer = http.post("/v1/jobs?wait=10", json=graph(nodes=[total], saves={"t": "$t"}, lines={"t": "study.py:8"}))
    assert answer.json()["jobs"][0]["state"] == "completed"
    [source] = worker.taken[1].parents.values()
    assert (list(worker.taken[1].parents), source.node, source.line) == ([parent["id"]], "t", 8)


def test_shapes_of_values_of_other_jobs_are_known_and_checked(http: httpx.Client, graph: Make) -> None:
    [parent] = http.post("/v1/jobs", json=graph()).json()["jobs"]
    write = {"kind": "set", "id": "w", "site": "unembed:output", "invoke": "a", "index": [":", -1], "value": "$v"}
    found = refusal(http, child_of(graph, parent["id"], nodes=[write, *graph()["nodes"]]))
    assert (found["code"], found["node"], found["line"]) == ("shape_error", "w", 9)


def test_what_is_not_there_of_another_job_is_refused_by_name(http: httpx.Client, graph: Make) -> None:
    [parent] = http.post("/v1/jobs", json=graph()).json()["jobs"]
    found = refusal(http, child_of(graph, parent["id"], "logits"))
    assert (found["code"], found["parent"], found["line"]) == ("unknown_name", parent["id"], 9)
    assert "saves no 'logits'; it saves h" in found["detail"]
    stranger = new_job_id()
    found = refusal(http, child_of(graph, stranger))
    assert (found["code"], found["parent"], found["line"]) == ("not_found", stranger, 9)


def test_a_child_of_a_refused_job_is_refused_and_names_it(http: httpx.Client, graph: Make) -> None:
    parent = new_job_id()
    body = {
        "documents": [graph(saves={"h": "$x"}), child_of(graph, parent), graph()],
        "jobs": [{"id": parent}, {"id": new_job_id(), "document": 1}, {"id": new_job_id(), "document": 2}],
    }
    _, child, other = http.post("/v1/jobs", json=body).json()["jobs"]
    assert (child["error"]["code"], child["error"]["parent"]) == ("dependency_failed", parent)
    assert other["state"] == "queued"


def test_jobs_that_wait_for_each_other_are_refused(http: httpx.Client, graph: Make) -> None:
    one, two = new_job_id(), new_job_id()
    body = {
        "documents": [child_of(graph, two), child_of(graph, one), graph()],
        "jobs": [{"id": one}, {"id": two, "document": 1}, {"id": new_job_id(), "document": 2}],
    }
    found = [job.get("error", {}).get("code") for job in http.post("/v1/jobs", json=body).json()["jobs"]]
    assert found == ["causal_loop", "causal_loop", None]


def test_shapes_that_only_running_tells_may_be_used_by_others(http: httpx.Client, graph: Make) -> None:
    mask = {"kind": "call", "id": "m", "op": "gt", "args": ["$h", 0]}
    picked = {"kind": "call", "id": "p", "op": "index", "args": ["$h", ["$m"]]}
    parent = graph(nodes=[*graph()["nodes"], mask, picked], saves={"p": "$p"})
    [first] = http.post("/v1/jobs", json=parent).json()["jobs"]
    assert first["saves"] == {"p": {"shape": [None], "dtype": "float32"}}
    total = {"kind": "call", "id": "t", "op": "sum", "args": ["$v"]}
    child = child_of(graph, first["id"], "p", nodes=[total], saves={"t": "$t"})
    assert http.post("/v1/jobs", json=child).json()["jobs"][0]["state"] == "waiting"


def test_exact_jobs_run_alone(http: httpx.Client, graph: Make, worker: Any) -> None:
    http.post("/v1/jobs?wait=5", json=graph(options={"exact": True}))
    http.post("/v1/jobs?wait=5", json=graph())
    assert [job.alone for job in worker.taken] == [True, False]
    assert [job.cost for job in worker.taken] == [5, 5]


def test_a_large_submission_does_not_hold_up_small_requests(http: httpx.Client, graph: Make) -> None:
    import threading

    jobs = [{"id": new_job_id(), "constants": {"prompt": f"number {at}"}} for at in range(1000)]
    thread = threading.Thread(
        target=http.post, args=("/v1/jobs",), kwargs={"json": {"documents": [graph()], "jobs": jobs}}
    )
    thread.start()
    answered = 0
    while thread.is_alive():
        assert http.get("/healthz").status_code == 200
        answered += 1
    thread.join()
    assert answered > 5, f"{answered} small requests were answered while the large one was"


async def test_a_job_that_trains_waits_on_the_long_lane(http: httpx.Client, graph: Make, redis_url: str) -> None:
    fit = {
        "kind": "fit",
        "id": "f",
        "over": {"x": "$xs"},
        "batch_size": 1,
        "params": {"w": {"init": 1.0}},
        "optimiser": {"name": "sgd", "lr": 0.1},
        "epochs": 1,
        "body": {
            "nodes": [
                {"kind": "call", "id": "p", "op": "mul", "args": ["$x", "$w"]},
                {"kind": "call", "id": "loss", "op": "mean", "args": ["$p"]},
            ],
            "out": {"loss": "$loss"},
        },
    }
    plain = http.post("/v1/jobs", json=graph("hello")).json()["jobs"][0]["id"]
    body = graph("hello", nodes=[fit], runs=[], constants={"xs": [[1.0], [2.0]]}, saves={"w": "$f.w"})
    trained = http.post("/v1/jobs", json=body).json()["jobs"][0]["id"]
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        found = [await client.hget(keys.job(id), "lane") for id in (plain, trained)]
    assert found == [None, b"long"]
