"""The form of a row: one capability of nnsight, written in both, or the reason why a request that is data cannot have
it. The functions of a row are run as they stand, and docs/nnsight.md shows them as they stand."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

GPT2, LLAMA, BERT, VIT, MLP = "gpt2-random", "llama-random", "bert-random", "vit-digits", "mlp-digits"
ALBERT, INT8, ADAPTED, LLAVA, T5 = "albert-random", "llama-int8", "llama-adapters", "llava-random", "t5-random"
OWN = (ALBERT, INT8, ADAPTED, LLAVA, T5)
"""Models of this suite's own, served apart from those that all tests share; their cards are in the folder cards."""


@dataclass(frozen=True)
class Row:
    """A capability that both have.

    Attributes:
        title: of the capability, as nnsight calls it.
        says: what nnsight's spelling and Telepatch's come down to; both stand in the code.
        nnsight: takes nnsight's model and gives numbers.
        telepatch: takes Telepatch's model and gives the same numbers.
        note: where the two differ in meaning.
        model: on which both run.
        bare: whether nnsight wraps the module alone, without a tokenizer.
        eager: whether nnsight's model is loaded with eager attention.
        other: a second model, for rows of two.
        shows: what the table has for nnsight in place of what runs, for what needs its service.
    """

    title: str
    says: tuple[str, str]
    nnsight: Callable[..., Any]
    telepatch: Callable[..., Any]
    note: str = ""
    model: str = GPT2
    bare: bool = False
    eager: bool = False
    other: str | None = None
    shows: str = ""

    def __str__(self) -> str:
        return self.title


@dataclass(frozen=True)
class Without:
    """A capability that Telepatch does not have as such.

    Attributes:
        title: of the capability, as nnsight calls it.
        says: nnsight's spelling.
        why: the reason, one sentence.
        instead: what to do.
        has: the spelling of what comes nearest, if there is one.
    """

    title: str
    says: str
    why: str
    instead: str
    has: str = ""

    def __str__(self) -> str:
        return self.title


class Group:
    """Rows that belong together.

    Args:
        title: heading on the page.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[Row | Without] = []

    def row(self, title: str, nnsight: str, telepatch: str, **more: Any) -> Callable[[Any], Any]:
        """Take in a class with two static methods, `nnsight` and `telepatch`; `more` are fields of `Row`."""

        def take(pair: Any) -> Any:
            self.rows.append(Row(title, (nnsight, telepatch), pair.nnsight, pair.telepatch, **more))
            return pair

        return take

    def without(self, title: str, says: str, why: str, instead: str, has: str = "") -> None:
        """Take in a capability that there is not as such."""
        self.rows.append(Without(title, says, why, instead, has))


def shown(function: Callable[..., Any]) -> str:
    """The body of a function, without what it returns."""
    source = textwrap.dedent(inspect.getsource(function))
    found = ast.parse(source).body[0]
    assert isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef)
    kept = [part for part in found.body if not isinstance(part, ast.Return)]
    end = kept[-1].end_lineno
    return textwrap.dedent("\n".join(source.splitlines()[found.body[0].lineno - 1 : end]))
