"""Small values that are told while a job runs: what `emit` names, as numbers that fit into an event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from telepatch_protocol.errors import TooLarge
from telepatch_protocol.generations import MOST_EMITTED
from telepatch_protocol.graph import Arg

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame


def tell(frame: Frame, node: str, emit: Mapping[str, Arg], out: Mapping[str, torch.Tensor]) -> None:
    """Tell what an element of a map, or a step of a repeat, emits.

    Args:
        frame: its scope, which says where it stands.
        node: the map or repeat.
        emit: what to tell, by name.
        out: its outputs, which have names there too.
    """
    if emit:
        inner = frame.after(out)
        values = {name: listed(name, inner.tensor(value)) for name, value in emit.items()}
        frame.context.values({"node": node, "at": list(frame.place), "values": values})


def listed(name: str, value: torch.Tensor) -> Any:
    """A value as JSON has it: a number or nested lists; what is not finite as ``"nan"``, ``"inf"`` or ``"-inf"``.

    Raises:
        TooLarge: more numbers than an event holds.
    """
    if value.numel() > MOST_EMITTED:
        raise TooLarge(
            f"'{name}' is emitted with {value.numel():,} numbers; at most {MOST_EMITTED:,} are. Give it out instead"
        )
    value = value.detach()
    return _plain((value.float() if value.dtype.is_floating_point else value).tolist())


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
