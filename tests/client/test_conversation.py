"""The conversation without any network: what is sent together, and what answers and events change."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from telepatch.conversation import Batch, Conversation, Parcel
from telepatch.courier import Courier
from telepatch.events import Frame
from telepatch.model import Model
from telepatch.outcome import Outcome
from telepatch_protocol import tensors
from telepatch_protocol.errors import ConnectionFailed, ErrorRecord, ShapeError
from telepatch_protocol.jobs import Accepted, Event, JobStatus, Submission, SubmissionAnswer, Timings, new_job_id
from telepatch_protocol.meta import Meta


class Nobody:
    """Waits for nothing."""

    def wait(self, outcomes: list[Outcome]) -> None:
        """Nothing is here to wait for."""

    async def wait_soon(self, outcomes: list[Outcome]) -> None:
        """Nothing is here to wait for."""

    def looked_at(self, outcome: Outcome) -> None:
        """Nobody counts."""


def parcel(model: Model, layer: int = 0, array: float | None = None) -> Parcel:
    """A job on its way."""
    with model.trace("x") as t:
        if array is not None:
            model.blocks[layer].resid_post[:, -1] = np.full(8, array)
        model.blocks[layer].resid_post.save("h")
    return Parcel.of(Outcome(new_job_id(), Nobody()), t.graph, t._builder.tensors)


def event(kind: str, job: str, at: int = 1, **data: object) -> Event:
    """Something that happened."""
    return Event.model_validate({"id": f"{at}-0", "type": kind, "job": job, "at": 1.0, "data": data})


def sent(model: Model, count: int = 1) -> tuple[Conversation, list[Outcome], Batch]:
    """A conversation that has sent so many jobs."""
    conversation = Conversation()
    parcels = [parcel(model) for _ in range(count)]
    for one in parcels:
        conversation.add(one)
    batch = conversation.next_batch()
    assert batch is not None
    return conversation, [one.outcome for one in parcels], batch


RESULT = tensors.encode({"h": tensors.Tensor.of(np.arange(3.0, dtype=np.float32))})


def test_jobs_of_one_structure_share_its_document(model: Model) -> None:
    batch = Batch((parcel(model, 0), parcel(model, 3), parcel(model, 1, 2.0), parcel(model, 2, 2.0)))
    submission = Submission.model_validate(json.loads(batch.submission))
    assert len(submission.documents) == 2
    assert [job.document for job in submission.jobs] == [0, 0, 1, 1]
    assert [job.constants["c1"] for job in submission.jobs][:2] == [0, 3]
    assert batch.attachment is not None
    assert len(tensors.metas(batch.attachment)) == 1


def test_a_request_holds_a_bounded_number_of_jobs_and_bytes(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = Conversation()
    for _ in range(5):
        conversation.add(parcel(model))
    monkeypatch.setattr("telepatch.conversation.MAX_JOBS", 2)
    first = conversation.next_batch()
    assert first is not None
    assert len(first.parcels) == 2
    monkeypatch.setattr("telepatch.conversation.MAX_JOBS", 100)
    monkeypatch.setattr("telepatch.conversation.MAX_BYTES", 1)
    second = conversation.next_batch()
    assert second is not None
    assert len(second.parcels) == 1
    assert conversation.unsent() == {one.outcome.job for one in conversation.pending}
    conversation.next_batch()
    conversation.next_batch()
    assert conversation.next_batch() is None
    assert conversation.pending_bytes == 0


def test_a_request_that_is_too_large_is_halved_down_to_one_job(model: Model) -> None:
    conversation, _, batch = sent(model, 3)
    halves = conversation.split(batch)
    assert halves is not None
    assert [len(half.parcels) for half in halves] == [1, 2]
    assert conversation.split(halves[0]) is None


def test_answers_move_and_refuse_jobs_one_by_one(model: Model) -> None:
    conversation, (good, bad), batch = sent(model, 2)
    error = ErrorRecord(code="shape_error", detail="no")
    answer = SubmissionAnswer(
        jobs=(Accepted(id=good.job, state="queued"), Accepted(id=bad.job, error=error)), events="7-0"
    )
    conversation.answered(batch, answer)
    assert (good.state, bad.state) == ("queued", "failed")
    assert isinstance(bad.error(), ShapeError)
    assert conversation.place == "7-0"
    assert set(conversation.open) == {good.job}
    assert list(conversation.unseen_failures()) == [bad]
    assert list(conversation.unseen_failures()) == []


def test_events_lead_to_the_end_and_inline_results_are_kept(model: Model) -> None:
    conversation, (outcome,), _ = sent(model)
    conversation.heard(event("queued", outcome.job, 1, position=3))
    assert (outcome.state, outcome.position) == ("queued", 3)
    conversation.heard(event("running", outcome.job, 2))
    assert outcome.state == "running"
    done = {"saves": {"h": {"shape": [3], "dtype": "float32"}}, "result": base64.b64encode(RESULT).decode()}
    conversation.heard(event("completed", outcome.job, 3, **done))
    assert outcome.ended.is_set()
    assert outcome.meta("h") == Meta((3,), "float32")
    assert outcome.array("h").tolist() == [0.0, 1.0, 2.0]
    assert conversation.place == "3-0"


def test_an_end_is_final(model: Model) -> None:
    conversation, (outcome,), batch = sent(model)
    conversation.heard(event("completed", outcome.job, 3, saves={}, result=base64.b64encode(RESULT).decode()))
    conversation.heard(event("failed", outcome.job, 4))
    conversation.answered(batch, SubmissionAnswer(jobs=(Accepted(id=outcome.job, state="queued"),)))
    assert outcome.state == "completed"


def test_events_of_strangers_are_passed_over(model: Model) -> None:
    conversation, (outcome,), _ = sent(model)
    conversation.heard(event("completed", new_job_id(), 9))
    assert not outcome.ended.is_set()
    assert conversation.place == "9-0"


def test_a_state_that_was_asked_for_counts_like_an_event(model: Model) -> None:
    conversation, (outcome, other), _ = sent(model, 2)
    timings = Timings(submitted=1.0)
    conversation.learned(JobStatus(id=outcome.job, model="tiny", state="completed", timings=timings))
    conversation.learned(JobStatus(id=other.job, model="tiny", state="cancelled", timings=timings))
    assert (outcome.state, other.state) == ("completed", "cancelled")
    assert list(conversation.unseen_failures()) == []


def test_a_request_that_failed_fails_all_of_its_jobs(model: Model) -> None:
    conversation, outcomes, batch = sent(model, 2)
    conversation.refused(batch, ConnectionFailed("gone"))
    assert [type(one.error()) for one in outcomes] == [ConnectionFailed, ConnectionFailed]


def test_a_fork_follows_what_its_parent_sends(model: Model) -> None:
    conversation = Conversation()
    waiting = parcel(model)
    conversation.add(waiting)
    conversation.orphaned()
    assert conversation.next_batch() is None
    assert set(conversation.open) == {waiting.outcome.job}


def test_whoever_waits_is_called_back_even_if_late(model: Model) -> None:
    conversation, (outcome,), batch = sent(model)
    called: list[str] = []
    outcome.on_end(lambda: called.append("early"))
    conversation.refused(batch, ConnectionFailed("gone"))
    outcome.on_end(lambda: called.append("late"))
    assert called == ["early", "late"]


def test_events_of_a_newer_gateway_are_heard_as_far_as_they_are_known(model: Model) -> None:
    courier = Courier(lambda: pytest.fail("nothing is sent"), progress=False)
    one = parcel(model)
    courier.conversation.follow(one.outcome)
    job = one.outcome.job
    told = {"id": "1-0", "type": "hibernating", "job": job, "at": 1.0, "data": {}}
    courier._heard(Frame("1-0", "hibernating", json.dumps(told)))
    assert one.outcome.state == "pending"
    told |= {"id": "2-0", "type": "running", "since": 1.0}
    courier._heard(Frame("2-0", "running", json.dumps(told)))
    assert (one.outcome.state, courier.conversation.place) == ("running", "2-0")
