"""The inputs of invokes: literals, constants, or values that were computed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, IndexOutOfRange, ShapeError
from telepatch_protocol.graph import Invoke
from telepatch_protocol.inputs import Input, check_limits, given_of, words_of
from telepatch_worker.named_inputs import NamedInput, prepared

if TYPE_CHECKING:
    from telepatch_worker.frame import Frame


@dataclass(frozen=True, eq=False)
class TokenInput:
    """The input of one invoke of tokens.

    Attributes:
        ids: int64 (rows, positions), on the CPU.
    """

    ids: torch.Tensor

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.ids.shape[0]

    @property
    def length(self) -> int:
        """Positions of its rows."""
        return self.ids.shape[1]

    @property
    def content(self) -> Hashable:
        """What is equal for inputs that are the same."""
        return self.ids.shape, self.ids.numpy().tobytes()


Given = TokenInput | NamedInput
"""The input of one invoke."""


def given_input(frame: Frame, invoke: Invoke) -> Given:
    """The input of an invoke in a scope where everything that it needs is known.

    Raises:
        GraphError: it is none that the model takes.
    """
    if invoke.inputs is None:
        return TokenInput(token_rows(frame, invoke))
    tensors = {name: frame.argument(value) for name, value in invoke.inputs.items()}
    return prepared(invoke.id, tensors, frame.context.card)


def token_rows(frame: Frame, invoke: Invoke) -> torch.Tensor:
    """Token ids of an invoke.

    Returns:
        int64 (rows, positions), on the CPU.

    Raises:
        GraphError: rows of different lengths, no tokens, too many, or ids that are none.
    """
    given = given_of(invoke, frame.argument)
    if invoke.form != "ids":
        ids = [frame.context.plan.ids_of(key) for key in words_of(invoke, given)]
        if len(lengths := sorted({len(row) for row in ids})) > 1:
            raise ShapeError(f"the texts of invoke '{invoke.id}' have {', '.join(map(str, lengths))} tokens")
        given = ids
    found = torch.as_tensor(given, dtype=torch.int64).cpu()
    if found.ndim not in (1, 2) or not found.numel():
        shape = tuple(found.shape)
        raise ShapeError(f"invoke '{invoke.id}': ids have shape (positions,) or (rows, positions); found {shape}")
    rows = found.reshape(-1, found.shape[-1])
    card = frame.context.card
    check_limits(invoke, Input(rows.shape[0], rows.shape[1]), card)
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= card.vocabulary:
        wrong = low if low < 0 else high
        raise BadArgument(
            f"invoke '{invoke.id}' holds token id {wrong}; model '{card.id}' has 0 to {card.vocabulary - 1}"
        )
    return rows


def check_ids(ids: torch.Tensor, card: ModelCard, module: torch.nn.Module | None = None) -> None:
    """Refuse numbers that an embedding does not have: on a GPU they would end the whole process.

    Raises:
        IndexOutOfRange: naming the numbers.
    """
    most = module.num_embeddings if isinstance(module, torch.nn.Embedding) else card.vocabulary
    if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < most):
        raise IndexOutOfRange(
            f"integers from {int(ids.min())} to {int(ids.max())} are not all among 0 to {most - 1}, which is what "
            f"{'this embedding' if module else 'the model'} takes"
        )
