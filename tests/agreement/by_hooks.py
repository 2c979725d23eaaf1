"""A case carried out with plain PyTorch forward hooks, one forward for each invoke."""

from __future__ import annotations

from typing import Any

import torch
from cases import Case, Read, Write
from plain import Values, applied, finished, leaf_of, modules_of, torch_index, with_leaf


def carry_out(case: Case, model: torch.nn.Module, order: list[str] | None = None) -> dict[str, torch.Tensor]:
    """The saved values; `order` is the order in which the invokes must run, by default as they stand."""
    values = Values(case, model)
    with torch.no_grad():
        for invoke in order or list(case.inputs):
            _forward(case, model, invoke, values)
        return finished(case, values)


def _forward(case: Case, model: torch.nn.Module, invoke: str, values: Values) -> None:
    handles = []
    own = [step for step in case.steps if isinstance(step, Read | Write) and step.invoke == invoke]
    parts = {id(step): modules_of(model, step.site.partition(":")[0]) for step in own}
    try:
        for path in dict.fromkeys(path for step in own for path in parts[id(step)]):
            handles += _attach(model.get_submodule(path) if path else model, _here(own, parts, path), values)
        ids = torch.tensor(case.inputs[invoke])
        model(input_ids=ids.reshape(-1, ids.shape[-1]), **_cache(model))
    finally:
        for handle in handles:
            handle.remove()


def _cache(model: torch.nn.Module) -> dict[str, Any]:
    return {"use_cache": False} if getattr(model.config, "model_type", "") != "bert" else {}


def _here(own: list[Any], parts: dict[int, list[str]], path: str) -> list[tuple[Any, int | None]]:
    return [
        (step, parts[id(step)].index(path) if "*" in step.site else None) for step in own if path in parts[id(step)]
    ]


def _attach(module: torch.nn.Module, steps: list[tuple[Any, int | None]], values: Values) -> list[Any]:
    before = [(step, part) for step, part in steps if step.site.partition(":")[2].startswith("input")]
    after = [(step, part) for step, part in steps if step.site.partition(":")[2].startswith("output")]

    def take(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for step, part in before:
            leaf = step.site.partition(":")[2].partition(".")[2] or ("0" if args else next(iter(kwargs)))
            if leaf.isdigit():
                new = _do(step, part, args[int(leaf)], values)
                args = tuple(new if at == int(leaf) else arg for at, arg in enumerate(args))
            else:
                kwargs = {**kwargs, leaf: _do(step, part, kwargs[leaf], values)}
        return args, kwargs

    def give(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        for step, part in after:
            leaf = step.site.partition(":")[2].partition(".")[2]
            changed = _do(step, part, leaf_of(output, leaf), values)
            output = with_leaf(output, leaf, changed) if isinstance(step, Write) else output
        return output

    return [module.register_forward_pre_hook(take, with_kwargs=True), module.register_forward_hook(give)]


def _do(step: Any, part: int | None, tensor: torch.Tensor, values: Values) -> torch.Tensor:
    if isinstance(step, Write):
        return applied(tensor, step, values, part)
    if part is None:
        values.seen[step.name] = tensor[torch_index(step.index, values)].clone()
    else:
        index = step.index[1:] if step.index else None
        values.seen.setdefault(step.name, []).append(tensor[torch_index(index, values)].clone())
    return tensor
