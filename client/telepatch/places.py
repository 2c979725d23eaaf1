"""A model's tree as its card has it, standard aliases included: what lies below each path, and how it is spelled."""

from __future__ import annotations

from dataclasses import dataclass, replace

from telepatch.own_names import NO_NAMES, Names
from telepatch.site import Segment, dotted
from telepatch_protocol import sites
from telepatch_protocol.card import ModelCard, ModuleCard


@dataclass(frozen=True, slots=True)
class Spot:
    """One module, or with a star all that match.

    Attributes:
        card: the model.
        path: as the author spelled it.
        native: the model's own path, which may hold a star.
        names: what the author calls places.
    """

    card: ModelCard
    path: tuple[Segment, ...] = ()
    native: str = ""
    names: Names = NO_NAMES

    @property
    def sample(self) -> str:
        """The native path of one module that it means."""
        if "*" not in self.native:
            return self.native
        return next((one.path for one in self.card.modules if stars_of(self.native, one.path) is not None), "")

    @property
    def module(self) -> ModuleCard:
        """What the card says of the module."""
        return self.card.by_path[self.sample]

    @property
    def times(self) -> int:
        """How often the module fires in one forward."""
        side = self.module.output or self.module.input
        return 0 if side is None else len(side.order)

    @property
    def times_around(self) -> int:
        """How often it fires, or for a list of modules, the nearest module around it that does."""
        path = self.sample
        while path and self.card.by_path[path].output is None:
            path = path.rpartition(".")[0]
        side = self.card.by_path[path].output
        return 0 if side is None else len(side.order)

    def own_children(self) -> tuple[str, ...]:
        """Names of the modules directly below, in the model's own words."""
        return self.card.children.get(self.sample, ())

    def items(self) -> list[int]:
        """Numbers of the modules directly below, for a list of modules."""
        return [int(name) for name in self.own_children() if name.isdigit()]

    def alias_children(self) -> dict[str, tuple[Segment, ...]]:
        """Standard and chosen names of modules below, each with its whole path in names that may be sent."""
        return _alias_children(self.card, self.native, top=not self.path) | self.names.children(self.native)

    def ports(self) -> tuple[str, ...]:
        """Standard and chosen names of ports here."""
        return (*sites.ports_of(self.card, self.sample), *self.names.ports(self.sample))

    def port(self, name: str) -> tuple[str, str | None]:
        """A port as it may be sent, with its leaf: a chosen name gives way to what it means."""
        port, _, leaf = self.names.ports(self.sample).get(name, name).partition(".")
        return port, leaf or None

    def child(self, name: str) -> Spot | None:
        """The module of that name directly below: the model's own, else a standard alias."""
        if name in self.own_children():
            segment: Segment = int(name) if name.isdigit() else name
            return replace(self, path=(*self.path, segment), native=f"{self.native}.{name}".lstrip("."))
        alias = self.alias_children().get(name)
        if alias is None:
            return None
        return replace(self, path=refilled(alias, self.path), native=native(self.card, dotted(alias)))

    def starred(self) -> Spot:
        """All modules of a list."""
        return replace(self, path=(*self.path, "*"), native=f"{self.native}.*")


def native(card: ModelCard, path: str) -> str:
    """The model's own path for one that may begin with a standard alias, or with the list that aliases speak of."""
    return module_aliases(card).get(path) or sites.native_path(card, path)


def _alias_children(card: ModelCard, path: str, *, top: bool) -> dict[str, tuple[Segment, ...]]:
    """Standard names of modules below one, each with its whole path."""
    key = ("alias children", path, top)
    found: dict[str, tuple[Segment, ...]] | None = card.found.get(key)
    if found is None:
        found = {}
        for alias in module_aliases(card):
            parent, _, name = alias.rpartition(".")
            stars = stars_of(native(card, parent), path) if parent else [] if top else None
            if name != "*" and stars is not None:
                found[name] = (*filled(parent, stars), name)
        card.found.put(key, found)
    return found


def module_aliases(card: ModelCard) -> dict[str, str]:
    """The card's aliases of modules, and of the lists that hold them: ``blocks`` beside ``blocks.*``."""
    found: dict[str, str] | None = card.found.get("module aliases:")
    if found is None:
        found = _module_aliases(card)
        card.found.put("module aliases:", found)
    return found


def _module_aliases(card: ModelCard) -> dict[str, str]:
    found = dict(card.aliases.modules)
    for alias, target in card.aliases.modules.items():
        if alias.endswith(".*") and target.endswith(".*"):
            found.setdefault(alias.removesuffix(".*"), target.removesuffix(".*"))
    return found


def stars_of(pattern: str, path: str) -> list[str] | None:
    """What the stars of a pattern stand for in a path, or None where the two differ."""
    keys, segments = pattern.split("."), path.split(".")
    if len(keys) != len(segments):
        return None
    found: list[str] = []
    for key, segment in zip(keys, segments, strict=True):
        if key == "*" and (segment.isdigit() or segment == "*"):
            found.append(segment)
        elif key != segment:
            return None
    return found


def refilled(path: tuple[Segment, ...], before: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """A path in standard names with the numbers that stood in the path from which it was reached: those of a sweep
    stay those of the sweep."""
    numbers = iter([one for one in before if isinstance(one, int)])
    return tuple(next(numbers, one) if isinstance(one, int) else one for one in path)


def filled(alias: str, stars: list[str]) -> tuple[Segment, ...]:
    """The segments of a pattern, its stars replaced."""
    pieces = iter(stars)
    filled = [next(pieces) if key == "*" else key for key in alias.split(".")] if alias else []
    return tuple(int(one) if one.isdigit() else one for one in filled)
