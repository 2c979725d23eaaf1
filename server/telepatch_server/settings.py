"""Settings of the gateway: one frozen object, read from the environment here and nowhere else."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator

from telepatch_broker.places import Places


class Settings(Places):
    """What a gateway is told when it starts; each field is the variable ``TELEPATCH_`` and its name in
    capitals, those of `Places` too.

    Attributes:
        host: address to listen on; every one but loopback needs `keys_file`.
        port: port to listen on; 0 picks a free one.
        keys_file: hashed API keys, made by ``telepatch keys add``.
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
        gateway_drain_seconds: how long a gateway that is asked to end says that it is not ready, and still answers,
            before it stops listening; for load balancers, which take a while to notice.
        gateway_stop_seconds: how long requests may go on once the gateway is asked to end.
    """

    OWN: ClassVar[str] = "TELEPATCH_GATEWAY_"
    OTHERS: ClassVar[frozenset[str]] = frozenset({"TELEPATCH_GATEWAY_URL"})
    SECRET: ClassVar[frozenset[str]] = frozenset({"worker_token", "redis_url"})

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    keys_file: Path | None = None
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
    gateway_drain_seconds: float = Field(default=0.0, ge=0)
    gateway_stop_seconds: int = Field(default=5, ge=0)

    @field_validator("keys_file")
    @classmethod
    def _at_home(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return is_loopback(self.host)

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


class HostSettings(Places):
    """What a host is told when it starts; its workers read the rest of the environment themselves.

    Attributes:
        host_name: by which models are placed here; that of the machine if left out. No two hosts have one name.
        host_logs: folder for what its workers say.
    """

    OWN: ClassVar[str] = "TELEPATCH_HOST_"
    SECRET: ClassVar[frozenset[str]] = frozenset({"redis_url"})

    host_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")
    host_logs: Path = Path("~/.local/share/telepatch/host-logs")

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


def variables() -> dict[str, str]:
    """The environment, for processes that this one starts."""
    return dict(os.environ)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine seen from itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
