"""Settings from variables: what the settings of every service have in common. The environment itself is read there."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from telepatch_protocol.errors import BadArgument

PREFIX = "TELEPATCH_"
"""What the names of all our variables begin with; the field's name in capitals follows."""


class Variables(BaseModel):
    """A frozen object whose fields are variables.

    Attributes:
        OWN: names that begin so belong to this service alone; one that it does not know is a mistake.
        OTHERS: names that begin so and are another's all the same.
        SECRET: fields whose values no message repeats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    OWN: ClassVar[str]
    OTHERS: ClassVar[frozenset[str]] = frozenset()
    SECRET: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def read(cls, found: Mapping[str, str], overrides: Mapping[str, Any]) -> Self:
        """Settings from variables, with `overrides`, by field, on top; empty variables count as unset.

        Raises:
            BadArgument: a variable that means nothing, or a value that cannot be; the message names it.
        """
        names = {PREFIX + field.upper(): field for field in cls.model_fields}
        cls._refuse_unknown(found, names)
        given = {field: found[name] for name, field in names.items() if found.get(name)}
        try:
            return cls.model_validate({**given, **overrides})
        except ValidationError as error:
            raise BadArgument(cls._explain(error)) from None

    @classmethod
    def _refuse_unknown(cls, found: Mapping[str, str], names: Mapping[str, str]) -> None:
        for name in found:
            if name.startswith(cls.OWN) and name not in names and name not in cls.OTHERS:
                near = difflib.get_close_matches(name, names, n=1)
                known = ", ".join(sorted(one for one in names if one.startswith(cls.OWN)))
                hint = f"did you mean {near[0]}?" if near else f"known: {known}"
                raise BadArgument(f"the environment has {name}, which is no setting; {hint}")

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        """The first value that cannot be."""
        first = error.errors(include_url=False)[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        if not first["loc"]:
            return message
        field = str(first["loc"][0])
        found = "" if field in cls.SECRET else f"; found {first.get('input')!r}"
        return f"{PREFIX}{field.upper()}: {message}{found}"
