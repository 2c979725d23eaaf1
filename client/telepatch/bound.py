"""Names that a block binds: one element at a time for the author, all of them for the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NoReturn

from telepatch.lines import points_home
from telepatch.scope import Scope
from telepatch.values import Value
from telepatch_protocol.errors import TraceError
from telepatch_protocol.meta import Meta

if TYPE_CHECKING:
    from telepatch.builder import Builder


class Bound(Value):
    """What a name of a sweep, of the rows of ``each`` or of a repeat stands for inside its block.

    It may stand in indices and slices, in arithmetic, as the input of a trace and, where it goes over numbers of
    modules, in a path: ``model.blocks[v.layer]``. The block is written once and runs for every element.
    """

    def __init__(
        self,
        builder: Builder,
        name: str,
        meta: Meta,
        scope: Scope,
        *,
        spelled: str,
        numbers: tuple[int, ...] = (),
        form: Literal["text", "ids"] = "ids",
        plain_number: bool = False,
    ) -> None:
        super().__init__(builder, name, meta, scope)
        self.spelled = spelled
        self.numbers = numbers
        self.form = form
        self.plain_number = plain_number
        self._tensor: Value | None = None

    @property
    def home(self) -> Scope:
        """The scope that binds it."""
        assert self._scope is not None
        return self._scope

    def tensor(self) -> Value:
        """The number as a tensor, for operations that take no numbers alone."""
        builder = self._builder
        assert builder is not None
        if self._tensor is None:
            named = {"dtype": self._meta.dtype or "float32"}
            node, found = builder.call("full", ([], self.reference_in(builder)), named, self.home)
            assert isinstance(found, Meta)
            self._tensor = Value(builder, node, found, self.home)
        return self._tensor

    def _own_ref(self) -> str:
        if self.home.closed:
            raise TraceError(
                f"{self.spelled} stands for something only inside its {self.home.what}, which is over; what is made of "
                f"it inside, such as {self.spelled} * 1, can be used here, stacked"
            )
        return super()._own_ref()

    @points_home
    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise TraceError(
            f"cannot {what} {self.spelled}: the block is written once for one element, and runs for every one of them; "
            "it can stand in indices, slices, arithmetic, as an input and in model.blocks[...]"
        )

    def _spelled(self) -> str:
        return self.spelled

    def _sketch(self) -> str:
        return f"<{self.spelled}: {self._meta}, one element at a time>"
