"""A model that is larger than its device: weights that lie in the host's memory, or on disk, until their module runs.

accelerate fetches them for each module as it is entered, and lets them go as it is left; in between they are on
PyTorch's ``meta`` device, shapes without numbers. Everything is computed on one device, so to a job the model is as any
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from accelerate.utils.modeling import align_module_device
from torch import nn

from telepatch_worker.cards import CardFile, LoadError

_AWAY = ("cpu", "disk")


def spread(file: CardFile, device: torch.device) -> dict[str, Any]:
    """How transformers is told where the weights go: on one device to compute on, and away from it.

    Raises:
        LoadError: the map names another device.
    """
    if file.device_map is None:
        return {"device_map": {"": device}}
    own = device.index if device.type == "cuda" else "cpu"
    if isinstance(file.device_map, dict):
        _refuse_nested(file, file.device_map)
        allowed = {str(device), str(own), *_AWAY}
        for path, place in file.device_map.items():
            if str(place) not in allowed:
                raise LoadError(
                    f"{file.id}: device_map has {place!r} for {path!r}; a worker computes on one device, here "
                    f"{device}, and keeps weights there, on 'cpu' and on 'disk'. tp_size shards a model over several"
                )
        return {"device_map": {path: _place(place, device) for path, place in file.device_map.items()}}
    memory = {int(name) if name.isdigit() else name: most for name, most in file.max_memory.items()}
    if unknown := [name for name in memory if name not in (own, *_AWAY)]:
        raise LoadError(f"{file.id}: max_memory names {unknown[0]!r}; here it is for {own!r}, 'cpu' and 'disk'")
    if device.type == "cuda" and own not in memory:
        memory[own] = int(torch.cuda.mem_get_info(device)[0] * 0.9)
    return {"device_map": "auto", **({"max_memory": memory} if memory else {})}


def _refuse_nested(file: CardFile, given: dict[str, int | str]) -> None:
    """accelerate puts a module where the first of its names says, and would ignore another one inside."""
    for path in given:
        around = next((one for one in given if one != path and (not one or path.startswith(f"{one}."))), None)
        if around is not None:
            raise LoadError(
                f"{file.id}: device_map has {around!r} and {path!r}, which lies inside of it; "
                "name modules of which none holds another, as 'model.embed_tokens', 'model.layers.0' and so on"
            )


def _place(place: int | str, device: torch.device) -> int | str | torch.device:
    return place if place in _AWAY else device


def hook_of(module: nn.Module) -> Any:
    """accelerate's hook, which fetches the weights of a module as it is entered; None where they are there."""
    return module.__dict__.get("_hf_hook")


def fetching(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward of a module that takes the place of its own, with its weights fetched around it."""
    hook = hook_of(module)
    if hook is None:
        return forward

    @wraps(forward)
    def fetched(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = hook.pre_forward(module, *args, **kwargs)
        return hook.post_forward(module, forward(*args, **kwargs))

    return fetched


@contextmanager
def present(module: nn.Module) -> Iterator[None]:
    """The weights of a module are there inside the block."""
    with align_module_device(module):
        yield
