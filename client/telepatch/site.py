"""Sites as an author holds them: a name bound to a whole site stays the site, so assignments to it are writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from telepatch import arguments, operations
from telepatch.builder import Builder
from telepatch.current import open_builder
from telepatch.hole import Hole
from telepatch.lines import points_home
from telepatch.scope import Scope
from telepatch.values import Value
from telepatch_protocol import sites
from telepatch_protocol.axes import dim_of
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, TraceError
from telepatch_protocol.inputs import Input
from telepatch_protocol.meta import Meta

Segment = str | int
"""A part of a path; integers become constants, or are a `Hole`."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a site is, as the author spelled it."""

    card: ModelCard
    path: tuple[Segment, ...]
    port: str
    leaf: str | None = None
    call: int | None = None
    backward: bool = False

    @property
    def site(self) -> sites.Site:
        """With all numbers in place."""
        return sites.Site(dotted(self.path), self.port, self.leaf)

    def on_wire(self, builder: Builder, scope: Scope) -> str:
        """With every number of the path as a constant, or the name that a sweep binds to it."""
        leaf = ".".join(filter(None, (self.leaf, "grad"))) if self.backward else self.leaf
        return str(sites.Site(with_constants(self.path, builder, scope), self.port, leaf))

    def find(self) -> tuple[sites.Found, ...]:
        """Where it lies on the card.

        Raises:
            UnknownSite: nowhere; the message says what exists there.
        """
        return sites.find(self.card, self.site, self.call)

    def spelled(self) -> str:
        """As Python has it, from the model on."""
        leaf = f".{self.leaf}" if self.port == "source" else f"[{self.leaf!r}]" if self.leaf else ""
        return spelled_path(self.path) + f".{self.port}{leaf}" + (".grad" if self.backward else "")


def dotted(path: tuple[Segment, ...]) -> str:
    """A path with dots."""
    return ".".join(map(str, path))


def with_constants(path: tuple[Segment, ...], builder: Builder, scope: Scope) -> str:
    """A path with dots, as `scope` spells it: every number as a constant, or the name that a sweep binds to it."""
    return ".".join(_segment(one, builder, scope) for one in path)


def _segment(one: Segment, builder: Builder, scope: Scope) -> str:
    if isinstance(one, Hole):
        return f"{{{one.name_in(scope)}}}"
    return f"{{{builder.constant(one)}}}" if isinstance(one, int) else one


def spelled_path(path: tuple[Segment, ...]) -> str:
    """A path as Python has it."""
    text = "model"
    for segment in path:
        shown = segment.spelled if isinstance(segment, Hole) else segment
        text += f"[{shown}]" if isinstance(segment, int) else "[:]" if segment == "*" else f".{segment}"
    return text


class SiteValue(Value):
    """The whole value at a site.

    ``site[key] = v``, ``site[key] += v`` and ``site += v`` write to the model; everything else reads the value as it is
    when the name is bound, or after the last write through that name.
    """

    def __init__(self, address: Address, builder: Builder | None, at: SiteValue | None = None) -> None:
        super().__init__(builder, None, Meta(None, None))
        if builder is not None:
            same_model(builder, address.card, address.spelled())
        self._address = address
        self._invoke: str | None = None
        if at is not None:
            self._invoke = at._invoke
        elif builder is not None and address.port != "param":
            self._invoke, self._scope = _invoke_of(builder, address)
        self._slot = 0 if builder is None else builder.slot()
        self._span = None if self._scope is None else self._scope.span
        self._saved: str | None = None
        self._found = address.find()
        if builder is not None:
            self._meta = self._site_meta()

    @points_home
    def save(self, name: str | None = None) -> Any:
        """Have the service send this value back; what is written here later does not change it.

        Args:
            name: under which ``lab.result(job, name)`` and the exported graph know it; made up if left out.

        Returns:
            The site itself: after the block, a lazy array.
        """
        if self._builder is not None and not self._is_here():
            return Value.save(self, name)
        bound = self._bound()
        found = Value.save(bound, name)
        bound._saved = bound._ref
        return found

    @points_home
    def __getitem__(self, key: Any) -> Any:
        if self._builder is None:
            return self._bound()[key]
        if not self._is_here():
            return Value.__getitem__(self, key)
        self._no_tuple_item(key)
        builder, scope = self._home(), self._own_scope()
        if builder.scope is not scope and (scope.closed or arguments.holds_values(key)):
            return Value.__getitem__(self, key)
        index = arguments.index(builder, key)
        site = self._address.on_wire(builder, scope)
        node, found = builder.get(site, self._invoke, index, self._address.call, self._slot, scope, self._span)
        part: Value = _read(builder, node, found, scope)
        part._origin = (self, key)
        return part

    @points_home
    def __setitem__(self, key: Any, value: Any) -> None:
        bound = self._bound()
        bound._no_tuple_item(key)
        bound._may_write()
        bound._write(arguments.index(bound._home(), key), value)

    def write(self, value: Any) -> None:
        """Replace the whole value; a site assigned to itself is left as it is."""
        if isinstance(value, SiteValue) and value._address == self._address and value._invoke == self._invoke:
            return
        self._write(None, value)

    def _write(self, index: list[Any] | None, value: Any) -> None:
        self._may_write()
        builder = self._home()
        written = arguments.written(builder, value)
        if isinstance(value, Value) and value._edit is not None:
            builder.edits.pop(value._edit, None)
        site = self._address.on_wire(builder, self._own_scope())
        builder.set(site, self._invoke, index, self._address.call, written, self._span)
        self._slot = builder.slot()
        self._ref = None

    def _edited(self, builder: Builder, sign: str, name: str, other: Any) -> Any:
        bound = self._bound()
        bound._write(None, operations.apply_in(builder, name, (bound, other), {}))
        return bound

    def reference_in(self, builder: Builder) -> str:
        """The reference that stands for this value in a trace; reads the site if that has not been done yet."""
        return Value.reference_in(self._bound() if self._builder is None else self, builder)

    def _own_ref(self) -> str:
        if self._ref is None:
            builder, scope, meta = self._home(), self._own_scope(), self._site_meta()
            site = self._address.on_wire(builder, scope)
            self._ref, found = builder.get(site, self._invoke, None, self._address.call, self._slot, scope, self._span)
            self._meta = found if isinstance(found, Meta) and found.shape is not None else meta
        return self._ref

    def _may_write(self) -> None:
        """Refuse a write from where the site's input does not run.

        Raises:
            TraceError: from inside a sub-graph, or after the site's trace.
        """
        builder, scope = self._home(), self._own_scope()
        if scope.closed:
            raise TraceError(f"{self._spelled()} belongs to a {scope.what} that is over, and can only be read")
        if builder.scope is not scope and builder.scope.kind in ("cond", "grad"):
            hint = "write telepatch.where(condition, new, old)" if builder.scope.kind == "cond" else "write before it"
            raise TraceError(f"a {builder.scope.what} writes to no input; {hint}")
        if builder.scope is not scope:
            raise TraceError(
                f"{self._spelled()} is of an input outside this {builder.scope.what}, and inside it can only be read; "
                f"to write, run the input in here: with model.trace(...) inside the {builder.scope.what}"
            )
        own = [one.id for one in scope.forward.invokes] if scope.forward is not None else []
        if self._invoke is not None and not self._address.backward and self._invoke not in own:
            raise TraceError(
                f"{self._spelled()} belongs to another trace; name the site again in this one to write to it"
            )

    def _own_scope(self) -> Scope:
        assert self._scope is not None
        return self._scope

    def _home(self) -> Builder:
        assert self._builder is not None
        return self._builder

    def _is_here(self) -> bool:
        """Whether it belongs to the open trace; one bound outside any trace belongs to whichever is open."""
        return self._builder is not None and self._builder is open_builder()

    def _bound(self) -> SiteValue:
        """The site in the open trace.

        Raises:
            TraceError: none is open, or this one is of another trace.
        """
        if self._is_here():
            return self
        builder = open_builder()
        if builder is None:
            raise TraceError(
                f"{self._spelled()} is a place in the model; read and write it inside 'with model.trace(...)'"
            )
        if self._builder is not None:
            raise TraceError(
                f"{self._spelled()} belongs to another trace; name the site again in this one to write to it"
            )
        return SiteValue(self._address, builder)

    def _name(self) -> str | None:
        if self._builder is None or self._saved is None:
            return Value._name(self)
        known = self._builder.known_as(self._own_scope(), self._saved)
        return None if known is None else self._builder.name_of(f"${known}")

    def _known_meta(self) -> Meta:
        if self._is_here() and self._ref is None:
            return self._home().outside(self._own_scope(), self._site_meta())
        if self._builder is None:
            leaf = self._found[0].leaf
            return Meta(tuple(axis if isinstance(axis, int) else 0 for axis in leaf.axes), leaf.dtype)
        return Value._known_meta(self)

    def _site_meta(self) -> Meta:
        """What is known of it, without a node for it."""
        builder = self._home()
        leaf = self._found[0].leaf
        size = builder.sizes.get(self._invoke or "", Input(0, 0))
        dims = tuple(dim_of(axis, size.rows, size.length, size.target) for axis in leaf.axes)
        return Meta((len(self._found), *dims) if self._address.site.starred else dims, leaf.dtype)

    def _no_tuple_item(self, key: Any) -> None:
        """``output[0]`` of a module that returns a tuple means the tuple to one reader and the first row to another."""
        arity = sites.arity_of(self._address.card, self._found[0].place)
        whole = self._spelled().endswith(".output")
        if not whole or arity is None or isinstance(key, bool) or not isinstance(key, int):
            return
        here_ = self._spelled().removesuffix(".output")
        raise BadArgument(
            f"{here_} returns a tuple of {arity}, and .output is its main tensor already; "
            f"write {here_}.outputs[{key}] for an item of the tuple, or {here_}.output[{key}:{key + 1 or ''}] for a row"
        )

    def _spelled(self) -> str:
        return self._address.spelled()

    def _sketch(self) -> str:
        if self._builder is None:
            leaf = self._found[0].leaf
            axes = ", ".join("?" if axis is None else str(axis) for axis in leaf.axes)
            return f"<site {self._address.site}: {leaf.dtype} ({axes})>"
        where = f" at {self._place.short}" if self._place is not None else ""
        return f"<site {self._address.site} of {self._invoke or 'the model'}: {self._known_meta()}{where}>"


def _read(builder: Builder, node: str, found: object, scope: Scope) -> Value:
    """The value of a read."""
    return Value(builder, node, found if isinstance(found, Meta) else Meta(None, None), scope)


def same_model(builder: Builder, card: ModelCard, what: str) -> None:
    """Refuse a place of one model inside a trace of another.

    Raises:
        TraceError: the two models differ.
    """
    if (card.id, card.revision) != (builder.card.id, builder.card.revision):
        raise TraceError(
            f"{what} is a place of '{card.id}', and the trace that is open since {builder.opened} is of "
            f"'{builder.card.id}'; save the value in a trace of '{card.id}', and use it here"
        )


def _invoke_of(builder: Builder, address: Address) -> tuple[str, Scope]:
    """The input whose sites are named now, and the scope in which it runs."""
    for scope in builder.scope.around():
        if scope.invoke is not None:
            return scope.invoke, scope
    inside = "" if builder.scope.parent is None else f" inside the {builder.scope.what}"
    raise TraceError(
        f"{address.spelled()} is read and written for an input: give model.trace(prompt) one{inside}, "
        "or open one with 'with t.invoke(prompt):'"
    )
