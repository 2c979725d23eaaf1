"""Lines, events, results, progress and settings, each on its own."""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import AsyncIterator

import pytest

from telepatch.events import Frame, frames
from telepatch.inplace import stores_into_item
from telepatch.lines import Place, here, points_home
from telepatch.outcome import Outcome
from telepatch.progress import Progress, describe
from telepatch.results import unframe
from telepatch.settings import Settings
from telepatch_protocol.errors import BadArgument, ProtocolError


class Recorder:
    """Notes whether its in-place operator was followed by a store into an item."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def __iadd__(self, other: object) -> Recorder:
        self.seen.append(stores_into_item(sys._getframe(1)))
        return self


def test_a_store_into_an_item_is_told_from_every_other_store() -> None:
    recorder = Recorder()
    kept = {"key": [recorder]}
    plain = recorder
    plain += 1
    kept["key"][0] += 1
    for at in range(1):
        kept["key"][at] += [2 for _ in range(300)]
    recorder += 1
    assert recorder.seen == [False, True, True, False]


def test_here_is_the_line_of_the_author() -> None:
    place = here()
    assert place is not None
    assert place.file == __file__
    assert place.short == f"test_small_parts.py:{place.line}"
    assert str(Place("/a/b.py", 3)) == "/a/b.py:3"


def test_errors_point_at_the_author_once() -> None:
    @points_home
    def refuse() -> None:
        raise BadArgument("no", file="elsewhere.py", line=7)

    with pytest.raises(BadArgument) as caught:
        refuse()
    assert (caught.value.file, caught.value.line) == ("elsewhere.py", 7)


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_frames_are_read_from_pieces_of_any_size(size: int) -> None:
    text = (
        "retry: 1000\nid: 4-0\n\n: heartbeat\n\n"
        "id: 5-0\nevent: queued\ndata: {\ndata: é}\n\nid: 6-0\r\nevent: missed\r\ndata: x\r\n\r\nid: cut short\n"
    ).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(text), size):
            yield text[at : at + size]

    found = [frame async for frame in frames(pieces())]
    assert found == [Frame("4-0"), Frame("5-0", "queued", "{\né}"), Frame("6-0", "missed", "x")]


def test_results_are_unframed_and_cut_answers_refused() -> None:
    header = json.dumps({"id": "a", "size": 3, "saves": {"h": {"shape": [1], "dtype": "bool"}}}).encode()
    error = json.dumps({"id": "b", "size": 0, "error": {"code": "expired", "detail": "gone"}}).encode()
    whole = struct.pack("<I", len(header)) + header + b"xyz" + struct.pack("<I", len(error)) + error
    first, second = unframe(whole)
    assert (first.job, first.result, first.error) == ("a", b"xyz", None)
    assert second.error is not None
    assert second.error.code == "expired"
    for length in (1, 3, 20, len(header) + 6):
        with pytest.raises(ProtocolError):
            list(unframe(whole[:length]))


def outcome(state: str, position: int | None = None) -> Outcome:
    """What is known of a job that has not ended."""
    found = Outcome("id", None)  # type: ignore[arg-type]
    found.move(state, position)
    return found


def test_progress_says_where_the_first_unfinished_job_is() -> None:
    assert describe([outcome("queued", 2)]) == "queued, number 3 in line"
    assert describe([outcome("running"), outcome("pending")]) == "running"
    done = outcome("running")
    done.complete({}, b"")
    assert describe([done, outcome("waiting")]) == "waiting for the value of another job"
    assert describe([done]) == "fetching the result"


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_one_line_over_all_that_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("telepatch.progress.PATIENCE_S", 0.0)
    monkeypatch.setattr("telepatch.progress._REDRAWN_S", 0.0)
    monkeypatch.setattr("sys.stderr", screen := Screen())
    done = 0
    with Progress([outcome("running")], counted=lambda: (done, 144)) as progress:
        progress.tick()
        done = 72
        progress.tick()
    first, second, cleared, after = screen.getvalue().removeprefix("\r").split("\r")
    assert first.startswith("telepatch: [....................] 0 of 144 done; running (0.")
    assert second.startswith("telepatch: [##########..........] 72 of 144 done; running (0.")
    assert (cleared.strip(), len(cleared) >= len(second.rstrip()), after) == ("", True, "")


def test_progress_is_for_people_who_watch_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("telepatch.progress.PATIENCE_S", 0.0)
    monkeypatch.setattr("telepatch.progress._EVERY_S", 0.0)
    for shown, lines in ((None, 0), (False, 0), (True, 11)):
        done = iter(range(101))
        with Progress([outcome("running")], counted=lambda done=done: (next(done), 100), shown=shown) as progress:
            for _ in range(101):
                progress.tick()
        said = capsys.readouterr().err
        assert said.count("\n") == lines  # a log gets a line for each tenth
        assert "\r" not in said


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEPATCH_URL", "https://lab.example")
    monkeypatch.setenv("TELEPATCH_API_KEY", "tp_environment")
    found = Settings.from_environment()
    assert found.url == "https://lab.example"
    assert found.api_key is not None
    assert found.api_key.get_secret_value() == "tp_environment"
    assert not found.is_local
    given = Settings.from_environment(url="http://127.0.0.1:1", api_key="tp_given")
    assert given.is_local
    assert given.api_key is not None
    assert given.api_key.get_secret_value() == "tp_given"
    assert "tp_given" not in repr(given)


def test_without_either_the_gateway_of_this_machine_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TELEPATCH_URL", raising=False)
    monkeypatch.delenv("TELEPATCH_API_KEY", raising=False)
    assert Settings.from_environment() == Settings(url="http://127.0.0.1:8000", api_key=None)


def test_a_bad_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELEPATCH_URL", "lab.example:8000")
    with pytest.raises(BadArgument, match="TELEPATCH_URL"):
        Settings.from_environment()
