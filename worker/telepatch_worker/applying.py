"""Modules of the model, applied to values: at once where something in a forward waits for it, else for all together.

A head is wide, and going over its weights costs more than what is computed with them for a few rows.

Only modules that treat each row of their input alone are applied together: those that norm or project its last axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from telepatch_protocol import sites
from telepatch_protocol.graph import Module
from telepatch_protocol.meta import Meta
from telepatch_protocol.sites import Place
from telepatch_worker.inputs import check_ids
from telepatch_worker.leaves import read_leaf
from telepatch_worker.requests import Apply, Work
from telepatch_worker.values import Value

if TYPE_CHECKING:
    from telepatch_protocol.card import ModelCard, ModuleCard
    from telepatch_worker.frame import Frame, Model

TOGETHER_BYTES = 32 * 2**20
"""What modules applied together give at a time, and what waits in a job to be given to them."""

_ROWS_ALONE = (nn.Linear, nn.LayerNorm, nn.RMSNorm, Conv1D)


def applied(frame: Frame, node: Module) -> Value:
    """What a module gives for a value, at once."""
    module = _module_of(frame, node)
    args = [frame.argument(arg) for arg in node.args]
    if isinstance(args[0], torch.Tensor) and not args[0].dtype.is_floating_point:
        check_ids(args[0], frame.context.card, frame.context.model.module.get_submodule(module.path))
    kwargs = {name: frame.argument(arg) for name, arg in node.kwargs.items()}
    return _given(module, frame.context.model.apply(module.path, args, kwargs))


def applied_together(frame: Frame, node: Module) -> Work[Value]:
    """The same, with whatever else is applied between forwards."""
    module = _module_of(frame, node)
    request = Apply(module.path, frame.tensor(node.args[0]))
    yield [request]
    return _given(module, request.found)


def can_wait(frame: Frame, node: Module) -> bool:
    """Whether a module may be applied once the forward is over, with others."""
    if len(node.args) != 1 or node.kwargs:
        return False
    found = frame.argument(node.args[0])
    if not isinstance(found, torch.Tensor) or not found.is_floating_point() or not found.ndim:
        return False
    limit, most = frame.context.card.limits.max_bytes, 2 * TOGETHER_BYTES
    if found.nbytes > TOGETHER_BYTES // 16 or frame.context.held + most > limit:
        return False
    module = frame.context.model.module.get_submodule(_module_of(frame, node).path)
    return isinstance(module, _ROWS_ALONE) or type(module).__name__.endswith("RMSNorm")


def affordable(frame: Frame, nodes: Sequence[Module]) -> list[Module]:
    """As many of these as give no more than may be there at a time; one in any case."""
    found: list[Module] = []
    size = 0
    for node in nodes:
        meta = frame.plan.scope.values[node.id]
        size += (meta.bytes() or 0) if isinstance(meta, Meta) else 0
        if found and size > TOGETHER_BYTES:
            break
        found.append(node)
    return found


def fulfil(requests: Iterable[Apply], model: Model, card: ModelCard) -> None:
    """Apply the modules that are asked for, each once to all that it is to be applied to, as far as there is room.

    Args:
        requests: which modules, to what.
        model: whose they are.
        card: of the model; a module is given as many axes as in a forward, since shards of it count on them.
    """
    alike: dict[tuple[object, ...], list[Apply]] = {}
    for one in requests:
        key = (one.path, one.value.dtype, one.value.shape[-1])
        alike.setdefault(key, []).append(one)
    for group in alike.values():
        for some in _chunks(group):
            rows = [one.value.reshape(-1, one.value.shape[-1]) for one in some]
            given = torch.cat(rows)
            found = model.apply(some[0].path, [given[(None,) * (_axes(card, some[0].path) - given.ndim)]], {})
            assert isinstance(found, torch.Tensor)
            parts = found.reshape(len(given), -1).split([len(own) for own in rows])
            for one, part in zip(some, parts, strict=True):
                one.found = part.reshape(*one.value.shape[:-1], part.shape[-1])


def _axes(card: ModelCard, path: str) -> int:
    """How many axes a module's input has in a forward."""
    port = card.by_path[path].input
    return 0 if port is None else len(port.leaves[port.primary].axes)


def _chunks(group: Sequence[Apply]) -> Iterator[list[Apply]]:
    chunk: list[Apply] = []
    size = 0
    for one in group:
        size += one.value.nbytes
        if chunk and size > TOGETHER_BYTES:
            yield chunk
            chunk, size = [], one.value.nbytes
        chunk.append(one)
    yield chunk


def _module_of(frame: Frame, node: Module) -> ModuleCard:
    card = frame.context.card
    path = sites.parse(f"{node.path}:output").fill(frame.number_of).path
    return card.by_path[sites.native_path(card, path)]


def _given(module: ModuleCard, found: object) -> torch.Tensor:
    assert module.output is not None
    return read_leaf(found, Place(module.path, "output", module.output.leaves[module.output.primary].path))
