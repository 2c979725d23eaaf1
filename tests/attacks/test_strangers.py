"""Other people's jobs, results, uploads, edits and events, asked for by everybody who should not have them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from telepatch_protocol.data_files import encode
from telepatch_protocol.jobs import new_job_id
from telepatch_protocol.tensors import Tensor

Make = Callable[..., dict[str, Any]]

FILE = encode({"x": Tensor.of(np.arange(12.0).reshape(3, 4))})
DIGEST = hashlib.sha256(FILE).hexdigest()
EDIT = {"protocol": [1, 1], "model": {"id": "tiny"}}
EDIT |= {"nodes": [{"kind": "set", "id": "w", "site": "blocks.1:resid_post", "value": 0}]}


@pytest.fixture
def hers(people: dict[str, httpx.Client], graph: Make, submit: Make, worker: Any) -> str:
    """The id of a job that Ada has completed; she also has an upload and an edit."""
    ada = people["ada"]
    [job] = ada.post("/v1/jobs?wait=10", json=submit(graph())).json()["jobs"]
    assert job["state"] == "completed"
    assert ada.put(f"/v1/data/{DIGEST}", content=FILE).status_code == 200
    assert ada.put("/v1/edits/zero", json=EDIT).status_code == 201
    return str(job["id"])


def test_nothing_of_somebody_else_can_be_told_from_nothing_at_all(people: dict[str, httpx.Client], hers: str) -> None:
    """The same answer, word for word, for what is another's and for what nobody has: ids cannot be probed."""
    bob, nobody_has = people["bob"], new_job_id()
    calls = [
        ("GET", "/v1/jobs/{}", hers, nobody_has),
        ("DELETE", "/v1/jobs/{}", hers, nobody_has),
        ("GET", "/v1/jobs/{}/result", hers, nobody_has),
        ("HEAD", "/v1/jobs/{}/result", hers, nobody_has),
        ("GET", "/v1/jobs/{}/result?format=json", hers, nobody_has),
        ("GET", "/v1/data/{}", DIGEST, "0" * 64),
        ("DELETE", "/v1/data/{}", DIGEST, "0" * 64),
        ("GET", "/v1/edits/{}", "zero", "one"),
        ("DELETE", "/v1/edits/{}", "zero", "one"),
    ]
    for method, path, real, made_up in calls:
        answers = [bob.request(method, path.format(id)) for id in (real, made_up)]
        assert {one.status_code for one in answers} == {404}, path
        texts = {one.text.replace(real, "ID").replace(made_up, "ID") for one in answers}
        assert len(texts) == 1, path
        assert {tuple(sorted(one.headers)) for one in answers} == {tuple(sorted(answers[0].headers))}
    frames = [bob.post("/v1/results", json={"jobs": [id]}).content for id in (hers, nobody_has)]
    assert frames[0].replace(hers.encode(), b"ID") == frames[1].replace(nobody_has.encode(), b"ID")
    assert people["ada"].get(f"/v1/jobs/{hers}/result").status_code == 200, "and it is all still there"
    assert people["ada"].get(f"/v1/data/{DIGEST}").status_code == 200
    assert people["ada"].get("/v1/edits/zero").status_code == 200


def test_a_cache_tag_or_range_of_hers_opens_nothing(people: dict[str, httpx.Client], hers: str) -> None:
    for headers in (
        {"If-None-Match": f'"{hers}"'},
        {"If-None-Match": "*"},
        {"Range": "bytes=0-10"},
        {"If-Range": f'"{hers}"'},
    ):
        assert people["bob"].get(f"/v1/jobs/{hers}/result", headers=headers).status_code == 404
        assert people["bob"].get(f"/v1/data/{DIGEST}", headers=headers).status_code == 404


def test_documents_reach_nothing_of_somebody_else(people: dict[str, httpx.Client], graph: Make, hers: str) -> None:
    def using(**constant: Any) -> dict[str, Any]:
        node = {"kind": "call", "id": "s", "op": "sum", "args": ["$c"]}
        return graph(constants={"prompt": "hi", "layer": 1, "c": constant}, nodes=[node], saves={"s": "$s"})

    documents = [
        using(result=hers, name="h"),
        using(result=hers.upper(), name="h"),
        using(result=str(uuid.UUID(hers).hex), name="h"),
        using(data=DIGEST),
        using(data=DIGEST.upper()),
        using(tensor="x"),
        graph(runs=[{"id": "r", "invokes": [{"id": "a", "text": "hi", "edits": [{"name": "zero"}]}]}], protocol=[1, 1]),
        graph(runs=[{"id": "r", "invokes": [{"id": "a", "ids": {"result": hers, "name": "h"}}]}]),
        graph(runs=[{"id": "r", "invokes": [{"id": "a", "ids": {"data": DIGEST}}]}]),
    ]
    for document in documents:
        answer = people["bob"].post("/v1/jobs", json={"documents": [document], "jobs": [{"id": new_job_id()}]})
        assert answer.status_code == 422, document
        assert answer.json()["jobs"][0].get("state") is None
    assert (
        people["ada"]
        .post("/v1/jobs", json={"documents": [using(data=DIGEST)], "jobs": [{"id": new_job_id()}]})
        .status_code
        == 202
    )


def test_an_id_that_somebody_else_has_used_is_no_way_to_it(
    people: dict[str, httpx.Client], graph: Make, hers: str
) -> None:
    body = {"documents": [graph()], "jobs": [{"id": hers}]}
    for query in ("", "?wait=5", "?wait=5&format=json"):
        [job] = people["bob"].post(f"/v1/jobs{query}", json=body).json()["jobs"]
        assert job["error"]["code"] == "conflict"
        assert not {"state", "result", "values", "saves"} & {name for name, value in job.items() if value}
    assert people["bob"].get("/v1/jobs").json()["jobs"] == []
    assert people["ada"].get(f"/v1/jobs/{hers}").json()["state"] == "completed"


def events(client: httpx.Client, query: str = "", headers: dict[str, str] | None = None) -> str:
    """All of a stream up to its first heartbeat."""
    found = []
    with client.stream("GET", f"/v1/events{query}", headers=headers or {}) as answer:
        if answer.status_code != 200:
            answer.read()
            return f"{answer.status_code}"
        for text in answer.iter_lines():
            if text.startswith(": heartbeat"):
                break
            found.append(text)
    return "\n".join(found)


def test_places_of_her_stream_show_nothing_in_his(people: dict[str, httpx.Client], hers: str) -> None:
    ada, bob = people["ada"], people["bob"]
    told = events(ada, "?after=0-0")
    assert hers in told
    places = [text.removeprefix("id: ") for text in told.splitlines() if text.startswith("id: ")]
    for place in {"0-0", *places}:
        for query, headers in (
            (f"?after={place}", {}),
            ("", {"Last-Event-ID": place}),
            (f"?after={place}&job={hers}", {}),
        ):
            assert hers not in events(bob, query, headers)
    assert hers not in events(bob, f"?job={hers}")


@pytest.mark.parametrize(
    "place",
    [
        "-",
        "+",
        "$",
        "*",
        "0",
        "(0-0",
        "0-0 COUNT 9",
        "99999999999999999999-0",
        "-1-0",
        "٠-٠",
        "0-0\x00",
        "0x0-0",
        "1e3-0",
    ],
)
def test_a_place_that_is_none_is_refused(people: dict[str, httpx.Client], place: str) -> None:
    answer = people["bob"].get("/v1/events", params={"after": place})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_argument")


def test_a_place_in_the_far_future_tells_nothing_and_breaks_nothing(people: dict[str, httpx.Client], hers: str) -> None:
    assert hers not in events(people["ada"], "?after=9999999999999999999-9999999999999999999")


def test_a_list_of_jobs_goes_on_behind_nobody_else_s(people: dict[str, httpx.Client], hers: str) -> None:
    assert people["bob"].get("/v1/jobs", params={"cursor": hers}).json()["jobs"] == []
    assert people["bob"].get("/v1/jobs", params={"cursor": "ffffffff-ffff-ffff-ffff-ffffffffffff"}).json()["jobs"] == []
    for cursor in ("+", "[z", "(0", "\x00", hers + "\n"):
        assert people["bob"].get("/v1/jobs", params={"cursor": cursor}).status_code == 422


def test_the_same_bytes_of_two_people_are_two_uploads(people: dict[str, httpx.Client], hers: str) -> None:
    """Whoever guesses the digest of what another has sent learns nothing by sending a first part of it."""
    bob = people["bob"]
    begun = bob.put(f"/v1/data/{DIGEST}", headers={"Content-Range": f"bytes */{len(FILE)}"})
    assert begun.json()["received"] == 0
    assert bob.get(f"/v1/data/{DIGEST}", headers={"Accept": "application/octet-stream"}).status_code == 409
    assert bob.delete(f"/v1/data/{DIGEST}").status_code == 204
    assert people["ada"].get(f"/v1/data/{DIGEST}").content == FILE


def test_what_machines_watch_names_no_person_and_no_job(people: dict[str, httpx.Client], hers: str) -> None:
    for path in ("/metrics", "/healthz", "/readyz", "/openapi.json"):
        text = people["nobody"].get(path).text
        assert hers not in text
        assert "ada" not in text.split()
        assert '"ada"' not in text
