"""Settings of a worker: one frozen object, read from the environment here and nowhere else."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from telepatch_broker.logs import Format, Level
from telepatch_broker.places import Places
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.traceparent import exporters


class Settings(Places):
    """What a worker is told when it starts; each field is the variable ``TELEPATCH_`` and its name in
    capitals, those of `Places` too.

    Attributes:
        model: which model to serve: the id of a card in `models`, or the path of a card file.
        models: folder of card files.
        cache: folder where fetched and converted weights are kept.
        token_file: a file that holds the access token for gated weights.
        gateway_url: the gateway, where results go through it instead; needs `worker_token`.
        worker_token: what the gateway wants to see for that.
        result_seconds: how long results are kept.
        record_seconds: how long records of jobs are kept after that.
        worker_device: where to hold the model, in place of what its card says: ``cpu``, ``cuda``, ``cuda:1``.
        worker_threads: threads of one operation on the CPU; None leaves it to PyTorch.
        worker_batch_jobs: the most jobs in hand that wait for forwards; generations that have begun do not count.
        worker_batch_tokens: the most tokens of the jobs in hand in one turn, and in one forward with padding.
        worker_batch_rows: the most rows of one forward.
        worker_turn_seconds: how long a turn of everybody in hand shall take at the most; what it holds is learned from
            the turns before, so that whoever comes in the middle of one does not wait for long.
        worker_slice_seconds: how long a job that trains goes on until others that train have their turn.
        worker_lease_seconds: how long after the death of a worker its jobs go to others.
        worker_cache_bytes: memory for the keys and values of generations; None takes half of what is free on a GPU once
            the model is loaded, a quarter of what is free on a CPU.
        worker_recent_bytes: memory for results of recent jobs that others may refer to.
        worker_stop_seconds: how long the jobs in hand may go on once the worker is asked to end.
        worker_metrics_port: a port that tells Prometheus what this worker counts; None for none.
        worker_metrics_host: address that it listens on.
        log_level: of the lines that are written: debug, info, warning or error.
        log_format: json, or console for people; None chooses by whether standard error is a terminal.
    """

    OWN: ClassVar[str] = "TELEPATCH_WORKER_"
    SECRET: ClassVar[frozenset[str]] = frozenset({"worker_token", "redis_url"})

    model: str | None = None
    models: Path = Path("models")
    cache: Path = Path("~/.cache/telepatch")
    token_file: Path | None = None
    gateway_url: str | None = None
    worker_token: str | None = Field(default=None, min_length=16, repr=False)
    result_seconds: float = Field(default=86_400.0, gt=0)
    record_seconds: float = Field(default=7 * 86_400.0, gt=0)
    worker_device: str | None = Field(default=None, pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    worker_threads: int | None = Field(default=None, ge=1)
    worker_batch_jobs: int = Field(default=128, ge=1)
    worker_batch_tokens: int = Field(default=4096, ge=1)
    worker_batch_rows: int = Field(default=256, ge=1)
    worker_turn_seconds: float = Field(default=0.5, gt=0)
    worker_slice_seconds: float = Field(default=30.0, gt=0)
    worker_lease_seconds: float = Field(default=10.0, ge=0.5)
    worker_cache_bytes: int | None = Field(default=None, ge=1)
    worker_recent_bytes: int = Field(default=256 * 2**20, ge=0)
    worker_stop_seconds: float = Field(default=30.0, ge=0)
    worker_metrics_port: int | None = Field(default=None, ge=0, le=65535)
    worker_metrics_host: str = "127.0.0.1"
    log_level: Level = "info"
    log_format: Format | None = None

    @field_validator("cache", "token_file")
    @classmethod
    def _at_home(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser()

    @field_validator("models")
    @classmethod
    def _where_they_are(cls, value: Path) -> Path:
        """The folder as given; the default is looked for here, in the checkout, and where it was installed."""
        if value != Path("models") or value.is_dir():
            return value.expanduser()
        places = (Path(__file__).resolve().parents[2] / value, Path(sys.prefix) / "share" / "telepatch" / value)
        return next((place for place in places if place.is_dir()), value)

    @model_validator(mode="after")
    def _may_use_the_gateway(self) -> Self:
        if self.gateway_url is not None and self.worker_token is None:
            raise ValueError("results can go through the gateway only with its TELEPATCH_WORKER_TOKEN")
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """The environment's settings, with `overrides` on top.

        Args:
            environment: in place of the process's own.
            **overrides: fields by name.

        Raises:
            BadArgument: a variable ``TELEPATCH_WORKER_...`` that means nothing, or a value that cannot be.

        Example:
            >>> Settings.from_environment({"TELEPATCH_MODEL": "gpt2-random"}).model
            'gpt2-random'
        """
        return cls.read(os.environ if environment is None else environment, overrides)


class Torchrun(BaseModel):
    """Which of several processes that hold one model together this one is, as torchrun says.

    Attributes:
        rank: from 0.
        world_size: how many there are.
        local_rank: its number on this host.
        local_world_size: how many there are on this host.
    """

    model_config = ConfigDict(frozen=True)

    rank: int = Field(ge=0)
    world_size: int = Field(ge=1)
    local_rank: int = Field(ge=0)
    local_world_size: int = Field(ge=1)

    @property
    def own_address(self) -> str:
        """Where rank 0 listens: for this host alone, if all are here."""
        return "127.0.0.1" if self.world_size == self.local_world_size else socket.gethostbyname(socket.gethostname())

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self | None:
        """What torchrun says of this process; None where it was not started so."""
        found = os.environ if environment is None else environment
        names = {name: name.upper() for name in cls.model_fields}
        if "RANK" not in found or "WORLD_SIZE" not in found:
            return None
        given = {field: found[name] for field, name in names.items() if name in found}
        try:
            return cls.model_validate({"local_rank": given["rank"], "local_world_size": given["world_size"], **given})
        except ValidationError as error:
            raise BadArgument(f"RANK, WORLD_SIZE and their like are torchrun's to set: {error.errors()[0]}") from None


def let_threads_sleep(environment: MutableMapping[str, str] | None = None) -> None:
    """Threads of PyTorch's that have nothing to do give their core away, unless the environment says otherwise.

    By default they spin, and take the time of the threads that read jobs, hand in results and serve other processes.
    This has to come before PyTorch is imported.
    """
    (os.environ if environment is None else environment).setdefault("OMP_WAIT_POLICY", "PASSIVE")


def traces_exporters(environment: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Where traces go, by OpenTelemetry's own variables; nowhere unless they say so."""
    return exporters(os.environ if environment is None else environment)
