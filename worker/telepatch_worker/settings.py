"""Settings of a worker: one frozen object, read from the environment here and nowhere else."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from telepatch_protocol.errors import BadArgument

PREFIX = "TELEPATCH_"
OWN = "TELEPATCH_WORKER_"
"""Names that begin so are a worker's; one that we do not know is a mistake."""


class Settings(BaseModel):
    """What a worker is told when it starts; each field is the variable ``TELEPATCH_`` and its name in capitals.

    Attributes:
        model: which model to serve: the id of a card in `models`, or the path of a card file.
        models: folder of card files.
        cache: folder where fetched and converted weights are kept.
        token_file: a file that holds the access token for gated weights.
        redis_url: ``redis://``, ``rediss://`` or ``unix://``.
        blobs: folder for results, shared with the gateway of this host.
        gateway_url: the gateway, where results go through it instead; needs `worker_token`.
        worker_token: what the gateway wants to see for that.
        result_seconds: how long results are kept.
        record_seconds: how long records of jobs are kept after that.
        worker_device: where to hold the model, in place of what its card says: ``cpu``, ``cuda``, ``cuda:1``.
        worker_threads: threads of one operation on the CPU; None leaves it to PyTorch.
        worker_batch_jobs: the most jobs taken at once.
        worker_batch_tokens: the most tokens taken at once, and in one forward with padding.
        worker_batch_rows: the most rows of one forward.
        worker_lease_seconds: how long after the death of a worker its jobs go to others.
        worker_recent_bytes: memory for results of recent jobs that others may refer to.
        worker_stop_seconds: how long the batch in hand may go on once the worker is asked to end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    model: str | None = None
    models: Path = Path("models")
    cache: Path = Path("~/.cache/telepatch")
    token_file: Path | None = None
    redis_url: str = "redis://127.0.0.1:6379/0"
    blobs: Path = Path("~/.local/share/telepatch/blobs")
    gateway_url: str | None = None
    worker_token: str | None = Field(default=None, min_length=16, repr=False)
    result_seconds: float = Field(default=86_400.0, gt=0)
    record_seconds: float = Field(default=7 * 86_400.0, gt=0)
    worker_device: str | None = Field(default=None, pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    worker_threads: int | None = Field(default=None, ge=1)
    worker_batch_jobs: int = Field(default=32, ge=1)
    worker_batch_tokens: int = Field(default=4096, ge=1)
    worker_batch_rows: int = Field(default=256, ge=1)
    worker_lease_seconds: float = Field(default=10.0, ge=0.5)
    worker_recent_bytes: int = Field(default=256 * 2**20, ge=0)
    worker_stop_seconds: float = Field(default=30.0, ge=0)

    @field_validator("cache", "blobs", "token_file")
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
        found = os.environ if environment is None else environment
        names = {PREFIX + field.upper(): field for field in cls.model_fields}
        _refuse_unknown(found, names)
        given = {field: found[name] for name, field in names.items() if found.get(name)}
        try:
            return cls.model_validate(given | overrides)
        except ValidationError as error:
            raise BadArgument(_explain(error)) from None


def _refuse_unknown(found: Mapping[str, str], names: Mapping[str, str]) -> None:
    for name in found:
        if name.startswith(OWN) and name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            known = ", ".join(sorted(one for one in names if one.startswith(OWN)))
            hint = f"did you mean {near[0]}?" if near else f"known: {known}"
            raise BadArgument(f"the environment has {name}, which is no setting; {hint}")


def _explain(error: ValidationError) -> str:
    """The first value that cannot be; secrets are not repeated."""
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return str(first["msg"]).removeprefix("Value error, ")
    field = str(first["loc"][0])
    found = "" if field == "worker_token" else f"; found {first.get('input')!r}"
    return f"{PREFIX}{field.upper()}: {first['msg']}{found}"
