"""``telepatch keys``, ``limits`` and ``usage``: over a gateway, and beside a queue, be it that of ``telepatch up``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from telepatch.cli.app import run
from telepatch_broker.launcher import embedded_valkey

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs a command line: its exit code, and what it printed for programs and for people."""
    for name in ("TELEPATCH_URL", "TELEPATCH_API_KEY", "TELEPATCH_REDIS_URL", "TELEPATCH_KEYS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "160")

    def words(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()  # gateways say where they listen
        code = run(arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return words


@pytest.fixture(params=["gateway", "queue"])
def place(
    request: pytest.FixtureRequest, serve: Callable[..., httpx.Client], settings: Any, key: Callable[..., str]
) -> tuple[str, ...]:
    """Options of the two ways."""
    if request.param == "queue":
        return "--redis-url", settings.redis_url
    return "--url", str(serve(settings).base_url), "--key", key("root", scope="admin")


def test_keys_are_made_listed_rotated_and_removed_the_same_in_both_ways(
    say: Say, place: tuple[str, ...], serve: Callable[..., httpx.Client], settings: Any
) -> None:
    http = serve(settings)

    def status(key: str) -> int:
        return http.get("/v1/me", headers={"Authorization": f"Bearer {key.strip()}"}).status_code

    code, key, about = say("keys", "add", "ada", "--scope", "read", "--expires", "2d", *place)
    assert (code, status(key), key.count("\n")) == (0, 200, 1)
    assert "of ada, scope read, ends 20" in about
    assert place[1].rstrip("/") in about
    [listed] = json.loads(say("keys", "list", "ada", "--json", *place)[1])
    assert (listed["scope"], "key" in listed) == ("read", False)
    table = say("keys", "list", *place)[1]
    assert listed["id"] in table
    assert "ends 20" in table
    code, new, _ = say("keys", "rotate", "ada", *place)
    assert (code, status(key), status(new)) == (0, 401, 200)
    _, other, _ = say("keys", "add", "ada", *place)
    code, _, complaint = say("keys", "rotate", "ada", *place)
    assert (code, "say which with --id" in complaint) == (2, True)
    ids = [one["id"] for one in json.loads(say("keys", "list", "ada", "--json", *place)[1])]
    code, newest, _ = say("keys", "rotate", "ada", "--id", ids[1], "--grace", "1h", *place)
    assert (code, status(other), status(newest)) == (0, 200, 200)
    assert say("keys", "remove", "ada", "--id", ids[0], *place)[:2] == (0, f"removed {ids[0]} of ada\n")
    assert [status(one) for one in (new, other, newest)] == [401, 200, 200]
    code, said, _ = say("keys", "remove", "ada", *place)
    assert (code, said.count("removed")) == (0, 2)
    assert [status(one) for one in (other, newest)] == [401, 401]
    code, _, complaint = say("keys", "remove", "ada", *place)
    assert (code, complaint) == (2, "telepatch: ada has no key here; there are: none\n")


def test_limits_and_usage_are_shown_and_set(
    say: Say,
    place: tuple[str, ...],
    signed: Callable[..., httpx.Client],
    worker: Any,
    graph: Any,
    serve: Any,
    settings: Any,
) -> None:
    ada = signed(serve(settings).base_url, "ada")
    assert ada.post("/v1/jobs?wait=20", json=graph()).status_code == 200
    code, table, _ = say(
        "limits", "ada", "--jobs-queued", "1_000", "--models", "tiny,other", "--bytes-stored", "none", *place
    )
    assert code == 0
    assert "tiny, other" in table
    assert ada.get("/v1/me").json()["may"]["jobs_queued"] == 1000
    found = json.loads(say("limits", "ada", "--jobs-queued", "usual", "--json", *place)[1])
    assert (found["own"], found["limits"]["bytes_stored"]) == (["bytes_stored", "models"], None)
    code, _, complaint = say("limits", "ada", "--job-tokens", "few", *place)
    assert (code, "job_tokens cannot be 'few'" in complaint) == (2, True)
    [day] = json.loads(say("usage", "ada", "--days", "2", "--json", *place)[1])
    assert (day["jobs"], day["bytes"] > 0) == (1, True)
    assert day["day"] in say("usage", *place)[1]


def test_a_key_that_may_not_administer_ends_with_refused(
    say: Say,
    serve: Callable[..., httpx.Client],
    settings: Any,
    key: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = str(serve(settings).base_url)
    monkeypatch.setenv("TELEPATCH_URL", url)
    monkeypatch.setenv("TELEPATCH_API_KEY", key("ada"))
    code, _, complaint = say("keys", "list")
    assert (code, "needs 'admin'" in complaint) == (4, True)
    monkeypatch.setenv("TELEPATCH_API_KEY", key("root", scope="admin"))
    assert say("keys", "list")[0] == 0
    monkeypatch.delenv("TELEPATCH_URL")
    monkeypatch.setenv("TELEPATCH_REDIS_URL", settings.redis_url)
    assert say("keys", "list", "ada")[1].count("ada") == 1


def test_the_service_of_up_gets_keys_whether_it_runs_or_not(say: Say, tmp_path: Path) -> None:
    home = ("--home", str(tmp_path))
    code, key, about = say("keys", "add", "ada", *home)
    assert (code, key[:3]) == (0, "tp_")
    assert str(tmp_path) in about
    with embedded_valkey(tmp_path / "valkey"):
        assert say("keys", "add", "bob", *home)[0] == 0
    people = [one["person"] for one in json.loads(say("keys", "list", "--json", *home)[1])]
    assert people == ["ada", "bob"]


def test_an_old_keys_file_is_taken_over_even_while_the_environment_still_names_it(
    say: Say, settings: Any, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    salted = hashlib.sha256(b"\x01tp_old").hexdigest()
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"version": 1, "keys": [{"name": "ada", "salt": "01", "hash": salted, "created": 1}]}))
    monkeypatch.setenv("TELEPATCH_KEYS_FILE", str(file))
    place = ("--redis-url", settings.redis_url)
    code, said, _ = say("keys", "import", str(file), *place)
    assert (code, said.startswith("took over k"), said.endswith(" of ada\n")) == (0, True, True)
    assert "before" in say("keys", "import", str(file), *place)[1]
    for content, complains in (("[]", "object"), ("no json", "no keys file"), ('{"keys": 1}', "keys")):
        file.write_text(content)
        code, _, complaint = say("keys", "import", str(file), *place)
        assert (code, complains in complaint, complaint.count("\n")) == (2, True, 1), complaint
    code, _, complaint = say("keys", "import", str(tmp_path / "none.json"), *place)
    assert (code, "none.json cannot be read" in complaint) == (2, True)


@pytest.mark.parametrize(
    ("words", "complains"),
    [
        (("keys", "add", "ada", "--url", "http://x", "--home", "y"), "give one of --url, --redis-url and --home"),
        (("keys", "add", "ada", "--url", "gopher://x"), "gopher"),
        (("keys", "add", "ada", "--redis-url", "localhost"), "localhost"),
        (("keys", "add", "two words", "--redis-url", "REDIS"), "two words"),
        (("keys", "add", "ada", "--expires", "soon", "--redis-url", "REDIS"), "'soon' is no time; such as"),
        (("keys", "rotate", "ada", "--redis-url", "REDIS"), "ada has no key here"),
    ],
)
def test_what_cannot_be_is_one_line_and_a_usage_error(
    say: Say, redis_url: str, words: tuple[str, ...], complains: str
) -> None:
    code, out, complaint = say(*(redis_url if word == "REDIS" else word for word in words))
    assert (code, out, complaint.count("\n")) == (2, "", 1)
    assert complains in complaint


def test_a_place_that_does_not_answer_is_named(say: Say) -> None:
    code, _, complaint = say("keys", "list", "--url", "http://127.0.0.1:9")
    assert (code, "http://127.0.0.1:9" in complaint) == (3, True)
