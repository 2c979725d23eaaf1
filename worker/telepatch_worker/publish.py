"""Make the model card that a worker publishes, by watching the loaded model."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from telepatch_protocol.card import Aliases, Limits, ModelCard, ModuleCard, ParamCard, PortCard
from telepatch_worker.axes import choose_sizes, model_sizes, solve
from telepatch_worker.cards import CardFile
from telepatch_worker.families import aliases_of
from telepatch_worker.past_price import past_bytes
from telepatch_worker.probe import Port, probe_inputs, watch

_MOST_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length")


def name_of(dtype: torch.dtype) -> str:
    """A dtype as cards spell it: ``float32``."""
    return str(dtype).removeprefix("torch.")


def _configured(model: nn.Module, name: str) -> object:
    """A field of the configuration, or of its text part in a model of several kinds of input."""
    config = getattr(model, "config", None)
    text = config.get_text_config() if config is not None else None
    return getattr(text, name, None)


def limits_of(model: nn.Module, file: CardFile) -> Limits:
    """The limits of the card file; positions from the model's configuration where it does not say."""
    stated = [_configured(model, name) for name in _MOST_POSITIONS]
    return file.limits_for(next((value for value in stated if isinstance(value, int)), 2048))


def vocabulary_of(model: nn.Module) -> int:
    """Number of token ids that the model takes."""
    size = _configured(model, "vocab_size")
    return size if isinstance(size, int) else 0


def observe(model: nn.Module, kind: str, most: int) -> dict[tuple[str, Port], PortCard]:
    """Run the model at two sizes and solve the axes of all its ports."""
    sizes = choose_sizes(model_sizes(model), most)
    device = next(model.parameters()).device
    vocabulary = vocabulary_of(model)
    first, second = (watch(model, probe_inputs(kind, size.rows, size.positions, vocabulary, device)) for size in sizes)
    return solve(first, second, sizes)


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


def cache_bytes(model: nn.Module) -> int:
    """Bytes that one more position of one row takes in a generation, where no layer lets old ones go."""
    if not isinstance(model, PreTrainedModel):
        return 0
    two, three = (past_bytes(model.config, model.dtype, 1, positions) for positions in (2, 3))
    return three - two


def model_card(
    model: nn.Module, file: CardFile, *, revision: str, device: torch.device, tokenizer: str | None
) -> ModelCard:
    """The card of a loaded model.

    Args:
        model: in eval mode, on its device.
        file: the card file it was loaded by.
        revision: identity of the weights and of the code that runs them.
        device: where the model is.
        tokenizer: sha256 of the tokenizer file, or None.

    Returns:
        The card, with axes found by running the model twice on a few tokens.
    """
    limits = limits_of(model, file)
    modules = module_cards(model, observe(model, file.kind, limits.max_positions))
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
        cache_bytes=cache_bytes(model) if file.kind == "causal" else 0,
        limits=limits,
        aliases=aliases,
        modules=modules,
    )
