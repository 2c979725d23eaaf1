"""A tokenizer with one token per byte, made without any file, for models that have none of their own."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
END_ID = 256
VOCABULARY = 257


def _letters() -> list[str]:
    """The printable letter that stands for each byte: itself where it has one, else the next free one from 256 on."""
    plain = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(spare)) for byte in range(256)]


def byte_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Token id = byte of the UTF-8 text; 256 is the end of text and the padding."""
    vocabulary = {letter: byte for byte, letter in enumerate(_letters())}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(END, special=True)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=END, eos_token=END, pad_token=END, model_max_length=max_length
    )
