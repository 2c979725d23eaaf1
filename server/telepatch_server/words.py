"""Text to token ids and back, with the tokenizer file that a worker published."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from telepatch_protocol.errors import BadArgument


@dataclass(frozen=True)
class Encoded:
    """One text as tokens.

    Attributes:
        ids: token ids.
        tokens: the vocabulary's own spelling of each.
        offsets: first character, and character behind the last one, of each.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


class Words:
    """A tokenizer.

    Args:
        data: the tokenizer file, JSON.
    """

    def __init__(self, data: bytes) -> None:
        self._tokenizer = Tokenizer.from_str(data.decode())
        # Files of encoders often cut and pad; no value here ever holds padding, and what is too long is refused.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def ids(self, text: str) -> list[int]:
        """The ids of a text, with the special tokens that the model's own tokenizer adds."""
        found: list[int] = self._tokenizer.encode(text).ids
        return found

    def encode(self, text: str, *, special: bool = True) -> Encoded:
        """A text as tokens, with the special tokens that the model's own tokenizer adds unless `special` is false."""
        found = self._tokenizer.encode(text, add_special_tokens=special)
        return Encoded(found.ids, found.tokens, found.offsets)

    def decode(self, ids: list[int], *, special: bool = True) -> str:
        """The text of ids, special tokens spelled out unless `special` is false."""
        self._check(ids)
        text: str = self._tokenizer.decode(ids, skip_special_tokens=not special)
        return text

    def tokens(self, ids: list[int]) -> list[str]:
        """The vocabulary's own spelling of each id."""
        self._check(ids)
        return [str(self._tokenizer.id_to_token(one)) for one in ids]

    def pieces(self, ids: list[int]) -> list[str]:
        """The text of each id by itself."""
        self._check(ids)
        texts: list[str] = self._tokenizer.decode_batch([[one] for one in ids], skip_special_tokens=False)
        return texts

    def _check(self, ids: list[int]) -> None:
        for one in ids:
            if not 0 <= one < 2**32 or self._tokenizer.id_to_token(one) is None:
                size = self._tokenizer.get_vocab_size()
                raise BadArgument(f"there is no token {one}; the vocabulary has {size}, counted from 0")
