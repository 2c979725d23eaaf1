"""Watch one forward of a model: which modules fire, in which order, and what tensors go in and out of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

Port = Literal["input", "output"]

ENGINE_NAMES = frozenset(
    {
        "attention_mask",
        "cache_position",
        "causal_mask",
        "cos",
        "cu_seqlens",
        "encoder_attention_mask",
        "extended_attention_mask",
        "head_mask",
        "mask",
        "past_key_value",
        "past_key_values",
        "position_bias",
        "position_embeddings",
        "position_ids",
        "sin",
        "token_type_ids",
    }
)
"""Names under which transformers passes to a module what the engine answers for."""


@dataclass(frozen=True)
class Seen:
    """One tensor of one event."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    engine: bool
    identity: int


@dataclass(frozen=True)
class Event:
    """A module was entered (`input`) or left (`output`)."""

    order: int
    module: str
    port: str
    leaves: tuple[Seen, ...]
    arity: int | None


@dataclass
class Record:
    """What one forward did, event by event; holds on to the tensors, so that their identities stay theirs.

    `owned` are identities of what belongs to the engine, besides those that an event says.
    """

    events: list[Event] = field(default_factory=list)
    tensors: list[torch.Tensor] = field(default_factory=list)
    owned: set[int] = field(default_factory=set)

    def calls(self) -> dict[tuple[str, str], list[Event]]:
        """The events of each port, in order."""
        found: dict[tuple[str, str], list[Event]] = {}
        for event in self.events:
            found.setdefault((event.module, event.port), []).append(event)
        return found


def flatten(value: object, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in tuples, lists and mappings, with its path; other objects (caches) are passed over."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from flatten(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from flatten(item, f"{path}.{index}" if path else str(index))


def argument_names(function: Any) -> list[str]:
    """Names of the positional arguments of a function; none for one that does not say (a builtin)."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [parameter.name for parameter in parameters if parameter.kind in kinds]


def named_inputs(
    names: Sequence[str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[str, str, object]]:
    """Path, name and value of each argument; `names` are of the positional ones."""
    for index, value in enumerate(args):
        yield str(index), names[index] if index < len(names) else "", value
    for name, value in kwargs.items():
        yield name, name, value


class _Watcher:
    def __init__(self) -> None:
        self.record = Record()

    def _add(self, module: str, port: Port, leaves: list[Seen], arity: int | None) -> None:
        events = self.record.events
        events.append(Event(len(events), module, port, tuple(leaves), arity))

    def _see(self, path: str, tensor: torch.Tensor, engine: bool) -> Seen:
        self.record.tensors.append(tensor)
        return Seen(path, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), engine, id(tensor))

    def entered(self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        leaves = [
            self._see(place, tensor, name in ENGINE_NAMES)
            for root, name, value in named_inputs(argument_names(type(module).forward)[1:], args, kwargs)
            for place, tensor in flatten(value, root)
        ]
        self._add(path, "input", leaves, None)

    def left(self, path: str, output: object) -> None:
        arity = len(output) if type(output) is tuple or type(output) is list else None
        self._add(path, "output", [self._see(place, tensor, False) for place, tensor in flatten(output)], arity)


@contextmanager
def watching(model: nn.Module) -> Iterator[Record]:
    """Record every event of the forwards inside the block; the hooks are gone when it ends."""
    watcher = _Watcher()
    handles: list[Any] = []
    try:
        for path, module in model.named_modules():

            def before(module: nn.Module, args: Any, kwargs: Any, path: str = path) -> None:
                watcher.entered(path, module, args, kwargs)

            def after(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
                watcher.left(path, output)

            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        yield watcher.record
    finally:
        for handle in handles:
            handle.remove()


def probe_inputs(
    kind: str, rows: int, positions: int, vocabulary: int, device: torch.device
) -> dict[str, torch.Tensor | bool]:
    """What the model is called with: as the engine does, with rows of different lengths for an encoder.

    Returns:
        ``input_ids`` int64 (rows, positions), and ``attention_mask`` int64 of that shape for an encoder, or
        ``use_cache`` False for a causal model.
    """
    ids = torch.arange(rows * positions, device=device).reshape(rows, positions) % vocabulary
    if kind == "causal":
        return {"input_ids": ids, "use_cache": False}
    mask = torch.ones_like(ids)
    mask[0, positions // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def watch(model: nn.Module, inputs: Mapping[str, torch.Tensor | bool]) -> Record:
    """The record of one forward without gradients."""
    with watching(model) as record, torch.no_grad():
        model(**inputs)
    return record
