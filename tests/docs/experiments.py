"""What the tests of the examples share: inputs, the examples as modules, and small parts of experiments by hand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from written_out import Plain, Tap, untouched

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
CLEAN, BAD = [72, 101, 108, 108, 111, 33], [72, 97, 108, 112, 111, 46]
OTHERS = [[65, 66], [7], [90, 91, 92, 93, 94], [3, 1, 4, 1, 5, 9, 2, 6]]
RIGHT, WRONG = 100, 200


@cache
def by_hand(name: str) -> Plain:
    torch.set_num_threads(1)
    return Plain(name)


@cache
def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def close(found: Any, wanted: Tensor | Sequence[Any], tolerance: float = 1e-4) -> None:
    """Nearly equal, by the size of the largest; and not trivially so."""
    array = torch.as_tensor(wanted).detach().numpy()
    assert found.numpy().shape == array.shape
    np.testing.assert_allclose(found.numpy(), array, rtol=tolerance, atol=tolerance * float(np.abs(array).max()))
    assert np.abs(array).max() > 0


def difference(plain: Plain, ids: Sequence[int], tap: Tap = untouched, embedded: Tensor | None = None) -> Tensor:
    last = plain.logits(ids, tap, embedded)[-1]
    return last[RIGHT] - last[WRONG]


def table(rows: Sequence[int], columns: Sequence[int], cell: Any) -> Tensor:
    return torch.stack([torch.stack([cell(row, column) for column in columns]) for row in rows])


def put(place: Any, value: Tensor) -> Any:
    """A change that puts a value into a place."""

    def change(layer: int, there: Tensor) -> Tensor:
        there[place] = value
        return there

    return change


def as_heads(z: Tensor, plain: Plain) -> Tensor:
    return z.reshape(*z.shape[:2], plain.heads, -1)
