"""What every bench does alike: its command line, its table, its JSON and its plot."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.measure import Times, machine

RESULTS = Path("bench/results")
_QUICK_ROUNDS = 2
Points = tuple[Sequence[float], Sequence[float]]
Groups = Mapping[str, Mapping[str, tuple[float, float]]]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Args:
        what: was measured.
        value: with its unit.
        ratio: to what it is held against.
        beside: what that is, and its value.
        at_most: what the ratio is hoped to be, or to be below.
        at_least: or to be above.
    """

    what: str
    value: str
    ratio: float | None = None
    beside: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def aim(self) -> str:
        """What was hoped for, and whether it came to pass."""
        for word, bound in (("at most", self.at_most), ("at least", self.at_least)):
            if bound is not None and self.ratio is not None:
                met = self.ratio <= bound if word == "at most" else self.ratio >= bound
                return f"{word} {bound:g}: {'met' if met else 'missed'}"
        return ""

    def cells(self) -> tuple[str, ...]:
        """As it is printed."""
        return self.what, self.value, "" if self.ratio is None else f"{self.ratio:.2f}", self.beside, self.aim


HEADS = ("what", "measured", "ratio", "beside", "aim")


def parser(
    name: str, about: str | None, *, rounds: int | None, model: str | None = "gpt2-small-random", threads: int = 2
) -> argparse.ArgumentParser:
    """The command line that all have; `given` reads it."""
    made = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=about)
    if model is not None:
        made.add_argument("--model", default=model, help="id of a card under models/ or bench/cards/")
    if rounds is not None:
        made.add_argument("--rounds", type=int, help=f"times that each way is measured, {rounds} if left out")
    made.add_argument("--threads", type=int, default=threads, help="threads of PyTorch, everywhere")
    made.add_argument("--quick", action="store_true", help="little of everything, to see that it runs")
    made.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the plots")
    made.set_defaults(usual_rounds=rounds, name=name)
    return made


def given(made: argparse.ArgumentParser) -> argparse.Namespace:
    """What was asked for."""
    found = made.parse_args()
    if found.usual_rounds is not None:
        few = min(_QUICK_ROUNDS, found.usual_rounds)
        found.rounds = found.rounds or (few if found.quick else found.usual_rounds)
    found.out.mkdir(parents=True, exist_ok=True)
    return found


def keep(asked: argparse.Namespace, figures: Sequence[Figure], data: Mapping[str, Any]) -> None:
    """Print the table and write the JSON: the table, and what it was made of."""
    words = {key: str(one) if isinstance(one, Path) else one for key, one in vars(asked).items()}
    whole = {"machine": machine(), "asked": words, "figures": [asdict(one) for one in figures], **data}
    file = asked.out / f"{asked.name}.json"
    file.write_text(json.dumps(whole, indent=1) + "\n")
    print("\n" + table(figures))
    print(f"kept: {file}", flush=True)


def kept(file: Path) -> list[Figure]:
    """The table of a JSON that `keep` wrote."""
    return [Figure(**one) for one in json.loads(file.read_text())["figures"]]


def table(figures: Sequence[Figure]) -> str:
    """Columns in line, as a Markdown table."""
    rows = [HEADS, *(one.cells() for one in figures)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEADS))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    return "\n".join([lines[0], f"|{'|'.join('-' * (width + 2) for width in widths)}|", *lines[1:]])


def summaries(found: Mapping[str, Mapping[str, Times]]) -> dict[str, dict[str, dict[str, float]]]:
    """As they are kept: by case and way."""
    return {case: {way: times.summary() for way, times in ways.items()} for case, ways in found.items()}


def milliseconds(found: Mapping[str, Mapping[str, Times]]) -> Groups:
    """As they are drawn: by case and way, median and p95."""
    return {
        case: {way: (1e3 * times.median, 1e3 * times.p95) for way, times in ways.items()}
        for case, ways in found.items()
    }


def curves(
    file: Path, title: str, x: str, y: str, lines: Mapping[str, Points], *, scale: str = "log", marker: str = "o"
) -> None:
    """Lines through measured points, both axes logarithmic unless said otherwise."""
    figure, axes = _canvas()
    for name, (across, up) in lines.items():
        axes.plot(across, up, marker=marker, label=name)
    axes.set(xscale=scale, yscale=scale, xlabel=x, ylabel=y, title=title)
    axes.grid(True, which="both", alpha=0.2)
    axes.legend()
    figure.savefig(file, dpi=150)


def bars(file: Path, title: str, y: str, groups: Groups) -> None:
    """Medians side by side, one group a name; the line on each bar reaches to p95."""
    figure, axes = _canvas()
    ways = list(dict.fromkeys(way for group in groups.values() for way in group))
    step = 0.84 / len(ways)
    for place, way in enumerate(ways):
        at = [number for number, group in enumerate(groups.values()) if way in group]
        heights = [group[way] for group in groups.values() if way in group]
        above = [[0.0] * len(heights), [max(0.0, high - middle) for middle, high in heights]]
        places = [number + step * (place - (len(ways) - 1) / 2) for number in at]
        axes.bar(places, [middle for middle, _ in heights], 0.9 * step, yerr=above, capsize=3, label=way)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set(ylabel=y, title=title)
    axes.legend()
    figure.savefig(file, dpi=150)


def _canvas() -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(7, 4), layout="constrained")
