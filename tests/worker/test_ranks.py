"""Ranks that hold one model together: they do as rank 0 says, and none goes on without the others."""

from __future__ import annotations

import socket
import struct
import time

import pytest
from tests.worker.pairs import Left, beside, two_ranks

from telepatch_protocol.errors import BadArgument
from telepatch_worker import ranks
from telepatch_worker.settings import Torchrun


def test_decisions_are_those_of_rank_0(monkeypatch):
    with two_ranks(monkeypatch) as (zero, one, left):
        assert zero.say(True) == 1
        assert one.say(False) == 1
        assert zero.says([3, 4]) == [3, 4]
        assert one.says([0, 0]) == [3, 4]
        assert left == []


def test_frames_arrive_whole_and_in_order(monkeypatch):
    body = bytes(range(256)) * 40_000
    with (
        two_ranks(monkeypatch) as (zero, one, _),
        beside(lambda: (zero.tell("big", {"n": 1}, body), zero.tell("next"))),
    ):
        frame = one.hear()
        assert (frame.kind, frame.words, frame.body) == ("big", {"n": 1}, body)
        assert one.hear().kind == "next"


def test_whether_to_ask_is_counted_alike_by_all(monkeypatch):
    with two_ranks(monkeypatch) as (zero, one, _):
        asked = [(zero.due(), one.due()) for _ in range(2 * ranks.CHECK_EVERY)]
    assert [at for at, (mine, other) in enumerate(asked) if mine or other] == [31, 63]
    assert all(mine == other for mine, other in asked)


def test_a_job_that_has_failed_on_all_ranks_alike_lets_them_go_on(monkeypatch):
    with two_ranks(monkeypatch) as (zero, one, left):
        with beside(lambda: one.failed("job", "bad_argument")) as raised:
            zero.failed("job", "bad_argument")
        assert (left, raised) == ([], [])


def test_a_job_that_has_failed_otherwise_elsewhere_ends_the_process(monkeypatch):
    with two_ranks(monkeypatch) as (zero, one, left):
        with beside(lambda: one.failed("job", "bad_argument")) as raised, pytest.raises(Left, match="out_of_memory"):
            zero.failed("job", "out_of_memory")
        assert isinstance(raised[0], Left)
        assert len(left) == 2


def test_a_rank_that_is_elsewhere_ends_the_process(monkeypatch):
    with two_ranks(monkeypatch) as (zero, one, _):
        zero.tell("turn")
        with pytest.raises(Left, match="rank 1 is at 'failed', and rank 0 at 'turn'"):
            one.failed("job", "out_of_memory")


def test_a_rank_that_does_not_answer_ends_the_process(monkeypatch):
    with two_ranks(monkeypatch) as (zero, _, left):
        with pytest.raises(Left, match="rank 1 has not answered"):
            zero.same("over", [], 0.05)
        assert len(left) == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_whose_connection_is_lost_ends_by_itself(monkeypatch, victim):
    with two_ranks(monkeypatch) as (zero, one, left):
        (zero, one)[victim]._peers[0]._stream.shutdown(socket.SHUT_RDWR)
        deadline = time.monotonic() + 5
        while len(left) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sorted(left) == ["rank 0 is gone", "rank 1 is gone"]


def test_ranks_end_together_and_in_order(monkeypatch):
    with two_ranks(monkeypatch) as (zero, one, left):
        zero.end()
        assert one.hear().kind == "end"
        zero._peers[0]._stream.shutdown(socket.SHUT_RDWR)
        time.sleep(0.05)
        assert left == []


def test_only_who_knows_the_token_is_a_rank(monkeypatch):
    monkeypatch.setattr(ranks, "BYE_SECONDS", 0.0)
    monkeypatch.setattr(ranks.os, "_exit", lambda status: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        place, token = listener.getsockname()[:2], "ab" * 32
        stranger = socket.create_connection(place)
        stranger.sendall(b"x" * 64 + struct.pack(">I", 1))
        mute = socket.create_connection(place)
        mute.shutdown(socket.SHUT_WR)
        known = socket.create_connection(place)
        known.sendall(token.encode() + struct.pack(">I", 1))
        [found] = ranks._accepted(listener, token, 1)
        assert found.peer == "rank 1"
        known.sendall(ranks._HEAD.pack(14, 0) + b'["hello", [7]]')
        assert found.receive(5).words == [7]
        assert stranger.recv(1) == b""
        for one in (found, stranger, mute, known):
            one.close()


def test_what_torchrun_says_of_a_process_is_read_from_the_environment():
    said = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "OTHER": "x"}
    found = Torchrun.from_environment(said)
    assert found == Torchrun(rank=3, world_size=4, local_rank=1, local_world_size=2)
    assert Torchrun.from_environment({"WORLD_SIZE": "2"}) is None
    assert Torchrun(rank=0, world_size=2, local_rank=0, local_world_size=2).own_address == "127.0.0.1"
    with pytest.raises(BadArgument, match="are torchrun's to set"):
        Torchrun.from_environment({**said, "RANK": "first"})
