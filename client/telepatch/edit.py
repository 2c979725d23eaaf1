"""Edits: a block whose body reads and writes the model for inputs that are not there yet."""

from __future__ import annotations

import asyncio
import re
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from pydantic import JsonValue

from telepatch import arguments
from telepatch.applying import Travelling, Use, check_name
from telepatch.blocks import Block
from telepatch.bound import Bound
from telepatch.builder import Builder
from telepatch.lines import at_place, placed, points_home
from telepatch.names import missing_name
from telepatch.scope import Kind, Scope
from telepatch.values import Value
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, TelepatchError, TraceError
from telepatch_protocol.fragments import Argument, Fragment, check_form
from telepatch_protocol.graph import Get, Graph, ModelRef, Node, Options, Set
from telepatch_protocol.meta import UNKNOWN, Meta
from telepatch_protocol.order import refs_of
from telepatch_protocol.refs import NAME

if TYPE_CHECKING:
    from telepatch.lab import Lab

_NO_RUNS = "an edit runs nothing: it is applied to the inputs of traces, model.trace(prompt, edits=[...])"


class EditBuilder(Builder):
    """A fragment in the making; it becomes no job."""

    sends = False

    def refuses(self, what: str) -> TraceError | None:
        """No block that runs something can be a part of it."""
        return TraceError(f"a {what} cannot stand in an edit; {_NO_RUNS}")

    def add(self, node: Node, slot: int | None = None, scope: Scope | None = None) -> object:
        """Take in a node; see `Builder.add`."""
        if node.kind == "grad":
            raise TraceError("an edit takes no gradients; take them in the trace that it is applied to")
        return super().add(node, slot, scope)

    def open(self, kind: Kind, *args: Any, **kwargs: Any) -> Scope:
        """Begin a sub-graph; see `Builder.open`."""
        if kind == "grad":
            raise TraceError("an edit takes no gradients; take them in the trace that it is applied to")
        return super().open(kind, *args, **kwargs)

    def save(self, refs: Any, name: str | None) -> None:
        """Refuse to send something back.

        Raises:
            TraceError: always.
        """
        raise TraceError("an edit saves nothing; read the site and save it in the trace that the edit is applied to")

    def begin_some_input(self) -> None:
        """Begin an input of which nothing is known."""
        self.begin_run()
        needed = [name for name, one in self.card.inputs.items() if not one.optional]
        refs: dict[str, JsonValue] = {name: f"${self.anything(name)}" for name in needed or ["ids"]}
        form: dict[str, Any] = {"inputs": refs} if needed else refs
        self.scope.invoke = self.add_invoke(("edit", None), **form).id

    def anything(self, name: str) -> str:
        """A constant of which nothing is known."""
        self._metas[name] = UNKNOWN
        return self.constant({"tensor": name})


class Given(Bound):
    """An argument of an edit, inside its block."""

    @points_home
    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise TraceError(
            f"cannot {what} {self.spelled}: it is an argument, whose value is given when the edit is applied; {instead}"
        )

    def _sketch(self) -> str:
        return f"<{self.spelled}: {self._meta}, an argument of an edit>"


class Edit(Block):
    """A part of a trace under a name: ``with model.edit("steer", scale=1.0) as e:``, applied to inputs of later traces.

    Inside the block sites are read and written as in a trace; ``e.scale`` is an argument. After it the edit is applied
    by its name or as itself: ``model.trace(prompt, edits=["steer", (e, {"scale": 2.0})])``, ``model.edited("steer")``.
    Calling it gives it arguments: ``edits=[e(scale=2.0)]``.
    """

    what = "edit"
    built_by = EditBuilder
    _reserved: ClassVar[re.Pattern[str]] = re.compile(r"[ncxr]\d+|step")

    def __init__(
        self, lab: Lab | None, card: ModelCard, options: Options, name: str | None, given: dict[str, Any]
    ) -> None:
        super().__init__(lab, card, options)
        if name is not None and lab is None:
            raise TraceError(f"edit '{name}' is stored with the service; without a connection leave out its name")
        for argument in given:
            self._check_argument(argument)
        self.name = None if name is None else check_name(name)
        self._given = given
        self._arguments: dict[str, Argument] = {}
        self._bound: dict[str, Given] = {}
        self._whole: Travelling | None = None

    @points_home
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in self._bound:
            return self._bound[name]
        if name in self._given:
            raise placed(
                TraceError(f"'{name}' stands for something inside the block of this edit, which has not begun")
            )
        raise missing_name(f"this edit has no argument '{name}'; it takes {', '.join(self._given) or 'none'}")

    def __dir__(self) -> list[str]:
        return [*object.__dir__(self), *self._given]

    @points_home
    def __call__(self, **given: Any) -> Use:
        """The edit with values for its arguments.

        Raises:
            UnknownName: an argument that it does not take.
        """
        return Use(self, given)

    @points_home
    def delete(self) -> None:
        """Have the service forget it; jobs that were submitted before have it in place.

        Raises:
            NotFound: it is gone already.
        """
        self._lab_of("deleted").delete_edit(str(self.name))

    @property
    def stored_as(self) -> str | None:
        """Its name, once the service has it."""
        return self.name if self._whole is not None else None

    @property
    def travelling(self) -> Travelling | None:
        """What a document brings along, once the block has ended."""
        return self._whole

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of its arguments."""
        return tuple(self._given)

    @property
    def document(self) -> Fragment:
        """The edit as a document; its ``to_json()`` can be stored by hand.

        Raises:
            TraceError: its block has not ended.
        """
        if self._whole is None:
            raise TraceError("an edit is a document once its block has ended")
        return self._whole.fragment

    @points_home
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        graph = self._leave(error)
        if graph is not None:
            self._made(graph)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        graph = self._leave(error)
        if graph is not None:
            await asyncio.to_thread(self._made, graph)

    def _made(self, graph: Graph) -> None:
        """Check what was written as a whole, and have it stored if it has a name."""
        builder = self._builder
        try:
            whole = Travelling(self._fragment(graph), dict(builder.tensors), dict(builder.parents))
            check_form(whole.fragment)
            if self.name is not None:
                self._lab_of("stored").store_edit(self.name, whole)
        except TelepatchError as refused:
            refused.file = refused.line = None
            raise at_place(refused, builder.places.get(refused.node or "", builder.opened)) from None
        self._whole = whole
        builder.failure = "what an edit reads has no numbers; read the site in a trace that the edit is applied to"

    def _fragment(self, graph: Graph) -> Fragment:
        """What was written, without the input that it was written for."""
        nodes = tuple(
            node.model_copy(update={"invoke": None}) if isinstance(node, Get | Set) else node for node in graph.nodes
        )
        used = {ref.id for node in nodes for ref in refs_of(node)}
        return Fragment(
            model=ModelRef(id=graph.model.id, revision=graph.model.revision),
            arguments=self._arguments,
            nodes=nodes,
            constants={name: value for name, value in graph.constants.items() if name in used},
            lines={node: line for node, line in graph.lines.items() if node not in self._builder.given},
        )

    def _begin(self) -> None:
        self._builder.begin_some_input()  # type: ignore[attr-defined]
        for name, value in self._given.items():
            self._arguments[name], known = self._default(name, value)
            self._bound[name] = self._bind(name, known)

    def _default(self, name: str, value: Any) -> tuple[Argument, object]:
        """An argument as the document has it, and what is known of it."""
        builder = self._builder
        if value is ...:
            return Argument(), UNKNOWN
        if not isinstance(value, Value) and isinstance(arguments.plain(value), str | None):
            raise BadArgument(
                f"argument '{name}' is a number, an array or a value, or '...' without a default; found {value!r:.80}"
            )
        ref = arguments.argument(builder, "operand", value)
        constant = str(ref).removeprefix("$")
        if constant not in builder.constants:
            raise BadArgument(f"argument '{name}' is one of several columns; use the column inside the edit")
        return Argument(default=builder.constants[constant]), builder.checker.values[constant]

    def _bind(self, name: str, known: object) -> Given:
        builder = self._builder
        with builder.checker.at(0):
            builder.checker.define(name, known)
        plain = isinstance(known, int | float)
        meta = known if isinstance(known, Meta) else builder.checker.written(f"${name}")
        numbers = (known,) if type(known) is int else ()
        return Given(builder, name, meta, builder.root, spelled=f"e.{name}", numbers=numbers, plain_number=plain)

    def _check_argument(self, name: str) -> None:
        if name in dir(type(self)) or name.startswith("_"):
            raise BadArgument(f"'{name}' means something else on an edit; choose another name")
        if self._reserved.fullmatch(name) or not re.fullmatch(NAME, name, re.ASCII):
            raise BadArgument(f"an argument cannot be called '{name}'; choose a word")

    def _fits(self, other: Builder) -> TraceError | None:
        return TraceError(f"an edit is no part of a job, and one is open since {other.opened}; end that block first")

    def _warn(self) -> None:
        """Its writes are seen where it is applied."""

    def _lab_of(self, done: str) -> Lab:
        if self.name is None or self._builder.lab is None:
            raise TraceError(f"an edit without a name is not {done}: it goes with each trace that it is applied to")
        return self._builder.lab

    def __repr__(self) -> str:
        what = f"edit '{self.name}'" if self.name else "edit"
        state = "stored" if self.stored_as else "made" if self._whole else "new"
        return f"<{what} of {self._builder.card.id}, takes {', '.join(self._given) or 'nothing'}: {state}>"
