"""Many sites saved at once, chosen by pattern: ``t.cache("blocks.*:resid_post")``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from telepatch import arguments
from telepatch.builder import Builder
from telepatch.current import open_builder
from telepatch.lines import points_home
from telepatch.patterns import Sites
from telepatch.site import Address, SiteValue, same_model
from telepatch.values import Value
from telepatch_protocol import sites
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, TraceError, UnknownSite

LAST = 10**9
"""A place in the document behind all others: what is kept is what the model went on with, after every write."""


class MissingKey(UnknownSite, KeyError):
    """A place that a cache does not hold; a `KeyError`, as of every mapping."""

    __str__ = UnknownSite.__str__

    @classmethod
    def code(cls) -> str:
        """As its base on the wire."""
        return UnknownSite.code()


class Cache(Mapping[str, Value]):
    """Saved values by the spelling of their site, in the order of the forward; lazy, as every saved value.

    ``cache["blocks.3.mlp:output"]``, or without a port for the output; any other spelling of a place that was kept
    finds it too, and so do the module and the site: ``cache[model.blocks[3].mlp]``. A module that the model calls
    several times is there as ``name:output@0``, ``name:output@1``...
    """

    def __init__(self, known: Sites, values: dict[str, Value], places: dict[sites.Place, str]) -> None:
        self._known = known
        self._values = values
        self._places = places

    @points_home
    def __getitem__(self, key: Any) -> Value:
        name = self._name(key)
        if name is None:
            some = ", ".join(list(self._values)[:8]) + (", ..." if len(self._values) > 8 else "")
            raise MissingKey(f"{key!r:.80} was not kept; there are {len(self._values)}: {some}")
        return self._values[name]

    def __contains__(self, key: object) -> bool:
        return self._name(key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {value._known_meta()}" for name, value in self._values.items())

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._values)

    def _name(self, key: object) -> str | None:
        if isinstance(key, str) and key in self._values:
            return key
        place = self._known.place(key)
        return None if place is None else self._places.get(place)


def keep(
    card: ModelCard,
    chosen: tuple[Any, ...],
    *,
    index: Any = None,
    dtype: Any = None,
    include_output: bool = True,
    include_inputs: bool = False,
) -> Cache:
    """Save all sites that are chosen, of the input whose block is open; `Trace.cache` says what of.

    Raises:
        TraceError: no input is open.
        UnknownSite: a pattern that fits nothing.
        BadArgument: neither patterns nor places.
    """
    builder = _open(card)
    wanted = {"input": include_inputs, "output": include_output}
    ports = tuple(port for port, kept in wanted.items() if kept)
    if not ports:
        raise BadArgument(
            "neither outputs nor inputs are to be kept; leave one of include_output and include_inputs on"
        )
    known = Sites(card, builder.names, ports)
    hits = [hit for one in _flat(chosen) or ["**"] for hit in known.choose(one)]
    values: dict[str, Value] = {}
    places: dict[sites.Place, str] = {}
    for hit in sorted(hits, key=lambda hit: hit.found.order):
        if hit.found.place not in places:
            places[hit.found.place] = hit.spelling
            values[hit.spelling] = _saved(builder, hit.address, index, dtype)
    return Cache(known, values, places)


def _open(card: ModelCard) -> Builder:
    builder = open_builder()
    if builder is None:
        raise TraceError("cache(...) belongs inside the block of a trace: with model.trace(prompt) as t: t.cache(...)")
    same_model(builder, card, "what cache(...) keeps")
    if builder.scope.invoke is None:
        raise TraceError("cache(...) keeps sites of one input; call it inside the block of that, 'with t.invoke(...):'")
    return builder


def _saved(builder: Builder, address: Address, index: Any, dtype: Any) -> Value:
    """A read behind all writes, saved: a value, and no site that an assignment would write to."""
    site = SiteValue(address, builder)
    site._slot = LAST
    part = site if index is None else site[index]
    if dtype is not None:
        part = part.to(arguments.dtype_name(dtype))
    value = Value(builder, part.reference_in(builder)[1:], part._known_meta())
    value.save()
    return value


def _flat(chosen: tuple[Any, ...]) -> list[Any]:
    found: list[Any] = []
    for one in chosen:
        found.extend(_flat(tuple(one)) if isinstance(one, list | tuple | set) else [one])
    return found
