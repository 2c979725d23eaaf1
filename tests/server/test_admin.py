"""People, keys, limits and usage, over HTTP."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

Make = Callable[..., dict[str, Any]]
Sign = Callable[..., httpx.Client]


@pytest.fixture
def root(serve: Callable[..., httpx.Client], settings: Any, signed: Sign, published: Any) -> httpx.Client:
    """Somebody with a key of the scope ``admin``."""
    return signed(serve(settings).base_url, "root", scope="admin")


def me(root: httpx.Client, key: str) -> httpx.Response:
    return httpx.get(f"{root.base_url}/v1/me", headers={"Authorization": f"Bearer {key}"})


def test_a_key_is_made_listed_rotated_and_removed(root: httpx.Client) -> None:
    made = root.post("/v1/admin/keys", json={"person": "ada", "scope": "read", "expires_seconds": 3600})
    assert made.status_code == 201, made.text
    key = made.json()
    told = me(root, key["key"]).json()
    assert (told["person"], told["scope"], told["key"]) == ("ada", "read", key["id"])
    assert abs(key["expires"] - time.time() - 3600) < 60
    listed = root.get("/v1/admin/keys?person=ada").json()["keys"]
    assert [one["id"] for one in listed] == [key["id"]]
    assert "tp_" not in root.get("/v1/admin/keys").text
    assert len(root.get("/v1/admin/keys").json()["keys"]) == 2
    new = root.post(f"/v1/admin/keys/{key['id']}/rotation", json={"grace_seconds": 60}).json()
    assert (new["person"], new["scope"]) == ("ada", "read")
    assert (me(root, key["key"]).status_code, me(root, new["key"]).status_code) == (200, 200)
    assert root.delete(f"/v1/admin/keys/{key['id']}").status_code == 204
    assert (me(root, key["key"]).status_code, me(root, new["key"]).status_code) == (401, 200)
    for answer in (
        root.delete(f"/v1/admin/keys/{key['id']}"),
        root.post(f"/v1/admin/keys/{key['id']}/rotation", json={}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert key["id"] in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, "person"), ({"person": "two words"}, "two words"), ({"person": "ada", "scope": "root"}, "scope"),
        ({"person": "ada", "expires_seconds": 0}, "expires_seconds"), ({"person": "ada", "name": "x"}, "name"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_made_says_why(root: httpx.Client, body: dict[str, Any], names: str) -> None:
    answer = root.post("/v1/admin/keys", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_argument")
    assert names in answer.json()["detail"]


def test_keys_of_an_old_file_are_taken_over_once(root: httpx.Client) -> None:
    salted = hashlib.sha256(b"\x01tp_old").hexdigest()
    file = {"version": 1, "keys": [{"name": "ada", "salt": "01", "hash": salted, "created": 1}]}
    taken = root.post("/v1/admin/keys/import", json=file)
    assert (taken.status_code, [one["person"] for one in taken.json()["keys"]]) == (201, ["ada"])
    assert me(root, "tp_old").json()["person"] == "ada"
    assert root.post("/v1/admin/keys/import", json=file).json() == {"keys": []}
    for wrong in ({"version": 2, "keys": []}, {"keys": [{"name": "ada", "salt": "xx", "hash": salted, "created": 1}]}):
        assert root.post("/v1/admin/keys/import", json=wrong).status_code == 422


def test_a_person_is_given_limits_and_the_usual_ones_back(root: httpx.Client, settings: Any) -> None:
    changed = root.patch("/v1/admin/people/ada", json={"limits": {"jobs_queued": "5", "models": "a,b"}})
    assert changed.status_code == 200, changed.text
    assert (changed.json()["limits"]["jobs_queued"], changed.json()["limits"]["models"]) == (5, ["a", "b"])
    assert changed.json()["own"] == ["jobs_queued", "models"]
    assert root.get("/v1/admin/people/ada").json() == changed.json()
    assert [one["person"] for one in root.get("/v1/admin/people").json()["people"]] == ["ada", "root"]
    back = root.patch("/v1/admin/people/ada", json={"limits": {"jobs_queued": None}}).json()
    assert (back["limits"]["jobs_queued"], back["own"]) == (settings.gateway_jobs_queued, ["models"])
    unknown = root.get("/v1/admin/people/nobody").json()
    assert (unknown["own"], unknown["has"]["jobs_queued"]) == ([], 0)
    for wrong in ({"limits": {}}, {"limits": {"jobs": "5"}}, {"limits": {"jobs_queued": "0"}}):
        answer = root.patch("/v1/admin/people/ada", json=wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "bad_argument"), wrong


def test_usage_is_told_by_person_and_day(
    root: httpx.Client, signed: Sign, worker: Any, graph: Make, submit: Make
) -> None:
    for name, jobs in (("ada", 2), ("bob", 1)):
        who = signed(root.base_url, name)
        assert who.post("/v1/jobs?wait=20", json=submit(*[graph()] * jobs)).status_code == 200
    found = root.get("/v1/admin/usage").json()["usage"]
    assert [(one["person"], one["jobs"], one["bytes"] > 0) for one in found] == [("ada", 2, True), ("bob", 1, True)]
    assert all(one["seconds"] >= 0 and one["day"][:2] == "20" for one in found)
    assert root.get("/v1/admin/usage?person=bob&days=1").json()["usage"] == [found[1]]
    assert root.get("/v1/admin/usage?days=401").status_code == 422
