"""A trace: the block whose body builds a graph, and whose end sends it."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import JsonValue

from telepatch import arguments
from telepatch.builder import Builder
from telepatch.cache import Cache, keep
from telepatch.chats import Chat, check_template, is_messages
from telepatch.current import open_builder, set_open
from telepatch.lines import here, placed, points_home, trim
from telepatch.named import as_inputs, sendable
from telepatch.prompt_tokens import tokens_of
from telepatch.tokens import TokenRows, Tokens
from telepatch_protocol import tensors
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, TelepatchError, TraceError
from telepatch_protocol.graph import Graph, Options

if TYPE_CHECKING:
    from telepatch.lab import Lab


class TraceWarning(UserWarning):
    """Something in a trace that is allowed, and surely not meant."""


class Trace:
    """One job in the making: ``with model.trace("..."):`` or, for several inputs, ``with t.invoke("..."):`` inside.

    The body runs at once, over values that are not there yet. When the block ends the graph is checked and handed over;
    nothing waits. A block left by an exception sends nothing. ``async with`` works too.
    """

    def __init__(self, lab: Lab | None, card: ModelCard, options: Options, form: dict[str, Any]) -> None:
        self._builder = Builder(lab, card, options)
        self._form = form
        self._graph: Graph | None = None
        self._tensors = self._builder.tensors

    @property
    def job(self) -> str:
        """Id of the job that this trace becomes."""
        return self._builder.job

    @property
    def graph(self) -> Graph:
        """The graph: as far as it has come inside the block, whole after it; its ``to_json()`` can be sent by hand."""
        return self._graph or self._builder.build()

    @property
    def attachment(self) -> bytes:
        """The tensors that go with the graph, as safetensors; empty where there are none."""
        return tensors.encode(self._tensors) if self._tensors else b""

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
    ) -> Invocation:
        """One more input of this trace, for ``with t.invoke("..."):``.

        Args:
            prompt: text, a list of texts that are equally long in tokens (several rows), token ids, or rows of them.
            text, ids, messages, inputs, images, audio: the same by name, as for `Model.trace`.

        Raises:
            BadArgument: not exactly one input, or none of these forms.
        """
        named = {"text": text, "ids": ids, "messages": messages, "inputs": inputs, "images": images, "audio": audio}
        return Invocation(self._builder, one_form(self._builder.card, prompt, **named))

    @points_home
    def __enter__(self) -> Trace:
        other = open_builder()
        builder = self._builder
        if other is not None:
            raise TraceError(
                f"a trace is open already, since {other.opened}; for several inputs use 'with t.invoke(...)' "
                "inside one trace, for several jobs end one block before the next begins"
            )
        if builder.opened is not None:
            raise TraceError("this trace was used before; each block needs a new model.trace(...)")
        builder.opened = here()
        set_open(builder)
        try:
            if self._form:
                Invocation(builder, self._form).__enter__()
        except BaseException as error:
            self._abandon(error)
            raise
        return self

    @points_home
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon(error)
            return
        graph = self._finish()
        if self._builder.lab is not None:
            self._builder.outcome = self._builder.lab.submit(self._builder, graph)
            self._builder.handed_over()

    async def __aenter__(self) -> Trace:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon(error)
            return
        graph = self._finish()
        if self._builder.lab is not None:
            self._builder.outcome = await self._builder.lab.submit_soon(self._builder, graph)
            self._builder.handed_over()

    def __repr__(self) -> str:
        builder = self._builder
        state = "open" if builder is open_builder() else "failed" if builder.failure else "submitted"
        state = state if builder.opened is not None else "new"
        return f"<trace of {builder.card.id}, job {self.job}: {state}, saves {', '.join(builder.saves) or 'nothing'}>"

    def _abandon(self, error: BaseException) -> None:
        set_open(None)
        self._builder.failure = f"{type(error).__name__}: {error}"
        if isinstance(error, TelepatchError):
            placed(error)
            trim(error.__traceback__)

    def _finish(self) -> Graph:
        set_open(None)
        try:
            self._graph = graph = self._builder.finish()
            self._warn()
        except TelepatchError as error:
            self._builder.failure = f"{type(error).__name__}: {error}"
            raise placed(error, self._builder.opened) from None
        except TraceWarning as warning:  # for those who have warnings raised
            self._builder.failure = str(warning)
            raise
        return graph

    def _warn(self) -> None:
        for node, message in self._builder.warned():
            place = self._builder.places.get(node, self._builder.opened)
            if place is not None:
                warnings.warn_explicit(message, TraceWarning, place.file, place.line)


class Invocation:
    """The part of a trace that belongs to one input: sites inside it are those of its rows."""

    def __init__(self, builder: Builder, form: dict[str, Any]) -> None:
        self._builder = builder
        self._form = form
        self._before: str | None = None
        self.id: str | None = None

    @points_home
    def __enter__(self) -> Invocation:
        builder = self._builder
        if builder is not open_builder():
            raise TraceError("an invoke belongs inside the block of its own trace")
        if not self._form:
            raise BadArgument("an invoke needs an input: text, token ids, messages or named tensors")
        self._before = builder.invoke
        (name, value), *_ = self._form.items()
        builder.given[builder.next_invoke] = (name, value)
        self.id = builder.add_invoke(**_on_wire(builder, name, value)).id
        builder.invoke = self.id
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
        self._builder.invoke = self._before

    async def __aenter__(self) -> Invocation:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


def _on_wire(builder: Builder, form: str, value: Any) -> dict[str, Any]:
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
    if isinstance(prompt, Value | np.ndarray) or isinstance(arguments.plain(prompt), np.ndarray):
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
