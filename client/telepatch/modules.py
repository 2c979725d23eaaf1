"""A model's modules as attributes: paths, ports, parameters, and applying a module to a value."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, NoReturn

from telepatch import arguments, tree
from telepatch.current import open_builder
from telepatch.elsewhere import OF_MODULES
from telepatch.lines import points_home
from telepatch.names import missing_site
from telepatch.outputs import made
from telepatch.places import Spot
from telepatch.site import Address, SiteValue, dotted, same_model, spelled_path, with_constants
from telepatch.sources import Source
from telepatch.structure import Structure
from telepatch.swept import swept
from telepatch.values import Value
from telepatch_protocol.errors import BadArgument, TelepatchError, TraceError, UnknownSite

PORTS = ("input", "output", "inputs", "outputs")


class SomeModules(list["ModuleView"]):
    """Some modules of a list, for loops; a list that says what works where more is asked of it."""

    @points_home
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise missing_site(
            f"a slice of modules is a Python list and has no '{name}'; say [module.{name} for module in ...], "
            f"or take all modules at once, stacked, and slice that: modules[:].{name}[1:3]"
        )


class ModuleView:
    """A module of the model, or with ``[:]`` all modules of a list at once.

    Attributes lead to its children (``layer.mlp``), to the places where it is read and written (``layer.output``,
    ``layer.resid_post``) and to its parameters (``layer.weight``). Children whose names are taken here are reached as
    items: ``layer["output"]``. Calling it applies it to a value.
    """

    __slots__ = ("_call", "_spot")

    def __init__(self, spot: Spot, call: int | None = None) -> None:
        object.__setattr__(self, "_spot", spot)
        object.__setattr__(self, "_call", call)

    _spot: Spot
    _call: int | None

    @property
    @points_home
    def input(self) -> SiteValue:
        """The main tensor that the module takes."""
        return self._site("input")

    @input.setter
    def input(self, value: Any) -> None:
        self._write("input", value)

    @property
    @points_home
    def output(self) -> SiteValue:
        """The main tensor that the module returns."""
        return self._site("output")

    @output.setter
    def output(self, value: Any) -> None:
        self._write("output", value)

    @property
    @points_home
    def inputs(self) -> Structure | SiteValue:
        """Everything that the module takes, by position and name."""
        return self._structure("inputs")

    @property
    @points_home
    def outputs(self) -> Structure | SiteValue:
        """Everything that the module returns, by position and name."""
        return self._structure("outputs")

    @points_home
    def param(self, name: str) -> SiteValue:
        """A parameter or buffer of the module's own; it can be read only."""
        return SiteValue(Address(self._spot.card, self._spot.path, "param", name, None), open_builder())

    @property
    @points_home
    def source(self) -> Source:
        """The operations inside the module's forward; print it to see them with their lines."""
        return Source(self._spot, self._call)

    @property
    def calls(self) -> list[ModuleView]:
        """The module at each of its calls in one forward, for modules that the model calls several times.

        Modules below that are called as often are taken at the same call: ``layer.calls[2].attention``.
        """
        return [ModuleView(self._spot, at) for at in range(self._spot.times)]

    @points_home
    def __call__(self, *args: Any, **kwargs: Any) -> Value:
        """Apply the module to a value; this counts as no firing of it, and writes to it do not matter.

        Raises:
            TraceError: no trace is open.
            ShapeError, DtypeError: it cannot take the value.
        """
        builder = open_builder()
        if builder is None:
            spelled = spelled_path(self._spot.path)
            raise TraceError(f"{spelled} is applied to values inside 'with model.trace(...)'; no trace is open here")
        same_model(builder, self._spot.card, spelled_path(self._spot.path))
        placed = tuple(arguments.argument(builder, "operand", one) for one in args)
        named = {name: arguments.argument(builder, "operand", one) for name, one in kwargs.items()}
        node, found = builder.module(with_constants(self._spot.path, builder, builder.scope), placed, named)
        value: Value = made(builder, node, found)
        return value

    @points_home
    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        child = self._spot.child(name)
        if child is not None:
            return self._child(child)
        if name in self._spot.ports():
            return self._site(name)
        if name in self._spot.module.params:
            return self.param(name)
        raise self._missing(name)

    @points_home
    def __setattr__(self, name: str, value: Any) -> None:
        if name in PORTS:
            if name in ("inputs", "outputs"):
                raise BadArgument(
                    f"write the parts one by one, such as {spelled_path(self._spot.path)}.{name}[0] = value"
                )
            self._write(name, value)
        elif name in self._spot.ports():
            self._write(name, value)
        elif name in self._spot.module.params:
            self.param(name).write(value)
        else:
            raise self._missing(name)

    @points_home
    def __getitem__(self, key: int | slice | str | Value) -> Any:
        if isinstance(key, str):
            return self._descend(key)
        if isinstance(key, Value):
            return ModuleView(swept(self._spot, key))
        key = arguments.plain(key)
        items = self._spot.items()
        if isinstance(key, slice):
            if key == slice(None):
                if not items:
                    raise missing_site(
                        f"{spelled_path(self._spot.path)} is no list of modules, so '[:]' means nothing here"
                    )
                return self._child(self._spot.starred())
            return SomeModules(self[at] for at in items[key])
        if isinstance(key, bool) or not isinstance(key, int) or not -len(items) <= key < len(items):
            raise missing_site(self._no_item(key, items))
        child = self._spot.child(str(items[key]))
        assert child is not None
        return self._child(child)

    def __len__(self) -> int:
        return len(self._spot.items())

    def __iter__(self) -> Iterator[ModuleView]:
        return iter([self._child(child) for child in map(self._spot.child, map(str, self._spot.items())) if child])

    def __bool__(self) -> bool:
        return True

    def __dir__(self) -> list[str]:
        own = [name for name in object.__dir__(self) if not name.startswith("_")]
        names = [name for name in self._names() if name.isidentifier()]
        return [*own, *names]

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._spot.own_children())

    @points_home
    def __reduce__(self) -> NoReturn:
        raise TraceError("a model belongs to a connection and goes to no other process; connect there and ask for it")

    def __repr__(self) -> str:
        return tree.draw(self._spot)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModuleView) and (self._spot.native, self._call) == (other._spot.native, other._call)

    def __hash__(self) -> int:
        return hash((self._spot.native, self._call))

    def _site(self, port: str, leaf: str | None = None) -> SiteValue:
        module = self._spot.module
        if port in PORTS and module.input is None and module.output is None:
            here = spelled_path(self._spot.path)
            instead = f"; take one of its modules, {here}[0].{port}, or all, {here}[:].{port}" if len(self) else ""
            raise UnknownSite(f"{here} ({module.kind}) does not fire itself, so it has no {port}{instead}")
        port, own_leaf = self._spot.port(port)
        return SiteValue(Address(self._spot.card, self._spot.path, port, leaf or own_leaf, self._call), open_builder())

    @points_home
    def _write(self, port: str, value: Any) -> None:
        site = self._site(port)
        site._bound().write(value)

    def _structure(self, port: str) -> Structure | SiteValue:
        side = self._spot.module.output if port == "outputs" else self._spot.module.input
        if side is None or [leaf.path for leaf in side.leaves] == [""]:
            return self._site(port.removesuffix("s"))
        return Structure(Address(self._spot.card, self._spot.path, port, None, self._call), side)

    def _descend(self, dotted_path: str) -> ModuleView:
        spot = self._spot
        for name in dotted_path.split("."):
            found = spot.starred() if name == "*" and spot.items() else spot.child(name)
            if found is None:
                raise missing_site(_no_child(spot, name))
            spot = found
        return self._child(spot)

    def _child(self, spot: Spot) -> ModuleView:
        """A module below: at the same call, if it is called as often."""
        same = spot.times in (0, self._spot.times_around)
        return ModuleView(spot, self._call if same else None)

    def _names(self) -> list[str]:
        spot = self._spot
        return [*spot.own_children(), *spot.alias_children(), *spot.ports(), *spot.module.params]

    def _missing(self, name: str) -> TelepatchError:
        if name in OF_MODULES:
            return missing_site(f"{_where(self._spot)} has no '{name}'; {OF_MODULES[name]}")
        known = [one for one in self._names() if not one.isdigit()]
        near = difflib.get_close_matches(name, [*known, *PORTS], n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        return missing_site(f"{_where(self._spot)} has no '{name}'{hint}; it has: {_listed(self._spot)}")

    def _no_item(self, key: Any, items: list[int]) -> str:
        where = _where(self._spot)
        if not items:
            return f"{where} is no list of modules; it has: {_listed(self._spot)}"
        return f"{where} holds modules 0 to {items[-1]}; there is no {key!r}"


def _no_child(spot: Spot, name: str) -> str:
    near = difflib.get_close_matches(name, [*spot.own_children(), *spot.alias_children()], n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"{_where(spot)} has no child '{name}'{hint}; it has: {_listed(spot)}"


def _where(spot: Spot) -> str:
    return f"'{dotted(spot.path)}' ({spot.module.kind})" if spot.path else f"model '{spot.card.id}'"


def _listed(spot: Spot) -> str:
    items = spot.items()
    children = [f"modules {items[0]} to {items[-1]}"] if items else list(spot.own_children())
    fires = spot.module.output is not None or spot.module.input is not None
    names = [*children, *spot.alias_children(), *(PORTS if fires else ()), *spot.ports(), *spot.module.params]
    return ", ".join(dict.fromkeys(names)) or "nothing"
