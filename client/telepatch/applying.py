"""Edits as an author gives them to a trace, and what becomes of them in its document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from telepatch import arguments
from telepatch.builder import Builder
from telepatch_protocol.errors import BadArgument, TraceError, UnknownName
from telepatch_protocol.fragments import Fragment
from telepatch_protocol.graph import Applied
from telepatch_protocol.tensors import Tensor

if TYPE_CHECKING:
    from pydantic import JsonValue

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", re.ASCII)


class Applicable(Protocol):
    """An edit as an object: stored under a name, or one that travels with each document."""

    @property
    def stored_as(self) -> str | None:
        """Its name, where the service has it."""

    @property
    def travelling(self) -> Travelling | None:
        """What a document brings along, where the service does not have it."""

    @property
    def takes(self) -> tuple[str, ...]:
        """Names of its arguments."""


@dataclass(frozen=True)
class Travelling:
    """An edit that goes with the documents that apply it, and all that it uses."""

    fragment: Fragment
    tensors: dict[str, Tensor]
    parents: dict[str, Builder]


@dataclass(frozen=True)
class Use:
    """An edit and the values of its arguments."""

    edit: str | Applicable
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.edit, str):
            check_name(self.edit)
            return
        takes = self.edit.takes
        for name in self.arguments:
            if name not in takes:
                raise UnknownName(f"this edit has no argument '{name}'; it takes {', '.join(takes) or 'none'}")


def check_name(name: object) -> str:
    """A name that an edit can have.

    Raises:
        BadArgument: it is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadArgument(
            f"an edit is named by letters, digits, '_', '-' and '.', at most 64 of them; found {name!r:.80}"
        )
    return name


def uses(given: Any) -> tuple[Use, ...]:
    """What an author gives as edits: one or several names or edits, each alone or with its arguments.

    Raises:
        BadArgument: something else.
    """
    if given is None:
        return ()
    if isinstance(given, list) or (isinstance(given, tuple) and not _with_arguments(given)):
        return tuple(_use(one) for one in given)
    return (_use(given),)


def _with_arguments(given: tuple[Any, ...]) -> bool:
    return len(given) == 2 and isinstance(given[1], Mapping)


def _use(given: Any) -> Use:
    if isinstance(given, Use):
        return given
    if isinstance(given, tuple) and _with_arguments(given):
        return Use(_edit(given[0]), given[1])
    return Use(_edit(given))


def _edit(given: Any) -> str | Applicable:
    if isinstance(given, str) or hasattr(type(given), "stored_as"):
        found: str | Applicable = given
        return found
    raise BadArgument(
        f"an edit is given by its name, as the object of a block 'with model.edit() as e', or as one of these with its "
        f"arguments, ('name', {{'scale': 2}}); found {given!r:.80}"
    )


def edits_on_wire(builder: Builder, given: Iterable[Use]) -> dict[str, tuple[Applied, ...]]:
    """The edits of an input as a field of its invoke; nothing where there are none.

    Raises:
        BadArgument: an argument that cannot be sent.
        TraceError: an edit whose block has not ended.
    """
    found = tuple(_applied(builder, one) for one in given)
    return {"edits": found} if found else {}


def _applied(builder: Builder, use: Use) -> Applied:
    named: dict[str, JsonValue] = {
        name: arguments.argument(builder, "operand", value) for name, value in use.arguments.items()
    }
    return Applied(name=_name(builder, use), arguments=named)


def _name(builder: Builder, use: Use) -> str:
    """The name by which the document knows an edit; one that is not stored becomes a part of the document."""
    if isinstance(use.edit, str):
        return use.edit
    if use.edit.stored_as is not None:
        return use.edit.stored_as
    found = use.edit.travelling
    if found is None:
        raise TraceError("the block of this edit has not ended, or was left by an error; it can be applied after it")
    _check_whole(use, found.fragment, builder)
    return builder.bring(found.fragment, found.tensors, found.parents)


def _check_whole(use: Use, fragment: Fragment, builder: Builder) -> None:
    if fragment.model.id != builder.card.id:
        raise BadArgument(f"this edit is of model '{fragment.model.id}', and the trace of '{builder.card.id}'")
    for name, argument in fragment.arguments.items():
        if argument.default is None and name not in use.arguments:
            raise BadArgument(f"this edit needs a value for its argument '{name}': edits=[(e, {{'{name}': ...}})]")
