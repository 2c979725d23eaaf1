"""Chat messages as text and tokens: transformers' ids, inside limits, and refusals in the template's words."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from telepatch_protocol.card import ChatTemplate, Limits, ModelCard, ModuleCard
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.jobs import new_job_id
from telepatch_server.chat import Chat
from telepatch_server.words import Words
from telepatch_worker.byte_tokenizer import byte_tokenizer

CHATML = """\
{%- for message in messages %}
    {%- if loop.first and messages[0].role != 'system' %}
        {{- '<|im_start|>system\\nBe kind<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {% generation %}
    {{- message['content'] | trim if message['content'] is string else message | tojson }}
    {% endgeneration %}
    {{- eos_token + '\\n' }}
{%- endfor %}
{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
{% set seen = namespace(last='') %}
{%- for message in messages %}
    {%- set seen.last = message.role %}
    {%- if loop.index > 2 %}{% break %}{% endif %}
{%- endfor %}
{{- '' if seen.last else raise_exception('nobody speaks') }}"""

STRICT = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ 'x' }}"

CONVERSATIONS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": 'é <b> & "q"'}, {"role": "user", "content": "  spaces kept?  "}],
    [{"role": "user", "content": "<|endoftext|>"}, {"role": "assistant", "content": None, "calls": [{"a": 1}]}],
    [{"role": "user", "content": [{"type": "text", "text": "part"}]}, {"role": "assistant", "content": "Yes, "}],
]


def card(template: str | None, tokens: dict[str, Any] | None = None) -> ModelCard:
    """A model with that template."""
    chat = None if template is None else ChatTemplate(template=template, tokens=tokens or {})
    modules = (ModuleCard(path="", kind="Model"),)
    return ModelCard(id="tiny", revision="r", limits=Limits(max_positions=9), modules=modules, chat=chat)


def text_of(chat: Chat, conversation: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """One conversation as text."""
    [found] = chat.texts([conversation], settings)
    return found


def refusal(template: str | None, *, seconds: float = 2.0, **settings: Any) -> str:
    """What is said of a template that cannot render one message."""
    with pytest.raises(BadArgument) as caught:
        text_of(Chat(card(template), seconds), [{"role": "user", "content": "hi"}], settings)
    return caught.value.detail


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize(
    "settings",
    [
        {"add_generation_prompt": True},
        {"add_generation_prompt": False},
        {"add_generation_prompt": True, "tools": [{"name": "look", "wide": "ü"}]},
        {"add_generation_prompt": False, "eos_token": "<end>"},
    ],
)
def test_the_ids_are_those_of_transformers(conversation: list[dict[str, Any]], settings: dict[str, Any]) -> None:
    theirs = byte_tokenizer(4096)
    theirs.chat_template = CHATML
    wanted = theirs.apply_chat_template(conversation, tokenize=True, **settings)["input_ids"]
    text = text_of(Chat(card(CHATML, dict(theirs.special_tokens_map))), conversation, settings)
    assert Words(theirs.backend_tokenizer.to_str().encode()).encode(text, special=False).ids == wanted


@pytest.mark.parametrize("at", [0, 1, 3])
def test_the_last_message_is_gone_on_with_as_transformers_does_it(at: int) -> None:
    theirs = byte_tokenizer(4096)
    theirs.chat_template = CHATML
    wanted = theirs.apply_chat_template(CONVERSATIONS[at], continue_final_message=True, tokenize=False)
    ours = text_of(
        Chat(card(CHATML, dict(theirs.special_tokens_map))), CONVERSATIONS[at], {"continue_final_message": True}
    )
    assert ours == wanted


def test_an_answer_is_begun_unless_the_author_says_otherwise() -> None:
    chat = Chat(card(CHATML, {"eos_token": ""}))
    assert text_of(chat, CONVERSATIONS[0], {}).endswith("<|im_start|>assistant\n")
    assert not text_of(chat, CONVERSATIONS[0], {"add_generation_prompt": False}).endswith("assistant\n")


def test_a_template_that_refuses_is_told_in_its_own_words() -> None:
    with pytest.raises(BadArgument, match=r"'tiny' refuses these messages: System role not supported"):
        text_of(Chat(card(STRICT)), [{"role": "system", "content": "x"}], {})


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "has no chat template"),
        ("{% for", "is no template"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ messages[0].content / 2 }}", "TypeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ namespace(__class__=1) }}", "underscore"),
        ("{{ raise_exception.__globals__.x }}", "unsafe"),
    ],
)
def test_what_a_template_cannot_do_is_said(template: str | None, says: str) -> None:
    assert says in refusal(template)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ 'x' * 10000000000 }}", "repeated"),
        ("{{ [0] * 10000000000 }}", "repeated"),
        ("{{ '%99999999999d' % 4 }}", "width"),
        ("{{ '{:>99999999999}'.format(1) }}", "width"),
        ("{{ 'x'.ljust(99999999999) }}", "width"),
        ("{{ 'x' | center(99999999999) }}", "width"),
        ("{{ 9 ** 99999999 }}", "number"),
        ("{% set a = 'x' * 3000000 %}{{ a.replace('x', a) }}", "replaced"),
        ("{% set a = 'x' * 3000000 %}{{ a | replace('x', a) }}", "replaced"),
        (
            "{% set n = namespace(x='xxxx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
            "characters",
        ),
        ("{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}", "wrote more"),
    ],
)
def test_a_template_makes_no_text_out_of_proportion(template: str, says: str) -> None:
    found = refusal(template)
    assert "goes too far" in found
    assert says in found


def test_a_template_that_does_not_end_is_stopped() -> None:
    begun = time.monotonic()
    endless = "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% set x = b %}{% endfor %}{% endfor %}"
    assert "more than 0.2 s" in refusal(endless, seconds=0.2)
    assert time.monotonic() - begun < 2


def test_dates_and_dicts_are_there_as_in_transformers() -> None:
    text = text_of(
        Chat(card("{{ strftime_now('%Y') }} {{ dict(a=1) | tojson }}{{ 'ü<' | tojson }}")), CONVERSATIONS[0], {}
    )
    assert text == time.strftime("%Y") + ' {"a": 1}"ü<"'


@pytest.fixture
def chatty(publish: Callable[..., None], published: ModelCard, http: httpx.Client) -> httpx.Client:
    """A gateway that knows ``chatty``, which has a template, and ``tiny``, which has none."""
    tokenizer = byte_tokenizer(64).backend_tokenizer.to_str().encode()
    changes = {
        "id": "chatty",
        "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        "chat": ChatTemplate(template=STRICT + "{{ messages[-1].content }}{{ '>' if add_generation_prompt }}"),
    }
    publish(published.model_copy(update=changes), tokenizer)
    return http


def document(messages: Any, model: str = "chatty", chat: dict[str, Any] | None = None) -> dict[str, Any]:
    """A graph over messages."""
    return {
        "protocol": [1, 0],
        "model": {"id": model},
        "constants": {"m": messages},
        "runs": [{"id": "r", "invokes": [{"id": "a", "messages": "$m"} | ({"chat": chat} if chat else {})]}],
        "nodes": [{"kind": "get", "id": "h", "site": "blocks.1:resid_post", "invoke": "a"}],
        "saves": {"h": "$h"},
        "lines": {"h": "study.py:7", "a": "study.py:5"},
    }


def tried(http: httpx.Client, found: dict[str, Any]) -> dict[str, Any]:
    """What a dry run says of a document."""
    body = {"documents": [found], "jobs": [{"id": new_job_id()}], "dry_run": True}
    answer: dict[str, Any] = http.post("/v1/jobs", json=body).json()["jobs"][0]
    return answer


HI = [{"role": "user", "content": "hi"}]


def test_messages_are_tokenised_and_priced_before_a_job_is_queued(chatty: httpx.Client) -> None:
    assert tried(chatty, document(HI))["price"]["tokens"] == 4  # x hi >
    assert tried(chatty, document(HI, chat={"add_generation_prompt": False}))["price"]["tokens"] == 3
    assert tried(chatty, document([HI, HI]))["saves"]["h"]["shape"] == [2, 4, 8]
    inline = document(HI)
    inline["runs"][0]["invokes"][0]["messages"] = [{**HI[0], "result": "no reference", "tensor": "neither"}]
    assert tried(chatty, inline)["price"]["tokens"] == 4


def test_special_tokens_are_those_that_the_template_writes_and_no_others(
    publish: Callable[..., None], published: ModelCard, http: httpx.Client
) -> None:
    inner = Tokenizer(models.WordLevel({"[CLS]": 0, "hi": 1, "[UNK]": 2}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["[CLS]"])
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 0)])
    tokenizer = inner.to_str().encode()
    template = ChatTemplate(template="{{ cls_token + messages[0].content }}", tokens={"cls_token": "[CLS]"})
    changes = {"id": "marked", "tokenizer": hashlib.sha256(tokenizer).hexdigest(), "chat": template}
    publish(published.model_copy(update=changes), tokenizer)
    assert tried(http, document(HI, "marked"))["price"]["tokens"] == 2
    [row] = http.post("/v1/tokenize", json={"model": "marked", "messages": HI}).json()["rows"]
    assert row["ids"] == [0, 1]


@pytest.mark.parametrize(
    ("messages", "chat", "says"),
    [
        ([{"role": "system", "content": "x"}], {}, "System role not supported"),
        ([{"content": "x"}], {}, "message 0 has no 'role'"),
        ([], {}, "messages are a list"),
        ("hi", {}, "messages are a list"),
        ([HI, [{"role": "user", "content": "longer"}]], {}, "4, 8 tokens"),
        (HI, {"add_generation_prompt": 1}, "true or false"),
        (HI, {"continue_final_message": True, "add_generation_prompt": True}, "choose one"),
        (HI, {"messages": []}, "no setting 'messages'"),
        ([{"role": "user", "content": "x" * 80}], {}, "82 tokens"),
    ],
)
def test_messages_that_cannot_be_are_refused_at_the_authors_line(
    chatty: httpx.Client, messages: Any, chat: dict[str, Any], says: str
) -> None:
    error = tried(chatty, document(messages, chat=chat))["error"]
    assert says in error["detail"]
    assert (error["file"], error["line"]) == ("study.py", 5)


def test_a_model_without_a_template_refuses_messages_by_name(chatty: httpx.Client) -> None:
    assert "model 'tiny' has no chat template" in tried(chatty, document(HI, "tiny"))["error"]["detail"]
    answer = chatty.post("/v1/tokenize", json={"model": "tiny", "messages": HI})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_argument")


def test_messages_are_told_as_tokens_with_the_text_that_they_became(chatty: httpx.Client) -> None:
    body = {"model": "chatty", "messages": [HI, HI], "chat": {"add_generation_prompt": False}}
    rows = chatty.post("/v1/tokenize", json=body).json()["rows"]
    assert [row["text"] for row in rows] == ["xhi", "xhi"]
    assert rows[0]["offsets"] == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize(
    "body", [{}, {"text": "a", "messages": HI}, {"text": "a", "chat": {}}, {"messages": [{"role": 1}]}, {"messages": 3}]
)
def test_a_request_for_tokens_is_of_one_text_or_of_messages(chatty: httpx.Client, body: dict[str, Any]) -> None:
    answer = chatty.post("/v1/tokenize", json={"model": "chatty"} | body)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_argument")


def test_the_worker_publishes_the_template_of_a_card_file(tmp_path: Path) -> None:
    from telepatch_worker.cards import LoadError, read_card
    from telepatch_worker.load import load

    file = read_card(Path(__file__).parents[2] / "models" / "gpt2-random.toml")
    assert load(file, cache=tmp_path).card.chat is None
    found = load(file.model_copy(update={"chat_template": STRICT}), cache=tmp_path).card.chat
    assert found is not None
    assert found.template == STRICT
    assert found.tokens["eos_token"] == "<|endoftext|>"
    with pytest.raises(LoadError, match="chat_template is no template"):
        load(file.model_copy(update={"chat_template": "{% for"}), cache=tmp_path)


def test_all_conversations_of_an_input_share_the_time_of_one() -> None:
    slow = "{% for a in range(99999) %}{% set x = a %}{% endfor %}x"
    begun = time.monotonic()
    with pytest.raises(BadArgument, match=r"more than 0.3 s"):
        Chat(card(slow), 0.3).texts([HI] * 1000, {})
    assert time.monotonic() - begun < 2
