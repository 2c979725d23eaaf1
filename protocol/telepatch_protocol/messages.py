"""Chat messages as an input: what they look like, and the settings of the model's chat template beside them.

The gateway renders messages with the template that the model's worker has published; the words here are those of
transformers' ``apply_chat_template``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import JsonValue

from telepatch_protocol.errors import BadArgument
from telepatch_protocol.meta import shown

Message = dict[str, JsonValue]
Conversation = list[Message]

FLAGS = ("add_generation_prompt", "continue_final_message")
"""Settings that are true or false; the first is true where nothing is said."""

LISTS = ("tools", "documents")
"""Settings that are lists of objects."""

_TAKEN = ("messages",)


def conversations_of(given: object, settings: Mapping[str, JsonValue] | None = None) -> list[Conversation]:
    """The conversations of an input, one per row, from what its author gave.

    Args:
        given: a list of messages, or a list of such lists.
        settings: of the template.

    Raises:
        BadArgument: neither of these, a message without a role, or a setting of the wrong type; the message says which.
    """
    check_settings(settings or {})
    if not isinstance(given, list) or not given:
        raise BadArgument(f'messages are a list of {{"role": ..., "content": ...}}; found {shown(given)}')
    if isinstance(given[0], list):
        return [_conversation(one, f"conversation {at}, ") for at, one in enumerate(given)]
    return [_conversation(given, "")]


def chat_key(conversation: object, settings: Mapping[str, JsonValue] | None) -> str:
    """What stands for a conversation where texts stand for themselves: no author writes such a text."""
    return "\0" + json.dumps([conversation, settings or {}], sort_keys=True, ensure_ascii=False)


def check_settings(settings: Mapping[str, object]) -> None:
    """Refuse settings of a chat template that cannot be.

    Raises:
        BadArgument: the first that is wrong.
    """
    for name, value in settings.items():
        if name in _TAKEN or not name.isidentifier():
            raise BadArgument(f"a chat template has no setting {name!r} of its own; settings are names that it reads")
        if name in FLAGS and not isinstance(value, bool):
            raise BadArgument(f"{name} is true or false; found {shown(value)}")
        if name in LISTS and not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
            raise BadArgument(f"{name} are a list of objects; found {shown(value)}")
    if settings.get("continue_final_message") and settings.get("add_generation_prompt"):
        raise BadArgument(
            "continue_final_message goes on with the last message, and add_generation_prompt begins another; choose one"
        )


def _conversation(given: object, where: str) -> Conversation:
    if not isinstance(given, list) or not given:
        raise BadArgument(f"{where}messages are a list of at least one message; found {shown(given)}")
    return [_message(one, f"{where}message {at}") for at, one in enumerate(given)]


def _message(given: object, where: str) -> Message:
    if not isinstance(given, dict):
        raise BadArgument(f'{where}: a message is {{"role": ..., "content": ...}}; found {shown(given)}')
    if not isinstance(given.get("role"), str):
        known = ", ".join(map(repr, given)) or "nothing"
        raise BadArgument(f"{where} has no 'role' that is text, such as 'user'; it has {known}")
    return given
