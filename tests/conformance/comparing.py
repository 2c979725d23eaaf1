"""What two spellings of one thing gave, compared number by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from telepatch.values import Value

TOLERANCE = 1e-5


def plain(found: Any) -> Any:
    """Arrays, strings and numbers in lists and dicts."""
    if isinstance(found, Value):
        return found.numpy()
    if isinstance(found, torch.Tensor):
        return found.detach().numpy()
    if isinstance(found, Mapping):
        return {name: plain(one) for name, one in found.items()}
    if isinstance(found, Sequence) and not isinstance(found, str):
        return [plain(one) for one in found]
    return found


def assert_same(found: Any, wanted: Any, where: str = "value") -> None:
    """Equal shapes and names; numbers within the tolerance of batched float32, integers and text exactly."""
    if isinstance(wanted, Mapping):
        assert found.keys() == wanted.keys(), where
        for name in wanted:
            assert_same(found[name], wanted[name], f"{where}[{name!r}]")
    elif isinstance(wanted, Sequence) and not isinstance(wanted, str):
        assert len(found) == len(wanted), where
        for at, one in enumerate(wanted):
            assert_same(found[at], one, f"{where}[{at}]")
    elif isinstance(wanted, str):
        assert found == wanted, where
    else:
        _assert_close(np.asarray(found), np.asarray(wanted), where)


def _assert_close(found: np.ndarray, wanted: np.ndarray, where: str) -> None:
    assert found.shape == wanted.shape, f"{where}: {found.shape} and {wanted.shape}"
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted, err_msg=where)
        return
    finite = wanted[np.isfinite(wanted)]
    scale = max(float(np.abs(finite).max()) if finite.size else 1.0, 1e-3)
    np.testing.assert_allclose(found, wanted, rtol=TOLERANCE, atol=TOLERANCE * scale, err_msg=where)


def says_something(found: Any) -> bool:
    """Whether there is anything in it that could have come out differently."""
    if isinstance(found, str | int | float | bool):
        return True
    if isinstance(found, Mapping):
        return bool(found) and all(says_something(one) for one in found.values())
    if isinstance(found, Sequence):
        return bool(found) and all(says_something(one) for one in found)
    return np.asarray(found).size > 0
