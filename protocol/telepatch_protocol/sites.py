"""Sites: places in a model, spelled ``path:port``, and where a model's card says they are.

    model.layers.10:output           the tensor that the module returns (the first one, if it returns several)
    model.layers.10.self_attn:outputs.1   one leaf of what it returns
    model.layers.10.self_attn:inputs.hidden_states
    model.layers.{layer}.mlp:input   a number taken from a constant or a bound name
    blocks.*:resid_post              every block, stacked; `blocks` and `resid_post` are standard aliases
    blocks.3:q                       a standard alias that is a view: (row, pos, head, width of a head)
    model.layers.3:source.hidden_states_1.output   an operation inside the module's forward
    lm_head:param.weight             a parameter or buffer
    :token                           the tokens that a step of a generation has sampled, one for each row

Two spellings of one place resolve to the same `Place`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from telepatch_protocol.card import Leaf, ModelCard, ModuleCard, Target, View
from telepatch_protocol.errors import BadArgument, NotYetSupported, UnknownSite
from telepatch_protocol.refs import NAME
from telepatch_protocol.sources import Events, events_of, operation_at

PORTS = ("input", "output", "inputs", "outputs", "param", "source")
"""Ports that every module has."""

TOKEN = "token"
"""The port, of the whole model, of the token that a generation has sampled: ``:token``."""

TOKEN_ORDER = 2**40
"""Its place among the events of a step: after every module."""

_GRAD = "grad"
_LATER = ("grad",)
_SITE = re.compile(r"(?P<path>[^:\s]{0,400}):(?P<port>[A-Za-z_]+)(?:\.(?P<leaf>[^:\s]{1,200}))?", re.ASCII)
_HOLE = re.compile(rf"\{{({NAME})\}}")


@dataclass(frozen=True, slots=True)
class Site:
    """A site as written: `path` may hold one ``*`` and numbers by name in braces; `leaf` follows the port."""

    path: str
    port: str
    leaf: str | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.port}" + (f".{self.leaf}" if self.leaf else "")

    @property
    def starred(self) -> bool:
        """Whether it means every matching module, stacked."""
        return "*" in self.path

    @property
    def holes(self) -> tuple[str, ...]:
        """Names whose numbers are to be filled into the path."""
        return tuple(_HOLE.findall(self.path))

    def fill(self, number: Callable[[str], int]) -> Site:
        """The same site with the numbers in place."""
        return Site(_HOLE.sub(lambda match: str(number(match[1])), self.path), self.port, self.leaf)


@dataclass(frozen=True, slots=True)
class Place:
    """A site found on a card: native path, direction, and the leaf there. Equal places are the same tensor.

    `port` is ``input`` or ``output``; of an operation inside the forward, ``source.NAME.input`` or ``.output``.
    """

    path: str
    port: str
    leaf: str
    call: int = 0

    @property
    def side(self) -> str:
        """``input``, ``output`` or ``param``."""
        return self.port.rpartition(".")[2]

    def __str__(self) -> str:
        return f"{self.path}:{self.port}" + (f"[{self.leaf}]" if self.leaf else "")


@dataclass(frozen=True, slots=True)
class Found:
    """A place with what the card knows of it.

    Attributes:
        order: its event's number in the forward, -1 for a parameter; operations lie between the events of modules.
        leaf: the tensor there; where `view` is set, its axes are the view's.
        view: how the tensor is looked at.
        eager: whether the place exists under eager attention only.
    """

    place: Place
    order: float
    leaf: Leaf
    view: View | None = None
    eager: bool = False


def parse(text: str) -> Site:
    """Read ``path:port`` or ``path:port.leaf``.

    Raises:
        BadArgument: not of that form, or more than one star.
    """
    match = _SITE.fullmatch(text)
    if match is None:
        raise BadArgument(f"{text!r} is not a site; write 'path:port', such as 'model.layers.3:output'")
    if match["path"].count("*") > 1:
        raise BadArgument(f"site {text!r} holds {match['path'].count('*')} stars; one is allowed")
    return Site(match["path"], match["port"], match["leaf"])


def of_forward(site: Site, *, backward: bool) -> Site:
    """The site of the forward that a site means: the same one, or for a gradient (``path:output.grad``) its value's.

    Raises:
        BadArgument: a gradient outside the body of a `grad`, or something else inside it.
    """
    leaf = site.leaf or ""
    if not backward:
        if leaf == _GRAD or leaf.endswith(f".{_GRAD}"):
            raise BadArgument(f"site '{site}' is a gradient, which is read and written in the body of a grad only")
        return site
    if leaf != _GRAD and not leaf.endswith(f".{_GRAD}"):
        raise BadArgument(f"site '{site}': the body of a grad reads and writes gradients, such as '{site}.{_GRAD}'")
    return Site(site.path, site.port, leaf.removesuffix(_GRAD).removesuffix(".") or None)


def native_path(card: ModelCard, path: str) -> str:
    """The model's own path for `path`, which may begin with a standard alias."""
    known: str | None = card.found.get(path)
    if known is None:
        known = _native_path(card, path)
        card.found.put(path, known)
    return known


def _native_path(card: ModelCard, path: str) -> str:
    segments = path.split(".")
    if (segments[0] if segments else "") in card.children.get("", ()):
        return path
    best: tuple[int, str] | None = None
    for alias, target in card.aliases.modules.items():
        keys = alias.split(".")
        stars = _match(keys, segments[: len(keys)])
        if stars is not None and (best is None or len(keys) > best[0]):
            best = (len(keys), _refill(target, stars))
    if best is None:
        return path
    return ".".join([best[1], *segments[best[0] :]])


def sampled_token(site: Site) -> Found:
    """The site of the sampled token.

    Raises:
        UnknownSite: of a module.
    """
    if site.path or site.leaf is not None:
        raise UnknownSite(f"'{site}': the sampled token is of the model as a whole; write ':{TOKEN}'")
    return Found(Place("", TOKEN, ""), TOKEN_ORDER, Leaf(axes=("row",), dtype="int64"))


def find(card: ModelCard, site: Site, call: int | None = None) -> tuple[Found, ...]:
    """Where a site with all its numbers filled in lies: one place, or for a starred site all in firing order.

    Raises:
        UnknownSite: no such module, port, leaf or parameter; the message says what exists there.
        NotYetSupported: a port that this version does not execute.
    """
    known: tuple[Found, ...] | None = card.found.get((site, call))
    if known is None:
        known = _find(card, site, call)
        card.found.put((site, call), known, len(known))
    return known


def _find(card: ModelCard, site: Site, call: int | None) -> tuple[Found, ...]:
    path = native_path(card, site.path)
    if not site.starred:
        return (_find_one(card, path, site, call),)
    modules = [module for module in card.modules if _match(path.split("."), module.path.split(".")) is not None]
    if not modules:
        raise _no_module(card, path, site)
    found = [_find_one(card, module.path, site, call) for module in modules]
    shapes = {one.leaf.axes for one in found}
    if len(shapes) > 1:
        listed = ", ".join(sorted(map(str, shapes)))
        raise UnknownSite(f"site '{site}' matches modules of different shapes ({listed}); name them one by one")
    return tuple(sorted(found, key=lambda one: one.order))


def ports_of(card: ModelCard, path: str) -> dict[str, str | Target]:
    """The standard port names that a native module path has, with what each one means."""
    segments = path.split(".")
    for alias, ports in card.aliases.ports.items():
        if _match(card.aliases.modules.get(alias, alias).split("."), segments) is not None:
            return ports
    return {}


def arity_of(card: ModelCard, place: Place) -> int | None:
    """Of how many items the tuple is that is returned at a place; None where it is no tuple."""
    module = card.by_path[place.path]
    if place.port.startswith("source."):
        operation, _, _ = operation_at(card, module, place.port.removeprefix("source."))
        return None if operation.output is None else operation.output.arity
    return None if module.output is None else module.output.arity


def only_eager(places: Iterable[tuple[Found, ...]]) -> str | None:
    """The first of some places that exists under eager attention only, so that the job runs under that."""
    return next((str(one.place) for found in places for one in found if one.eager), None)


def eager_notes(places: Iterable[tuple[Found, ...]]) -> tuple[str, ...]:
    """What an author is told of a job that runs under another attention than the model's own."""
    place = only_eager(places)
    return () if place is None else (f"the job runs under eager attention, the only one that has '{place}'",)


def _find_one(card: ModelCard, path: str, site: Site, call: int | None) -> Found:
    module = card.by_path.get(path)
    if module is None:
        raise _no_module(card, path, site)
    if site.port in _LATER:
        raise NotYetSupported(f"site '{site}': port '{site.port}' is not executed by this service yet")
    if site.port == "param":
        return _find_param(module, site)
    meant = ports_of(card, path).get(site.port, site.port)
    if isinstance(meant, Target):
        return _find_target(card, module, site, meant, call)
    port, _, alias_leaf = meant.partition(".")
    if port not in ("input", "output", "inputs", "outputs", "source"):
        known = [*PORTS, *ports_of(card, path)]
        near = _near(site.port, known)
        raise UnknownSite(f"'{site.path}' has no port '{site.port}'{near}; ports here: {', '.join(known)}")
    return _find_leaf(card, module, site, port, site.leaf or alias_leaf, call)


def _find_target(card: ModelCard, module: ModuleCard, site: Site, target: Target, call: int | None) -> Found:
    """A standard name that lies below the module, or is a view."""
    if site.leaf:
        raise UnknownSite(f"'{site}': '{site.port}' is one tensor and has no parts; index it instead")
    path = ".".join(part for part in (module.path, target.path) if part)
    port, _, leaf = target.port.partition(".")
    found = _find_one(card, path, Site(path, port, leaf or None), call)
    if target.view is None:
        return found
    leaf_seen = found.leaf.model_copy(update={"axes": target.view.axes(found.leaf.axes)})
    return replace(found, leaf=leaf_seen, view=target.view)


def _find_leaf(card: ModelCard, module: ModuleCard, site: Site, port: str, leaf: str, call: int | None) -> Found:
    prefix, eager = "", False
    events: Events | None
    if port == "source":
        operation, port, leaf = operation_at(card, module, leaf)
        prefix, eager = f"source.{operation.name}.", operation.eager
        events = events_of(operation, module, port)
    else:
        side = module.input if port.startswith("input") else module.output
        events = None if side is None else Events(side.order, side.leaves, side.primary)
    if events is None or not events.leaves:
        raise UnknownSite(f"'{site.path}' ({module.kind}) does not fire in this model's forward, so it has no {port}")
    order = _which_call(events, site, call)
    place, chosen = prefix + port.removesuffix("s"), events.leaves[events.primary]
    if not port.endswith("s"):
        if leaf:
            raise UnknownSite(f"'{site}': '{port}' is one tensor; '{port}s.{leaf}' names a leaf")
        return Found(Place(module.path, place, chosen.path, call or 0), order, chosen, eager=eager)
    for candidate in events.leaves:
        if candidate.path == leaf:
            return Found(Place(module.path, place, leaf, call or 0), order, candidate, eager=eager)
    known = ", ".join(f"{port}.{one.path}" if one.path else port.removesuffix("s") for one in events.leaves)
    raise UnknownSite(f"'{site.path}' has no leaf '{leaf}' in its {prefix}{port}; there are: {known}")


def _which_call(events: Events, site: Site, call: int | None) -> float:
    times = f"'{site.path}:{site.port}' happens" if site.port == "source" else f"'{site.path}' fires"
    if call is None and len(events.order) > 1:
        raise UnknownSite(f"{times} {len(events.order)} times in one forward; say which call, from 0")
    if call is not None and not 0 <= call < len(events.order):
        raise UnknownSite(f"{times} {len(events.order)} times in one forward; there is no call {call}")
    return events.order[call or 0]


def _find_param(module: ModuleCard, site: Site) -> Found:
    param = module.params.get(site.leaf or "")
    if param is None:
        known = ", ".join(module.params) or "none"
        raise UnknownSite(f"'{site.path}' ({module.kind}) has no parameter '{site.leaf}'; its own parameters: {known}")
    leaf = Leaf(path=site.leaf or "", axes=param.shape, dtype=param.dtype)
    return Found(Place(module.path, "param", leaf.path), -1, leaf)


def _no_module(card: ModelCard, path: str, site: Site) -> UnknownSite:
    parent = path
    while parent and parent not in card.by_path:
        parent = parent.rpartition(".")[0]
    missing = path[len(parent) :].lstrip(".").split(".")[0]
    names = list(card.children.get(parent, ()))
    if missing in card.aliases.modules or any(alias.startswith(f"{missing}.") for alias in card.aliases.modules):
        known = ", ".join(card.aliases.modules)
        return UnknownSite(f"site '{site}' fits no alias of model '{card.id}', with a number for each '*': {known}")
    if not parent:
        names += sorted({alias.split(".")[0] for alias in card.aliases.modules})
    shown = _span(names)
    where = f"'{parent}'" if parent else f"model '{card.id}'"
    return UnknownSite(f"site '{site}': {where} has no child '{missing}'{_near(missing, names)}; it has: {shown}")


def _span(names: list[str]) -> str:
    if len(names) > 3 and all(name.isdigit() for name in names):
        return f"{names[0]} to {names[-1]}"
    return ", ".join(names) or "no children"


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _match(pattern: list[str], segments: list[str]) -> list[str] | None:
    """What the stars of `pattern` stand for in `segments`, or None where they differ."""
    if len(pattern) != len(segments):
        return None
    stars: list[str] = []
    for key, segment in zip(pattern, segments, strict=True):
        if key == "*" and (segment.isdigit() or segment == "*" or segment.startswith("{")):
            stars.append(segment)
        elif key != segment:
            return None
    return stars


def _refill(target: str, stars: list[str]) -> str:
    pieces = iter(stars)
    return ".".join(next(pieces) if segment == "*" else segment for segment in target.split("."))
