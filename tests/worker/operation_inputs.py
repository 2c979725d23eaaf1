"""What the cases of operations are made of: how one is written down, and the values that go in."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Expected = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One call and its result."""

    args: tuple[object, ...]
    expected: Expected
    kwargs: dict[str, object] = field(default_factory=dict)


def case(*args: object, expected: Expected, **kwargs: object) -> Case:
    return Case(args, expected, kwargs)


_generator = torch.Generator().manual_seed(0)
X = torch.randn(2, 3, 4, generator=_generator)
Y = torch.randn(3, 4, generator=_generator)
POSITIVE = X.abs() + 0.1
WHOLE = torch.randint(-5, 6, (2, 3, 4), generator=_generator)
COUNTS = torch.tensor([[0, 2, 1], [3, 1, 0]])
MASK = X > 0
ROW = torch.tensor([True, False, True])
SQUARE = torch.randn(3, 3, generator=_generator) + 3 * torch.eye(3)
SYMMETRIC = SQUARE + SQUARE.mT
ODD = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.5])
VECTOR = torch.tensor([0.5, -1.0, 2.0, 3.5])
SORTED = torch.tensor([0.0, 1.0, 2.0, 4.0])
CLASSES = torch.tensor([3, 0, 1])
WEIGHT = torch.randn(5, 4, generator=_generator)
LOGP = F.log_softmax(Y, -1)
LOGQ = F.log_softmax(Y.flip(0), -1)
