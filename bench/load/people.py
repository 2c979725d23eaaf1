"""The people: each asks, looks, thinks, and asks again, until the time is up. All of them are one event loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import telepatch
from bench.load.kinds import KINDS, SHARES
from bench.stack import prompt

PROMPTS = 40
"""Different prompts: few enough that the same question is asked again, and both answers can be compared."""

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Asked:
    """One question that was answered.

    Attributes:
        kind: one of `KINDS`.
        at: seconds since the beginning when it was asked.
        seconds: until what was wanted was here.
    """

    kind: str
    at: float
    seconds: float


@dataclass
class Record:
    """What all people saw.

    Attributes:
        begun: when they began, as time.perf_counter tells.
        answered: in the order of the answers.
        errors: what went wrong, in words.
        known: the first answer to each question.
    """

    begun: float = field(default_factory=time.perf_counter)
    answered: list[Asked] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    known: dict[tuple[str, int], np.ndarray[Any, Any]] = field(default_factory=dict)

    def add(self, kind: str, number: int, at: float, answer: np.ndarray[Any, Any]) -> None:
        """An answer; it must be the one that was given before."""
        self.answered.append(Asked(kind, at - self.begun, time.perf_counter() - at))
        first = self.known.setdefault((kind, number), answer)
        if answer.shape != first.shape or not np.allclose(answer, first, atol=TOLERANCE, rtol=TOLERANCE):
            self.errors.append(f"{kind} {number}: another answer than the first one")


async def person(number: int, model: Any, record: Record, until: float, ramp: float, think: float) -> None:
    """One of them; begins at some moment of the first `ramp` seconds, and thinks `think` seconds on average."""
    dice = random.Random(number)
    await asyncio.sleep(dice.uniform(0, ramp))
    while (at := time.perf_counter()) < until:
        [kind] = dice.choices(list(SHARES), list(SHARES.values()))
        which = dice.randrange(PROMPTS)
        try:
            record.add(kind, which, at, await KINDS[kind](model, prompt(model.card.vocabulary, which)))
        except Exception as error:
            record.errors.append(f"{kind}: {type(error).__name__}: {error}")
        await asyncio.sleep(dice.uniform(0.5, 1.5) * think)


async def all_people(models: Sequence[Any], seconds: float, ramp: float, think: float) -> Record:
    """Everybody, for so long."""
    record = Record()
    until = record.begun + seconds
    await asyncio.gather(*(person(number, model, record, until, ramp, think) for number, model in enumerate(models)))
    return record


def connected(url: str, keys: Sequence[str]) -> list[telepatch.Lab]:
    """A connection for each of them, with a key of their own."""
    return [telepatch.connect(url, key, progress=False, show=None) for key in keys]
