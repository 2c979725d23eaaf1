"""What places of a sharded model have in the whole model: found by running the whole without its numbers.

The whole is built from its configuration with fake tensors, which have shapes and neither memory nor values, and
watched as any loaded model is. Its shapes against those of the loaded shard say which tensors are pieces, along which
axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from telepatch_protocol.card import Axis, Flow, Leaf, ModuleCard, Operation, PortCard, SourceCard
from telepatch_protocol.sites import Place

Ports = Mapping[tuple[str, str], PortCard]
Modules = tuple[ModuleCard, ...]
Sources = Mapping[str, SourceCard]


@dataclass(frozen=True)
class Whole:
    """The places of a whole model.

    Attributes:
        ports: of modules, as they are published.
        modules: with the keys of their operations.
        sources: operations by key.
    """

    ports: Ports
    modules: Modules
    sources: Sources


@dataclass
class Widening:
    """Puts the whole model's sizes in place of the shard's, and keeps which tensors are pieces.

    Args:
        whole: the whole model.
        parts: ranks.

    Attributes:
        pieces: the places whose tensors are pieces, and the axis along which each is cut.
    """

    whole: Whole
    parts: int
    pieces: dict[Place, int] = field(default_factory=dict)

    def ports(self, found: Ports) -> dict[tuple[str, str], PortCard]:
        """Ports of modules; one whose tensors cannot be told whole or piece is left out."""
        widened = {}
        for (path, port), card in found.items():
            model = self.whole.ports.get((path, port))
            leaves = None if model is None else self._leaves(path, port, card.leaves, model.leaves)
            if leaves is not None:
                widened[path, port] = card.model_copy(update={"leaves": leaves})
        return widened

    def sources(self, modules: Modules, found: Sources) -> tuple[Modules, Sources]:
        """Operations inside forwards."""
        own = {module.path: module.source for module in self.whole.modules}
        kept: dict[str, SourceCard] = {}
        keyed = []
        for module in modules:
            key = module.source
            model = self.whole.sources.get(own.get(module.path, ""))
            if not key or model is None:
                keyed.append(module.model_copy(update={"source": ""}))
                continue
            operations = tuple(
                operation
                for one in found[key].operations
                if (operation := self._operation(module.path, one, model.by_name.get(one.name))) is not None
            )
            kept[key] = SourceCard(operations=operations)
            keyed.append(module)
        return tuple(keyed), kept

    def _operation(self, path: str, shard: Operation, whole: Operation | None) -> Operation | None:
        if whole is None:
            return None
        sides: dict[str, Flow] = {}
        for side in ("input", "output"):
            mine: Flow | None = getattr(shard, side)
            model: Flow | None = getattr(whole, side)
            if mine is None or model is None:
                continue
            leaves = self._leaves(path, f"source.{shard.name}.{side}", mine.leaves, model.leaves)
            if leaves is not None:
                sides[side] = mine.model_copy(update={"leaves": leaves})
        return shard.model_copy(update={"input": None, "output": None, **sides}) if sides else None

    def _leaves(
        self, path: str, port: str, shard: tuple[Leaf, ...], whole: tuple[Leaf, ...]
    ) -> tuple[Leaf, ...] | None:
        """The leaves with the sizes of the whole; None where one of them cannot be told."""
        models = {leaf.path: leaf for leaf in whole}
        widened, pieces = [], {}
        for leaf in shard:
            model = models.get(leaf.path)
            if model is None:
                if not leaf.engine:
                    return None
                widened.append(leaf)
                continue
            axis = -1 if leaf.engine and leaf.axes == model.axes else cut_axis(leaf.axes, model.axes, self.parts)
            if axis is None:
                return None
            widened.append(leaf.model_copy(update={"axes": model.axes}))
            if axis >= 0:
                pieces[Place(path, port, leaf.path)] = axis
        self.pieces.update(pieces)
        return tuple(widened)


def cut_axis(shard: tuple[Axis, ...], whole: tuple[Axis, ...], parts: int) -> int | None:
    """The axis along which a tensor is cut, -1 where it is whole; None where that cannot be told."""
    if shard == whole:
        return None if None in whole else -1
    if len(shard) != len(whole):
        return None
    differ = [at for at, (mine, model) in enumerate(zip(shard, whole, strict=True)) if mine != model]
    [axis, *others] = differ
    mine, model = shard[axis], whole[axis]
    if others or not isinstance(mine, int) or not isinstance(model, int) or mine * parts != model:
        return None
    return axis


def imagined(build: Callable[[], nn.Module], watch: Callable[[nn.Module], Whole]) -> Whole:
    """Watch a model that is made of shapes alone.

    Args:
        build: makes it.
        watch: runs it.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        return watch(build().eval().requires_grad_(False))
