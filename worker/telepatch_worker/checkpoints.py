"""What a fit needs to go on: tensors and plain data, by where in the job it stands."""

from __future__ import annotations

import json
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

    Attributes:
        kept: the last good one of each fit.
        changed: whether one of them is newer than what was written.
        urgent: whether the author asked for it to be written now.
    """

    kept: dict[Place, Checkpoint] = field(default_factory=dict)
    changed: bool = False
    urgent: bool = False

    def put(self, place: Place, checkpoint: Checkpoint, *, urgent: bool = False) -> None:
        """The newest of a fit."""
        self.kept[place] = checkpoint
        self.changed, self.urgent = True, self.urgent or urgent

    def taken(self) -> bytes:
        """All of them, to be written."""
        self.changed = self.urgent = False
        return encode(self.kept)


Keep = Callable[[str, bytes], None]
"""Told the id of a job and its checkpoints, to be written somewhere safe."""
