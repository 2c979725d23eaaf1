"""How a fit steps, and the rows that it mixes: what `Model.fit` is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from telepatch_protocol.errors import BadArgument


class Optimiser:
    """One of PyTorch's optimisers with its numbers; those left out are PyTorch's own.

    Any number may be a function of the step, which is a value: ``lr=lambda step: 1e-3 * 0.99**step``.
    """

    name = ""

    def __init__(self, **numbers: Any) -> None:
        self.numbers: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.numbers.items())})"


def _warmed(lr: Any, warmup: int) -> Any:
    if not warmup:
        return lr
    if callable(lr) or isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
        raise BadArgument("warmup is a number of steps, over which a constant lr is approached; found something else")

    def rising(step: Any) -> Any:
        return ((step + 1) / warmup).clamp(max=1.0) * lr

    return rising


class SGD(Optimiser):
    """Stochastic gradient descent, ``torch.optim.SGD``.

    Args:
        lr: step size, a number, a value or a function of the step.
        momentum, weight_decay: as PyTorch has them.
        clip_norm: the most that the norm of all gradients together may be.
        warmup: steps over which `lr` is approached from zero.

    Example:
        ``model.fit(data, batch_size=32, epochs=3, optimiser=telepatch.SGD(lr=0.1, momentum=0.9))``
    """

    name = "sgd"

    def __init__(
        self, lr: Any, *, momentum: Any = None, weight_decay: Any = None, clip_norm: Any = None, warmup: int = 0
    ) -> None:
        super().__init__(lr=_warmed(lr, warmup), momentum=momentum, weight_decay=weight_decay, clip_norm=clip_norm)


class Adam(Optimiser):
    """``torch.optim.Adam``.

    Args:
        lr: step size, a number, a value or a function of the step.
        betas, eps, weight_decay: as PyTorch has them.
        clip_norm: the most that the norm of all gradients together may be.
        warmup: steps over which `lr` is approached from zero.

    Example:
        ``model.fit(data, batch_size=32, epochs=3, optimiser=telepatch.Adam(lr=1e-3, warmup=100))``
    """

    name = "adam"

    def __init__(
        self,
        lr: Any = 1e-3,
        *,
        betas: Any = None,
        eps: Any = None,
        weight_decay: Any = None,
        clip_norm: Any = None,
        warmup: int = 0,
    ) -> None:
        both = list(betas) if isinstance(betas, tuple) else betas
        super().__init__(lr=_warmed(lr, warmup), betas=both, eps=eps, weight_decay=weight_decay, clip_norm=clip_norm)


class AdamW(Adam):
    """``torch.optim.AdamW``: as `Adam`, with weight decay apart from the gradient."""

    name = "adamw"


class Buffer:
    """Rows for a fit whose body sees whole batches: they are mixed in a buffer that is refilled as it is used.

    Args:
        rows: a value, an array or a column; what ``row.cat(...)`` gives of the prompts of an `each` is a stream, made
            as it is used and never held as a whole.
        size: how many rows the buffer holds; all of them if left out, which a stream does not allow.
        refill: once less than this part of them is unused, the used ones make room for new ones.
        columns: several kinds of rows by name, taken together: ``f.batch.name``.

    Example:
        >>> with model.session():
        ...     with model.each(texts) as row:
        ...         acts = row.cat(model.blocks[5].resid_post[0])
        ...     with model.fit(telepatch.Buffer(acts, size=8192), batch_size=512, steps=1000) as f:
        ...         W = f.param("W", telepatch.eye(768))
        ...         f.loss(((f.batch @ W - f.batch) ** 2).mean())
    """

    def __init__(self, rows: Any = None, /, *, size: int | None = None, refill: float = 0.5, **columns: Any) -> None:
        if (rows is None) == (not columns):
            raise BadArgument("a buffer holds either rows, given without a name, or several kinds of rows by name")
        self.named = rows is None
        self.columns: Mapping[str, Any] = columns if rows is None else {"batch": rows}
        self.size = size
        self.refill = refill


Schedule = Callable[[Any], Any]
"""From the step to a number."""
