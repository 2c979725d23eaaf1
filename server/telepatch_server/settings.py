"""Settings of the gateway: one frozen object, read from the environment here and nowhere else."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, field_validator

from telepatch_broker.limits import LIMITS, NONE, Limits, models_of
from telepatch_broker.logs import Format, Level
from telepatch_broker.places import Places
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.traceparent import exporters

_LIMITS = tuple(f"gateway_{name}" for name in LIMITS)
_OLD_KEYS = "TELEPATCH_KEYS_FILE"


class Settings(Places):
    """What a gateway is told when it starts; each field is the variable ``TELEPATCH_`` and its name in
    capitals, those of `Places` too.

    Attributes:
        host: address to listen on; on every one but loopback, somebody must have a key.
        port: port to listen on; 0 picks a free one.
        worker_token: what workers on other hosts show to read and write blobs through the gateway; none, and none may.
        result_seconds: how long results are kept.
        record_seconds: how long records of jobs are kept after that.
        gateway_body_bytes: the largest body of a request.
        gateway_body_seconds: how long a sender may be silent in the middle of a body.
        gateway_head_seconds: how long the head of a request may take to come.
        gateway_documents_bytes: bytes of the documents and attachments of all jobs of one request, each counted as
            often as it is queued.
        gateway_blob_bytes: the largest blob that a worker may send.
        gateway_upload_bytes: the largest upload of data for jobs, which may be sent in parts.
        gateway_upload_seconds: how long an upload is kept whose next part does not come.
        gateway_requests_per_minute: that a person may make; this and what follows may be ``none``, and a person
            may have limits of their own (``telepatch limits``).
        gateway_jobs_queued: unended jobs that a person may have.
        gateway_bytes_stored: bytes that uploads and results of a person may have together.
        gateway_seconds_per_day: seconds of workers that a person may use from midnight to midnight, UTC.
        gateway_job_tokens: tokens of one job, as it is priced.
        gateway_job_flops: floating-point operations of one job, as it is priced.
        gateway_models: names of the models that people may use, with commas between them; none is all.
        gateway_jobs: the most jobs of one request.
        gateway_high_priority: people whose jobs may have high priority: names with commas between them, or ``*``.
        gateway_results: the most results of one request.
        gateway_wait_seconds: the longest that a submission waits for its results.
        gateway_heartbeat_seconds: how often an event stream without events says that it is there.
        gateway_json_values: the most numbers of a result that travel as JSON.
        gateway_cards_seconds: how long a model card is used before it is looked up again.
        gateway_drain_seconds: how long a gateway that is asked to end says that it is not ready, and still answers,
            before it stops listening; for load balancers, which take a while to notice.
        gateway_stop_seconds: how long requests may go on once the gateway is asked to end.
        gateway_metrics: who may read ``/metrics``: everybody (``open``), or keys of the scope admin (``admin``); None
            for ``open`` on loopback and ``admin`` elsewhere.
        gateway_metrics_people: how many people the metrics name in each queue, those with most jobs in it.
        log_level: of the lines that are written: debug, info, warning or error.
        log_format: json, or console for people; None chooses by whether standard error is a terminal.
    """

    OWN: ClassVar[str] = "TELEPATCH_GATEWAY_"
    OTHERS: ClassVar[frozenset[str]] = frozenset({"TELEPATCH_GATEWAY_URL"})
    SECRET: ClassVar[frozenset[str]] = frozenset({"worker_token", "redis_url"})

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    worker_token: str | None = Field(default=None, min_length=16, repr=False)
    result_seconds: float = Field(default=86_400.0, gt=0)
    record_seconds: float = Field(default=7 * 86_400.0, gt=0)
    gateway_body_bytes: int = Field(default=64 * 2**20, ge=1024)
    gateway_body_seconds: float = Field(default=30.0, gt=0)
    gateway_head_seconds: float = Field(default=20.0, gt=0)
    gateway_documents_bytes: int = Field(default=512 * 2**20, ge=1024)
    gateway_blob_bytes: int = Field(default=64 * 2**30, ge=1024)
    gateway_upload_bytes: int = Field(default=2 * 2**30, ge=1024)
    gateway_upload_seconds: float = Field(default=86_400.0, gt=0)
    gateway_requests_per_minute: int | None = Field(default=12_000, ge=1)
    gateway_jobs_queued: int | None = Field(default=20_000, ge=1)
    gateway_bytes_stored: int | None = Field(default=32 * 2**30, ge=1024)
    gateway_seconds_per_day: int | None = Field(default=None, ge=1)
    gateway_job_tokens: int | None = Field(default=None, ge=1)
    gateway_job_flops: float | None = Field(default=None, gt=0)
    gateway_models: tuple[str, ...] | None = None
    gateway_jobs: int = Field(default=1000, ge=1)
    gateway_high_priority: str = ""
    gateway_results: int = Field(default=1000, ge=1)
    gateway_wait_seconds: float = Field(default=60.0, ge=0)
    gateway_heartbeat_seconds: float = Field(default=15.0, gt=0)
    gateway_json_values: int = Field(default=100_000, ge=1)
    gateway_cards_seconds: float = Field(default=2.0, ge=0)
    gateway_drain_seconds: float = Field(default=0.0, ge=0)
    gateway_stop_seconds: int = Field(default=5, ge=0)
    gateway_metrics: Literal["open", "admin"] | None = None
    gateway_metrics_people: int = Field(default=0, ge=0, le=100)
    log_level: Level = "info"
    log_format: Format | None = None

    @field_validator(*_LIMITS, mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        if value.strip().lower() == NONE:
            return None
        return models_of(value) if info.field_name == "gateway_models" else value

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return is_loopback(self.host)

    @property
    def limits(self) -> Limits:
        """What those may have who have no limits of their own."""
        return Limits(**{name: getattr(self, f"gateway_{name}") for name in LIMITS})

    @property
    def metrics_open(self) -> bool:
        """Whether everybody who reaches the gateway may read its metrics."""
        return (self.gateway_metrics or ("open" if self.loopback else "admin")) == "open"

    def may_hurry(self, person: str) -> bool:
        """Whether jobs of this person may have high priority."""
        named = {name.strip() for name in self.gateway_high_priority.split(",")}
        return bool(named & {person, "*"})

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """The environment's settings, with `overrides` on top.

        Args:
            environment: in place of the process's own.
            **overrides: fields by name.

        Raises:
            BadArgument: a variable ``TELEPATCH_GATEWAY_...`` that means nothing, or a value that cannot be.

        Example:
            >>> Settings.from_environment({"TELEPATCH_PORT": "9000"}).port
            9000
        """
        found = os.environ if environment is None else environment
        if file := found.get(_OLD_KEYS):
            raise BadArgument(
                f"{_OLD_KEYS} is set, and keys are no longer read from a file: take them over, once, with "
                f"'telepatch keys import {file}', then unset it"
            )
        return cls.read(found, overrides)


def environment() -> dict[str, str]:
    """The variables of this process, for commands without settings of their own, and for processes that are started."""
    return dict(os.environ)


class HostSettings(Places):
    """What a host is told when it starts; its workers read the rest of the environment themselves.

    Attributes:
        host_name: by which models are placed here; that of the machine if left out. No two hosts have one name.
        host_logs: folder for what its workers say.
        log_level: of the lines that are written: debug, info, warning or error.
        log_format: json, or console for people; None chooses by whether standard error is a terminal.
    """

    OWN: ClassVar[str] = "TELEPATCH_HOST_"
    SECRET: ClassVar[frozenset[str]] = frozenset({"redis_url"})

    host_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")
    host_logs: Path = Path("~/.local/share/telepatch/host-logs")
    log_level: Level = "info"
    log_format: Format | None = None

    @field_validator("host_logs")
    @classmethod
    def _at_home(cls, value: Path) -> Path:
        return value.expanduser()

    @property
    def name(self) -> str:
        """By which models are placed here."""
        return self.host_name or socket.gethostname()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """The environment's settings, with `overrides` on top; see `Settings.from_environment`."""
        return cls.read(os.environ if environment is None else environment, overrides)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine seen from itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def traces_exporters(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Where traces go, by OpenTelemetry's own variables; nowhere unless they say so."""
    return exporters(os.environ if environment is None else environment)
