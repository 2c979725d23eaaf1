"""Chat messages as text, by the template of their model: letter by letter what transformers makes of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from jinja2 import Template, TemplateError, TemplateSyntaxError
from pydantic import JsonValue

from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.messages import Conversation
from telepatch_server.templates import TooMuch, compiled, rendered

SECONDS: Final = 2.0
"""How long a template may take for all conversations of an input."""

_REASONING: Final = ("reasoning_content", "thinking", "reasoning")
"""Names that a message's reasoning goes by; the first is the one that templates read."""

_TAG: Final = "CONTINUE_FINAL_MESSAGE_TAG "


class Chat:
    """The chat template of a model, compiled when it is first used.

    Args:
        card: of the model.
        seconds: how long it may take for all conversations of an input.
    """

    def __init__(self, card: ModelCard, seconds: float = SECONDS) -> None:
        self._card = card
        self._seconds = seconds
        self._template: Template | None = None

    def texts(self, conversations: Sequence[Conversation], settings: Mapping[str, JsonValue]) -> list[str]:
        """Each conversation of an input as the text that the model reads.

        Args:
            conversations: messages of each.
            settings: as transformers' ``apply_chat_template`` takes them, but with ``add_generation_prompt`` on where
                nothing is said and nothing is continued.

        Raises:
            BadArgument: the model has no template, or the template cannot do it; the message has its words.
        """
        end = time.monotonic() + self._seconds
        return [self._text(one, settings, end) for one in conversations]

    def _text(self, conversation: Conversation, settings: Mapping[str, JsonValue], end: float) -> str:
        template = self._compiled()
        names = dict(settings)
        going_on = bool(names.pop("continue_final_message", False))
        begin = bool(names.pop("add_generation_prompt", not going_on))
        given = [_message(one) for one in conversation]
        last = self._tagged(given) if going_on else ""
        base = {**(self._card.chat.tokens if self._card.chat else {}), "tools": None, "documents": None}
        try:
            found = rendered(template, end, **(base | names), messages=given, add_generation_prompt=begin)
        except TooMuch as error:
            raise self._refused(f"goes too far with these messages: {error}") from None
        except TimeoutError:
            raise self._refused(f"goes too far with these messages: it took more than {self._seconds:g} s") from None
        except TemplateError as error:
            raise self._refused(f"refuses these messages: {error.message or type(error).__name__}") from None
        except Exception as error:  # a template can raise whatever its filters raise
            raise self._refused(f"fails with these messages: {type(error).__name__}: {error}") from None
        return self._cut(found, last) if going_on else found

    def _compiled(self) -> Template:
        if self._template is None:
            if self._card.chat is None:
                raise BadArgument(
                    f"model '{self._card.id}' has no chat template, so it takes no messages; give it text or token ids"
                )
            try:
                self._template = compiled(self._card.chat.template)
            except TemplateSyntaxError as error:
                raise self._refused(f"is no template: {error.message} (its line {error.lineno})") from None
        return self._template

    def _refused(self, why: str) -> BadArgument:
        return BadArgument(f"the chat template of model '{self._card.id}' {why}")

    def _tagged(self, given: list[dict[str, Any]]) -> str:
        """Mark where the last message ends, so that what the template writes behind it can be cut off."""
        last, content = given[-1], given[-1].get("content")
        if isinstance(content, str):
            last["content"] = content + _TAG
            return content
        blocks = content if isinstance(content, list) else []
        for at in range(len(blocks) - 1, -1, -1):
            if isinstance(blocks[at], dict) and isinstance(blocks[at].get("text"), str):
                text: str = blocks[at]["text"]
                last["content"] = [*blocks[:at], blocks[at] | {"text": text + _TAG}, *blocks[at + 1 :]]
                return text
        raise BadArgument("continue_final_message goes on with the last message, and that has no text to go on with")

    def _cut(self, found: str, last: str) -> str:
        if last.strip() not in found or _TAG.strip() not in found:
            raise self._refused("leaves out a part of the last message, so it cannot be gone on with")
        at = found.rindex(_TAG.strip())
        return found[:at] if found[at : at + len(_TAG)] == _TAG else found[:at].rstrip()


def _message(given: Mapping[str, JsonValue]) -> dict[str, Any]:
    """A message as templates expect it: without what is null, and its reasoning by every name that it goes by."""
    found: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    reasoning = next((found[name] for name in _REASONING if name in found), None)
    return found if reasoning is None else {"thinking": reasoning, **found, "reasoning_content": reasoning}
