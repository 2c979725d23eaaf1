"""From a card file to a model that can be served."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from telepatch_protocol.card import ModelCard
from telepatch_worker.adapters import adapted, adapters_identity, check_adapters
from telepatch_worker.byte_tokenizer import byte_tokenizer
from telepatch_worker.cards import CardFile, LoadError, read_card
from telepatch_worker.chat_template import chat_template_of
from telepatch_worker.loaders import Made, call_loader, loader_identity
from telepatch_worker.memory import Space, free_memory
from telepatch_worker.named_models import inputs_of, maker_of
from telepatch_worker.offload import spread
from telepatch_worker.progress import Progress, counting_weights, quiet, silent
from telepatch_worker.publish import limits_of, model_card
from telepatch_worker.quantised import check_quantisation, quantisation_options, quantised
from telepatch_worker.random_weights import build, place
from telepatch_worker.ranks import Ranks
from telepatch_worker.sharded import saved_random, sharding, take_turns, unwrapped, whole_model
from telepatch_worker.shards import Shards
from telepatch_worker.sources import Prepared, prepare
from telepatch_worker.wholes import Widening

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class Loaded:
    """A model ready to run.

    Attributes:
        file: the card file it was loaded by.
        module: in eval mode; no parameter requires a gradient.
        tokenizer: fast tokenizer, or None for a model that takes token ids only.
        device: where the module is.
        dtype: floating dtype of its weights.
        revision: identity of the weights and of the code that runs them, as on the card.
        card: what is published.
        tokenizer_json: the tokenizer file (UTF-8 JSON) whose sha256 the card names, or None.
        shards: which of its tensors are pieces, where the module is one shard of the model.
    """

    file: CardFile
    module: nn.Module
    tokenizer: PreTrainedTokenizerFast | None
    device: torch.device
    dtype: torch.dtype
    revision: str
    card: ModelCard
    tokenizer_json: bytes | None
    shards: Shards | None = None


def device_of(file: CardFile) -> torch.device:
    """The device that the card file asks for; refused where this machine has none such."""
    count = torch.cuda.device_count()
    if file.device == "auto":
        return torch.device("cuda:0" if count else "cpu")
    asked = torch.device(file.device)
    if asked.type == "cuda" and (asked.index or 0) >= count:
        raise LoadError(f"{file.id}: device is {file.device!r}, but this machine has {count} CUDA devices; use 'auto'")
    return torch.device("cuda", asked.index or 0) if asked.type == "cuda" else asked


def revision_of(file: CardFile, identity: str) -> str:
    """One hash over what decides the numbers: weights, dtype, attention, and the code that runs them.

    Args:
        file: the card file.
        identity: of the weights, as the source states it.

    Returns:
        16 hexadecimal digits.
    """
    versions = f"transformers {transformers.__version__}, torch {torch.__version__.partition('+')[0]}"
    versions += f", nnsight {version('nnsight')}"  # which names the operations inside forwards
    parts = [identity, file.kind, file.dtype, file.attention, file.tokenizer, versions]
    if file.loader is not None:
        parts += [loader_identity(file), json.dumps(file.config, sort_keys=True)]
    if file.quantisation is not None:
        parts.append(file.quantisation.model_dump_json())
    if file.adapters:
        parts.append(adapters_identity(file))
    if file.tp_size > 1:
        parts.append(f"over {file.tp_size} ranks")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _made(file: CardFile, prepared: Prepared, device: torch.device, dtype: torch.dtype) -> Made:
    """The module on its device, and what its loader says of its inputs."""
    if file.loader is not None:
        module, offered = call_loader(file, prepared.folder)
        return place(module, device, dtype), offered
    return adapted(file, _weights(file, prepared, device, dtype)), {}


def _weights(file: CardFile, prepared: Prepared, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    if prepared.folder is None:
        return place(build(file), device, dtype)
    options = quantisation_options(file)
    model, missing = _read(file, prepared.folder, device, dtype, **options)
    if missing and all(name.startswith("pooler.") for name in missing):
        model, missing = _read(file, prepared.folder, device, dtype, add_pooling_layer=False, **options)
    if file.tp_size > 1:
        unwrapped(model)
    if missing:
        named = ", ".join(sorted(missing)[:3])
        raise LoadError(f"{file.id}: {len(missing)} weights of {type(model).__name__} are not in its files ({named})")
    return model


def _read(
    file: CardFile, folder: Path, device: torch.device, dtype: torch.dtype, **options: Any
) -> tuple[PreTrainedModel, set[str]]:
    """The model of a folder, straight to its device and dtype; and the weights that the files lack or misshape."""
    try:
        with torch.random.fork_rng(devices=[]):
            make: Any = maker_of(file, folder).from_pretrained
            model, found = make(
                folder,
                dtype=dtype,
                **_spread(file, folder, device),
                attn_implementation=file.attention,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise LoadError(f"{file.id}: transformers cannot load {folder.name}: {error}") from error
    return model, {*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])}


def _spread(file: CardFile, folder: Path, device: torch.device) -> dict[str, Any]:
    """Where transformers puts the weights."""
    return sharding(file, folder) if file.tp_size > 1 else spread(file, device)


def _tokenizer(file: CardFile, prepared: Prepared, positions: int) -> PreTrainedTokenizerFast | None:
    if file.tokenizer == "none" or file.named:
        return None
    if file.tokenizer == "bytes" or prepared.folder is None:
        return byte_tokenizer(positions)
    found = AutoTokenizer.from_pretrained(prepared.folder, local_files_only=True, trust_remote_code=False)
    if not isinstance(found, PreTrainedTokenizerFast):
        raise LoadError(f"{file.id}: its tokenizer {type(found).__name__} is not a fast one (no tokenizer.json)")
    return found


def _encoded(tokenizer: PreTrainedTokenizerFast) -> bytes:
    """The tokenizer file, without the padding and cutting that some are saved with: they would change inputs unseen."""
    copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy.to_str().encode()


def load(
    card: CardFile | Path,
    *,
    cache: Path,
    progress: Progress = silent,
    token_file: Path | None = None,
    free_bytes: int | None = None,
    ranks: Ranks | None = None,
) -> Loaded:
    """Bring up a served model.

    Args:
        card: a card file, or the path of one.
        cache: folder where fetched and converted weights are kept from one time to the next.
        progress: called with the stage (``fetch``, ``convert``, ``load``, ``probe``, ``ready``) and the part of it that
            is done, 0.0 to 1.0, or None where that is unknown.
        token_file: a file that holds the access token for gated ``hub:`` weights.
        free_bytes: memory that the weights may take, in bytes; by default what is free on the device.
        ranks: those who hold the model together, each its shard, which all load at the same time.

    Returns:
        The model in eval mode, without gradients, with its tokenizer and its card.

    Raises:
        CardError: the card file is wrong.
        LoadError: the source cannot be had, is not what the card says, or does not fit into memory.

    Example:
        >>> loaded = load(Path("models/gpt2-random.toml"), cache=Path("/tmp/telepatch"))
        >>> loaded.card.by_path["transformer.h.0.attn"].output.leaves[0].axes
        ('row', 'pos', 48)
    """
    file = read_card(card) if isinstance(card, Path) else card
    if file.tp_size > 1 and ranks is None:
        raise LoadError(
            f"{file.id}: tp_size = {file.tp_size}: so many ranks load it together, each its shard; this serves it: "
            f"torchrun --nproc-per-node {file.tp_size} -m telepatch worker --model {file.id}"
        )
    device, dtype = device_of(file) if ranks is None else ranks.device, DTYPES[file.dtype]
    check_quantisation(file, device)
    check_adapters(file)
    free = free_memory(device) if free_bytes is None else free_bytes
    unknown = quantisation_options(file) or file.device_map is not None  # what fewer bits, or other places, will take
    space = Space(device, dtype, None if unknown else free, file.tp_size)

    def fetched() -> Prepared:
        found = prepare(file, cache, space=space, progress=progress, token_file=token_file)
        away = file.tp_size > 1 or file.device_map is not None
        return saved_random(file, found, cache) if away else found

    with quiet():
        prepared = fetched() if ranks is None else take_turns(ranks, fetched)
        progress("load", None)
        with counting_weights(progress):
            module, offered = _made(file, prepared, device, dtype)
        model = quantised(file, module.eval().requires_grad_(False))
        inputs = inputs_of(file, model, prepared.folder, offered)
        tokenizer = _tokenizer(file, prepared, limits_of(model, file).max_positions)
    encoded = None if tokenizer is None else _encoded(tokenizer)
    revision = revision_of(file, prepared.identity)
    progress("probe", None)
    digest = None if encoded is None else hashlib.sha256(encoded).hexdigest()
    chat = None if tokenizer is None else chat_template_of(tokenizer, file)
    widening = None
    if file.tp_size > 1 and prepared.folder is not None:
        widening = Widening(whole_model(file, prepared.folder), file.tp_size)
    published = model_card(
        model,
        file,
        revision=revision,
        device=device,
        tokenizer=digest,
        inputs=inputs,
        chat=chat,
        widening=widening,
    )
    progress("ready", 1.0)
    shards = None if widening is None else Shards(widening.pieces)
    return Loaded(file, model, tokenizer, device, dtype, revision, published, encoded, shards)


def padding_of(loaded: Loaded) -> int:
    """The token id that fills up shorter rows: the model's own for that, where it has one."""
    found = getattr(getattr(loaded.module, "config", None), "pad_token_id", None)
    return found if isinstance(found, int) and 0 <= found < loaded.card.vocabulary else 0
