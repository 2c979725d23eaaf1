"""A trace: the block whose body builds a graph, and whose end sends it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from pydantic import JsonValue

from telepatch import arguments
from telepatch.applying import Use, edits_on_wire, uses
from telepatch.blocks import Block, TraceWarning
from telepatch.builder import Builder
from telepatch.cache import Cache, keep
from telepatch.chats import Chat, check_template, is_messages
from telepatch.current import open_builder
from telepatch.elsewhere import OF_TRACES, not_said
from telepatch.lines import points_home
from telepatch.named import as_inputs, sendable
from telepatch.prompt_tokens import tokens_of
from telepatch.scope import Forward
from telepatch.tokens import TokenRows, Tokens
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, TraceError
from telepatch_protocol.graph import Options

__all__ = ["Invocation", "Trace", "TraceWarning", "one_form"]

if TYPE_CHECKING:
    from telepatch.lab import Lab


class Trace(Block):
    """One job in the making: ``with model.trace("..."):`` or, for several inputs, ``with t.invoke("..."):`` inside.

    The body runs at once, over values that are not there yet. When the block ends the graph is checked and handed over;
    nothing waits. A block left by an exception sends nothing. ``async with`` works too. Inside a session, a sweep or
    their like a trace is one run of that job.
    """

    def __init__(self, lab: Lab | None, card: ModelCard, options: Options, form: dict[str, Any]) -> None:
        super().__init__(lab, card, options)
        self._form = form
        self._forward: Forward | None = None

    @property
    @points_home
    def tokens(self) -> Tokens | TokenRows:
        """Tokens of the input whose block is open, or of the only one: ``t.tokens.find("Mary")`` is a position.

        Raises:
            TraceError: of several inputs none is open, or the input is a value.
        """
        return tokens_of(self._builder, None)

    @points_home
    def cache(
        self,
        *sites: Any,
        index: Any = None,
        dtype: Any = None,
        include_output: bool = True,
        include_inputs: bool = False,
    ) -> Cache:
        """Save many sites of the input whose block is open, chosen by pattern.

        Args:
            sites: patterns such as ``"blocks.*:resid_post"`` or ``"*.mlp"``, modules, sites, and lists of these;
                nothing for everything that any module returns. In a pattern ``*`` is one name or number, ``**`` any
                number of them, and ``*.`` in front means at any depth. Without a port the output is meant.
            index: a part of each, as in ``np.s_[:, -1]``.
            dtype: what each is cast to, such as ``"float16"``.
            include_output, include_inputs: which ports are meant where none is given.

        Returns:
            A mapping from the spelling of each site to its value, which is lazy. Every value is what the model went on
            with, after all writes of the block, wherever in the block this is called.

        Raises:
            UnknownSite: a pattern that fits nothing.
            TraceError: no input is open.

        Example:
            >>> with model.trace("Hello") as t:
            ...     kept = t.cache("blocks.*:resid_post", index=np.s_[:, -1])
            >>> kept["blocks.3:resid_post"].numpy()
        """
        return keep(
            self._builder.card,
            sites,
            index=index,
            dtype=dtype,
            include_output=include_output,
            include_inputs=include_inputs,
        )

    @points_home
    def invoke(
        self,
        prompt: Any = None,
        *,
        text: Any = None,
        ids: Any = None,
        messages: Any = None,
        inputs: Any = None,
        images: Any = None,
        audio: Any = None,
        edits: Any = None,
    ) -> Invocation:
        """One more input of this trace, for ``with t.invoke("..."):``.

        Args:
            prompt: text, a list of texts that are equally long in tokens (several rows), token ids, or rows of them.
            text, ids, messages, inputs, images, audio: the same by name, as for `Model.trace`.
            edits: what this input runs with, after the edits of the whole trace; as for `Model.trace`.

        Raises:
            BadArgument: not exactly one input, or none of these forms.
        """
        named = {"text": text, "ids": ids, "messages": messages, "inputs": inputs, "images": images, "audio": audio}
        form = one_form(self._builder.card, prompt, **named)
        return Invocation(self._builder, form, self._forward, (*self._edits, *uses(edits)))

    @points_home
    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        raise not_said(self.what, name, OF_TRACES, ["invoke", "tokens", "cache", "graph", "shown", "cancel"])

    def _fits(self, other: Builder) -> TraceError | None:
        scope = other.scope
        if scope.kind in ("cond", "grad", "generate"):
            return TraceError(f"a {scope.what} runs no forward; open the trace before it")
        if scope.forward is None:
            return None
        if scope.what == "each":
            return TraceError(
                "each(inputs) runs every input itself; to run them in traces, give them a name: each(prompt=inputs)"
            )
        return TraceError(
            f"a trace is open already, since {other.opened}; for several inputs use 'with t.invoke(...)' inside one "
            "trace, for several jobs end one block before the next begins, for several runs as one job put both into "
            "'with model.session():'"
        )

    def _begin(self) -> None:
        self._forward = self._builder.begin_run()
        if self._form:
            Invocation(self._builder, self._form, self._forward, self._edits).__enter__()

    def _end(self) -> None:
        self._builder.end_run()


class Invocation:
    """The part of a trace that belongs to one input: sites inside it are those of its rows."""

    def __init__(
        self, builder: Builder, form: dict[str, Any], forward: Forward | None, edits: tuple[Use, ...] = ()
    ) -> None:
        self._edits = edits
        self._builder = builder
        self._form = form
        self._forward = forward
        self._before: str | None = None
        self.id: str | None = None

    @points_home
    def __enter__(self) -> Invocation:
        builder = self._builder
        if builder is not open_builder() or self._forward is None or builder.scope.forward is not self._forward:
            raise TraceError("an invoke belongs inside the block of its own trace")
        if not self._form:
            raise BadArgument("an invoke needs an input: text, token ids, messages or named tensors")
        self._before = builder.scope.invoke
        (name, value), *_ = self._form.items()
        edits = edits_on_wire(builder, self._edits)
        self.id = builder.add_invoke((name, value), **input_on_wire(builder, name, value), **edits).id
        builder.scope.invoke = self.id
        return self

    @property
    @points_home
    def tokens(self) -> Tokens | TokenRows:
        """Tokens of this input: ``a.tokens.find("Mary")`` is a position.

        Raises:
            TraceError: the input is a value, or its block has not begun.
        """
        if self.id is None:
            raise TraceError("an input has tokens once its block has begun: with t.invoke(prompt) as a: ...")
        return tokens_of(self._builder, self.id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._builder.scope.invoke = self._before

    async def __aenter__(self) -> Invocation:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


def input_on_wire(builder: Builder, form: str, value: Any) -> dict[str, Any]:
    """The input as the fields of an invoke."""
    if form != "messages":
        return {form: _as_constant(builder, form, value)}
    check_template(builder.card)
    chat = Chat.of(value)
    return {form: f"${builder.constant(chat.messages)}"} | ({"chat": chat.settings} if chat.settings else {})


def one_form(card: ModelCard, prompt: Any, **named: Any) -> dict[str, Any]:
    """The form of an input and its value, as the model takes it; empty where none was given.

    Raises:
        BadArgument: two inputs, or one of a form that there is not.
    """
    given = {name: value for name, value in named.items() if value is not None}
    if prompt is not None:
        given |= {"prompt": prompt}
    if len(given) > 1:
        raise BadArgument(f"one input is given at a time; found {', '.join(given)}. Several go into several invokes")
    if prompt is None:
        return as_inputs(card, given, guessed=False)
    return as_inputs(card, {_guessed(prompt): prompt}, guessed=True)


def _guessed(prompt: Any) -> str:
    from telepatch.values import Value

    if isinstance(prompt, str):
        return "text"
    if is_messages(prompt) and not isinstance(prompt, dict):
        return "messages"
    if isinstance(prompt, dict):
        return "inputs"
    if isinstance(prompt, Value):
        return prompt.form
    if isinstance(prompt, np.ndarray) or isinstance(arguments.plain(prompt), np.ndarray):
        return "ids"
    if isinstance(prompt, list | tuple | range) and len(prompt):
        first = prompt[0]
        return "text" if isinstance(first, str) else "ids"
    raise BadArgument(
        f"{prompt!r} is no input; give text, a list of texts, token ids, rows of token ids, messages, or named tensors"
    )


def _as_constant(builder: Builder, form: str, value: Any) -> JsonValue:
    """The input as a constant, or the value that it is."""
    if form == "inputs":
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise BadArgument(f"named tensors are a dict from names to arrays; found {value!r}")
        return {name: sendable(builder, name, one) for name, one in value.items()}
    ref = arguments.reference(builder, value)
    if ref is not None:
        return ref
    plain = arguments.plain(value)
    if isinstance(plain, np.ndarray):
        return (
            f"${builder.attach(arguments.tensor_of(plain))}"
            if plain.size > 4096
            else f"${builder.constant(plain.tolist())}"
        )
    return f"${builder.constant(_listed(plain))}"


def _listed(value: Any) -> JsonValue:
    if isinstance(value, list | tuple | range):
        return [_listed(arguments.plain(one)) for one in value]
    if isinstance(value, np.ndarray):
        return [_listed(one) for one in value.tolist()]
    if isinstance(value, str | int | float | bool | dict):
        return value
    raise BadArgument(f"{value!r} is no part of an input; inputs are text, or integers in lists of equal length")
