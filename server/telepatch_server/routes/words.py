"""``/v1/tokenize`` and ``/v1/detokenize``: so that a client without a tokenizer can point at words."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from pydantic import FailFast, Field, JsonValue

from telepatch_protocol.card import Frozen
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.messages import Conversation, conversations_of
from telepatch_server.allowance import check_model
from telepatch_server.auth import PROTECTED, Asking
from telepatch_server.bodies import body_of, documented
from telepatch_server.catalogue import Model
from telepatch_server.problems import responses
from telepatch_server.services import Services, services
from telepatch_server.words import Words

router = APIRouter(
    prefix="/v1", tags=["words"], dependencies=PROTECTED, responses=responses(400, 401, 403, 404, 413, 422, 429, 503)
)

Found = Annotated[Services, Depends(services)]

_LARGE: Final = 10_000
"""Characters or ids from which on the work is done in a thread."""


class Once(FailFast):
    """Of a list with mistakes only the first is looked for; this one can stand in a union."""

    __hash__ = object.__hash__


Row = Annotated[tuple[int, ...], Once()]
Rows = Annotated[tuple[Row, ...], Once()]


class Tokenize(Frozen):
    """Texts to be tokenised, or chat messages (one conversation, or a list of them).

    `special` adds what the model's own tokenizer adds around a text; a chat template has written it already. `chat` has
    settings of the template, such as ``add_generation_prompt``, which is true where nothing is said.
    """

    model: str
    text: str | Annotated[tuple[str, ...], Once()] | None = None
    messages: JsonValue = None
    chat: dict[str, JsonValue] | None = None
    special: bool = True


class TokenRow(Frozen):
    """One text as tokens.

    Attributes:
        ids: token ids.
        tokens: the vocabulary's own spelling of each.
        pieces: the text of each by itself.
        offsets: first character, and character behind the last one, of each.
        text: what was tokenised; of messages, what the template made of them.
    """

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    pieces: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    text: str = ""


class Tokenized(Frozen):
    """One row per text."""

    rows: tuple[TokenRow, ...]


class Detokenize(Frozen):
    """Ids to be read; `special` spells out special tokens."""

    model: str
    ids: Annotated[Rows | Row, Field(union_mode="left_to_right")]
    special: bool = True


class TextRow(Frozen):
    """One list of ids as text; `tokens` and `pieces` as in `TokenRow`."""

    text: str
    tokens: tuple[str, ...]
    pieces: tuple[str, ...]


class Detokenized(Frozen):
    """One row per list of ids."""

    rows: tuple[TextRow, ...]


@router.post("/tokenize", openapi_extra=documented(Tokenize))
async def tokenize(body: Annotated[Tokenize, Depends(body_of(Tokenize))], known: Asking, found: Found) -> Tokenized:
    """Texts or chat messages as tokens, with the place of each in the text."""
    check_model(known.person, known.limits, body.model)
    model = await found.catalogue.model(body.model)
    words = model.tokenizer()
    if (body.text is None) == (body.messages is None):
        raise BadArgument("give one of 'text' and 'messages'")
    if body.messages is not None:
        return await asyncio.to_thread(_tokenize_chats, model, conversations_of(body.messages, body.chat), body.chat)
    if body.chat is not None:
        raise BadArgument("'chat' has settings of a chat template, which goes with 'messages'")
    texts = (body.text,) if isinstance(body.text, str) else body.text or ()
    if sum(map(len, texts)) < _LARGE:
        return _tokenize(words, texts, body.special)
    return await asyncio.to_thread(_tokenize, words, texts, body.special)


@router.post("/detokenize", openapi_extra=documented(Detokenize))
async def detokenize(
    body: Annotated[Detokenize, Depends(body_of(Detokenize))], known: Asking, found: Found
) -> Detokenized:
    """Token ids as text."""
    check_model(known.person, known.limits, body.model)
    words = (await found.catalogue.model(body.model)).tokenizer()
    rows = [list(row) for row in _rows(body.ids)]
    if sum(map(len, rows)) < _LARGE:
        return _detokenize(words, rows, body.special)
    return await asyncio.to_thread(_detokenize, words, rows, body.special)


def _rows(ids: tuple[tuple[int, ...], ...] | tuple[int, ...]) -> list[tuple[int, ...]]:
    """A single list of ids is one row."""
    rows = [one for one in ids if isinstance(one, tuple)]
    return rows if len(rows) == len(ids) and rows else [tuple(one for one in ids if isinstance(one, int))]


def _tokenize_chats(
    model: Model, conversations: list[Conversation], settings: dict[str, JsonValue] | None
) -> Tokenized:
    texts = tuple(model.chat.texts(conversations, settings or {}))
    return _tokenize(model.tokenizer(), texts, special=False)


def _tokenize(words: Words, texts: tuple[str, ...], special: bool) -> Tokenized:
    rows = []
    for text in texts:
        found = words.encode(text, special=special)
        pieces = tuple(words.pieces(found.ids))
        rows.append(
            TokenRow(
                ids=tuple(found.ids),
                tokens=tuple(found.tokens),
                pieces=pieces,
                offsets=tuple(found.offsets),
                text=text,
            )
        )
    return Tokenized(rows=tuple(rows))


def _detokenize(words: Words, rows: list[list[int]], special: bool) -> Detokenized:
    return Detokenized(
        rows=tuple(
            TextRow(
                text=words.decode(row, special=special),
                tokens=tuple(words.tokens(row)),
                pieces=tuple(words.pieces(row)),
            )
            for row in rows
        )
    )
