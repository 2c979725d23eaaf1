"""Model cards: what a gateway and a client know about a model without holding it.

The worker publishes one when it has loaded a model. Everything in it was observed on the loaded model: which modules
fire, in which order, and which axes of each tensor count rows and positions (`Axis`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from telepatch_protocol.dtypes import ITEM_BYTES, is_integer
from telepatch_protocol.newest import Newest

_FOUND = 10_000

Axis = int | Literal["row", "pos", "target", "row*pos"] | None
"""One axis of a tensor: a fixed size, the rows of the batch, the positions of the input, those of what a decoder is
given beside it, rows times positions, or None where two probes of the model did not agree on any of these."""


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


class View(Frozen):
    """How a standard name looks at a tensor: always as a view, so that what is written there lands in the tensor.

    Attributes:
        split: sizes that the last axis becomes, such as (heads, width of a head); empty where it stays.
        pick: which of those axes is left out, and at which index: (0, 2) for the values of (3, heads, width).
        tokens: whether the first axis, rows times positions, becomes rows and positions.
    """

    split: tuple[int, ...] = ()
    pick: tuple[int, int] | None = None
    tokens: bool = False

    def axes(self, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        """What the view's axes count, from those of the tensor."""
        kept = [size for at, size in enumerate(self.split) if self.pick is None or at != self.pick[0]]
        head: tuple[Axis, ...] = ("row", "pos", *axes[1:]) if self.tokens else axes
        return (*head[:-1], *kept) if self.split else head


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


class Flow(Frozen):
    """What flows into or out of an operation inside a module's forward.

    Attributes:
        at: for each time it happens in one call of the module, how many events of modules that call has had before,
            itself included, and which event of an operation it is since the last of those.
        leaves: the tensors, in structural order.
        primary: index into `leaves` of the tensor that ``input`` or ``output`` means.
        arity: number of items if it really takes or returns a tuple, else None.
    """

    at: tuple[tuple[int, int], ...]
    leaves: tuple[Leaf, ...]
    primary: int = 0
    arity: int | None = None


class Operation(Frozen):
    """One call or assignment in the code of a module's forward, or of a function that it calls.

    Attributes:
        name: as nnsight has it: what is called or bound, and a number; inside a function, ``call_0.source.name_1``.
        line: where it stands in its function, from 1.
        text: that line.
        eager: whether it happens under eager attention only, so that a job that names it runs under that.
    """

    name: str
    line: int
    text: str
    eager: bool = False
    input: Flow | None = None
    output: Flow | None = None


class SourceCard(Frozen):
    """The operations of one kind of forward, in the order in which they happen; modules built alike share it."""

    operations: tuple[Operation, ...]

    @cached_property
    def by_name(self) -> dict[str, Operation]:
        """Operations by name."""
        return {operation.name: operation for operation in self.operations}


class ModuleCard(Frozen):
    """One module of the tree; one that never fires has neither `input` nor `output`.

    `source` is the key of its operations in the card's `sources`; empty where none are offered.
    """

    path: str
    kind: str
    source: str = ""
    input: PortCard | None = None
    output: PortCard | None = None
    params: dict[str, ParamCard] = Field(default_factory=dict)


class Pixels(Frozen):
    """How uint8 images become what a model takes: times `rescale`, minus `mean`, over `std`, channel by channel.

    Channels are the axis after the rows. Without `mean` and `std` images are only rescaled.
    """

    rescale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _pairs(self) -> Pixels:
        if len(self.mean) != len(self.std) or 0 in self.std:
            raise ValueError(f"mean and std are equally many numbers, no std is 0; found {self.mean} and {self.std}")
        return self


class Holds(Frozen):
    """A number that every row of an input has so often: where a model puts what it makes of another input, such as the
    patches of an image."""

    number: int = Field(ge=0)
    times: int = Field(gt=0)


class InputCard(Frozen):
    """One of the named tensors that a model is called with, where it is not called with tokens.

    Attributes:
        axes: the first is ``row``; others are sizes, ``pos`` for a length that each input chooses, or ``target`` for
            another one, that of what a decoder is given.
        dtype: that the model is called with; float values are converted to it, and integers to an integer one.
        below: integers are from 0 to below this; None for a float input.
        optional: whether the model can do without.
        pixels: for images: how uint8 values are prepared; None where they are not taken.
        holds: a number that each row has so often; None where there is no such.
        positions: of the model that one row takes beside those of its axes, as the patches of an image do; they count
            in prices.
    """

    axes: tuple[int | Literal["row", "pos", "target"], ...]
    dtype: str = "float32"
    below: int | None = Field(default=None, gt=0)
    optional: bool = False
    pixels: Pixels | None = None
    holds: Holds | None = None
    positions: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _has_rows(self) -> InputCard:
        if self.axes[:1] != ("row",) or "row" in self.axes[1:] or not all(size for size in self.axes):
            raise ValueError(
                f"the axes of an input begin with 'row' and have it once, sizes above 0; found {self.axes}"
            )
        if self.dtype not in ITEM_BYTES:
            raise ValueError(f"dtype {self.dtype!r} is not known; there are: {', '.join(ITEM_BYTES)}")
        if is_integer(self.dtype) != (self.below is not None):
            raise ValueError(f"an integer input says what its numbers are 'below', no other does; dtype {self.dtype}")
        if self.holds is not None and (self.axes != ("row", "pos") or self.holds.number >= (self.below or 0)):
            raise ValueError(f"what rows hold is a number below {self.below}, along ('row', 'pos'); found {self.axes}")
        channels = self.axes[1] if len(self.axes) > 1 else None
        if self.pixels is not None and self.pixels.mean and len(self.pixels.mean) != channels:
            raise ValueError(f"mean and std have one number for each of {channels} channels; found {self.pixels.mean}")
        return self

    @property
    def shape(self) -> str:
        """The axes as error messages show them."""
        names = {"row": "rows", "pos": "length", "target": "target length"}
        return f"({', '.join(names.get(str(axis), str(axis)) for axis in self.axes)})"


class Limits(Frozen):
    """What one job may cost on this model."""

    max_positions: int
    max_rows: int = 1024
    max_bytes: int = 4 * 2**30
    max_saved_bytes: int = 2**30
    max_seconds: float = 120.0
    max_fit_seconds: float = 86_400.0
    max_nodes: int = 20_000
    max_passes: int = 32
    max_elements: int = 100_000

    def seconds(self, *, long: bool) -> float:
        """How long a job may compute; a long one trains."""
        return self.max_fit_seconds if long else self.max_seconds


class Target(Frozen):
    """What a standard port name means where that is not a port of the module itself.

    Attributes:
        path: of the module, from the one that has the standard port.
        port: ``output``, ``outputs.1`` or ``source.hidden_states_1.output``.
        view: how the tensor there is looked at.
    """

    path: str = ""
    port: str
    view: View | None = None


class Aliases(Frozen):
    """Standard names for places: modules by pattern, and ports of modules by pattern.

    ``modules["blocks.*.attn"] = "model.layers.*.self_attn"``; ``ports["blocks.*"]["resid_post"] = "output"``; a port
    that lies in a module below, or is part of a tensor, is a `Target`.
    """

    modules: dict[str, str] = Field(default_factory=dict)
    ports: dict[str, dict[str, str | Target]] = Field(default_factory=dict)


class ChatTemplate(Frozen):
    """How a model is given chat messages: a Jinja template, and the special tokens that it may name."""

    template: str
    tokens: dict[str, str | list[str]] = Field(default_factory=dict)


class ModelCard(Frozen):
    """A served model as data.

    Attributes:
        id: the name in requests.
        revision: identifies the weights and the code that runs them; a graph made for another one is refused.
        kind: ``causal`` (decoder with positions), ``encoder``; ``vision``, ``audio`` and ``module`` take named tensors.
        dtype: floating dtype of the weights, ``float32`` or ``bfloat16``...
        attention: attention implementation, as transformers names it.
        vocabulary: number of token ids.
        cache_bytes: what a generation keeps for each row and position that it has read, at most.
        modules: every module, parents before children; the first one, with path ``""``, is the model itself.
        tokenizer: sha256 of the tokenizer file that the gateway uses for this model, None for a model that takes only
            token ids.
        inputs: the named tensors that the model is called with, the main one first; empty for models that take tokens.
        shares: whether a row's result is its own, whatever other rows are in the batch; where not, jobs run alone.
        sources: operations inside the forwards of modules, by the key that `ModuleCard.source` names.
        chat: its chat template, None for a model without one.
        adapters: names of those that a job may ask for.
        adapter: the one in force in jobs that ask for none; None for the model as it is without.
    """

    id: str
    revision: str
    title: str = ""
    kind: Literal["causal", "encoder", "vision", "audio", "module"] = "causal"
    family: str = ""
    dtype: str = "float32"
    device: str = "cpu"
    attention: str = "sdpa"
    parameters: int = 0
    vocabulary: int = 0
    tokenizer: str | None = None
    chat: ChatTemplate | None = None
    tolerance: float = 1e-5
    cache_bytes: int = 0
    limits: Limits
    aliases: Aliases = Aliases()
    inputs: dict[str, InputCard] = Field(default_factory=dict)
    shares: bool = True
    adapters: tuple[str, ...] = ()
    adapter: str | None = None
    modules: tuple[ModuleCard, ...]
    sources: dict[str, SourceCard] = Field(default_factory=dict)

    @cached_property
    def by_path(self) -> dict[str, ModuleCard]:
        """Modules by path."""
        return {module.path: module for module in self.modules}

    @cached_property
    def leaving(self) -> tuple[tuple[float, int], ...]:
        """Every tensor that leaves a module, in order: order, and bytes for each row and position."""
        return tuple(
            sorted(
                (order, _width(leaf))
                for module in self.modules
                if module.output is not None
                for order in module.output.order
                for leaf in module.output.leaves
                if not leaf.engine
            )
        )

    @cached_property
    def widest(self) -> tuple[tuple[float, int], ...]:
        """Events at which a wider tensor than before leaves a module: order, and bytes for each row and position."""
        most = accumulate((width for _, width in self.leaving), max)
        return tuple((order, width) for (order, own), width in zip(self.leaving, most, strict=True) if own == width)

    @cached_property
    def found(self) -> Newest[Hashable, Any]:
        """What was looked up in it lately: few places of a model are asked for over and over."""
        return Newest(_FOUND)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's; what was worked out of the card is not taken along."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

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
