"""``python -m bench.generation``: tokens per second of the decode loop beside transformers' ``generate``, in turns; and
how long a trace takes while somebody generates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bench.measure import Times, in_turns
from bench.report import Figure, bars, given, keep, milliseconds, parser, summaries
from bench.stack import POSITIONS, card_path, prompt
from telepatch_protocol import wire
from telepatch_protocol.card import PortCard
from telepatch_protocol.sites import Place
from telepatch_worker.cards import read_card
from telepatch_worker.decode import Decoder
from telepatch_worker.desk import Desk, Settled, quiet, unkept, unseen
from telepatch_worker.engine import Engine
from telepatch_worker.floor import Floor
from telepatch_worker.generation import Generated, Generation
from telepatch_worker.layout import Rows
from telepatch_worker.load import Loaded, load
from telepatch_worker.moments import Moment
from telepatch_worker.plan import Task
from telepatch_worker.sampling import Sampling
from telepatch_worker.settings import Settings
from telepatch_worker.stopping import Ending


class Steering:
    """An owner that adds a vector at every step, or does nothing."""

    def __init__(self, place: Place | None, axes: tuple[Any, ...], vector: torch.Tensor) -> None:
        self.place = place
        self.axes = axes
        self.vector = vector
        self.tokens = torch.zeros(0)

    def moments(self, steps: Mapping[str, int]) -> Sequence[Moment]:
        """The write, for each generation."""
        return () if self.place is None else [Moment("w", name, True, self.place, self.axes) for name in steps]

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        """Nothing is read."""

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        """Steer."""
        region += self.vector

    def track(self, moment: Moment, tensor: torch.Tensor, rows: Rows) -> None:
        """No gradients are asked."""

    def sampled(self, name: str, step: int, tokens: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Go on with what was sampled."""
        return tokens

    def ends(self, name: str, step: int) -> bool:
        """Never by itself."""
        return False

    def ended(self, name: str, result: Generated) -> None:
        """Keep the tokens."""
        self.tokens = result.tokens

    def fail(self, error: Exception) -> None:
        """Stop the benchmark."""
        raise error


class Race:
    """One model twice: bare, and under the decode loop.

    Args:
        bare: the model as transformers has it.
        loaded: another with the same weights, for the engine.
        new: tokens to generate.
    """

    def __init__(self, bare: torch.nn.Module, loaded: Loaded, new: int) -> None:
        self.bare = bare
        self.engine = Engine(loaded)
        self.decoder = Decoder(self.engine.model, loaded)
        self.new = new
        self.prompt = torch.tensor([prompt(loaded.card.vocabulary)])
        self.path = loaded.card.aliases.modules["blocks.*"].replace("*", "3")
        port = loaded.card.by_path[self.path].output
        assert isinstance(port, PortCard)
        self.leaf = port.leaves[port.primary]
        size = self.leaf.axes[-1]
        assert isinstance(size, int)
        self.vector = torch.linspace(-1, 1, size).to(loaded.device, loaded.dtype)

    @staticmethod
    def of(model: str, new: int) -> Race:
        """A race of a model that has a card."""
        file, cache = read_card(card_path(model)), Settings.from_environment().cache
        return Race(load(file, cache=cache).module, load(file, cache=cache), new)

    def plain(self, rows: int = 1, **more: Any) -> torch.Tensor:
        """`generate`, greedy."""
        make: Any = self.bare.generate
        given = self.prompt.repeat(rows, 1).to(self.vector.device)
        made = make(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=self.new,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **more,
        )
        return torch.as_tensor(made)[:, POSITIONS:]

    def hooked(self) -> torch.Tensor:
        """`generate` under a hook that adds the vector."""

        def steer(module: torch.nn.Module, taken: Any, given: Any) -> Any:
            return (given[0] + self.vector, *given[1:]) if isinstance(given, tuple) else given + self.vector

        handle = self.bare.get_submodule(self.path).register_forward_hook(steer)
        try:
            return self.plain()
        finally:
            handle.remove()

    def ours(self, rows: int = 1, steered: bool = False) -> Callable[[], torch.Tensor]:
        """The decode loop: so many generations of as many owners."""
        place = Place(self.path, "output", self.leaf.path) if steered else None

        def run() -> torch.Tensor:
            owners = [Steering(place, self.leaf.axes, self.vector) for _ in range(rows)]
            for owner in owners:
                self.decoder.add(owner, [Generation("x", self.prompt, Sampling(), Ending(self.new, eos=()))])
            while self.decoder.busy:
                self.decoder.turn()
            return owners[-1].tokens

        return run


class Trace:
    """A trace on a floor with nobody else, or beside a generation that is on its way."""

    def __init__(self, engine: Engine, prompt: torch.Tensor, beside: bool) -> None:
        self.ended: set[str] = set()
        settled = Settled(lambda outcome: self.ended.add(outcome.id))
        self.floor = Floor(engine, Desk(set, quiet, unseen, unkept, settled))
        self.model = engine.card.id
        self.prompt = prompt[0].tolist()
        if beside:
            most = engine.card.limits.max_positions - len(self.prompt)
            self.add("long", {"generate": {"max_new_tokens": most}}, [], {"tokens": "$r.tokens"})
            self.floor.turn()

    def __call__(self) -> None:
        """Run it to its end."""
        node = {"kind": "get", "id": "l", "site": "lm_head:output", "invoke": "a", "index": [":", -1]}
        self.add("trace", {}, [node], {"l": "$l"})
        while "trace" not in self.ended:
            self.floor.turn()
        self.ended.clear()

    def add(self, id: str, run: dict[str, Any], nodes: list[dict[str, Any]], saves: dict[str, str]) -> None:
        """One more job."""
        runs = [{"id": "r", "invokes": [{"id": "a", "ids": self.prompt}], **run}]
        document: dict[str, Any] = {
            "protocol": [1, 0],
            "model": {"id": self.model},
            "runs": runs,
            "nodes": nodes,
            "saves": saves,
        }
        self.floor.add([Task(id, wire.from_dict(document))])


PEOPLE = 8
BESIDE = {"ours": "generate", "ours, steered": "generate, hook", f"ours, {PEOPLE} steered people": "generate, hook"}
"""What is held against what."""


def figures(times: Mapping[str, Times], new: int) -> list[Figure]:
    """Tokens per second of ours, beside `generate`."""
    rates = {name: new * (PEOPLE if str(PEOPLE) in name else 1) / one.median for name, one in times.items()}
    return [
        Figure(
            f"generation, {name}",
            f"{rates[name]:.1f} tokens/s",
            rates[name] / rates[other],
            f"{other} {rates[other]:.1f} tokens/s",
        )
        for name, other in BESIDE.items()
    ]


def main() -> None:
    """Measure, print, keep."""
    made = parser("generation", __doc__, rounds=7)
    made.add_argument("--new", type=int, default=64, help="tokens to generate")
    asked = given(made)
    torch.set_num_threads(asked.threads)
    race = Race.of(asked.model, asked.new)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "generate": race.plain,
        "ours": race.ours(),
        "generate, hook": race.hooked,
        "ours, steered": race.ours(steered=True),
        f"ours, {PEOPLE} steered people": race.ours(PEOPLE, steered=True),
    }
    assert torch.equal(ways["generate"](), ways["ours"]())
    assert torch.equal(ways["generate, hook"](), ways["ours, steered"]())
    times = in_turns(ways, asked.rounds, warm_up=1)
    beside = {"alone": Trace(race.engine, race.prompt, False), "beside": Trace(race.engine, race.prompt, True)}
    traces = in_turns(beside, asked.rounds, warm_up=1)
    slower = traces["beside"].median / traces["alone"].median
    value, alone = f"{1e3 * traces['beside'].median:.0f} ms", f"alone {1e3 * traces['alone'].median:.0f} ms"
    found = {f"{asked.new} tokens": times, "a trace": traces}
    bars(asked.out / "generation.png", "Generation beside transformers' generate", "ms", milliseconds(found))
    lines = [*figures(times, asked.new), Figure("a trace while somebody generates", value, slower, alone)]
    keep(asked, lines, summaries(found))


if __name__ == "__main__":
    main()
