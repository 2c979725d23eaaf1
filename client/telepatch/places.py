"""A model's tree as its card has it, standard aliases included: what lies below each path, and how it is spelled."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    card: ModelCard
    path: tuple[Segment, ...] = ()
    native: str = ""

    @property
    def sample(self) -> str:
        """The native path of one module that it means."""
        if "*" not in self.native:
            return self.native
        return next((one.path for one in self.card.modules if _stars(self.native, one.path) is not None), "")

    @property
    def module(self) -> ModuleCard:
        """What the card says of the module."""
        return self.card.by_path[self.sample]

    def own_children(self) -> tuple[str, ...]:
        """Names of the modules directly below, in the model's own words."""
        return self.card.children.get(self.sample, ())

    def items(self) -> list[int]:
        """Numbers of the modules directly below, for a list of modules."""
        return [int(name) for name in self.own_children() if name.isdigit()]

    def alias_children(self) -> dict[str, tuple[Segment, ...]]:
        """Standard names of modules below, each with its whole path in standard names."""
        found: dict[str, tuple[Segment, ...]] = {}
        for alias in module_aliases(self.card):
            parent, _, name = alias.rpartition(".")
            stars = _stars(native(self.card, parent), self.native) if parent else [] if not self.path else None
            if name != "*" and stars is not None:
                found[name] = (*_filled(parent, stars), name)
        return found

    def ports(self) -> dict[str, str]:
        """Standard port names here."""
        return sites.ports_of(self.card, self.sample)

    def child(self, name: str) -> Spot | None:
        """The module of that name directly below: the model's own, else a standard alias."""
        if name in self.own_children():
            segment: Segment = int(name) if name.isdigit() else name
            return Spot(self.card, (*self.path, segment), f"{self.native}.{name}".lstrip("."))
        alias = self.alias_children().get(name)
        if alias is None:
            return None
        return Spot(self.card, refilled(alias, self.path), native(self.card, dotted(alias)))

    def starred(self) -> Spot:
        """All modules of a list."""
        return Spot(self.card, (*self.path, "*"), f"{self.native}.*")


def native(card: ModelCard, path: str) -> str:
    """The model's own path for one that may begin with a standard alias, or with the list that aliases speak of."""
    return module_aliases(card).get(path) or sites.native_path(card, path)


def module_aliases(card: ModelCard) -> dict[str, str]:
    """The card's aliases of modules, and of the lists that hold them: ``blocks`` beside ``blocks.*``."""
    found = dict(card.aliases.modules)
    for alias, target in card.aliases.modules.items():
        if alias.endswith(".*") and target.endswith(".*"):
            found.setdefault(alias.removesuffix(".*"), target.removesuffix(".*"))
    return found


def _stars(pattern: str, path: str) -> list[str] | None:
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


def _filled(alias: str, stars: list[str]) -> tuple[Segment, ...]:
    pieces = iter(stars)
    filled = [next(pieces) if key == "*" else key for key in alias.split(".")] if alias else []
    return tuple(int(one) if one.isdigit() else one for one in filled)
