"""The text of a row as its tokens come: each piece once its characters are whole."""

from __future__ import annotations

from collections.abc import Callable

Decode = Callable[[list[int]], str]

_BROKEN = "\N{REPLACEMENT CHARACTER}"


class TextPieces:
    """Pieces of one row's text.

    Args:
        decode: gives the text of token ids; None for a model without a tokenizer, whose pieces are empty.
    """

    def __init__(self, decode: Decode | None) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._told = 0

    def __call__(self, token: int) -> str:
        """What one more token adds; nothing while a character is not whole, which then comes with a later one.

        A few tokens before it are decoded with it, since how a token is spelled can depend on what precedes it.
        """
        if self._decode is None:
            return ""
        self._tokens.append(token)
        before = self._decode(self._tokens[: self._told])
        text = self._decode(self._tokens)
        if text.endswith(_BROKEN) or len(text) <= len(before):
            return ""
        self._tokens = self._tokens[self._told :]
        self._told = len(self._tokens)
        return text[len(before) :]
