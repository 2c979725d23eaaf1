"""Tokens of the inputs of a trace: asked of the gateway when they are first wanted, and kept."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from telepatch import arguments
from telepatch.chats import Chat
from telepatch.tokens import TokenRows, Tokens
from telepatch_protocol.errors import NotYetSupported, TraceError

if TYPE_CHECKING:
    from telepatch.builder import Builder
    from telepatch.lab import Lab

_KEPT = 1024


class TokenMemory:
    """Tokens that the gateway has told already: a loop over layers asks for the same prompt again and again."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, TokenRows] = OrderedDict()

    def rows(self, lab: Lab, builder: Builder, form: str, given: Any) -> TokenRows:
        """The rows of an input."""
        key = json.dumps([builder.card.id, builder.card.revision, form, given], sort_keys=True)
        found = self._rows.pop(key, None) or _asked(lab, builder.card.id, form, given)
        self._rows[key] = found
        while len(self._rows) > _KEPT:
            self._rows.popitem(last=False)
        return found


def tokens_of(builder: Builder, invoke: str | None) -> Tokens | TokenRows:
    """Tokens of one input of a trace: `Tokens` of a single one, `TokenRows` of several.

    Args:
        builder: of the trace.
        invoke: id of the input; None for the one that is open, or the only one.

    Raises:
        TraceError: it is not clear which input is meant, or its tokens are only known once it runs.
    """
    form, given = builder.given[_which(builder, invoke)]
    if form == "inputs":
        raise NotYetSupported("named tensors have no tokens")
    single, _ = _as_data(form, given)
    rows = rows_of(builder, form, given)
    return rows[0] if single else rows


def rows_of(builder: Builder, form: str, given: Any) -> TokenRows:
    """Tokens of every row of an input.

    Raises:
        TraceError: nobody can tell.
    """
    if builder.lab is None:
        raise TraceError("tokens are told by the service, and this model is a card without a connection")
    _, plain = _as_data(form, given)
    return builder.lab.token_memory.rows(builder.lab, builder, form, plain)


def _which(builder: Builder, invoke: str | None) -> str:
    invoke = invoke or builder.scope.invoke or (next(iter(builder.given)) if len(builder.given) == 1 else None)
    if invoke is None:
        raise TraceError(
            f"this trace has {len(builder.given)} inputs; ask inside the block of one, "
            "or by its name: with t.invoke(prompt) as a: ... a.tokens"
        )
    return invoke


def _as_data(form: str, given: Any) -> tuple[bool, Any]:
    """Whether it is a single row, and the rows as JSON."""
    if form == "text":
        return isinstance(given, str), [given] if isinstance(given, str) else list(given)
    if form == "messages":
        chat = Chat.of(given)
        return not chat.is_several, [chat.conversations, chat.settings]
    if arguments.is_value(given):
        raise TraceError("this input is itself a value, so its tokens are only known once it runs")
    rows = arguments.plain(given)
    rows = rows.tolist() if hasattr(rows, "tolist") else [arguments.plain(one) for one in rows]
    rows = [one.tolist() if hasattr(one, "tolist") else one for one in rows]
    single = not isinstance(rows[0], list | tuple | range)
    return single, [list(rows)] if single else [list(row) for row in rows]


def _asked(lab: Lab, model: str, form: str, given: Any) -> TokenRows:
    if form == "text":
        return TokenRows(lab.tokenize(model, given))
    if form == "messages":
        return TokenRows(lab.tokenize_chats(model, *given))
    return TokenRows(lab.pieces(model, given))
