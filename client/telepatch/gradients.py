"""Gradients: of one number with respect to values and sites, and edits of the way back through the model."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Any

from telepatch.blame import blaming
from telepatch.builder import Builder
from telepatch.current import needed_builder, open_builder
from telepatch.lines import points_home
from telepatch.reduced import Later
from telepatch.scope import Scope
from telepatch.site import SiteValue
from telepatch.values import Value
from telepatch_protocol.bodies import check_grad
from telepatch_protocol.errors import BadArgument, TraceError
from telepatch_protocol.graph import Grad, Node


@points_home
def grad(scalar: Any, wrt: Any) -> Any:
    """The gradient of one number with respect to a value, or to each of several.

    Gradients flow through the model, through writes, and between inputs and runs of a job. What the number does not
    depend on has zeros; constants, results of earlier jobs and what was detached stop them.

    Args:
        scalar: a floating value of one element.
        wrt: a site, read where it stands; a computed or written value; or a list or tuple of these.

    Returns:
        A value of the shape and dtype of what it is with respect to; for a list a tuple of them.

    Raises:
        TraceError: no trace or session is open.
        ShapeError: several numbers; say ``.sum()`` or take one of them.
        DtypeError: integers have no gradient.

    Example:
        >>> with model.trace("Hello"):
        ...     h = model.blocks[1].output
        ...     g = telepatch.grad(model.lm_head.output[0, -1, 7], h).save()
    """
    builder = needed_builder("telepatch.grad")
    if builder.scope.kind == "grad":
        raise TraceError("a gradient of a gradient is not computed; inside backward() gradients are read and written")
    asked = list(wrt) if isinstance(wrt, list | tuple) else [wrt]
    refs = tuple(_reference(builder, one) for one in asked)
    if not refs:
        raise BadArgument("grad is asked with respect to nothing; name a value or a site")
    node = Grad(id=builder.id(), of=_reference(builder, scalar), wrt=refs)
    found = builder.add(node)
    assert isinstance(found, dict)
    values = tuple(Value(builder, f"{node.id}.{at}", found[str(at)]) for at in range(len(refs)))
    return values if isinstance(wrt, list | tuple) else values[0]


def _reference(builder: Builder, value: Any) -> str:
    if not isinstance(value, Value):
        raise BadArgument(f"gradients are of values and with respect to values or sites; found {value!r}")
    return value.reference_in(builder)


class Backward:
    """The way back from one number: ``with scalar.backward():``, where ``site.grad`` is read, saved and written."""

    def __init__(self, scalar: Any) -> None:
        self._scalar: Value = scalar
        self._builder: Builder | None = None
        self._scope: Scope | None = None
        self.wrt: list[str] = []

    @points_home
    def __enter__(self) -> Backward:
        if self._builder is not None:
            raise TraceError("this backward() was used before; each block needs a new scalar.backward()")
        builder = self._builder = needed_builder("backward()")
        of = _reference(builder, self._scalar)
        if self._scalar._known_meta().shape not in (None, ()):
            _one_number(builder, of)

        def make(scope: Scope) -> Node:
            body = scope.graph()
            return Grad(id=scope.node, of=of, wrt=tuple(self.wrt), body=body if body.nodes else None)

        self._scope = builder.open("grad", "backward()", make)
        self._scope.back = self
        return self

    @points_home
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        builder, scope = self._builder, self._scope
        if builder is None or scope is None:
            return
        if error is not None:
            builder.give_up(error)
            return
        if scope.nodes() or self.wrt:
            builder.close(scope)
        else:
            raise TraceError("this backward() block reads and writes no gradient; say site.grad inside it")

    def asked(self, ref: str) -> str:
        """One more value that the gradient is asked of; gives the output that it is."""
        if ref not in self.wrt:
            self.wrt.append(ref)
        assert self._scope is not None
        return f"{self._scope.node}.{self.wrt.index(ref)}"


def _one_number(builder: Builder, of: str) -> None:
    """Refuse a gradient of several numbers at the line that asks for it."""
    with blaming(builder, ""):
        check_grad(builder.checker, Grad(id="backward", of=of, wrt=(of,)))


def gradient_of(value: Any) -> Value:
    """The gradient with respect to a site or value, in the open backward block.

    Raises:
        TraceError: none is open, or it is that of a weight.
    """
    builder = open_builder()
    scope = next((one for one in builder.scope.around() if one.kind == "grad"), None) if builder is not None else None
    if builder is None or scope is None:
        raise TraceError(
            "gradients are read and written inside 'with scalar.backward():'; telepatch.grad(scalar, value) gives one"
        )
    if not isinstance(value, SiteValue):
        assert isinstance(scope.back, Backward)
        return Later(builder, scope, scope.back.asked(value.reference_in(builder)))
    bound = value._bound()
    if bound._address.port == "param":
        raise TraceError(f"{bound._spelled()} is a weight, and weights never change; ask for the gradient at a site")
    return SiteValue(replace(bound._address, backward=True), builder, bound)


def write_gradient(value: Any, given: Any) -> None:
    """``site.grad = given``; what ``site.grad *= 2`` gives has been written already."""
    found = gradient_of(value)
    if not isinstance(found, SiteValue):
        raise TraceError("the gradient of a computed value can be read only; write that of a site: module.output.grad")
    found.write(given)
