"""The chat template that a model comes with, for its card: the gateway renders it, so clients need no tokenizer."""

from __future__ import annotations

from collections.abc import Mapping

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerFast

from telepatch_protocol.card import ChatTemplate
from telepatch_worker.cards import MAX_TEMPLATE, CardFile, LoadError


def chat_template_of(tokenizer: PreTrainedTokenizerFast, file: CardFile) -> ChatTemplate | None:
    """The card file's template, else the tokenizer's own (its default one, where there are several); None without any.

    Raises:
        LoadError: the card file's template is none.
    """
    if file.chat_template is not None:
        _check(tokenizer, file)
    template = file.chat_template or _own(tokenizer)
    if template is None or len(template) > MAX_TEMPLATE:
        return None
    tokens: dict[str, str | list[str]] = {
        name: [str(one) for one in value] if isinstance(value, list | tuple) else str(value)
        for name, value in tokenizer.special_tokens_map.items()
    }
    return ChatTemplate(template=template, tokens=tokens)


def _own(tokenizer: PreTrainedTokenizerFast) -> str | None:
    found = tokenizer.chat_template
    found = found.get("default") if isinstance(found, Mapping) else found
    return found if isinstance(found, str) else None


def _check(tokenizer: PreTrainedTokenizerFast, file: CardFile) -> None:
    """A template that cannot be read stops the load; what it says to messages is between it and whoever sends them."""
    try:
        message = {"role": "user", "content": "x"}
        tokenizer.apply_chat_template([message], chat_template=file.chat_template, tokenize=False)
    except TemplateSyntaxError as error:
        raise LoadError(f"{file.id}: chat_template is no template: {error.message} (its line {error.lineno})") from None
    except Exception:  # its own business with this one message
        return
