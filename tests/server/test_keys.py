"""The keys file."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from telepatch_protocol.errors import BadArgument, Conflict, NotFound, Unavailable
from telepatch_server import keys


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "secret" / "keys.json"


def test_a_key_is_known_as_its_persons(file: Path) -> None:
    ada, bob = keys.add(file, "ada"), keys.add(file, "bob")
    ring = keys.KeyRing(file)
    assert ada.startswith("tp_")
    assert (ring.person(ada), ring.person(bob), ring.person("tp_other"), ring.person("")) == ("ada", "bob", None, None)


def test_the_file_holds_no_key_and_only_its_owner_reads_it(file: Path) -> None:
    key = keys.add(file, "ada")
    assert key not in file.read_text()
    assert key.removeprefix("tp_") not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


def test_the_same_secret_would_be_hashed_differently_for_two_people(file: Path) -> None:
    assert keys._hash("00", "tp_x") != keys._hash("01", "tp_x")


def test_a_running_gateway_sees_keys_come_and_go(file: Path) -> None:
    ada = keys.add(file, "ada")
    ring = keys.KeyRing(file)
    bob = keys.add(file, "bob")
    assert ring.person(bob) == "bob"
    keys.remove(file, "ada")
    assert ring.person(ada) is None


def test_a_key_that_was_good_is_known_without_hashing_against_all_and_not_after_it_was_removed(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [keys.add(file, f"person-{number}") for number in range(5)]
    ring, hashed = keys.KeyRing(file), []
    real = keys._hash
    monkeypatch.setattr(keys, "_hash", lambda salt, key: hashed.append(salt) or real(salt, key))
    assert [ring.person(made[3]) for _ in range(4)] == ["person-3"] * 4
    assert len(hashed) == 5
    assert [ring.person("tp_wrong") for _ in range(2)] == [None, None]
    assert len(hashed) == 15
    keys.remove(file, "person-3")
    assert ring.person(made[3]) is None


def test_names_are_listed_in_order_and_given_once(file: Path) -> None:
    keys.add(file, "zoe")
    keys.add(file, "ada")
    assert keys.listing(file) == ["zoe", "ada"]
    with pytest.raises(Conflict, match="ada has a key"):
        keys.add(file, "ada")
    with pytest.raises(NotFound, match="zoe, ada"):
        keys.remove(file, "bob")


def test_a_folder_that_cannot_be_is_named(file: Path) -> None:
    file.parent.write_text("no folder")
    with pytest.raises(Unavailable, match=str(file.parent)):
        keys.add(file, "ada")


@pytest.mark.parametrize("name", ["", "two words", "{x}", "x" * 65, "-x", "a\nb"])
def test_a_name_that_cannot_stand_in_the_queue_is_refused(file: Path, name: str) -> None:
    with pytest.raises(BadArgument, match="cannot be named"):
        keys.add(file, name)


@pytest.mark.parametrize("content", ["", "{}x", '{"version": 2, "keys": []}', '{"keys": [{"name": "ada"}]}'])
def test_another_file_is_not_taken_for_keys(file: Path, content: str) -> None:
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(Unavailable):
        keys.KeyRing(file)


def test_a_keys_file_that_is_gone_lets_nobody_in(file: Path) -> None:
    ada = keys.add(file, "ada")
    ring = keys.KeyRing(file)
    file.unlink()
    with pytest.raises(Unavailable, match="cannot be read"):
        ring.person(ada)


def test_keys_made_at_the_same_time_are_all_kept(file: Path) -> None:
    threads = [threading.Thread(target=keys.add, args=(file, f"p{at}")) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(keys.listing(file)) == [f"p{at}" for at in range(8)]
