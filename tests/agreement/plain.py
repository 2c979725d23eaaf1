"""What the two local ways of carrying out a case share: indices, leaves and expressions in plain PyTorch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from cases import Apply, Case, Compute, Param, Read, Write, saved_as

NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def torch_index(index: list[Any] | None, values: Callable[[str], Any]) -> Any:
    """A wire index as a Python one."""
    return tuple(_element(item, values) for item in index or ["..."])


def _element(item: Any, values: Callable[[str], Any]) -> Any:
    if item == "...":
        return Ellipsis
    if isinstance(item, str) and item.startswith("$"):
        return values(item[1:])
    if isinstance(item, str):
        return slice(*(int(part) if part else None for part in item.split(":")))
    return torch.tensor(item) if isinstance(item, list) else item


def leaf_of(structure: Any, path: str) -> torch.Tensor:
    """One tensor of what a module takes or returns; an empty path is the tensor that it is mainly about."""
    if not path:
        if isinstance(structure, torch.Tensor):
            return structure
        return structure.logits if hasattr(structure, "logits") else structure[0]
    for part in path.split("."):
        structure = structure[int(part)] if part.isdigit() else structure[part]
    return structure


def with_leaf(structure: Any, path: str, value: torch.Tensor) -> Any:
    """The same structure with one tensor replaced."""
    if isinstance(structure, torch.Tensor):
        return value
    place = int(path) if path else 0
    return tuple(value if at == place else item for at, item in enumerate(structure))


def modules_of(model: torch.nn.Module, path: str) -> list[str]:
    """Native paths that a path with a star stands for, in order."""
    pattern = re.compile(re.escape(path).replace(r"\*", r"\d+"))
    return [name for name, _ in model.named_modules() if pattern.fullmatch(name)]


class Values:
    """Named values of a case: reads as they come, computed ones when they are asked for."""

    def __init__(self, case: Case, model: torch.nn.Module, seen: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.steps = {step.name: step for step in case.steps if not isinstance(step, Write)}
        self.seen: dict[str, Any] = dict(seen or {})

    def __call__(self, name: str) -> Any:
        base, _, output = name.partition(".")
        if base not in self.seen:
            self.seen[base] = self._make(self.steps[base])
        found = self.seen[base]
        if isinstance(found, list):
            found = torch.stack(found)
        return getattr(found, output) if output else found

    def written(self, value: Any, like: torch.Tensor) -> torch.Tensor:
        """A value to write, in the dtype of what is there."""
        if isinstance(value, str):
            value = NUMBERS.get(value) if value in NUMBERS else self(value[1:])
        return torch.as_tensor(value).to(like.dtype)

    def _make(self, step: Any) -> Any:
        if isinstance(step, Param):
            return self.model.get_parameter(f"{step.path}.{step.parameter}")
        if isinstance(step, Apply):
            return self.model.get_submodule(step.path)(self(step.value))
        if isinstance(step, Read):
            raise AssertionError(f"'{step.name}' is used before it is read")
        args = [self._argument(arg) for arg in step.args]
        if step.op == "index":
            return args[0][torch_index(step.args[1], self)]
        return getattr(torch, step.op, getattr(torch.nn.functional, step.op, None))(*args, **step.kwargs)

    def _argument(self, arg: Any) -> Any:
        if isinstance(arg, list):
            return [self._argument(one) for one in arg]
        return self(arg[1:]) if isinstance(arg, str) and arg.startswith("$") else arg


def applied(tensor: torch.Tensor, write: Write, values: Values, part: int | None) -> torch.Tensor:
    """The tensor after a write; `part` numbers the module of a starred site."""
    changed = tensor.clone()
    value = values.written(write.value, tensor)
    index = write.index
    if part is not None:
        index = index[1:] if index else None
        region = changed[torch_index(index, values)]
        value = value[part] if value.dim() > region.dim() else value
    changed[torch_index(index, values)] = value
    return changed


def finished(case: Case, values: Values) -> dict[str, torch.Tensor]:
    """Everything that the case saves."""
    kept = [step for step in case.steps if not isinstance(step, Write)]
    names = [saved_as(step) if isinstance(step, Compute) else step.name for step in kept]
    return {name: values(name).detach().clone() for name in names if name}
