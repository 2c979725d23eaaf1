"""Names of one's own for a model's modules and ports: ``lab.model(id, rename={...})``.

They live on the client alone. What is sent has the model's own names, so a graph means the same to everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from telepatch.names import UnknownSiteName
from telepatch.own_names import NO_NAMES, Names
from telepatch.places import Spot, filled, stars_of
from telepatch_protocol import sites
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, UnknownSite

Rename = Mapping[str, str | Mapping[str, str]]
"""Each name with what it means: a module by its path, or for a path a dict with names of its ports."""


@dataclass(eq=False)
class Renamed(Names):
    """Names that an author chose, all found on the card.

    Attributes:
        modules: what each means, by the native path of where it stands, and the name there.
        names: the whole name as the author gave it, by what it means; stars stand for numbers.
        given: what each means, by the whole name.
        own_ports: ports with their names, by native path of the module.
    """

    modules: dict[tuple[str, str], str] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    own_ports: dict[str, dict[str, str]] = field(default_factory=dict)

    def children(self, native: str) -> dict[str, tuple[str | int, ...]]:
        """Modules that are reached from a module by a chosen name, with their native paths."""
        return {
            name: filled(target, stars)
            for (parent, name), target in self.modules.items()
            if (stars := stars_of(parent, native) if parent else [] if not native else None) is not None
        }

    def ports(self, native: str) -> dict[str, str]:
        """Chosen names of ports of a module."""
        found: dict[str, str] = {}
        for pattern, ports in self.own_ports.items():
            if stars_of(pattern, native) is not None:
                found |= ports
        return found

    def of(self, general: str) -> list[str]:
        """Chosen names of a path, whose numbers are stars."""
        return self.names.get(general, [])

    def whole(self) -> list[tuple[str, str]]:
        """Every chosen name as it was given, with the native path that it means."""
        return list(self.given.items())


def renamed(card: ModelCard, rename: Rename | None) -> Names:
    """The names of `rename`, held against the card.

    Args:
        card: of the model.
        rename: names with what they mean; later ones may build on earlier ones.

    Raises:
        UnknownSite: what one means is not there.
        BadArgument: a name that is taken, or that cannot be one.
    """
    if not rename:
        return NO_NAMES
    found = Renamed()
    for alias, target in rename.items():
        if not isinstance(alias, str) or not isinstance(target, str | Mapping):
            raise BadArgument(
                "rename has a path for each name, or a dict with names of ports, such as "
                f'{{"layers": "transformer.h", "layers.*": {{"resid": "output"}}}}; found {alias!r}: {target!r}'
            )
        if isinstance(target, str):
            _module(card, found, alias, target)
    for alias, target in rename.items():
        if isinstance(target, Mapping):
            _ports(card, found, alias, target)
    return found


def _module(card: ModelCard, found: Renamed, alias: str, target: str) -> None:
    if alias.endswith(".*") and target.endswith(".*"):
        alias, target = alias.removesuffix(".*"), target.removesuffix(".*")
    parent, _, name = alias.rpartition(".")
    where = f"rename of {alias!r}"
    place, meant = _walk(card, found, parent, where), _walk(card, found, target, where)
    if place.native.count("*") != meant.native.count("*"):
        raise BadArgument(
            f"{where}: the name has {place.native.count('*')} stars and what it means, {target!r}, has "
            f"{meant.native.count('*')}; each star of one is a star of the other"
        )
    _free(place, name, where)
    found.modules[place.native, name] = meant.native
    found.given[alias] = meant.native
    found.names.setdefault(_general(meant.native), []).append(alias)


def _ports(card: ModelCard, found: Renamed, path: str, ports: Mapping[str, str]) -> None:
    place = _walk(card, found, path, f"rename of ports of {path!r}")
    for name, port in ports.items():
        where = f"rename of {path}:{name}"
        if not isinstance(port, str):
            raise BadArgument(f"{where} means a port, such as 'output'; found {port!r}")
        _free(place, name, where)
        main, _, leaf = place.names.ports(place.sample).get(port, port).partition(".")
        try:
            sites.find(card, sites.Site(place.sample, main, leaf or None))
        except UnknownSite as error:
            raise UnknownSiteName(f"{where}: {error.detail}") from None
        found.own_ports.setdefault(place.native, {})[name] = f"{main}.{leaf}" if leaf else main


def _walk(card: ModelCard, names: Renamed, path: str, where: str) -> Spot:
    """What lies at a path in own, standard and chosen names."""
    spot = Spot(card, names=names)
    for name in path.split(".") if path else []:
        step = spot.starred() if name == "*" and spot.items() else spot.child(name)
        if step is None:
            have = [f"{spot.items()[0]} to {spot.items()[-1]}, *"] if spot.items() else [*spot.own_children()]
            known = ", ".join([*have, *spot.alias_children()]) or "no modules"
            at = f"'{spot.native}'" if spot.native else f"model '{card.id}'"
            raise UnknownSiteName(f"{where}: {at} has no '{name}'; it has: {known}")
        spot = step
    return spot


def _free(place: Spot, name: str, where: str) -> None:
    """Refuse a name that would hide something, or that Python cannot have."""
    from telepatch.model import Model
    from telepatch.modules import ModuleView

    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_"):
        raise BadArgument(f"{where}: {name!r} is no name; names are words of letters, digits and underscores")
    taken = [*place.own_children(), *place.alias_children(), *place.ports(), *place.module.params]
    if name in taken or hasattr(ModuleView if place.native else Model, name):
        raise BadArgument(f"{where}: '{name}' means something there already; choose another name")


def _general(path: str) -> str:
    return ".".join("*" if one.isdigit() else one for one in path.split("."))
