"""Make the model card that a worker publishes, by watching the loaded model."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import nn

from telepatch_protocol.card import Aliases, InputCard, Limits, ModelCard, ModuleCard, ParamCard, PortCard
from telepatch_protocol.named import ONE_POSITION
from telepatch_worker.axes import Size, choose_sizes, model_sizes, solve
from telepatch_worker.cards import CardFile, LoadError
from telepatch_worker.families import aliases_of
from telepatch_worker.named_models import probe_named
from telepatch_worker.neighbours import rows_are_apart
from telepatch_worker.probe import Port, probe_inputs, watch

Inputs = Mapping[str, InputCard]
Ports = dict[tuple[str, Port], PortCard]
Called = Mapping[str, torch.Tensor | bool]

NO_INPUTS: Inputs = {}
_ANY_LENGTH = 400

_MOST_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length")


def name_of(dtype: torch.dtype) -> str:
    """A dtype as cards spell it: ``float32``."""
    return str(dtype).removeprefix("torch.")


def _configured(model: nn.Module, name: str) -> object:
    """A field of the configuration, or of its text part in a model of several kinds of input."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None else None
    return getattr(text, name, None)


def limits_of(model: nn.Module, file: CardFile, inputs: Inputs = NO_INPUTS) -> Limits:
    """The limits of the card file; positions from the model's configuration where it does not say."""
    if file.named and not any("pos" in one.axes for one in inputs.values()):
        return file.limits_for(ONE_POSITION)
    stated = [_configured(model, name) for name in _MOST_POSITIONS]
    return file.limits_for(next((value for value in stated if isinstance(value, int)), 2048))


def vocabulary_of(model: nn.Module) -> int:
    """Number of token ids that the model takes."""
    size = _configured(model, "vocab_size")
    return size if isinstance(size, int) else 0


def probes(
    model: nn.Module, kind: str, most: int, inputs: Inputs = NO_INPUTS
) -> tuple[tuple[Size, Size], tuple[Called, Called]]:
    """Two sizes, and what the model is called with to watch it at each."""
    sizes = choose_sizes(model_sizes(model), most if most > ONE_POSITION else _ANY_LENGTH)
    device = next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))
    vocabulary = vocabulary_of(model)

    def called(size: Size) -> Called:
        if inputs:
            return probe_named(inputs, size.rows, size.positions, device)
        return probe_inputs(kind, size.rows, size.positions, vocabulary, device)

    return sizes, (called(sizes[0]), called(sizes[1]))


def observe(model: nn.Module, kind: str, most: int, inputs: Inputs = NO_INPUTS) -> dict[tuple[str, Port], PortCard]:
    """Run the model at two sizes and solve the axes of all its ports."""
    sizes, (one, two) = probes(model, kind, most, inputs)
    return solve(watch(model, one), watch(model, two), sizes)


def _params(module: nn.Module) -> dict[str, ParamCard]:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {name: ParamCard(shape=tuple(tensor.shape), dtype=name_of(tensor.dtype)) for name, tensor in own}


def module_cards(model: nn.Module, ports: dict[tuple[str, Port], PortCard]) -> tuple[ModuleCard, ...]:
    """Every module of the tree, parents before children."""
    return tuple(
        ModuleCard(
            path=path,
            kind=type(module).__name__,
            input=ports.get((path, "input")),
            output=ports.get((path, "output")),
            params=_params(module),
        )
        for path, module in model.named_modules()
    )


def model_card(
    model: nn.Module,
    file: CardFile,
    *,
    revision: str,
    device: torch.device,
    tokenizer: str | None,
    inputs: Inputs = NO_INPUTS,
) -> ModelCard:
    """The card of a loaded model.

    Args:
        model: in eval mode, on its device.
        file: the card file it was loaded by.
        revision: identity of the weights and of the code that runs them.
        device: where the model is.
        tokenizer: sha256 of the tokenizer file, or None.
        inputs: the named tensors that it is called with; empty for one that takes tokens.

    Returns:
        The card, with axes found by running the model twice on a few tokens.
    """
    limits = limits_of(model, file, inputs)
    ports = _observed(file, model, limits, inputs)
    modules = module_cards(model, ports)
    aliases: Aliases = file.aliases if file.aliases is not None else aliases_of(modules)
    return ModelCard(
        id=file.id,
        revision=revision,
        title=file.title or file.id,
        kind=file.kind,
        family=str(getattr(getattr(model, "config", None), "model_type", "")),
        dtype=file.dtype,
        device=str(device),
        attention=file.attention,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        vocabulary=vocabulary_of(model),
        tokenizer=tokenizer,
        tolerance=file.bound,
        limits=limits,
        aliases=aliases,
        inputs=dict(inputs),
        shares=_shares(file, model, limits, inputs, ports),
        modules=modules,
    )


def _observed(file: CardFile, model: nn.Module, limits: Limits, inputs: Inputs) -> Ports:
    """The ports of a model; one that cannot be called as its card says is refused."""
    try:
        return observe(model, file.kind, limits.max_positions, inputs)
    except Exception as error:
        if not inputs:
            raise
        asked = ", ".join(f"{name} {one.dtype} {one.shape}" for name, one in inputs.items())
        raise LoadError(f"{file.id}: {type(model).__name__} cannot be called with {asked}: {error}") from error


def _shares(file: CardFile, model: nn.Module, limits: Limits, inputs: Inputs, ports: Ports) -> bool:
    """Whether rows of different jobs can share a forward: looked at where it does not follow from the family."""
    if not inputs and file.quantisation is None:
        return True
    _, (called, _) = probes(model, file.kind, limits.max_positions, inputs)
    return rows_are_apart(model, called, ports, file.bound)
