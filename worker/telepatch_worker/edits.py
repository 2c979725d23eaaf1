"""The backward pass as a scope: gradients are read and changed where they pass, from the last place to the first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.hooks import RemovableHandle

from telepatch_protocol.errors import ExecutionError
from telepatch_protocol.graph import Grad, Set
from telepatch_worker.layout import Rows, own_part
from telepatch_worker.moments import Moment
from telepatch_worker.views import seen

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame


class Edits:
    """What happens on the way back of one gradient; only while that gradient is computed.

    Args:
        frame: the scope of the gradient.
        node: the gradient, with its body.
    """

    def __init__(self, frame: Frame, node: Grad) -> None:
        assert node.body is not None
        self._node = node
        self._body = node.body
        self._inner = frame.inside(frame.plan.backward(node), {})
        self._frame = frame
        self._read: set[tuple[str, int]] = set()
        self.owner = (frame.number, node.id)
        self.active = False
        self.tensors: list[torch.Tensor] = []
        self._hooks: list[RemovableHandle] = []
        self._inner.begin()
        mine = {one.id for one in node.body.nodes}
        for name in [name for name in frame.edits if name in mine]:
            for moment, tensor, rows in frame.edits[name]:
                self._watch(moment, tensor, rows)

    def _watch(self, moment: Moment, tensor: torch.Tensor, rows: Rows) -> None:
        def passing(gradient: torch.Tensor) -> torch.Tensor | None:
            if not self.active:
                return None
            try:
                return self._passed(moment, gradient, rows)
            except Exception as error:
                self._frame.fail(error)
                return None

        self.tensors.append(tensor)
        self._hooks.append(tensor.register_hook(passing))

    def _passed(self, moment: Moment, gradient: torch.Tensor, rows: Rows) -> torch.Tensor | None:
        if isinstance(self._inner.plan.nodes[moment.node], Set):
            changed = gradient.clone()
            self._inner.write(moment, own_part(seen(changed, moment.view, rows), moment.axes, rows))
            return changed
        if (moment.node, moment.part) in self._read:
            raise ExecutionError(
                f"the gradient '{moment.node}' passes in two forwards of its input; read it where that input runs once"
            )
        self._read.add((moment.node, moment.part))
        self._inner.read(moment, own_part(seen(gradient, moment.view, rows), moment.axes, rows))
        return None

    def close(self) -> None:
        """Let go of the tensors that were watched, and of everything that came by."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.tensors.clear()
        self._inner.close()

    def outputs(self) -> dict[str, torch.Tensor]:
        """What the body gives.

        Raises:
            ExecutionError: a gradient that never came by.
        """
        return self._inner.outputs(self._body.out)
