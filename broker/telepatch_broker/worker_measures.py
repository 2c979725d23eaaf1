"""What a worker counts of itself: the table that workers fill and gateways show."""

from __future__ import annotations

from typing import Final

from telepatch_broker.measures import Measure

_WHO: Final = ("model", "worker")
_SECONDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_NUMBERS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
_TOKENS: Final = (16.0, 64.0, 256.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0)

BATCH_JOBS: Final = "telepatch_worker_batch_jobs"
BATCH_ROWS: Final = "telepatch_worker_batch_rows"
BATCH_TOKENS: Final = "telepatch_worker_batch_tokens"
FORWARD_SECONDS: Final = "telepatch_worker_forward_seconds"
JOB_SECONDS: Final = "telepatch_worker_job_seconds"
JOBS: Final = "telepatch_worker_jobs_total"
RESULT_BYTES: Final = "telepatch_worker_result_bytes_total"
STEP_FAILURES: Final = "telepatch_worker_step_failures_total"
IN_HAND: Final = "telepatch_worker_jobs_in_hand"
STARTED: Final = "telepatch_worker_started_seconds"
MEMORY: Final = "telepatch_worker_memory_bytes"
CACHE: Final = "telepatch_worker_cache_bytes"

PHASES: Final = ("queued", "reading", "planning", "running", "handing_in")
"""Where the time of a job goes, in order."""

TABLE: Final = (
    Measure(BATCH_JOBS, "histogram", "Jobs that share a forward", _WHO, _NUMBERS),
    Measure(BATCH_ROWS, "histogram", "Rows of a forward", _WHO, _NUMBERS),
    Measure(BATCH_TOKENS, "histogram", "Positions of a forward, padding included", _WHO, _TOKENS),
    Measure(FORWARD_SECONDS, "histogram", "Time of a forward with what jobs do in it", _WHO, _SECONDS),
    Measure(
        JOB_SECONDS,
        "histogram",
        f"Where the time of a job goes: {', '.join(PHASES)}",
        (*_WHO, "phase"),
        _SECONDS,
    ),
    Measure(JOBS, "counter", "Jobs that left this worker: completed, or the code of the error", (*_WHO, "outcome")),
    Measure(RESULT_BYTES, "counter", "Bytes of saved tensors", _WHO),
    Measure(STEP_FAILURES, "counter", "Steps of the worker's loop that failed and were repeated", _WHO),
    Measure(IN_HAND, "gauge", "Jobs that it has leases on", _WHO),
    Measure(STARTED, "gauge", "Unix time of its start", _WHO),
    Measure(
        MEMORY,
        "gauge",
        "Memory of its device: free, total, and used by this worker",
        (*_WHO, "kind"),
    ),
    Measure(
        CACHE,
        "gauge",
        "Keys and values of generations: used by those that go on, as they will be at their ends, and the limit",
        (*_WHO, "kind"),
    ),
)
