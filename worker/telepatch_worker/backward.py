"""Gradients of many jobs in as few backward passes as there can be.

The rows of different jobs do not depend on each other, so the gradient of the sum of their numbers is, in the rows of
each, the gradient of its own number. Numbers that depend on a value of which another request asks take turns with it:
those of two elements of a map may, where the value lies outside the map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from telepatch_worker.pauses import UNBROKEN, Pauses, during_backward
from telepatch_worker.requests import Backward


def fulfil(requests: Sequence[Backward], pauses: Pauses = UNBROKEN) -> None:
    """Find all gradients; nothing accumulates anywhere, and the graphs stay for further gradients.

    Args:
        requests: whose.
        pauses: offered on the way.
    """
    for group in _apart(requests):
        _together(group, pauses)


def _apart(requests: Sequence[Backward]) -> list[list[Backward]]:
    """Groups in which no number may depend on what another request asks about or edits."""
    groups: list[list[Backward]] = []
    for request in requests:
        if not request.of.requires_grad:
            request.found = [[None] * len(tracks) for tracks in request.wrt]
            continue
        for group in groups:
            if not any(_meet(request, other) for other in group):
                group.append(request)
                break
        else:
            groups.append([request])
    return groups


def _meet(one: Backward, other: Backward) -> bool:
    return bool(_scopes(one) & other.sees or _scopes(other) & one.sees)


def _scopes(request: Backward) -> set[int]:
    """The scopes of the values that a request asks about, and of what it edits."""
    asked = {track.owner[0] for tracks in request.wrt for track in tracks}
    return asked | {edit.owner[0] for edit in request.edits}


def _together(requests: Sequence[Backward], pauses: Pauses) -> None:
    tensors = {id(track.tensor): track.tensor for one in requests for tracks in one.wrt for track in tracks}
    edits = [edit for one in requests for edit in one.edits]
    for edit in edits:
        tensors |= {id(tensor): tensor for tensor in edit.tensors}
        edit.active = True
    try:
        total = sum((one.of.reshape(()) for one in requests[1:]), requests[0].of.reshape(()))
        with during_backward(total, pauses):
            found = torch.autograd.grad(total, list(tensors.values()), retain_graph=True, allow_unused=True)
    finally:
        for edit in edits:
            edit.active = False
    gradients = dict(zip(tensors, found, strict=True))
    for one in requests:
        one.found = [[gradients[id(track.tensor)] for track in tracks] for tracks in one.wrt]
