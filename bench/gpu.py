"""``python -m bench.gpu``: bare, engine and hooks at the shapes of Llama, for a machine with an NVIDIA GPU.

Random weights in bfloat16, made on the device; SDPA. One forward and 32, bare, as one-patch jobs through the engine,
and as hand-written hooks on one batch; tokens a second beside transformers' ``generate``; peak memory of each. Every
way ends with a synchronisation, so that what is timed is done. CUDA graphs, torch.compile block by block and a static
cache are options of the bare model alone: they are measured to know what they would give, and nothing is held against
them.

``--device cpu --shape tiny`` shows on any machine that it runs.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from bench.generation import Race
from bench.hooks import hooked
from bench.measure import Times, in_turns
from bench.report import Figure, bars, given, keep, milliseconds, parser, summaries
from bench.stack import prompt
from telepatch_protocol.graph import Graph
from telepatch_worker.cards import CardFile
from telepatch_worker.engine import Engine, Task
from telepatch_worker.load import Loaded
from telepatch_worker.publish import model_card

_LLAMA_3 = {"vocab_size": 128_256, "num_attention_heads": 32, "num_key_value_heads": 8, "rope_theta": 500_000.0}
SHAPES: dict[str, dict[str, Any]] = {
    "1b": {
        **_LLAMA_3,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "tie_word_embeddings": True,
    },
    "8b": {
        **_LLAMA_3,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "vocab_size": 512,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
    },
}
NEED_GIB = {"1b": 6, "8b": 24, "tiny": 1}
"""Memory of the device with all that is measured."""

OPTIONS = ("graph", "compile", "static")
COLUMNS = 2
PEOPLE = 8
Way = Callable[[], Any]


def device_for(asked: str, shape: str) -> torch.device:
    """The device, or an end that says what is missing."""
    if asked == "cpu":
        return torch.device("cpu")
    need = (
        f"bench.gpu needs an NVIDIA GPU with {NEED_GIB[shape]} GiB free for shape {shape}, its driver, and PyTorch for "
        "CUDA (make setup installs that on a machine where nvidia-smi finds a GPU)"
    )
    elsewhere = "To see here that the bench itself runs: python -m bench.gpu --device cpu --shape tiny"
    if torch.version.cuda is None:
        raise SystemExit(f"{need}. This is PyTorch {torch.__version__}, built without CUDA. {elsewhere}")
    if not torch.cuda.is_available():
        raise SystemExit(f"{need}. PyTorch finds no GPU: look at nvidia-smi and CUDA_VISIBLE_DEVICES. {elsewhere}")
    free, _ = torch.cuda.mem_get_info()
    if free < NEED_GIB[shape] * 2**30:
        raise SystemExit(f"{need}. {free / 2**30:.1f} GiB are free on {torch.cuda.get_device_name()}")
    return torch.device("cuda", torch.cuda.current_device())


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def loaded(shape: str, device: torch.device, positions: int) -> Loaded:
    """A Llama of random weights, made where it runs, and its card."""
    sizes = {**SHAPES[shape], "max_position_embeddings": positions, "bos_token_id": 0, "eos_token_id": 1}
    file = CardFile(
        id=f"llama-{shape}", source="config:llama", config=sizes, tokenizer="none", dtype="bfloat16", attention="sdpa"
    )
    config = AutoConfig.for_model("llama", **sizes)
    make: Any = AutoModelForCausalLM.from_config
    torch.manual_seed(0)
    with torch.device(device):
        model = make(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval().requires_grad_(False)
    card = model_card(model, file, revision="random", device=device, tokenizer=None)
    return Loaded(file, model, None, device, torch.bfloat16, "random", card, None)


def with_same_weights(model: torch.nn.Module) -> Any:
    """Another module over the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(one): one for one in tensors})


class Patches:
    """Jobs that each zero the stream of one block at one position and save two of the last logits, three ways.

    Args:
        made: the model, for the engine.
        bare: another over the same weights.
    """

    def __init__(self, made: Loaded, bare: Any) -> None:
        self.engine = Engine(made)
        self.bare = bare
        self.device = made.device
        self.layers = len(bare.model.layers)
        self.vocabulary = made.card.vocabulary

    def place(self, row: int) -> tuple[int, int]:
        """The block and position of one job's patch."""
        return row % self.layers, 1 + row % 15

    def ids(self, rows: int) -> torch.Tensor:
        """Prompts, each another."""
        return torch.tensor([prompt(self.vocabulary, row) for row in range(rows)], device=self.device)

    def plain(self, rows: int, **more: Any) -> Way:
        """The forward without patches."""
        ids = self.ids(rows)

        def run() -> torch.Tensor:
            with torch.no_grad():
                found: torch.Tensor = self.bare(input_ids=ids, use_cache=False, **more).logits
            synchronise(self.device)
            return found

        return run

    def by_hooks(self, rows: int) -> Way:
        """All patches as rows of one forward, the head at the last position alone."""
        ids = self.ids(rows)

        def patch(layer: int) -> Callable[..., Any]:
            mine = [(row, self.place(row)[1]) for row in range(rows) if self.place(row)[0] == layer]

            def hook(module: Any, given: Any, out: torch.Tensor) -> torch.Tensor:
                for row, position in mine:
                    out[row, position] = 0
                return out

            return hook

        def run() -> torch.Tensor:
            with hooked(list(self.bare.model.layers), patch), torch.no_grad():
                logits = self.bare(input_ids=ids, use_cache=False, logits_to_keep=1).logits
                return torch.as_tensor(logits[:, -1, :COLUMNS].cpu())

        return run

    def through_engine(self, rows: int) -> Way:
        """As many jobs."""
        tasks = [Task(f"job-{row}", self.graph(row)) for row in range(rows)]

        def run() -> torch.Tensor:
            outcomes = self.engine.run(tasks)
            saved = [one.saved["z"] for one in outcomes if one.saved is not None]
            assert len(saved) == rows, [one.error for one in outcomes]
            return torch.cat(saved).cpu()

        return run

    def graph(self, row: int) -> Graph:
        """One job."""
        layer, position = self.place(row)
        write = {"kind": "set", "id": "w", "site": f"blocks.{layer}:resid_post", "index": [":", position], "value": 0}
        read = {"kind": "get", "id": "z", "site": "unembed:output", "index": [":", -1, f":{COLUMNS}"]}
        invokes = [{"id": "x", "ids": prompt(self.vocabulary, row)}]
        return Graph.model_validate(
            {
                "model": {"id": self.engine.card.id},
                "runs": [{"id": "r", "invokes": invokes}],
                "nodes": [{**write, "invoke": "x"}, {**read, "invoke": "x"}],
                "saves": {"z": "$z"},
            }
        )


def replayed(patches: Patches, rows: int) -> Way:
    """The forward as a CUDA graph."""
    ids = patches.ids(rows)
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            patches.bare(input_ids=ids, use_cache=False)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.no_grad(), torch.cuda.graph(graph):
        patches.bare(input_ids=ids, use_cache=False)

    def run() -> None:
        graph.replay()
        synchronise(patches.device)

    return run


def compiled(made: Loaded, patches: Patches, rows: int) -> Way:
    """The forward of a model whose blocks are compiled, one by one and so once for all of them."""
    other = with_same_weights(made.module)
    for block in other.model.layers:
        block.compile()
    beside = copy.copy(patches)
    beside.bare = other
    run = beside.plain(rows)
    run()
    return run


def options(asked: argparse.Namespace, made: Loaded, patches: Patches, race: Race) -> dict[str, Way]:
    """What the bare model can do besides; one that this machine cannot is named and left out."""
    makers: dict[str, Callable[[], Way]] = {
        "graph": lambda: replayed(patches, asked.rows),
        "compile": lambda: compiled(made, patches, asked.rows),
        "static": lambda: partial(race.plain, cache_implementation="static"),
    }
    found: dict[str, Way] = {}
    for name in asked.options:
        try:
            found[f"option: {name}"] = makers[name]()
            found[f"option: {name}"]()
        except Exception as error:
            found.pop(f"option: {name}", None)
            print(f"option {name} cannot be had here: {type(error).__name__}: {str(error).splitlines()[0]}")
    return found


def peaks(ways: Mapping[str, Way], device: torch.device) -> dict[str, float | None]:
    """GiB that the device holds at most in each way, weights included; None on a CPU."""
    found: dict[str, float | None] = {}
    for name, way in ways.items():
        if device.type != "cuda":
            found[name] = None
            continue
        torch.cuda.reset_peak_memory_stats(device)
        way()
        synchronise(device)
        found[name] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def figures(times: Mapping[str, Times], held: Mapping[str, float | None], asked: argparse.Namespace) -> list[Figure]:
    """Each way beside that which it is held against."""
    beside = {f"{way}, {rows}": f"bare, {rows}" for rows in (1, asked.rows) for way in ("engine", "hooks")}
    beside |= {f"option: {name}": f"bare, {asked.rows}" for name in ("graph", "compile")}
    beside |= {"engine generates": "generate", "option: static": "generate"}
    beside |= {f"engine generates for {PEOPLE}": f"generate, {PEOPLE} rows"}
    tokens = {name: asked.new * (PEOPLE if str(PEOPLE) in name else 1) for name in times if "generate" in name}
    tokens |= {"option: static": asked.new}
    lines = []
    for name, one in times.items():
        value = f"{tokens[name] / one.median:.1f} tokens/s" if name in tokens else f"{1e3 * one.median:.2f} ms"
        memory = held[name]
        value += "" if memory is None else f", {memory:.2f} GiB"
        other = beside.get(name)
        ratio = None if other is None else one.median / times[other].median
        lines.append(Figure(f"llama {asked.shape}, {name}", value, ratio, f"time of '{other}'" if other else ""))
    return lines


def ways_of(asked: argparse.Namespace, model: Loaded) -> dict[str, Way]:
    """Everything that is measured; the patches agree before."""
    bare = with_same_weights(model.module)
    patches, race = Patches(model, bare), Race(bare, model, asked.new)
    ours, hooks = patches.through_engine(asked.rows)(), patches.by_hooks(asked.rows)()
    torch.testing.assert_close(ours, hooks, rtol=0.05, atol=0.05)
    ways: dict[str, Way] = {}
    for rows in (1, asked.rows):
        ways[f"bare, {rows}"] = patches.plain(rows)
        ways[f"engine, {rows}"] = patches.through_engine(rows)
        ways[f"hooks, {rows}"] = patches.by_hooks(rows)
    ways["generate"] = race.plain
    ways["engine generates"] = race.ours()
    ways[f"generate, {PEOPLE} rows"] = partial(race.plain, PEOPLE)
    ways[f"engine generates for {PEOPLE}"] = race.ours(PEOPLE)
    ways |= options(asked, model, patches, race)
    return {name: finished(way, model.device) for name, way in ways.items()}


def main() -> None:
    """Measure, print, keep."""
    made = parser("gpu", __doc__, rounds=20, model=None)
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--shape", choices=SHAPES, default="1b")
    made.add_argument("--rows", type=int, default=32, help="jobs of a batch")
    made.add_argument("--new", type=int, default=64, help="tokens to generate")
    made.add_argument("--options", nargs="*", choices=OPTIONS, help="of the bare model; with CUDA all, if left out")
    asked = given(made)
    device = device_for(asked.device, asked.shape)
    if asked.options is None:
        asked.options = list(OPTIONS) if device.type == "cuda" else []
    torch.set_num_threads(asked.threads)
    ways = ways_of(asked, loaded(asked.shape, device, 256 + asked.new))
    times = in_turns(ways, asked.rounds, warm_up=2)
    held = peaks(ways, device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    asked.name = f"gpu-{asked.shape}"
    drawn = {"forwards": {way: one for way, one in times.items() if "generate" not in way and "static" not in way}}
    bars(asked.out / f"{asked.name}.png", f"Llama {asked.shape}, bfloat16, {where}", "ms", milliseconds(drawn))
    found = {"device": where, "torch": torch.__version__, "peak_gib": held, **summaries({"times": times})}
    keep(asked, figures(times, held, asked), found)


def finished(way: Way, device: torch.device) -> Way:
    """A way that ends once the device has."""

    def run() -> None:
        way()
        synchronise(device)

    return run


if __name__ == "__main__":
    main()
