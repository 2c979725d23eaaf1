"""Model cards: what a gateway and a client know about a model without holding it.

The worker publishes one when it has loaded a model. Everything in it was observed on the loaded model: which modules
fire, in which order, and which axes of each tensor count rows and positions (`Axis`).
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import accumulate
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from telepatch_protocol.dtypes import ITEM_BYTES

Axis = int | Literal["row", "pos", "row*pos"] | None
"""One axis of a tensor: a fixed size, the rows of the batch, the positions of the input, rows times positions, or None
where two probes of the model did not agree on any of these."""


class Frozen(BaseModel):
    """A value that cannot change and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Leaf(Frozen):
    """One tensor inside what a module takes or returns.

    `path` is how to reach it: ``""`` for a module that returns the tensor itself, ``"0"`` for the first item of a
    tuple, ``"logits"`` for a field, ``"1.0"`` for an item of an item. `engine` marks what belongs to the engine and is
    never written: attention masks, position ids, rotary tables.
    """

    path: str = ""
    axes: tuple[Axis, ...]
    dtype: str
    engine: bool = False

    @property
    def solved(self) -> bool:
        """Whether every axis is known, so that rows of different jobs can share a batch here."""
        return all(axis is not None for axis in self.axes)


class PortCard(Frozen):
    """What flows through a module's input or output.

    Attributes:
        order: the place of this event among all events of one forward, one number per call of the module.
        leaves: the tensors, in structural order.
        primary: index into `leaves` of the tensor that ``input`` or ``output`` means.
        arity: number of items if the module really takes or returns a tuple, else None.
    """

    order: tuple[int, ...]
    leaves: tuple[Leaf, ...]
    primary: int = 0
    arity: int | None = None


class ParamCard(Frozen):
    """A parameter or buffer of a module: its own, not its children's."""

    shape: tuple[int, ...]
    dtype: str


class ModuleCard(Frozen):
    """One module of the tree; one that never fires has neither `input` nor `output`."""

    path: str
    kind: str
    input: PortCard | None = None
    output: PortCard | None = None
    params: dict[str, ParamCard] = Field(default_factory=dict)


class Limits(Frozen):
    """What one job may cost on this model."""

    max_positions: int
    max_rows: int = 1024
    max_bytes: int = 4 * 2**30
    max_saved_bytes: int = 2**30
    max_seconds: float = 120.0
    max_nodes: int = 20_000
    max_passes: int = 32
    max_elements: int = 100_000


class Aliases(Frozen):
    """Standard names for places: modules by pattern, and ports of modules by pattern.

    ``modules["blocks.*.attn"] = "model.layers.*.self_attn"``; ``ports["blocks.*"]["resid_post"] = "output"``.
    """

    modules: dict[str, str] = Field(default_factory=dict)
    ports: dict[str, dict[str, str]] = Field(default_factory=dict)


class ModelCard(Frozen):
    """A served model as data.

    Attributes:
        id: the name in requests.
        revision: identifies the weights and the code that runs them; a graph made for another one is refused.
        kind: ``causal`` (decoder with positions), ``encoder``.
        dtype: floating dtype of the weights, ``float32`` or ``bfloat16``...
        attention: attention implementation, as transformers names it.
        vocabulary: number of token ids.
        cache_bytes: what a generation keeps for each row and position that it has read, at most.
        modules: every module, parents before children; the first one, with path ``""``, is the model itself.
        tokenizer: sha256 of the tokenizer file that the gateway uses for this model, None for a model that takes only
            token ids.
    """

    id: str
    revision: str
    title: str = ""
    kind: Literal["causal", "encoder"] = "causal"
    family: str = ""
    dtype: str = "float32"
    device: str = "cpu"
    attention: str = "sdpa"
    parameters: int = 0
    vocabulary: int = 0
    tokenizer: str | None = None
    tolerance: float = 1e-5
    cache_bytes: int = 0
    limits: Limits
    aliases: Aliases = Aliases()
    modules: tuple[ModuleCard, ...]

    @cached_property
    def by_path(self) -> dict[str, ModuleCard]:
        """Modules by path."""
        return {module.path: module for module in self.modules}

    @cached_property
    def widest(self) -> tuple[tuple[int, int], ...]:
        """Events at which a wider tensor than before leaves a module: order, and bytes for each row and position."""
        events = sorted(
            (module.output.order[0], _width(leaf))
            for module in self.modules
            if module.output is not None
            for leaf in module.output.leaves
            if not leaf.engine
        )
        most = accumulate((width for _, width in events), max)
        return tuple((order, width) for (order, own), width in zip(events, most, strict=True) if own == width)

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        """Names of the direct children of each module path, in tree order."""
        found: dict[str, list[str]] = {}
        for module in self.modules:
            if module.path:
                parent, _, name = module.path.rpartition(".")
                found.setdefault(parent, []).append(name)
        return {parent: tuple(names) for parent, names in found.items()}


def _width(leaf: Leaf) -> int:
    """Bytes of a tensor for each row and position."""
    return math.prod(axis for axis in leaf.axes if isinstance(axis, int)) * ITEM_BYTES[leaf.dtype]
