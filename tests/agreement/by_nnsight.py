"""A case carried out with nnsight on the same weights, one trace for each invoke."""

from __future__ import annotations

from typing import Any

import torch
from cases import Case, Read, Write
from plain import Values, applied, finished, leaf_of, modules_of, torch_index, with_leaf

from telepatch_protocol import sites
from telepatch_protocol.card import ModelCard


def carry_out(
    case: Case, card: ModelCard, envoy: Any, model: torch.nn.Module, order: list[str] | None = None
) -> dict[str, torch.Tensor]:
    """The saved values; `envoy` is nnsight's tree over `model`."""
    values = Values(case, model)
    with torch.no_grad():
        for invoke in order or list(case.inputs):
            events = _in_firing_order(case, card, model, invoke)
            ids = torch.tensor(case.inputs[invoke])
            extra = {"use_cache": False} if card.kind == "causal" else {}
            with envoy.trace(input_ids=ids.reshape(-1, ids.shape[-1]), **extra):
                for step, path, part in events:
                    _do(step, envoy.get(_renamed(path)) if path else envoy, part, values)
        return finished(case, values)


def _renamed(path: str) -> str:
    """nnsight serves a child called ``output`` as ``E_output``."""
    return ".".join("E_output" if name == "output" else name for name in path.split("."))


def _in_firing_order(
    case: Case, card: ModelCard, model: torch.nn.Module, invoke: str
) -> list[tuple[Any, str, int | None]]:
    """nnsight must be asked in the order in which modules fire."""
    found = []
    for step in case.steps:
        if isinstance(step, Read | Write) and step.invoke == invoke:
            path = step.site.partition(":")[0]
            for part, native in enumerate(modules_of(model, path)):
                site = sites.parse(f"{native}:{step.site.partition(':')[2]}")
                found.append((sites.find(card, site)[0].order, step, native, part if "*" in path else None))
    return [event[1:] for event in sorted(found, key=lambda event: event[0])]


def _do(step: Any, envoy: Any, part: int | None, values: Values) -> None:
    port, _, leaf = step.site.partition(":")[2].partition(".")
    structure = envoy.inputs if port.startswith("input") else envoy.output
    tensor = _input_leaf(structure, leaf) if port.startswith("input") else leaf_of(structure, leaf)
    if isinstance(step, Read):
        _keep(step, tensor, part, values)
        return
    changed = applied(tensor, step, values, part)
    if port.startswith("input"):
        envoy.inputs = _with_input(structure, leaf, changed)
    else:
        envoy.output = with_leaf(structure, leaf, changed)


def _keep(step: Read, tensor: torch.Tensor, part: int | None, values: Values) -> None:
    if part is None:
        values.seen[step.name] = tensor[torch_index(step.index, values)].clone()
    else:
        index = step.index[1:] if step.index else None
        values.seen.setdefault(step.name, []).append(tensor[torch_index(index, values)].clone())


def _name(structure: Any, leaf: str) -> str:
    args, kwargs = structure
    return leaf or ("0" if args else next(iter(kwargs)))


def _input_leaf(structure: Any, leaf: str) -> torch.Tensor:
    name = _name(structure, leaf)
    return structure[0][int(name)] if name.isdigit() else structure[1][name]


def _with_input(structure: Any, leaf: str, value: torch.Tensor) -> Any:
    args, kwargs = structure
    name = _name(structure, leaf)
    if name.isdigit():
        return tuple(value if at == int(name) else arg for at, arg in enumerate(args)), kwargs
    return args, {**kwargs, name: value}
