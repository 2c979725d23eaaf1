"""Heat maps as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot


def heat_map(
    values: np.ndarray, *, title: str, columns: Sequence[str], file: Path, rows: Sequence[int] | None = None
) -> Path:
    """Draw blocks by positions.

    Args:
        values: (blocks, positions) numbers; those of both signs are drawn around white, and nan as white.
        title: above the picture.
        columns: the token at each position.
        file: where to write the PNG; its folder is made.
        rows: numbers of the blocks, by default from 0.

    Returns:
        The file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(0.55 * len(columns) + 2, 0.24 * len(values) + 2), layout="constrained")
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    both = low < 0 < high
    limit = max(-low, high) if both else 0.0
    image = axes.imshow(
        values,
        aspect="auto",
        origin="lower",
        cmap="RdBu" if both else "viridis",
        vmin=-limit if both else min(low, 0.0),
        vmax=limit if both else max(high, 0.0),
    )
    axes.set_xticks(range(len(columns)), [token.replace(" ", "·") for token in columns], rotation=60, ha="right")
    axes.set_yticks(range(len(values)), [str(row) for row in (rows or range(len(values)))], fontsize=7)
    axes.set(title=title, xlabel="token", ylabel="block")
    figure.colorbar(image, ax=axes)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)
    return file
