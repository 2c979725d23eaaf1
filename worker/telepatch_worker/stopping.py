"""When a generated row ends: enough tokens, a token or a text that ends it, or no position left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from telepatch_protocol.errors import BadArgument

Reason = Literal["length", "eos", "stop", "positions", "asked"]
"""Why a row ended: `max_new_tokens`; the model's own last token; a stop text or token; the model has no position left;
its owner asked for it."""


class Decode(Protocol):
    """What stop texts need of a tokenizer."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> Any:
        """The text of token ids."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Settings of one sequence.

    Attributes:
        max_new_tokens: most tokens of a row.
        texts: a row ends once its generated text holds one of these, wherever the tokens' borders are.
        tokens: ids that end a row.
        eos: ids of the model's own last token; None for those of its generation config, () for none.
    """

    max_new_tokens: int
    texts: tuple[str, ...] = ()
    tokens: tuple[int, ...] = ()
    eos: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise BadArgument(f"max_new_tokens is {self.max_new_tokens}; an integer of at least 1 works")
        if "" in self.texts:
            raise BadArgument("a stop text is empty, which every text holds; leave it out")


class Stopper:
    """Says of each new token whether it is its row's last.

    Args:
        ending: settings of the sequence.
        eos: the model's own last tokens, for where the settings do not say.
        decode: the model's tokenizer; None for a model without.
        positions: most tokens that the model has positions for.

    Raises:
        BadArgument: a stop text for a model without a tokenizer.
    """

    def __init__(self, ending: Ending, eos: tuple[int, ...], decode: Decode | None, positions: int) -> None:
        if ending.texts and decode is None:
            raise BadArgument(
                f"this model has no tokenizer, so it cannot look for {ending.texts[0]!r}; stop at token ids"
            )
        self._ending = ending
        self.eos = tuple(eos if ending.eos is None else ending.eos)
        self._eos = frozenset(self.eos)
        self._tokens = frozenset(ending.tokens)
        self._decode = decode
        self._positions = positions
        longest = max((len(text.encode()) for text in ending.texts), default=0)
        self._tail = 4 * longest + 8  # a token may be part of one character, and some have no text at all

    def __call__(self, tokens: Sequence[int]) -> Reason | None:
        """Why a row of these generated tokens ends with the last of them; None if it does not."""
        last = tokens[-1]
        if last in self._tokens:
            return "stop"
        if last in self._eos:
            return "eos"
        if self._ending.texts and self._told(tokens):
            return "stop"
        if len(tokens) >= self._ending.max_new_tokens:
            return "length"
        return "positions" if len(tokens) >= self._positions else None

    def _told(self, tokens: Sequence[int]) -> bool:
        """Whether the text of the last tokens holds a stop text; one that ended earlier was found then."""
        assert self._decode is not None
        text = self._decode.decode(list(tokens[-self._tail :]), skip_special_tokens=False)
        return any(stop in text for stop in self._ending.texts)


def eos_of(module: Any) -> tuple[int, ...]:
    """The token ids that end a text, from the model's generation config, else from its configuration."""
    for owner in (getattr(module, "generation_config", None), module.config.get_text_config(decoder=True)):
        found = getattr(owner, "eos_token_id", None)
        if isinstance(found, int):
            return (found,)
        if isinstance(found, list | tuple) and found:
            return tuple(int(one) for one in found)
    return ()
