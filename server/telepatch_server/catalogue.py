"""Model cards and tokenizers, kept ready so that a submission does not parse them again."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass
from functools import cached_property

from pydantic import ValidationError

from telepatch_broker.registry import Registry
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, NotFound, Unavailable
from telepatch_protocol.meta import shown
from telepatch_protocol.prepared import Preparation
from telepatch_protocol.reading import Reader
from telepatch_protocol.understood import understood
from telepatch_server.chat import Chat
from telepatch_server.words import Words


@dataclass(frozen=True)
class Model:
    """A model as submissions need it; `words` is None for one that takes only token ids, `json` is the card."""

    json: bytes
    card: ModelCard
    words: Words | None

    @cached_property
    def preparation(self) -> Preparation:
        """Checks and prices documents for it."""
        return Preparation(self.card)

    @cached_property
    def chat(self) -> Chat:
        """Its chat template."""
        return Chat(self.card)

    def tokenizer(self) -> Words:
        """Its tokenizer.

        Raises:
            BadArgument: it has none.
        """
        if self.words is None:
            raise BadArgument(f"model '{self.card.id}' has no tokenizer; give it token ids instead of text")
        return self.words


class Catalogue:
    """Models by id, looked up again when they are older than `seconds`; those among them that hosts serve no more."""

    def __init__(self, registry: Registry, seconds: float) -> None:
        self._registry = registry
        self._seconds = seconds
        self._known: dict[str, tuple[float, Model]] = {}
        self._words: dict[str, Words] = {}
        self.reader = Reader()
        self.unloaded: set[str] = set()

    async def model(self, id: str) -> Model:
        """A model.

        Raises:
            NotFound: no worker ever published it.
            Unavailable: a worker is loading it for the first time; the message says how far it is.
        """
        known = self._known.get(id)
        if known is not None and time.monotonic() - known[0] < self._seconds:
            return known[1]
        model = await self._fetch(id, None if known is None else known[1])
        (self.unloaded.add if await self._registry.unloaded(id) else self.unloaded.discard)(id)
        self._known[id] = (time.monotonic(), model)
        return model

    async def _fetch(self, id: str, before: Model | None) -> Model:
        try:
            text = await self._registry.card_json(id)
        except NotFound as missing:
            self._known.pop(id, None)
            raise await self._why(id, missing) from None
        # A card that has not changed stays the same object, because what is worked out from a card is kept on it.
        if before is not None and before.json == text:
            return before
        try:
            card = await asyncio.to_thread(understood, ModelCard, text)
        except ValidationError:
            raise Unavailable(f"the card of model {shown(id)} is none that this gateway understands") from None
        return Model(text, card, await self._tokenizer(card))

    async def _why(self, id: str, missing: NotFound) -> NotFound | Unavailable:
        loading = await self._registry.loading(id)
        if not loading:
            return missing
        stages = ", ".join(f"{one.stage} {one.done} of {one.total}" if one.total else one.stage for one in loading)
        return Unavailable(f"model '{id}' is being loaded ({stages}); try again in a moment")

    async def _tokenizer(self, card: ModelCard) -> Words | None:
        if card.tokenizer is None:
            return None
        if card.tokenizer not in self._words:
            data = await self._registry.tokenizer(card.tokenizer)
            if hashlib.sha256(data).hexdigest() != card.tokenizer:
                raise Unavailable(f"the tokenizer file of model '{card.id}' is another one than its card names")
            self._words[card.tokenizer] = await asyncio.to_thread(Words, data)
        return self._words[card.tokenizer]
