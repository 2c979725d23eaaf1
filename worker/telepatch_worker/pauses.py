"""Pauses in the steps of a job that trains: a trace of others does not wait for a whole step of a large batch.

There is one wherever that is possible: at every site that a forward of the step comes to, and between the operations of
its backward pass. The step does the same as without them, to the last bit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from telepatch_worker.running import Clock

Leaving = Callable[[], Sequence[object]]
"""Asked at every site of a forward: who takes no further part from there on."""


class Pauses:
    """Nobody else is there, and a step goes on to its end.

    Attributes:
        taken: seconds that others have had so far.
    """

    taken = 0.0

    @property
    def likely(self) -> bool:
        """Whether somebody may be waiting; if not, a backward pass is not watched at all."""
        return False

    def offer(self) -> None:
        """Others may go on now, if they are there; returns once it is the step's turn again."""

    def before(self, watch: Leaving) -> Leaving:
        """What is asked at every site of a forward, with a pause before it."""
        return watch


UNBROKEN = Pauses()


class Breaks(Pauses):
    """The pauses of one job, which are no time of its own.

    Args:
        pauses: that it offers.
        clock: of the job.
    """

    def __init__(self, pauses: Pauses, clock: Clock) -> None:
        self._pauses = pauses
        self._clock = clock

    @property
    def likely(self) -> bool:
        """Whether somebody may be waiting."""
        return self._pauses.likely

    def offer(self) -> None:
        """Others may go on now."""
        began = time.perf_counter()
        self._pauses.offer()
        self.taken += (took := time.perf_counter() - began)
        self._clock.began += took

    def before(self, watch: Leaving) -> Leaving:
        """What is asked at every site of a forward, with a pause before it."""
        if self._pauses is UNBROKEN:
            return watch

        def asked() -> Sequence[object]:
            self.offer()
            return watch()

        return asked


@contextmanager
def during_backward(of: torch.Tensor, pauses: Pauses) -> Iterator[None]:
    """Offer pauses between the operations of a backward pass.

    On a GPU that runs in a thread of PyTorch's own, in which nobody else can go on; and there it is short.

    Args:
        of: the number whose gradient is found in the block.
        pauses: whom to offer them.
    """
    if not pauses.likely or of.grad_fn is None or of.device.type != "cpu":
        yield
        return
    here = threading.get_ident()

    def between(gradients: object) -> None:
        if threading.get_ident() == here:
            pauses.offer()

    hooks = [node.register_prehook(between) for node in _nodes(of.grad_fn)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _nodes(last: torch.autograd.graph.Node) -> list[torch.autograd.graph.Node]:
    """Every operation that a backward pass goes through."""
    found = {last: None}
    waiting = [last]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is not None and node not in found:
                found[node] = None
                waiting.append(node)
    return list(found)
