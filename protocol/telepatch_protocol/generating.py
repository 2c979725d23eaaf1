"""What a generation is asked for: its settings, and at which of its steps each of its nodes exists."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from pydantic import JsonValue

from telepatch_protocol import indexing, refs
from telepatch_protocol.errors import BadArgument
from telepatch_protocol.graph import Each, Generate, Get, Set
from telepatch_protocol.meta import Meta, shown
from telepatch_protocol.order import in_order, refs_of
from telepatch_protocol.refs import Ref

SEEDS = 2**63
"""Seeds are below this."""

REASONS = ("length", "eos", "stop", "positions", "asked")
"""Why a row ended, by the number that ``reasons`` has: enough tokens; the model's own last token; a stop text or token;
no position left; the `stop` of its `each`."""

RESERVED = ("tokens", "lengths", "reasons", "seed")
"""Outputs that every generation has."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a generation, all known.

    Attributes:
        max_new_tokens: how many tokens at most.
        temperature: 0 takes the likeliest token; above, logits are divided by it and a token is drawn.
        top_p: draw from the fewest likeliest tokens whose probabilities add up to it.
        top_k: draw from so many likeliest tokens.
        min_p: draw from tokens with at least this share of the likeliest one's probability.
        repetition_penalty: tokens that the row has already lose by this factor.
        no_repeat_ngram_size: no row holds the same so many tokens twice.
        min_new_tokens: the model's own last token is not taken before so many.
        seed: of the random numbers; None for a new one, which the result names.
        texts: a row ends once its text holds one of these.
        tokens: ids that end a row.
    """

    max_new_tokens: int
    temperature: float
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    min_new_tokens: int | None
    seed: int | None
    texts: tuple[str, ...]
    tokens: tuple[int, ...]


def settings(run: str, generate: Generate, argument: Callable[[JsonValue], object]) -> Settings:
    """The settings of a generation.

    Args:
        run: its id.
        generate: as it stands in the document.
        argument: what an argument stands for.

    Raises:
        BadArgument: one that is not known before the job runs, or that cannot be; it says what can.
    """

    def given(name: str) -> object:
        found = argument(getattr(generate, name))
        if isinstance(found, Meta):
            raise BadArgument(f"generation '{run}': {name} is known before the job runs; found a computed value")
        return found

    def number(name: str, good: Callable[[float], bool], works: str) -> float | None:
        found = given(name)
        fine = found is None or (_number(found, -math.inf, math.inf) and good(found))  # type: ignore[arg-type]
        _need(run, name, found, fine, works)
        return None if found is None else float(found)  # type: ignore[arg-type]

    def integer(name: str, least: int, below: float, works: str) -> int | None:
        found = given(name)
        fine = found is None or (isinstance(found, int) and type(found) is int and least <= found < below)
        _need(run, name, found, fine, works)
        return found if isinstance(found, int) else None

    most = integer("max_new_tokens", 1, math.inf, "an integer from 1")
    temperature = number("temperature", lambda one: one >= 0, "0 (the likeliest token) or above")
    if most is None or temperature is None:
        raise BadArgument(f"generation '{run}': max_new_tokens and temperature are numbers; found null")
    least = integer("min_new_tokens", 0, most + 1, f"an integer from 0 and up to max_new_tokens, {most},")
    texts, tokens = _stops(run, given("stop"))
    return Settings(
        max_new_tokens=most,
        temperature=temperature,
        top_p=number("top_p", lambda one: 0 < one <= 1, "a number above 0 and up to 1"),
        top_k=integer("top_k", 1, math.inf, "an integer from 1"),
        min_p=number("min_p", lambda one: 0 <= one <= 1, "a number from 0 to 1"),
        repetition_penalty=number("repetition_penalty", lambda one: one > 0, "a number above 0 (1 changes nothing)"),
        no_repeat_ngram_size=integer("no_repeat_ngram_size", 1, math.inf, "an integer from 1"),
        min_new_tokens=least,
        seed=integer("seed", 0, SEEDS, "an integer from 0 and below 2**63"),
        texts=texts,
        tokens=tokens,
    )


def _need(run: str, name: str, found: object, good: bool, works: str) -> None:
    if not good:
        raise BadArgument(f"generation '{run}': {name} is {shown(found)}; {works} works")


def _number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high and value < math.inf


def _stops(run: str, found: object) -> tuple[tuple[str, ...], tuple[int, ...]]:
    listed = found if isinstance(found, list) else [] if found is None else [found]
    texts = tuple(one for one in listed if isinstance(one, str))
    tokens = tuple(one for one in listed if type(one) is int)
    good = len(texts) + len(tokens) == len(listed) and "" not in texts
    _need(run, "stop", found, good, "a text that is not empty, a token id, or a list of these")
    return texts, tokens


FIRST = (0,)
"""The key of a generation's scope over its prompt; that of others is the first step at which they are evaluated."""

Steps = tuple[int, int]
"""The first step at which something exists, and the first at which it does not any more."""


def steps_of(node: Get | Set, most: int, argument: Callable[[Ref], object]) -> Steps:
    """At which steps a read or write happens.

    Raises:
        BadArgument: no number or slice of steps, or steps that are never reached.
    """
    if node.step is None:
        return 0, most
    (found,) = indexing.parse([node.step], argument)
    works = f"a number from 0 to {most - 1} or a slice such as '1:' works"
    if type(found) is int:
        begin, end = found, found + 1
    elif isinstance(found, indexing.Slice) and found.step in (None, 1):
        begin, end = (0 if found.start is None else found.start), (most if found.stop is None else found.stop)  # type: ignore[assignment]
    else:
        raise BadArgument(f"step {node.step!r} is no step; {works}", node=node.id)
    if type(begin) is not int or type(end) is not int or begin < 0 or end <= begin:
        raise BadArgument(f"step {node.step!r} is no step; {works}", node=node.id)
    if begin >= most:
        raise BadArgument(f"step {node.step!r} is never reached: there are at most {most} steps; {works}", node=node.id)
    return begin, min(end, most)


def steps_of_all(each: Each, most: int, argument: Callable[[Ref], object]) -> dict[str, Steps]:
    """At which steps each node of an `each` exists: those at which everything that it needs does.

    Raises:
        BadArgument: it needs values of different steps.
    """
    found: dict[str, Steps] = {}
    for node in in_order(each.nodes):
        begin, end = steps_of(node, most, argument) if isinstance(node, Get | Set) else (0, most)
        for ref in refs_of(node):
            begin, end = max(begin, found.get(ref.id, (0, most))[0]), min(end, found.get(ref.id, (0, most))[1])
        if begin >= end:
            raise BadArgument("this needs values of different steps; carry them from step to step", node=node.id)
        found[node.id] = (begin, end)
    return found


def exists(value: JsonValue, steps: Mapping[str, Steps], at: int) -> bool:
    """Whether everything that an argument refers to exists at a step."""
    return all(steps[ref.id][0] <= at < steps[ref.id][1] for ref in refs.walk(value) if ref.id in steps)


def spans_of(steps: Iterable[Steps], most: int) -> list[Steps]:
    """All steps in parts in which the same nodes exist; the prompt alone, since it has more positions."""
    borders = sorted({0, 1, most, *(border for one in steps for border in one)} & set(range(most + 1)))
    return list(pairwise(borders))
