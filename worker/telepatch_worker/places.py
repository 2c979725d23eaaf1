"""Reads and writes of one scope at the places that its sites mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from telepatch_protocol import indexing, sites
from telepatch_protocol.check import starred_index
from telepatch_protocol.graph import Get, Set
from telepatch_worker.inputs import check_ids
from telepatch_worker.kernels import index_into
from telepatch_worker.values import as_tensor

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame

Index = tuple[indexing.Element, ...]


def piece(frame: Frame, node: Get, value: torch.Tensor) -> torch.Tensor:
    """What a read keeps of one of its places: of several, each one's own part of the index."""
    index = frame.index(node.index)
    if not sites.parse(node.site).starred:
        return own_copy(value, index)
    inner = _index_of_each(index, _rank(frame, node))
    return own_copy(value, () if inner is None else inner)


def joined(frame: Frame, node: Get, pieces: dict[int, torch.Tensor]) -> torch.Tensor:
    """The value of a read from the pieces of all its places."""
    if not sites.parse(node.site).starred:
        return pieces[0]
    index = frame.index(node.index)
    stacked = torch.stack([pieces[number] for number in range(len(pieces))])
    whole = _index_of_each(index, _rank(frame, node)) is None
    return own_copy(stacked, index) if whole else stacked


def write(frame: Frame, node: Set, part: int, region: torch.Tensor) -> None:
    """Write a node's value, or the part of it that one of several places gets, into a region, in place."""
    device = frame.context.device
    index = frame.index(node.index)
    value = as_tensor(frame.argument(node.value), device, region.dtype)
    starred = sites.parse(node.site).starred
    if starred and index:
        index = starred_index(index)
    at = index_into(region, index) if index else ...
    target = region[at]
    if starred and value.ndim == target.ndim + 1:
        value = value[part if value.shape[0] > 1 else 0]
    if not region.dtype.is_floating_point:
        check_ids(value, frame.context.card)
    region[at] = value.to(region.device, region.dtype)


def _rank(frame: Frame, node: Get) -> int:
    """How many axes the value at each place has."""
    return len(frame.plan.places[node.id][0].leaf.axes)


def own_copy(value: torch.Tensor, index: Index) -> torch.Tensor:
    """A copy of the indexed part."""
    found = value[index_into(value, index)] if index else value
    shared = found.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
    return found.clone() if shared else found


def _index_of_each(index: Index, rank: int) -> Index | None:
    """The index of each module's own value that gives, stacked, the index of the stack; None where there is none such.

    Advanced indices apart from each other put their axes in front of all others, the stacked one too.
    """
    first = index[0] if index else Ellipsis
    if first is not Ellipsis and not (isinstance(first, indexing.Slice) and first == indexing.Slice()):
        return None
    inner = starred_index(index)
    advanced = sum(1 for item in inner if isinstance(item, list | torch.Tensor))
    named = sum(1 for item in inner if item is not None and item is not Ellipsis)
    masked = any(isinstance(item, torch.Tensor) and item.ndim > 1 for item in inner)
    return None if advanced > 1 or masked or named > rank else inner
