"""Gradients as values and sites have them: ``h.grad``, ``scalar.backward()``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from telepatch.lines import points_home
from telepatch.operators import Arithmetic

if TYPE_CHECKING:
    from telepatch.gradients import Backward


class Differentiable(Arithmetic):
    """What has gradients."""

    @property
    @points_home
    def grad(self) -> Any:
        """The gradient with respect to this value, inside ``with scalar.backward():``.

        That of a site can be written as the site itself can: ``site.grad[:, -1] = 0``, ``site.grad *= 2``.

        Raises:
            TraceError: no such block is open.
        """
        from telepatch.gradients import gradient_of

        return gradient_of(self)

    @grad.setter
    def grad(self, value: Any) -> None:
        from telepatch.gradients import write_gradient

        write_gradient(self, value)

    @points_home
    def backward(self) -> Backward:
        """A block in which gradients of this one number are read and written, as ``site.grad``.

        Example:
            >>> with model.trace("Hello"):
            ...     h = model.blocks[1].output
            ...     with model.lm_head.output[0, -1, 7].backward():
            ...         model.blocks[2].mlp.output.grad[:, -1] = 0
            ...         g = h.grad.save()
        """
        from telepatch.gradients import Backward

        return Backward(self)
