"""Small values that are told while a job runs: what `emit` and logs name, as numbers that fit into an event."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from telepatch_protocol.errors import TooLarge
from telepatch_protocol.graph import Arg, Log
from telepatch_protocol.told import MOST_TOLD

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


def log(frame: Frame, node: Log) -> None:
    """Tell what a log names, now that it is known, with the line and the elements and steps that it stands in."""
    values = {name: listed(name, frame.tensor(value)) for name, value in node.values.items()}
    line = frame.context.graph.lines.get(node.id, "")
    frame.context.values({"log": node.id, "line": line, "at": list(frame.place), "values": values})


def listed(name: str, value: torch.Tensor) -> Any:
    """A value as JSON has it: a number or nested lists; what is not finite as ``"nan"``, ``"inf"`` or ``"-inf"``.

    Raises:
        TooLarge: more numbers than an event holds.
    """
    if value.numel() > MOST_TOLD:
        raise TooLarge(f"'{name}' is told with {value.numel():,} numbers; at most {MOST_TOLD:,} are. Save it instead")
    value = value.detach()
    return _plain((value.float() if value.dtype.is_floating_point else value).tolist())


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
