"""Nodes that happen wherever their needs are met: parameters, operations, modules applied to values, and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import JsonValue

from telepatch_protocol import sites
from telepatch_protocol.graph import Call, Get, Log, Module, Node
from telepatch_protocol.literals import with_literals
from telepatch_protocol.ops import find_op
from telepatch_protocol.sites import Place
from telepatch_worker.applying import applied
from telepatch_worker.emitting import log
from telepatch_worker.kernels import run_op
from telepatch_worker.places import own_copy
from telepatch_worker.values import Value, as_tensor

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame


def value(frame: Frame, node: Node) -> Value:
    """The value of a node in a scope where everything that it needs is known."""
    if isinstance(node, Get):
        return _parameter(frame, node)
    if isinstance(node, Call):
        return _called(frame, node)
    if isinstance(node, Log):
        log(frame, node)
        return {}
    assert isinstance(node, Module)
    return applied(frame, node)


def _parameter(frame: Frame, node: Get) -> torch.Tensor:
    index = frame.index(node.index)
    tensors = [_tensor_of(frame, found.place) for found in frame.plan.places[node.id]]
    starred = sites.parse(node.site).starred
    return own_copy(torch.stack(tensors) if starred else tensors[0], index).detach()


def _tensor_of(frame: Frame, place: Place) -> torch.Tensor:
    module = frame.context.model.module.get_submodule(place.path)
    own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
    return own[place.leaf]


def _called(frame: Frame, node: Call) -> Value:
    op = find_op(node.op)
    kinds = [param.kind for param in op.params]
    kinds += kinds[-1:] * (len(node.args) - len(kinds))  # a list of values may also follow one by one
    args, kwargs = with_literals(
        op,
        tuple(_operand(frame, kind, arg) for kind, arg in zip(kinds, node.args, strict=False)),
        {name: _operand(frame, op.by_name[name].kind, arg) for name, arg in node.kwargs.items()},
        lambda found: as_tensor(found, frame.context.device),
    )
    return run_op(op.name, args, kwargs, device=frame.context.device)


def _operand(frame: Frame, kind: str, given: JsonValue) -> Value:
    return frame.index(given) if kind == "index" and isinstance(given, list) else frame.argument(given)
