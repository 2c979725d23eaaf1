"""A trace: the block whose body builds a graph, and whose end sends it."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import JsonValue

from telepatch import arguments
from telepatch.blocks import Block, TraceWarning
from telepatch.builder import Builder
from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch.scope import Forward
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

    @points_home
    def invoke(
        self, prompt: Any = None, *, text: Any = None, ids: Any = None, messages: Any = None, inputs: Any = None
    ) -> Invocation:
        """One more input of this trace, for ``with t.invoke("..."):``.

        Args:
            prompt: text, a list of texts that are equally long in tokens (several rows), token ids, or rows of them.
            text, ids, messages, inputs: the same by name, where the form is not to be guessed.

        Raises:
            BadArgument: not exactly one input, or none of these forms.
        """
        form = one_form(prompt, text=text, ids=ids, messages=messages, inputs=inputs)
        return Invocation(self._builder, form, self._forward)

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
            Invocation(self._builder, self._form, self._forward).__enter__()

    def _end(self) -> None:
        self._builder.end_run()


class Invocation:
    """The part of a trace that belongs to one input: sites inside it are those of its rows."""

    def __init__(self, builder: Builder, form: dict[str, Any], forward: Forward | None) -> None:
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
        self.id = builder.add_invoke(**{name: as_constant(builder, name, value)}).id
        builder.scope.invoke = self.id
        return self

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


def one_form(prompt: Any, **named: Any) -> dict[str, Any]:
    """The form of an input and its value; empty where none was given.

    Raises:
        BadArgument: two inputs, or one of a form that there is not.
    """
    given = {name: value for name, value in named.items() if value is not None}
    if prompt is not None:
        given |= {"prompt": prompt}
    if len(given) > 1:
        raise BadArgument(f"one input is given at a time; found {', '.join(given)}. Several go into several invokes")
    if prompt is None:
        return given
    return {_guessed(prompt): prompt}


def _guessed(prompt: Any) -> str:
    from telepatch.values import Value

    if isinstance(prompt, str):
        return "text"
    if isinstance(prompt, dict):
        return "inputs"
    if isinstance(prompt, Value):
        return prompt.form
    if isinstance(prompt, np.ndarray) or isinstance(arguments.plain(prompt), np.ndarray):
        return "ids"
    if isinstance(prompt, list | tuple | range) and len(prompt):
        first = prompt[0]
        return "text" if isinstance(first, str) else "messages" if isinstance(first, dict) else "ids"
    raise BadArgument(
        f"{prompt!r} is no input; give text, a list of texts, token ids, rows of token ids, messages, or named tensors"
    )


def as_constant(builder: Builder, form: str, value: Any) -> JsonValue:
    """The input as a constant, or the value that it is."""
    if form == "inputs":
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise BadArgument(f"named tensors are a dict from names to arrays; found {value!r}")
        return {name: arguments.argument(builder, "tensor", one) for name, one in value.items()}
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
