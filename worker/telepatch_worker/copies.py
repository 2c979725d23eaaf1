"""Results on their way from a GPU into memory of the host: on a stream of their own, while forwards go on.

A plain copy waits for everything that was asked of the GPU before it, the next forward included, and so does the thread
that makes it. Memory that the operating system cannot move ("pinned") lets the GPU copy by itself, meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from telepatch_worker.desk import Outcome

MOST_BYTES = 256 * 2**20
"""Of one job's results; larger ones are copied plainly, as so much pinned memory is better not kept."""


class Copies:
    """Begins to copy results as soon as they are there.

    Args:
        device: of the model; on a CPU there is nothing to copy.

    Example:
        >>> outcome = Copies(torch.device("cuda")).begin(outcome)  # where the forward ran, right after it
        >>> outcome.at_hand()  # anywhere, later
        {'logits': tensor([...])}
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def begin(self, outcome: Outcome) -> Outcome:
        """The outcome, whose values are on their way; call it in the thread that computed them."""
        if self._stream is None or not outcome.saved or sum(one.nbytes for one in outcome.saved.values()) > MOST_BYTES:
            return outcome
        return replace(outcome, copied=_begun(outcome.saved, self._stream))


def _begun(tensors: Mapping[str, torch.Tensor], stream: torch.cuda.Stream) -> Callable[[], dict[str, torch.Tensor]]:
    """Copies of tensors that are made on a stream, once they are computed; given when they are done."""
    found: dict[str, torch.Tensor] = {}
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream), torch.no_grad():
        for name, tensor in tensors.items():
            if tensor.is_cuda:
                tensor.record_stream(stream)
                found[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                found[name].copy_(tensor, non_blocking=True)
            else:
                found[name] = tensor
        done = stream.record_event()

    def given() -> dict[str, torch.Tensor]:
        done.synchronize()
        return found

    return given
