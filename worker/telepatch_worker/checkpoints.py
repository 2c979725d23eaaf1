"""What a fit needs to go on: tensors and plain data, by where in the job it stands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from telepatch_protocol.errors import ProtocolError
from telepatch_worker import results

Place = str
"""Where a fit stands in its job: its id, and the elements and steps around it."""

_PLAIN = "json"


@dataclass(frozen=True)
class Checkpoint:
    """A fit between two steps.

    Attributes:
        tensors: parameters, moments, state, history, rows of the buffer.
        plain: step, cursor, and whatever else is no tensor.
    """

    tensors: Mapping[str, torch.Tensor]
    plain: Mapping[str, Any]

    @property
    def done(self) -> bool:
        """Whether the fit is over, and this is what came of it."""
        return bool(self.plain.get("done"))


def encode(checkpoints: Mapping[Place, Checkpoint]) -> bytes:
    """Checkpoints of a job as one safetensors file."""
    listed = list(checkpoints.items())
    plain = json.dumps([{"place": place, "plain": dict(one.plain)} for place, one in listed]).encode()
    tensors = {f"{at}.{name}": value for at, (_, one) in enumerate(listed) for name, value in one.tensors.items()}
    return results.encode({_PLAIN: torch.frombuffer(bytearray(plain), dtype=torch.uint8), **tensors})


def decode(data: bytes) -> dict[Place, Checkpoint]:
    """Checkpoints from such a file.

    Raises:
        ProtocolError: it is none.
    """
    tensors = results.decode(data)
    if not tensors:
        return {}
    try:
        listed = json.loads(tensors.pop(_PLAIN).numpy().tobytes())
        parts: list[dict[str, torch.Tensor]] = [{} for _ in listed]
        for key, value in tensors.items():
            at, _, name = key.partition(".")
            parts[int(at)][name] = value
        return {one["place"]: Checkpoint(part, one["plain"]) for one, part in zip(listed, parts, strict=True)}
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ProtocolError(f"this is no checkpoint: {error}") from None


@dataclass
class Shelf:
    """The checkpoints of a job, as far as it has come.

    Whoever wants to put a job down asks for new ones (`ask`), and lets it go on until each of its fits has answered.

    Attributes:
        kept: the last good one of each fit.
        changed: whether one of them is newer than what was written.
        urgent: whether the author asked for it to be written now.
        asked: how often new ones were asked for.
        answered: fits that are under way, and which time of asking their last one answers.
        since: when the first of these began, as `time.perf_counter` has it; None while none has.
    """

    kept: dict[Place, Checkpoint] = field(default_factory=dict)
    changed: bool = False
    urgent: bool = False
    asked: int = 0
    answered: dict[Place, int] = field(default_factory=dict)
    since: float | None = None

    @property
    def ready(self) -> bool:
        """Whether a job can be put down and nothing is lost: every fit under way has answered."""
        return bool(self.answered) and min(self.answered.values()) >= self.asked

    def ask(self) -> None:
        """Have every fit make a checkpoint soon."""
        self.asked += 1

    def begin(self, place: Place) -> None:
        """A fit is under way."""
        self.answered[place] = 0
        self.since = time.perf_counter() if self.since is None else self.since

    def end(self, place: Place) -> None:
        """It is no more."""
        self.answered.pop(place, None)

    def wants(self, place: Place) -> bool:
        """Whether a fit shall make a checkpoint now."""
        return self.answered[place] < self.asked

    def put(self, place: Place, checkpoint: Checkpoint, *, urgent: bool = False, answers: int = 0) -> None:
        """The newest of a fit, and which time of asking it answers."""
        self.kept[place] = checkpoint
        self.changed, self.urgent = True, self.urgent or urgent
        if place in self.answered:
            self.answered[place] = max(answers, self.answered[place])

    def taken(self) -> bytes:
        """All of them, to be written."""
        self.changed = self.urgent = False
        return encode(self.kept)


Keep = Callable[[str, bytes, float], None]
"""Told the id of a job, its checkpoints, to be written somewhere safe, and the seconds that it took to come there."""
