"""What a person may have of the service: the limits, and those that one person has in place of the usual ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import BadArgument

Number = Annotated[int | None, Field(ge=1)]


class Limits(Frozen):
    """How much a person may have; None of these is a number where there is no limit.

    Attributes:
        requests_per_minute: of any kind; who was quiet for a minute may make them all at once.
        jobs_queued: jobs that have not ended, running ones included.
        bytes_stored: of uploads, of results that are kept, and of those that unended jobs will save.
        seconds_per_day: of workers, from midnight to midnight, UTC; those of shared forwards are divided.
        job_tokens: of one job, as it is priced.
        job_flops: of one job, as it is priced.
        models: that may be used; None is all of them.
    """

    requests_per_minute: Number = None
    jobs_queued: Number = None
    bytes_stored: Number = None
    seconds_per_day: Number = None
    job_tokens: Number = None
    job_flops: Annotated[float | None, Field(gt=0)] = None
    models: tuple[str, ...] | None = None

    def but(self, own: Mapping[str, str]) -> Limits:
        """These, with a person's own in their places."""
        return self.model_copy(update={name: limit_of(name, text) for name, text in own.items() if name in LIMITS})


LIMITS: Final = tuple(Limits.model_fields)
"""The names of all limits."""

NONE: Final = "none"
"""How no limit is written."""


def limit_of(name: str, text: str) -> Any:
    """A limit as it is written: a number, names of models with commas between them, or ``none``.

    Raises:
        BadArgument: there is no such limit, or the text is none.
    """
    if name not in LIMITS:
        raise BadArgument(f"there is no limit '{name[:80]}'; there are: {', '.join(LIMITS)}")
    if text.strip().lower() == NONE:
        return None
    value = models_of(text) if name == "models" else text.strip().replace("_", "")
    try:
        return getattr(Limits.model_validate({name: value}), name)
    except ValidationError:
        what = "names of models with commas between them" if name == "models" else "a number greater than 0"
        raise BadArgument(f"{name} cannot be {text[:80]!r}; {what}, or '{NONE}', can be") from None


def models_of(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def text_of(value: Any) -> str:
    """A limit as it is written; the other way round than `limit_of`."""
    if value is None:
        return NONE
    return ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
