"""Ids of jobs."""

from __future__ import annotations

import time
import uuid

from telepatch_protocol.jobs import new_job_id


def test_ids_are_version_7_uuids_and_never_twice_the_same():
    ids = [new_job_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(uuid.UUID(one).version == 7 and uuid.UUID(one).variant == uuid.RFC_4122 for one in ids)


def test_ids_sort_by_the_time_they_were_made():
    early = new_job_id()
    time.sleep(0.003)
    assert early < new_job_id()
