"""Sites by pattern: ``"blocks.*:resid_post"``, ``"*.mlp"``, a module, or everything that a model returns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from telepatch.modules import ModuleView
from telepatch.names import missing_site
from telepatch.own_names import NO_NAMES, Names
from telepatch.places import Spot, filled, module_aliases, stars_of
from telepatch.site import Address, SiteValue
from telepatch_protocol import sites
from telepatch_protocol.card import ModelCard, ModuleCard
from telepatch_protocol.errors import BadArgument, TelepatchError, UnknownSite


@dataclass(frozen=True, slots=True)
class Hit:
    """A site that a pattern means, as the author would spell it."""

    spelling: str
    address: Address

    @property
    def found(self) -> sites.Found:
        """Where it lies."""
        return self.address.find()[0]


@dataclass(frozen=True, slots=True)
class Sites:
    """The sites of a model, to be chosen from.

    Attributes:
        card: the model.
        names: what its author calls places.
        ports: what is meant by a module without a port.
    """

    card: ModelCard
    names: Names = NO_NAMES
    ports: tuple[str, ...] = ("output",)

    def choose(self, pattern: Any) -> list[Hit]:
        """Every site that a pattern, a module or a site means.

        Raises:
            UnknownSite: none; the message says what is near.
            BadArgument: neither of these.
        """
        if isinstance(pattern, ModuleView):
            return self._like(pattern._spot.native, self.ports)
        if isinstance(pattern, SiteValue):
            site = pattern._address.site
            port = f"{site.port}.{site.leaf}" if site.leaf else site.port
            return self._like(sites.native_path(self.card, site.path), (port,))
        if not isinstance(pattern, str):
            raise BadArgument(
                f"sites are chosen by patterns such as 'blocks.*:resid_post' or '*.mlp', by modules, or by sites; "
                f"found {type(pattern).__name__} {pattern!r:.60}"
            )
        path, colon, port = pattern.partition(":")
        found = self._matching(path, (port,) if colon else self.ports, everything=not colon)
        if not found:
            raise self._no_fit(pattern)
        return found

    def place(self, key: object) -> sites.Place | None:
        """The one place that a spelling, a module or a site means, if it is one."""
        try:
            if isinstance(key, ModuleView):
                key = key.output
            if isinstance(key, SiteValue):
                found = key._address.find()
            else:
                text, _, call = str(key).partition("@")
                path, _, port = text.partition(":")
                found = self._hit(
                    self._native(path), path, port or "output", int(call) if call else None
                ).address.find()
        except (UnknownSite, BadArgument, ValueError):
            return None
        return found[0].place if len(found) == 1 else None

    def spellings(self, native: str) -> list[str]:
        """Every path of a module: in standard and chosen names, those that say most first, and its own."""
        found: list[tuple[int, str]] = []
        for alias, target in [*module_aliases(self.card).items(), *self.names.whole()]:
            text = r"\.".join(r"(\d+)" if one == "*" else re.escape(one) for one in target.split("."))
            match = re.fullmatch(text + r"(?P<rest>(?:\..+)?)", native)
            if match is not None:
                stars = [one for one in match.groups()[:-1] if one is not None]
                spelling = ".".join(map(str, filled(alias, stars))) + match["rest"]
                found.append((-target.count("."), spelling))
        return [*dict.fromkeys(spelling for _, spelling in sorted(found, key=itemgetter(0))), native]

    def _like(self, native: str, ports: Sequence[str]) -> list[Hit]:
        """The sites of modules at a native path, which may hold a star."""
        modules = [one for one in self.card.modules if stars_of(native, one.path) is not None]
        return [hit for one in modules for hit in self._at(one, self.spellings(one.path)[0], ports, everything=False)]

    def _matching(self, path: str, ports: Sequence[str], *, everything: bool) -> list[Hit]:
        shape = _shape(path)
        found: list[Hit] = []
        for module in self.card.modules:
            spelling = next((one for one in self.spellings(module.path) if shape.fullmatch(one)), None)
            if spelling is not None:
                found.extend(self._at(module, spelling, ports, everything=everything))
        return found

    def _at(self, module: ModuleCard, spelling: str, ports: Sequence[str], *, everything: bool) -> list[Hit]:
        """A module at some ports, those that it does not have passed over; once for each of its calls."""
        found: list[Hit] = []
        for port in ports:
            side = module.input if self._port(module.path, port).startswith("input") else module.output
            count = len(side.order) if side is not None else 1
            for call in range(count) if count > 1 else [None]:
                hit = self._hit(module.path, spelling, port, call)
                try:
                    engine = hit.found.leaf.engine
                except UnknownSite:
                    continue
                if not (everything and engine):
                    found.append(hit)
        return found

    def _hit(self, native: str, spelling: str, port: str, call: int | None) -> Hit:
        main, _, leaf = self._port(native, port).partition(".")
        path = filled(native, []) if native else ()
        mark = "" if call is None else f"@{call}"
        return Hit(f"{spelling}:{port}{mark}", Address(self.card, path, main, leaf or None, call))

    def _port(self, native: str, port: str) -> str:
        """A port in a name that may be sent."""
        return self.names.ports(native).get(port, port)

    def _native(self, path: str) -> str:
        spot: Spot | None = Spot(self.card, names=self.names)
        for name in path.split(".") if path else []:
            spot = spot.child(name) if spot is not None else None
        return path if spot is None else spot.native

    def _no_fit(self, pattern: str) -> TelepatchError:
        path, colon, port = pattern.partition(":")
        shape = _shape(path)
        fitting = [one for one in self.card.modules if any(map(shape.fullmatch, self.spellings(one.path)))]
        if fitting:
            spot = Spot(self.card, native=fitting[-1].path, names=self.names)
            known = [*spot.ports(), *(name for name in ("input", "output") if getattr(spot.module, name) is not None)]
            return missing_site(
                f"{pattern!r} fits {len(fitting)} modules, such as '{spot.native}', and none has "
                f"'{port if colon else ' or '.join(self.ports)}'; it has: {', '.join(known) or 'nothing that fires'}"
            )
        every = (_general(one) for module in self.card.modules for one in self.spellings(module.path) if one)
        general = list(dict.fromkeys(every))
        near = difflib.get_close_matches(path, general, n=3) or general[:8]
        return missing_site(f"{pattern!r} fits no module of '{self.card.id}'; there are: {', '.join(near)}")


def _shape(path: str) -> re.Pattern[str]:
    """A pattern as an expression: ``*`` is one name or number, ``**`` any number of them, and so is ``*.`` in front."""
    path = f"**{path[1:]}" if path.startswith("*.") else path
    if path == "**":
        return re.compile(r".*")
    text = re.escape(path).replace(r"\*\*\.", r"(?:[^.]+\.)<any>").replace(r"\.\*\*", r"(?:\.[^.]+)<any>")
    return re.compile(text.replace(r"\*", r"[^.]+").replace("<any>", "*"))


def _general(path: str) -> str:
    return ".".join("*" if one.isdigit() else one for one in path.split("."))
