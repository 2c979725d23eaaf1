"""A person sees only what is theirs, and a key does only what it is good for: every call of the OpenAPI document."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from telepatch_protocol.tensors import Tensor, encode
from telepatch_server.app import create_app
from telepatch_server.settings import Settings

CALLS = sorted(
    f"{method.upper()} {path}"
    for path, methods in create_app(Settings()).openapi()["paths"].items()
    for method in methods
)

Make = Callable[..., dict[str, Any]]
UPLOAD = encode({"x": Tensor.of(np.ones((2, 3), np.float32))})
NOBODYS = {
    "job": "0190aaaa-0000-7000-8000-000000000000",
    "sha256": "f" * 64,
    "edit": "nobodys",
}
"""Things that nobody has."""


@dataclass
class Case:
    """A gateway with Ada, who has a job that ended, one that waits, an upload and an edit, and Bob, who has nothing."""

    ada: httpx.Client
    bob: httpx.Client
    graph: Make
    submit: Make
    things: dict[str, str]
    waiting: str

    def using(self, constants: dict[str, Any]) -> dict[str, Any]:
        """A submission with a value that belongs to somebody."""
        document = self.graph(constants={"prompt": "x", "layer": 1, **constants}, saves={"r": "$r"})
        return self.submit(document)


@pytest.fixture
def case(
    serve: Callable[..., httpx.Client],
    settings: Any,
    signed: Callable[..., httpx.Client],
    worker: Any,
    graph: Make,
    submit: Make,
) -> Case:
    url = serve(settings).base_url
    ada, bob = signed(url, "ada"), signed(url, "bob")
    [job] = ada.post("/v1/jobs?wait=20", json=submit(graph())).json()["jobs"]
    assert job["state"] == "completed"
    worker.paused = True
    waiting: dict[str, Any] = {}
    while waiting.get("state") != "queued":  # it may have been about to take one more
        [sent] = ada.post("/v1/jobs", json=submit(graph())).json()["jobs"]
        time.sleep(0.5)
        waiting = ada.get(f"/v1/jobs/{sent['id']}").json()
    digest = hashlib.sha256(UPLOAD).hexdigest()
    assert ada.put(f"/v1/data/{digest}", content=UPLOAD).status_code == 200
    edit = {"protocol": [1, 1], "model": {"id": "tiny"}, "nodes": []}
    edit["nodes"] = [{"kind": "set", "id": "w", "site": "blocks.1:resid_post", "value": 0}]
    assert ada.put("/v1/edits/steer", json=edit).status_code == 201
    return Case(ada, bob, graph, submit, {"job": job["id"], "sha256": digest, "edit": "steer"}, waiting["id"])


def told(answer: httpx.Response, thing: str) -> tuple[Any, ...]:
    """All that an answer says, but for the name of the thing that was asked for."""
    chance = ("date", "content-length", "x-request-id")
    quiet = {name: value for name, value in answer.headers.items() if name not in chance}
    return (
        answer.status_code,
        answer.text.replace(thing, "THING").replace(answer.headers.get("x-request-id", "-"), "ID"),
        quiet,
    )


def frames(content: bytes) -> list[dict[str, Any]]:
    """The headers of the frames of an answer with results."""
    found = []
    while content:
        (length,) = struct.unpack_from("<I", content)
        found.append(json.loads(content[4 : 4 + length]))
        content = content[4 + length + found[-1]["size"] :]
    return found


OF_ONE = {
    "GET /v1/jobs/{id}": "job",
    "DELETE /v1/jobs/{id}": "job",
    "GET /v1/jobs/{id}/result": "job",
    "HEAD /v1/jobs/{id}/result": "job",
    "GET /v1/data/{sha256}": "sha256",
    "HEAD /v1/data/{sha256}": "sha256",
    "DELETE /v1/data/{sha256}": "sha256",
    "GET /v1/edits/{name}": "edit",
    "DELETE /v1/edits/{name}": "edit",
}
"""Calls that name one thing of somebody's: for others it is not there, in the words that say so of what is nowhere."""


def jobs_list(case: Case) -> None:
    assert case.bob.get("/v1/jobs").json()["jobs"] == []


def data_list(case: Case) -> None:
    found = case.bob.get("/v1/data").json()
    assert (found["uploads"], found["bytes"]) == ([], 0)


def edits_list(case: Case) -> None:
    assert case.bob.get("/v1/edits").json()["edits"] == []


def me(case: Case) -> None:
    ours, theirs = (who.get("/v1/me").json() for who in (case.ada, case.bob))
    assert (ours["has"]["jobs_queued"], ours["has"]["uploads"], len(ours["usage"])) == (1, len(UPLOAD), 1)
    assert (theirs["person"], theirs["usage"], theirs["data"]["bytes"]) == ("bob", [], 0)
    assert {name for name, amount in theirs["has"].items() if amount} == {"today"}
    assert not any(theirs["has"]["today"].values())


def events(case: Case) -> None:
    query = f"?after=0-0&job={case.things['job']}"
    heard = {}
    for name, who in (("ada", case.ada), ("bob", case.bob)):
        with who.stream("GET", f"/v1/events{query}") as stream:
            lines = []
            for line in stream.iter_lines():
                lines.append(line)
                if line.startswith((":", "event: completed")):  # a heartbeat, or what Ada waits for
                    break
        heard[name] = [line for line in lines if line.startswith("event:")]
    assert "event: completed" in heard["ada"]
    assert heard["bob"] == []


def results(case: Case) -> None:
    asked = [case.things["job"], NOBODYS["job"]]
    [theirs, nobodys] = frames(case.bob.post("/v1/results", json={"jobs": asked}).content)
    assert theirs["error"]["code"] == "not_found"
    assert json.dumps(theirs).replace(asked[0], "THING") == json.dumps(nobodys).replace(asked[1], "THING")


def cancelling(case: Case) -> None:
    asked = [case.waiting, NOBODYS["job"]]
    theirs, nobodys = case.bob.post("/v1/jobs/cancel", json={"jobs": asked}).json()["jobs"]
    assert theirs["error"]["code"] == "not_found"
    assert json.dumps(theirs).replace(asked[0], "THING") == json.dumps(nobodys).replace(asked[1], "THING")
    assert case.bob.post("/v1/jobs/cancel", json={"jobs": "all"}).json()["jobs"] == []
    assert case.ada.get(f"/v1/jobs/{case.waiting}").json()["state"] == "queued"


def submission(case: Case) -> None:
    said = []
    for things in (case.things, NOBODYS):
        used = [
            case.using({"r": {"result": things["job"], "name": "h"}}),
            case.using({"r": {"data": things["sha256"]}}),
            edited(case, things["edit"]),
        ]
        for body, thing in zip(used, things.values(), strict=True):
            answer = case.bob.post("/v1/jobs", json=body)
            [one] = answer.json()["jobs"]
            assert one["error"]["code"] == "not_found", one
            said.append(answer.text.replace(thing, "THING").replace(one["id"], "ID"))
    assert said[:3] == said[3:]


def edited(case: Case, edit: str) -> dict[str, Any]:
    runs = [{"id": "r", "invokes": [{"id": "a", "text": "$prompt", "edits": [{"name": edit}]}]}]
    return case.submit(case.graph(protocol=[1, 1], runs=runs, lines={"a": "study.py:3"}))


def upload(case: Case) -> None:
    """Who sends the same bytes has an upload of their own, and learns nothing of that of the other."""
    begun = case.bob.put(f"/v1/data/{case.things['sha256']}", headers={"Content-Range": f"bytes */{len(UPLOAD)}"})
    assert (begun.status_code, begun.json()["received"]) == (202, 0)
    assert case.ada.get(f"/v1/data/{case.things['sha256']}").content == UPLOAD


def edit_put(case: Case) -> None:
    """An edit of the same name is another one; what is somebody else's cannot be used in it, as if it were nowhere."""
    said = []
    for things in (case.things, NOBODYS):
        for constant, thing in (
            ({"result": things["job"], "name": "h"}, things["job"]), ({"data": things["sha256"]}, things["sha256"]),
        ):  # fmt: skip
            nodes = [{"kind": "set", "id": "w", "site": "blocks.1:resid_post", "value": "$c"}]
            body = {"protocol": [1, 1], "model": {"id": "tiny"}, "constants": {"c": constant}, "nodes": nodes}
            answer = case.bob.put("/v1/edits/mine", json=body)
            said.append(told(answer, thing))
            assert answer.status_code == 404
    assert said[:2] == said[2:]
    plain = {"protocol": [1, 1], "model": {"id": "tiny"}, "nodes": []}
    plain["nodes"] = [{"kind": "set", "id": "w", "site": "blocks.2:resid_post", "value": 1}]
    assert case.bob.put("/v1/edits/steer", json=plain).status_code == 201
    assert case.ada.get("/v1/edits/steer").json()["edit"]["nodes"][0]["value"] == 0


def not_a_worker(method: str, path: str) -> Callable[[Case], None]:
    def check(case: Case) -> None:
        assert case.bob.request(method, path.replace("{name}", "x")).status_code == 403  # whatever is there

    return check


def not_an_admin(method: str, path: str) -> Callable[[Case], None]:
    """Who may not administer is told so whatever they ask for, whether it is there or not."""

    def check(case: Case) -> None:
        [key] = [case.ada.get("/v1/me").json()["key"]]
        said = []
        for thing, person in ((key, "ada"), ("k000000000000", "nobody")):
            answer = case.bob.request(method, path.replace("{id}", thing).replace("{name}", person))
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            said.append(told(answer, thing))
        assert said[0] == said[1]

    return check


def of_nobody(case: Case) -> None:
    """The call shows nothing that belongs to anybody."""


OTHERWISE: dict[str, Callable[[Case], None]] = {
    "GET /v1/jobs": jobs_list,
    "POST /v1/jobs": submission,
    "POST /v1/jobs/cancel": cancelling,
    "POST /v1/results": results,
    "GET /v1/events": events,
    "GET /v1/data": data_list,
    "PUT /v1/data/{sha256}": upload,
    "GET /v1/edits": edits_list,
    "PUT /v1/edits/{name}": edit_put,
    "GET /v1/me": me,
    **dict.fromkeys(("GET /v1/models", "GET /v1/models/{id}", "POST /v1/tokenize", "POST /v1/detokenize"), of_nobody),
    **dict.fromkeys(("GET /healthz", "GET /readyz", "GET /metrics"), of_nobody),
    **{call: not_a_worker(*call.split()) for call in CALLS if call.split()[1].startswith("/v1/worker/")},
    **{call: not_an_admin(*call.split()) for call in CALLS if call.split()[1].startswith("/v1/admin/")},
}
"""How each other call keeps apart what belongs to different people."""


def test_the_tables_have_every_call_and_no_other() -> None:
    assert sorted([*OF_ONE, *OTHERWISE]) == CALLS
    assert sorted(SCOPES) == CALLS


@pytest.mark.parametrize("call", OF_ONE)
def test_what_is_somebody_elses_is_not_there_in_the_same_words_as_what_is_nowhere(case: Case, call: str) -> None:
    kind, (method, path) = OF_ONE[call], call.split()
    said = []
    for thing in (case.things[kind], NOBODYS[kind]):
        answer = case.bob.request(method, re.sub(r"\{\w+\}", thing, path))
        assert answer.status_code == 404
        said.append(told(answer, thing))
    assert said[0] == said[1]
    for other in [case.waiting] if kind == "job" else []:
        assert case.bob.request(method, re.sub(r"\{\w+\}", other, path)).status_code == 404
        assert case.ada.get(f"/v1/jobs/{other}").json()["state"] == "queued"
    # It was there all the while, and still is.
    assert case.ada.request(method, re.sub(r"\{\w+\}", case.things[kind], path)).status_code < 300


@pytest.mark.parametrize("call", OTHERWISE)
def test_every_other_call_keeps_people_apart(case: Case, call: str) -> None:
    OTHERWISE[call](case)


def test_the_id_of_somebody_elses_job_is_of_no_use_for_a_job_of_ones_own(case: Case) -> None:
    body = case.submit(case.graph())
    body["jobs"][0]["id"] = case.things["job"]
    [one] = case.bob.post("/v1/jobs", json=body).json()["jobs"]
    assert one["error"]["code"] == "conflict"
    assert case.ada.get(f"/v1/jobs/{case.things['job']}/result").status_code == 200


LEVELS = ("none", "read", "submit", "admin")
ANYBODY, READ, SUBMIT, ADMIN, WORKER = range(5)
SCOPES: dict[str, int] = {
    **dict.fromkeys(("GET /healthz", "GET /readyz", "GET /metrics"), ANYBODY),
    **dict.fromkeys(
        (
            "GET /v1/jobs", "GET /v1/jobs/{id}", "GET /v1/jobs/{id}/result", "HEAD /v1/jobs/{id}/result",
            "POST /v1/results", "GET /v1/data", "GET /v1/data/{sha256}", "HEAD /v1/data/{sha256}", "GET /v1/edits",
            "GET /v1/edits/{name}", "GET /v1/events", "GET /v1/models", "GET /v1/models/{id}", "POST /v1/tokenize",
            "POST /v1/detokenize", "GET /v1/me",
        ),
        READ,
    ),
    **dict.fromkeys(
        (
            "POST /v1/jobs", "POST /v1/jobs/cancel",
            "DELETE /v1/jobs/{id}", "PUT /v1/data/{sha256}", "DELETE /v1/data/{sha256}",
            "PUT /v1/edits/{name}", "DELETE /v1/edits/{name}",
        ),
        SUBMIT,
    ),
    **dict.fromkeys(
        (
            "GET /v1/admin/models", "POST /v1/admin/models", "DELETE /v1/admin/models/{id}", "GET /v1/admin/workers",
            "POST /v1/admin/workers/{id}/drain", "GET /v1/admin/keys",
            "POST /v1/admin/keys", "POST /v1/admin/keys/import",
            "POST /v1/admin/keys/{id}/rotation",
            "DELETE /v1/admin/keys/{id}", "GET /v1/admin/people", "GET /v1/admin/people/{name}",
            "PATCH /v1/admin/people/{name}", "GET /v1/admin/usage",
        ),
        ADMIN,
    ),
    **dict.fromkeys(
        (
            "GET /v1/worker/blobs", "PUT /v1/worker/blobs/{name}", "GET /v1/worker/blobs/{name}",
            "HEAD /v1/worker/blobs/{name}", "DELETE /v1/worker/blobs/{name}",
        ),
        WORKER,
    ),
}  # fmt: skip
"""The least that a key must be good for; nobody's key is good for what workers do."""


@pytest.fixture
def levels(
    serve: Callable[..., httpx.Client], settings: Any, signed: Callable[..., httpx.Client], published: Any
) -> dict[str, httpx.Client]:
    """The same person with keys of each scope, and nobody."""
    nobody = serve(settings.model_copy(update={"worker_token": "0123456789abcdef"}))
    return {"none": nobody, **{scope: signed(nobody.base_url, "ada", scope=scope) for scope in LEVELS[1:]}}


POSSIBLE = {"{id}": NOBODYS["job"], "{sha256}": NOBODYS["sha256"]}


def place_of(call: str) -> str:
    """A path of the call, with things in it that may be."""
    return re.sub(r"\{\w+\}", lambda found: POSSIBLE.get(found[0], "x"), call.split()[1])


@pytest.mark.parametrize("call", SCOPES)
def test_a_key_is_good_for_the_calls_of_its_scope_and_for_no_other(levels: dict[str, httpx.Client], call: str) -> None:
    method = call.split()[0]
    for rank, (level, client) in enumerate(levels.items()):
        with client.stream(method, place_of(call)) as answer:
            status = answer.status_code
        if SCOPES[call] <= rank:
            assert status not in (401, 403, 429), (level, status)
        else:
            assert status == (401 if rank == 0 or SCOPES[call] == WORKER else 403), (level, status)


def test_a_key_that_is_not_good_enough_says_which_would_be(levels: dict[str, httpx.Client]) -> None:
    answer = levels["read"].post("/v1/jobs", json={})
    assert answer.json()["code"] == "forbidden"
    assert "good for 'read', and POST /v1/jobs needs 'submit'" in answer.json()["detail"]
    assert "--scope submit" in answer.json()["detail"]


def test_without_keys_nobody_administers(http: httpx.Client) -> None:
    for call in (call for call, least in SCOPES.items() if least == ADMIN):
        method, path = call.split()
        answer = http.request(method, path.replace("{", "").replace("}", ""))
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), call
