"""Settings of the gateway: one frozen object, read from the environment here and nowhere else."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from telepatch_broker.connection import connect
from telepatch_broker.logs import Format, Level
from telepatch_protocol.environment import Variables
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.traceparent import exporters


class Settings(Variables):
    """What a gateway is told when it starts; each field is the variable ``TELEPATCH_`` and its name in capitals.

    Attributes:
        host: address to listen on; every one but loopback needs `keys_file`.
        port: port to listen on; 0 picks a free one.
        redis_url: ``redis://``, ``rediss://`` or ``unix://``.
        keys_file: hashed API keys, made by ``telepatch keys add``.
        blobs: folder for results and attachments.
        worker_token: what workers on other hosts show to read and write blobs through the gateway; none, and none may.
        result_seconds: how long results are kept.
        record_seconds: how long records of jobs are kept after that.
        gateway_body_bytes: the largest body of a request.
        gateway_body_seconds: how long a sender may be silent in the middle of a body.
        gateway_blob_bytes: the largest blob that a worker may send.
        gateway_upload_bytes: the largest upload of data for jobs, which may be sent in parts.
        gateway_data_bytes: bytes that all uploads of one person may have together.
        gateway_upload_seconds: how long an upload is kept whose next part does not come.
        gateway_jobs: the most jobs of one request.
        gateway_results: the most results of one request.
        gateway_wait_seconds: the longest that a submission waits for its results.
        gateway_heartbeat_seconds: how often an event stream without events says that it is there.
        gateway_json_values: the most numbers of a result that travel as JSON.
        gateway_cards_seconds: how long a model card is used before it is looked up again.
        gateway_stop_seconds: how long requests may go on once the gateway is asked to end.
        gateway_metrics: who may read ``/metrics``: everybody (``open``), or who shows an operator's key (``admin``);
            None for ``open`` on loopback and ``admin`` elsewhere.
        gateway_metrics_people: how many people the metrics name in each queue, those with most jobs in it.
        log_level: of the lines that are written: debug, info, warning or error.
        log_format: json, or console for people; None chooses by whether standard error is a terminal.
    """

    OWN: ClassVar[str] = "TELEPATCH_GATEWAY_"
    OTHERS: ClassVar[frozenset[str]] = frozenset({"TELEPATCH_GATEWAY_URL"})
    SECRET: ClassVar[frozenset[str]] = frozenset({"worker_token", "redis_url"})

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    redis_url: str = "redis://127.0.0.1:6379/0"
    keys_file: Path | None = None
    blobs: Path = Path("~/.local/share/telepatch/blobs")
    worker_token: str | None = Field(default=None, min_length=16, repr=False)
    result_seconds: float = Field(default=86_400.0, gt=0)
    record_seconds: float = Field(default=7 * 86_400.0, gt=0)
    gateway_body_bytes: int = Field(default=64 * 2**20, ge=1024)
    gateway_body_seconds: float = Field(default=30.0, gt=0)
    gateway_blob_bytes: int = Field(default=64 * 2**30, ge=1024)
    gateway_upload_bytes: int = Field(default=2 * 2**30, ge=1024)
    gateway_data_bytes: int = Field(default=8 * 2**30, ge=1024)
    gateway_upload_seconds: float = Field(default=86_400.0, gt=0)
    gateway_jobs: int = Field(default=1000, ge=1)
    gateway_results: int = Field(default=1000, ge=1)
    gateway_wait_seconds: float = Field(default=60.0, ge=0)
    gateway_heartbeat_seconds: float = Field(default=15.0, gt=0)
    gateway_json_values: int = Field(default=100_000, ge=1)
    gateway_cards_seconds: float = Field(default=2.0, ge=0)
    gateway_stop_seconds: int = Field(default=5, ge=0)
    gateway_metrics: Literal["open", "admin"] | None = None
    gateway_metrics_people: int = Field(default=0, ge=0, le=100)
    log_level: Level = "info"
    log_format: Format | None = None

    @field_validator("redis_url")
    @classmethod
    def _an_address(cls, value: str) -> str:
        try:
            connect(value)  # sends nothing yet
        except BadArgument as error:
            raise ValueError(error.detail) from None
        return value

    @field_validator("blobs", "keys_file")
    @classmethod
    def _at_home(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return is_loopback(self.host)

    @property
    def metrics_open(self) -> bool:
        """Whether everybody who reaches the gateway may read its metrics."""
        return (self.gateway_metrics or ("open" if self.loopback else "admin")) == "open"

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
