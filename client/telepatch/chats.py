"""Chat messages as an input: a conversation, and how the model's chat template is to render it."""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue

from telepatch.arguments import plain
from telepatch.lines import points_home
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.messages import Conversation, conversations_of


class Chat:
    """Chat messages together with settings of the chat template; plain lists of messages do without it.

    The gateway renders them as transformers' ``apply_chat_template`` does, with settings of the same names. Where
    nothing is said the template begins the assistant's answer, so that position -1 is where the model would speak.

    Args:
        messages: a list of ``{"role": ..., "content": ...}``, or several such lists, which are rows.
        add_generation_prompt: whether the assistant's answer is begun; by default it is, unless the last message is
            gone on with.
        continue_final_message: whether the last message stays open, for the model to go on with.
        tools: tools that the template may describe, as JSON schemas.
        documents: texts that the template may quote.
        settings: whatever else this template reads, such as ``enable_thinking=False``.

    Raises:
        BadArgument: no messages, or a setting that cannot be.

    Example:
        >>> question = [{"role": "user", "content": "Is Paris in France?"}]
        >>> with model.trace(telepatch.Chat(question, add_generation_prompt=False)):
        ...     last = model.blocks[3].resid_post[:, -1].save()
    """

    @points_home
    def __init__(
        self,
        messages: Any,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | None = None,
        tools: list[dict[str, Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        **settings: Any,
    ) -> None:
        given = {
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "tools": tools,
            "documents": documents,
        }
        chosen = {name: value for name, value in given.items() if value is not None} | settings
        self.settings: dict[str, JsonValue] = {name: _data(value) for name, value in chosen.items()}
        self.messages = _data(messages)
        conversations_of(self.messages, self.settings)

    @staticmethod
    def of(given: Any) -> Chat:
        """Messages in either form."""
        return given if isinstance(given, Chat) else Chat(given)

    @property
    def is_several(self) -> bool:
        """Whether it is several conversations, one per row."""
        return isinstance(self.messages, list) and isinstance(self.messages[0], list)

    @property
    def conversations(self) -> list[Conversation]:
        """One per row."""
        return conversations_of(self.messages)

    def __repr__(self) -> str:
        settings = "".join(f", {name}={value!r}" for name, value in self.settings.items())
        return f"Chat({self.messages!r}{settings})"


def check_template(card: ModelCard) -> None:
    """Refuse messages to a model that has no chat template, where the author can still see the line.

    Raises:
        BadArgument: it has none.
    """
    if card.chat is None:
        raise BadArgument(f"model '{card.id}' has no chat template, so it takes no messages; give it text or token ids")


def is_messages(given: Any) -> bool:
    """Whether an input given without a name is chat messages: one conversation, or a list of them."""
    if isinstance(given, Chat):
        return True
    while isinstance(given, list | tuple) and len(given):
        given = given[0]
    return isinstance(given, dict)


def _data(value: Any) -> JsonValue:
    """What an author wrote, as JSON."""
    value = plain(value)
    if isinstance(value, dict):
        return {str(key): _data(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_data(one) for one in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise BadArgument(f"messages hold text, numbers, lists and dicts; found {type(value).__name__} {value!r:.60}")
