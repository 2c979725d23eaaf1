"""Turn a GGUF file into a model folder as transformers saves it, once, because reading GGUF is slow."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from telepatch_worker.cards import LoadError


def convert_gguf(path: Path, folder: Path) -> None:
    """Dequantise to float32 and save weights and tokenizer into `folder`.

    Args:
        path: the GGUF file.
        folder: where config.json, model.safetensors and tokenizer.json go.

    Raises:
        LoadError: the file is damaged, or of an architecture that transformers cannot read from GGUF.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the reader draws a progress bar that has no switch
            _convert(path, folder)
    except (ImportError, IndexError, KeyError, OSError, RuntimeError, ValueError) as error:
        raise LoadError(f"{path.name} cannot be converted: {error}") from error


def _convert(path: Path, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
