"""Edits over HTTP: stored after a check, owned, applied by jobs, and refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from telepatch_protocol.data_files import encode
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.tensors import Tensor

Make = Callable[..., dict[str, Any]]

URL = "/v1/edits/steer"
SITE = "blocks.1:resid_post"


def edit(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """An edit that adds an argument to the residual stream, or of other nodes."""
    added = [
        {"kind": "get", "id": "h", "site": SITE},
        {"kind": "call", "id": "sum", "op": "add", "args": ["$h", "$by"]},
        {"kind": "set", "id": "w", "site": SITE, "value": "$sum"},
    ]
    return {
        "protocol": [1, 1],
        "model": {"id": "tiny"},
        "arguments": {"by": {"default": 1.0}},
        "nodes": list(nodes) or added,
        "lines": {"sum": "steering.py:4"},
    } | changes


def applied(graph: Make, *edits: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A graph whose one input has edits."""
    runs = [{"id": "r", "invokes": [{"id": "a", "text": "$prompt", "edits": list(edits)}]}]
    return graph(protocol=[1, 1], runs=runs, lines={"a": "study.py:3"}, **changes)


@pytest.fixture
def people(
    serve: Callable[..., httpx.Client], settings: Any, signed: Callable[..., httpx.Client], published: Any
) -> dict[str, httpx.Client]:
    """Two people at one gateway."""
    url = serve(settings).base_url
    return {name: signed(url, name) for name in ("ada", "bob")}


def test_an_edit_is_stored_listed_read_replaced_and_deleted(http: httpx.Client) -> None:
    stored = http.put(URL, json=edit())
    assert stored.status_code == 201, stored.text
    told = stored.json()
    assert (told["name"], told["model"], told["nodes"]) == ("steer", "tiny", 3)
    assert told["arguments"] == {"by": {"default": 1.0}}
    assert http.get("/v1/edits").json() == {"edits": [told]}
    assert http.get(URL).json() == {**told, "edit": edit()}
    again = http.put(URL, json=edit(arguments={"by": {}}))
    assert again.status_code == 200
    assert again.json()["version"] != told["version"]
    assert http.delete(URL).status_code == 204
    assert http.get("/v1/edits").json() == {"edits": []}
    for method in ("GET", "DELETE"):
        answer = http.request(method, URL)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert "'steer'" in answer.json()["detail"]


def test_a_worker_gets_the_graph_with_the_edits_in_place(
    http: httpx.Client, worker: Any, graph: Make, submit: Make
) -> None:
    http.put(URL, json=edit())
    document = applied(graph, {"name": "steer"}, {"name": "steer", "arguments": {"by": "$strength"}})
    document["constants"]["strength"] = 3
    body = submit(document, document)
    body["jobs"] = [{"id": new_job_id(), "constants": {"strength": strength}} for strength in (5, 6)]
    answer = http.post("/v1/jobs?wait=10", json=body)
    assert [job["state"] for job in answer.json()["jobs"]] == ["completed"] * 2
    for job, strength in zip(worker.taken, (5, 6), strict=True):
        found = json.loads(job.document)
        ids = [node["id"] for node in found["nodes"]]
        assert ids == ["steer_0_h", "steer_0_sum", "steer_0_w", "steer_1_h", "steer_1_sum", "steer_1_w", "h"]
        assert found["protocol"] == [1, 0]
        assert "edits" not in found["runs"][0]["invokes"][0]
        assert found["nodes"][4]["args"] == ["$steer_1_h", "$strength"]
        assert found["constants"]["strength"] == strength
        assert found["constants"]["steer_by"] == 1.0


def test_an_edit_that_is_replaced_changes_no_job_that_was_accepted(
    http: httpx.Client, worker: Any, graph: Make, submit: Make
) -> None:
    http.put(URL, json=edit())
    worker.paused = True
    body = submit(applied(graph, {"name": "steer"}))
    assert http.post("/v1/jobs", json=body).status_code == 202
    http.put(URL, json=edit(arguments={"by": {"default": 7.0}}))
    http.delete(URL)
    worker.paused = False
    again = http.post("/v1/jobs?wait=10", json=submit(applied(graph)))
    assert again.status_code == 200
    first = json.loads(worker.taken[0].document)
    assert first["constants"]["steer_by"] == 1.0


def test_a_document_may_bring_its_edits_along(http: httpx.Client, worker: Any, graph: Make, submit: Make) -> None:
    http.put(URL, json=edit())
    own = edit(arguments={"by": {"default": 9.0}})
    answer = http.post("/v1/jobs?wait=10", json=submit(applied(graph, {"name": "steer"}, edits={"steer": own})))
    assert answer.json()["jobs"][0]["state"] == "completed", answer.text
    assert json.loads(worker.taken[0].document)["constants"]["steer_by"] == 9.0


def test_edits_of_others_are_not_there(people: dict[str, httpx.Client], graph: Make, submit: Make) -> None:
    ada, bob = people["ada"], people["bob"]
    assert ada.put(URL, json=edit()).status_code == 201
    assert bob.get("/v1/edits").json() == {"edits": []}
    assert bob.get(URL).status_code == bob.delete(URL).status_code == 404
    body = submit(applied(graph, {"name": "steer"}))
    (refused,) = bob.post("/v1/jobs", json=body).json()["jobs"]
    assert refused["error"]["code"] == "not_found"
    assert "no edit 'steer' among yours" in refused["error"]["detail"]
    assert (refused["error"]["file"], refused["error"]["line"]) == ("study.py", 3)
    assert ada.post("/v1/jobs?dry_run=true", json=body).status_code == 200


@pytest.mark.parametrize(
    ("document", "code", "says"),
    [
        (edit(saves={"h": "$h"}), "protocol_error", "saves nothing"),
        (edit(runs=[]), "protocol_error", "runs nothing"),
        (edit(protocol=[1, 9]), "version_error", "not spoken"),
        (edit({"kind": "set", "id": "w", "site": "blocks.9:resid_post", "value": 0}), "unknown_site", "blocks"),
        (edit({"kind": "set", "id": "w", "site": SITE, "value": "$by", "invoke": "a"}), "bad_argument", "leave out"),
        (edit(model={"id": "none"}), "not_found", "none"),
        (edit(model={"id": "tiny", "revision": "old"}), "bad_argument", "revision old"),
        (edit(arguments={"by": {"default": {"tensor": "t"}}}), "bad_argument", "no attachment"),
        (edit(arguments={"by": {"default": {"data": "0" * 64}}}), "not_found", "no upload"),
        (edit(arguments={"by": {"default": {"result": new_job_id(), "name": "h"}}}), "not_found", "no job"),
        (edit(arguments={"by": {"default": [[1.0] * 7]}}), "shape_error", "8"),
    ],
)
def test_what_cannot_be_applied_is_not_stored(
    http: httpx.Client, document: dict[str, Any], code: str, says: str
) -> None:
    answer = http.put(URL, json=document)
    assert answer.json()["code"] == code, answer.text
    assert says in answer.json()["detail"]
    assert http.get(URL).status_code == 404


def test_a_refusal_of_an_edit_names_its_node_and_line(http: httpx.Client) -> None:
    found = http.put(URL, json=edit(arguments={"by": {"default": [1.0] * 7}})).json()
    assert (found["node"], found["file"], found["line"]) == ("sum", "steering.py", 4)


def test_a_name_that_none_can_have_and_a_body_that_is_too_large_are_refused(http: httpx.Client) -> None:
    assert http.put("/v1/edits/a%20b", json=edit()).json()["code"] == "bad_argument"
    assert http.put(URL, json=edit(constants={"long": "x" * 300_000})).json()["code"] == "payload_too_large"


def test_an_edit_that_does_not_fit_where_it_is_applied_is_named(http: httpx.Client, graph: Make, submit: Make) -> None:
    http.put(URL, json=edit())
    body = submit(
        applied(graph, {"name": "steer", "arguments": {"by": [1.0] * 7}}),
        applied(graph, {"name": "steer", "arguments": {"to": 1}}),
        applied(graph),
    )
    first, second, third = http.post("/v1/jobs?dry_run=true", json=body).json()["jobs"]
    assert first["error"]["detail"].startswith("edit 'steer', node 'sum' (steering.py:4): ")
    assert (first["error"]["node"], first["error"]["file"], first["error"]["line"]) == ("a", "study.py", 3)
    assert "no argument 'to'; it takes by" in second["error"]["detail"]
    assert third["price"] is not None


def test_an_edit_whose_result_or_upload_is_gone_is_refused_by_its_name(
    http: httpx.Client, worker: Any, graph: Make, submit: Make
) -> None:
    (job,) = http.post("/v1/jobs?wait=10", json=submit(graph())).json()["jobs"]
    data = encode({"x": Tensor.of(np.ones((1, 8), np.float32))})
    digest = hashlib.sha256(data).hexdigest()
    assert http.put(f"/v1/data/{digest}", content=data).status_code == 200
    forms = {"kept": {"result": job["id"], "name": "h"}, "sent": {"data": digest}}
    for name, form in forms.items():
        nodes = edit()["nodes"]
        nodes[1]["args"] = ["$h", "$v"]
        stored = http.put(f"/v1/edits/{name}", json=edit(*nodes, arguments={}, constants={"v": form}))
        assert stored.status_code == 201, stored.text
    bodies = {name: submit(applied(graph, {"name": name})) for name in forms}
    for name in forms:
        (done,) = http.post("/v1/jobs?wait=10", json=bodies[name]).json()["jobs"]
        assert done["state"] == "completed", done
    assert http.delete(f"/v1/jobs/{job['id']}").status_code == 200
    assert http.delete(f"/v1/data/{digest}").status_code == 204
    for name, what in (
        ("kept", f"edit 'kept' uses a value of job {job['id']}"),
        ("sent", f"edit 'sent' uses upload {digest}"),
    ):
        (refused,) = http.post("/v1/jobs?wait=10", json=submit(applied(graph, {"name": name}))).json()["jobs"]
        assert what in refused["error"]["detail"]
        assert refused["error"]["line"] == 3
    assert http.put("/v1/edits/kept2", json=http.get("/v1/edits/kept").json()["edit"]).json()["code"] == "expired"


def test_an_edits_own_writes_cause_no_warnings(http: httpx.Client, graph: Make, submit: Make) -> None:
    late = {"kind": "set", "id": "w", "site": "blocks.3:resid_post", "value": 0}
    http.put(URL, json=edit(late, arguments={}, lines={}))
    (one,) = http.post("/v1/jobs?dry_run=true", json=submit(applied(graph, {"name": "steer"}))).json()["jobs"]
    assert one.get("warnings", []) == []
    (own,) = http.post("/v1/jobs?dry_run=true", json=submit(applied(graph, nodes=[*graph()["nodes"], late]))).json()[
        "jobs"
    ]
    assert len(own["warnings"]) == 1
