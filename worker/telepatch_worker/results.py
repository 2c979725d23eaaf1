"""Saved values as safetensors bytes, and back; bfloat16 stays what it is."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors
import torch
from safetensors.torch import load as read
from safetensors.torch import save as write

from telepatch_protocol.errors import ProtocolError
from telepatch_protocol.jobs import SavedMeta
from telepatch_protocol.printable import short


def encode(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Tensors as one safetensors file.

    Args:
        tensors: on any device, of any layout; several names may share one.
    """
    ready = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    seen: set[int] = set()
    for name, tensor in ready.items():
        if tensor.data_ptr() in seen:  # the format has no sharing
            ready[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    return write(ready)


def decode(data: bytes) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file, on the CPU; no bytes are no tensors.

    Raises:
        ProtocolError: not such a file.
    """
    if not data:
        return {}
    try:
        return read(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ProtocolError(f"the attached tensors are no safetensors file: {short(str(error), 300)}") from None


def metas(tensors: Mapping[str, torch.Tensor]) -> dict[str, SavedMeta]:
    """Shapes and dtypes, as clients see them before they fetch."""
    return {
        name: SavedMeta(shape=tuple(tensor.shape), dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in tensors.items()
    }
