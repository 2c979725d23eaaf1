"""A number in a path that is another one for each element of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from telepatch_protocol.errors import TraceError

if TYPE_CHECKING:
    from telepatch.scope import Scope


class Hole(int):
    """The first element's number, which looks the path up; on the wire it is the name that the sweep binds."""

    name: str
    spelled: str
    scope: Scope

    @classmethod
    def of(cls, number: int, name: str, spelled: str, scope: Scope) -> Hole:
        """A hole that `name` fills, in everything that `scope` holds."""
        made = cls(number)
        made.name, made.spelled, made.scope = name, spelled, scope
        return made

    def name_in(self, scope: Scope) -> str:
        """The name, for a site or module of that scope.

        Raises:
            TraceError: the name stands for nothing there.
        """
        if not scope.sees(self.scope):
            over = "whose block is over" if self.scope.closed else "in which its input does not run"
            raise TraceError(
                f"{self.spelled} names a module only inside its {self.scope.what}, {over}; read all modules at once, "
                f"stacked (modules[:].output), and index that value with {self.spelled}, or run the input in there"
            )
        return self.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hole) and (other.name, other.scope) == (self.name, self.scope)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.name)
