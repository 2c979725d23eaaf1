"""Make the model card that a worker publishes, by watching the loaded model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

import structlog
import torch
from torch import nn
from transformers import PreTrainedModel

from telepatch_protocol.card import (
    Aliases,
    ChatTemplate,
    InputCard,
    Limits,
    ModelCard,
    ModuleCard,
    ParamCard,
    PortCard,
    SourceCard,
)
from telepatch_protocol.named import ONE_POSITION
from telepatch_worker.axes import Size, choose_sizes, model_sizes, solve, with_targets
from telepatch_worker.cards import CardFile, LoadError
from telepatch_worker.families import aliases_of
from telepatch_worker.named_models import probe_named
from telepatch_worker.neighbours import rows_are_apart
from telepatch_worker.past_price import past_bytes
from telepatch_worker.probe import probe_inputs, watch
from telepatch_worker.source_cards import Offered, offer
from telepatch_worker.standard_ports import with_standard_ports
from telepatch_worker.wholes import Whole, Widening

_log = structlog.get_logger(__name__)

Inputs = Mapping[str, InputCard]
Ports = dict[tuple[str, str], PortCard]
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


def prober(model: nn.Module, kind: str, inputs: Inputs) -> Callable[[Size], Called]:
    """What the model is called with at each size."""
    devices = (tensor.device for tensor in chain(model.parameters(), model.buffers()))
    device = next((one for one in devices if one.type != "meta"), torch.device("cpu"))
    vocabulary = vocabulary_of(model)

    def called(size: Size) -> Called:
        if inputs:
            return probe_named(inputs, size, device)
        return probe_inputs(kind, size.rows, size.positions, vocabulary, device)

    return called


def sizes_for(model: nn.Module, most: int, inputs: Inputs = NO_INPUTS) -> tuple[Size, Size]:
    """Two sizes at which the model is watched."""
    taken = model_sizes(model)
    least = max((one.holds.times + 1 for one in inputs.values() if one.holds is not None), default=1)
    sizes = choose_sizes(taken, most if most > ONE_POSITION else _ANY_LENGTH, least)
    return with_targets(sizes, taken) if any("target" in one.axes for one in inputs.values()) else sizes


def observe(model: nn.Module, kind: str, most: int, inputs: Inputs = NO_INPUTS) -> Ports:
    """Run the model at two sizes and solve the axes of all its ports."""
    called, sizes = prober(model, kind, inputs), sizes_for(model, most, inputs)
    first, second = (watch(model, called(size)) for size in sizes)
    return solve(first, second, sizes)


def with_operations(
    model: nn.Module, kind: str, most: int, modules: tuple[ModuleCard, ...], inputs: Inputs = NO_INPUTS
) -> tuple[tuple[ModuleCard, ...], dict[str, SourceCard]]:
    """The modules with the keys of their operations, and the operations by key."""
    called = prober(model, kind, inputs)
    try:
        offered = offer(model, modules, lambda size: model(**called(size)), sizes_for(model, most, inputs))
    except Exception as error:  # anybody's code runs here in another form than written: better served without than not
        _log.warning("no_operations", model=type(model).__name__, error=f"{type(error).__name__}: {error}")
        offered = Offered({}, {})
    keyed = (module.model_copy(update={"source": offered.keys.get(module.path, "")}) for module in modules)
    return tuple(keyed), dict(offered.sources)


def _params(module: nn.Module) -> dict[str, ParamCard]:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return {name: ParamCard(shape=tuple(tensor.shape), dtype=name_of(tensor.dtype)) for name, tensor in own}


def module_cards(
    model: nn.Module, ports: Mapping[tuple[str, str], PortCard], keyed: Sequence[ModuleCard] = ()
) -> tuple[ModuleCard, ...]:
    """Every module of the tree, parents before children; with the keys of the operations of `keyed`."""
    keys = {module.path: module.source for module in keyed}
    return tuple(
        ModuleCard(
            path=path,
            kind=type(module).__name__,
            input=ports.get((path, "input")),
            output=ports.get((path, "output")),
            params=_params(module),
            source=keys.get(path, ""),
        )
        for path, module in model.named_modules()
    )


def cache_bytes(model: nn.Module) -> int:
    """Bytes that one more position of one row takes in a generation, where no layer lets old ones go."""
    if not isinstance(model, PreTrainedModel):
        return 0
    two, three = (past_bytes(model.config, model.dtype, 1, positions) for positions in (2, 3))
    return three - two


def model_card(
    model: nn.Module,
    file: CardFile,
    *,
    revision: str,
    device: torch.device,
    tokenizer: str | None,
    inputs: Inputs = NO_INPUTS,
    chat: ChatTemplate | None = None,
    widening: Widening | None = None,
) -> ModelCard:
    """The card of a loaded model.

    Args:
        model: in eval mode, on its device.
        file: the card file it was loaded by.
        revision: identity of the weights and of the code that runs them.
        device: where the model is.
        tokenizer: sha256 of the tokenizer file, or None.
        inputs: the named tensors that it is called with; empty for one that takes tokens.
        chat: its chat template, or None.
        widening: to the sizes of the whole model, where this is a shard of it.

    Returns:
        The card, with axes found by running the model twice on a few tokens.
    """
    limits = limits_of(model, file, inputs)
    seen = whole_of(file, model, limits, inputs)
    ports, modules, sources = seen.ports, seen.modules, seen.sources
    if widening is not None:
        ports = widening.ports(ports)
        modules, sources = widening.sources(module_cards(model, ports, modules), sources)
    aliases: Aliases = file.aliases if file.aliases is not None else aliases_of(modules)
    published = ModelCard(
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
        chat=chat,
        tolerance=file.bound,
        cache_bytes=cache_bytes(model) if file.kind == "causal" else 0,
        limits=limits,
        aliases=aliases,
        inputs=dict(inputs),
        adapters=tuple(file.adapters),
        adapter=file.adapter,
        shares=_shares(file, model, limits, inputs, ports),
        modules=modules,
        sources=dict(sources),
    )
    if file.aliases is not None:
        return published
    heads = _configured(model, "num_attention_heads")
    return with_standard_ports(published, heads if isinstance(heads, int) else None)


def whole_of(file: CardFile, model: nn.Module, limits: Limits, inputs: Inputs = NO_INPUTS) -> Whole:
    """All places of a model, as it is."""
    ports = _observed(file, model, limits, inputs)
    modules, sources = with_operations(model, file.kind, limits.max_positions, module_cards(model, ports), inputs)
    return Whole(ports, modules, sources)


def _observed(file: CardFile, model: nn.Module, limits: Limits, inputs: Inputs) -> Ports:
    """The ports of a model; one that cannot be called as its card says is refused."""
    try:
        return observe(model, file.kind, limits.max_positions, inputs)
    except Exception as error:
        if not inputs:
            raise
        asked = ", ".join(f"{name} {one.dtype} {one.shape}" for name, one in inputs.items())
        raise LoadError(f"{file.id}: {type(model).__name__} cannot be called with {asked}: {error}") from error


def _shares(
    file: CardFile, model: nn.Module, limits: Limits, inputs: Inputs, ports: Mapping[tuple[str, str], PortCard]
) -> bool:
    """Whether rows of different jobs can share a forward: looked at where it does not follow from the family."""
    if not inputs and file.quantisation is None:
        return True
    size, _ = sizes_for(model, limits.max_positions, inputs)
    return rows_are_apart(model, prober(model, file.kind, inputs)(size), ports, file.bound)
