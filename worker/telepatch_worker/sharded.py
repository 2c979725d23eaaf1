"""A model that several ranks hold together, each a shard: loaded by transformers' tensor parallelism."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.distributed.tensor_parallel import ReplicatedWithGradAllReduce

from telepatch_worker.cards import CardFile, LoadError
from telepatch_worker.named_models import maker_of
from telepatch_worker.publish import limits_of, whole_of
from telepatch_worker.random_weights import build, place
from telepatch_worker.sources import Prepared
from telepatch_worker.wholes import Whole, imagined

if TYPE_CHECKING:
    from telepatch_worker.ranks import Ranks

_SIZES = ("num_attention_heads", "num_key_value_heads", "intermediate_size")


def local_device(file: CardFile, local_rank: int, local_world_size: int) -> torch.device:
    """Where a shard lies: each rank of a host has a CUDA device of its own, or all are on the CPU.

    Raises:
        LoadError: there are fewer devices than ranks.
    """
    count = torch.cuda.device_count()
    if not count:
        if file.device == "cuda":
            raise LoadError(f"{file.id}: device is 'cuda', but this machine has no CUDA device; use 'auto'")
        return torch.device("cpu")
    if file.device == "cpu":
        raise LoadError(
            f"{file.id}: to hold shards on the CPU of a machine with CUDA devices, hide those: "
            "start it with CUDA_VISIBLE_DEVICES= in the environment"
        )
    if count < local_world_size:
        raise LoadError(f"{file.id}: {local_world_size} ranks on this host need a CUDA device each; it has {count}")
    return torch.device("cuda", local_rank)


def saved_random(file: CardFile, prepared: Prepared, cache: Path) -> Prepared:
    """The random weights of a ``config:`` card as a folder, from which each rank reads its own part."""
    if prepared.folder is not None:
        return prepared
    name = hashlib.sha256(prepared.identity.encode()).hexdigest()[:16]
    folder = cache / "random" / name
    if not (folder / "config.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = folder.with_name(f".{name}-{os.getpid()}")
        place(build(file), torch.device("cpu"), torch.float32).save_pretrained(made)
        made.rename(folder)
    return Prepared(folder, prepared.identity)


def sharding(file: CardFile, folder: Path) -> dict[str, Any]:
    """How transformers is told to give this process its shard.

    Raises:
        LoadError: the model cannot be cut so, because of its kind or its sizes.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    text = config.get_text_config()
    if not getattr(text, "base_model_tp_plan", None):
        raise LoadError(
            f"{file.id}: transformers has no plan to shard a {config.model_type} over several ranks; "
            "leave tp_size out, or let device_map spread it over the devices of one worker"
        )
    sizes = {name: getattr(text, name, None) for name in _SIZES}
    uneven = [f"{name} = {size}" for name, size in sizes.items() if isinstance(size, int) and size % file.tp_size]
    if uneven:
        raise LoadError(f"{file.id}: tp_size = {file.tp_size} does not divide {', '.join(uneven)}")
    return {"distributed_config": DistributedConfig(tp_size=file.tp_size)}


def unwrapped(model: PreTrainedModel) -> PreTrainedModel:
    """The model without what only sums gradients of its parameters, which nobody asks for: such a module's forward is
    its class's own again, and its operations can be shown."""
    for module in model.modules():
        name = getattr(module.__dict__.get("forward"), "__qualname__", "")
        if name.startswith(f"{ReplicatedWithGradAllReduce.__name__}."):
            del module.__dict__["forward"]
    return model


def whole_model(file: CardFile, folder: Path) -> Whole:
    """The places of the model that the ranks hold together."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

    def made() -> nn.Module:
        model: PreTrainedModel = maker_of(file, folder).from_config(
            config, dtype=getattr(torch, file.dtype), attn_implementation=file.attention
        )
        return model

    return imagined(made, lambda model: whole_of(file, model, limits_of(model, file)))


def take_turns(ranks: Ranks, prepare: Any) -> Any:
    """Rank 0 prepares first, so that nothing is fetched or converted twice; what the others then do is quick."""
    if ranks.leads:
        found = prepare()
        ranks.tell("prepared")
        return found
    ranks.await_("prepared")
    return prepare()
