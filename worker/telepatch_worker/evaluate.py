"""The values of one job: taken where the forward passes, computed as soon as possible, let go after their last use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from pydantic import JsonValue

from telepatch_protocol import indexing, refs, sites
from telepatch_protocol.card import ModelCard
from telepatch_protocol.check import starred_index
from telepatch_protocol.constants import numbers
from telepatch_protocol.errors import ExecutionError, IndexOutOfRange, TooLarge
from telepatch_protocol.graph import Call, Get, Module, Node, Set
from telepatch_protocol.literals import with_literals
from telepatch_protocol.ops import find_op
from telepatch_protocol.sites import Place
from telepatch_worker.interleave import Moment
from telepatch_worker.kernels import index_into, run_op
from telepatch_worker.leaves import read_leaf
from telepatch_worker.plan import Plan
from telepatch_worker.trouble import during
from telepatch_worker.values import Value, as_tensor, bytes_of, compact

Index = tuple[indexing.Element, ...]


class Model(Protocol):
    """What an evaluation needs of the model."""

    module: torch.nn.Module

    def apply(self, path: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What a module gives for a value."""


class Evaluation:
    """All values of one job.

    Args:
        plan: of the job.
        model: whose modules and parameters the job may use.
        card: of the model.
        device: where values live.
        pause: called between two nodes; raises where the job must stop.
    """

    def __init__(
        self, plan: Plan, model: Model, card: ModelCard, device: torch.device, pause: Callable[[], None]
    ) -> None:
        self.plan = plan
        self.model = model
        self.card = card
        self.device = device
        self.pause = pause
        self._constants: dict[str, Value] = {}
        self._values: dict[str, Value] = {}
        self._parts: dict[str, dict[int, torch.Tensor]] = {}
        self._missing = {name: len(needed) for name, needed in plan.pure.items()}
        self._uses = dict(plan.uses)
        self._held = 0

    def start(self) -> None:
        """Take in constants, and compute what needs no forward."""
        for name, value in self.plan.task.graph.constants.items():
            self._constants[name] = self._constant(value)
        self._compute(name for name, missing in self._missing.items() if not missing)

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        """Take the value at a place, and compute all that it makes possible."""
        node = self.plan.nodes[moment.node]
        assert isinstance(node, Get)
        with during(self.plan.task.graph, node):
            found = self._taken(node, moment.part, value)
        self._release(node)
        if found is not None:
            self._store(node, found)
            self._compute(self._unblocked(node.id))

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        """Write a node's value into its part of a place."""
        node = self.plan.nodes[moment.node]
        assert isinstance(node, Set)
        with during(self.plan.task.graph, node):
            self._written(node, moment.part, region)
        self._release(node)

    def saved(self) -> dict[str, torch.Tensor]:
        """What comes back, by name.

        Raises:
            ExecutionError: a saved value was never obtained.
        """
        found: dict[str, torch.Tensor] = {}
        for name, text in self.plan.task.graph.saves.items():
            ref = refs.parse(text)
            if ref is None or (ref.id not in self._values and ref.id not in self._constants):
                raise ExecutionError(f"the value of save '{name}' ({text}) was never obtained")
            value = compact(as_tensor(self.lookup(ref), self.device))
            assert isinstance(value, torch.Tensor)
            found[name] = value
        size = sum(value.nbytes for value in found.values())
        if size > self.card.limits.max_saved_bytes:
            raise TooLarge(
                f"the saved values take {size:,} bytes; the limit of model '{self.card.id}' is "
                f"{self.card.limits.max_saved_bytes:,}"
            )
        return found

    def clear(self) -> None:
        """Let go of all values."""
        self._values.clear()
        self._parts.clear()
        self._constants.clear()
        self._held = 0

    def lookup(self, ref: refs.Ref) -> Value:
        """The value that a reference stands for."""
        found = self._values[ref.id] if ref.id in self._values else self._constants[ref.id]
        return found[ref.output] if isinstance(found, dict) and ref.output is not None else found

    # Reads

    def _taken(self, node: Get, part: int, value: torch.Tensor) -> torch.Tensor | None:
        """The value of a read, once all its parts are there."""
        places = self.plan.checked.places[node.id]
        index = self._index(node.index)
        if not sites.parse(node.site).starred:
            return self._own(value, index)
        inner = _index_of_each(index, value.ndim)
        parts = self._parts.setdefault(node.id, {})
        parts[part] = self._own(value, () if inner is None else inner)
        if len(parts) < len(places):
            return None
        stacked = torch.stack([parts[number] for number in range(len(places))])
        del self._parts[node.id]
        return stacked if inner is not None else self._own(stacked, index)

    def _own(self, value: torch.Tensor, index: Index) -> torch.Tensor:
        """A copy of the indexed part."""
        found = value[index_into(value, index)] if index else value
        shared = found.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
        return found.clone() if shared else found

    def _parameter(self, node: Get) -> torch.Tensor:
        places = self.plan.checked.places[node.id]
        index = self._index(node.index)
        tensors = [self._tensor_of(found.place) for found in places]
        starred = sites.parse(node.site).starred
        return self._own(torch.stack(tensors) if starred else tensors[0], index).detach()

    def _tensor_of(self, place: Place) -> torch.Tensor:
        module = self.model.module.get_submodule(place.path)
        own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        return own[place.leaf]

    # Writes

    def _written(self, node: Set, part: int, region: torch.Tensor) -> None:
        index = self._index(node.index)
        value = as_tensor(self._argument(node.value), self.device, region.dtype)
        starred = sites.parse(node.site).starred
        if starred and index:
            index = starred_index(index)
        at = index_into(region, index) if index else ...
        target = region[at]
        if starred and value.ndim == target.ndim + 1:
            value = value[part if value.shape[0] > 1 else 0]
        if not region.dtype.is_floating_point:
            _check_ids(value, self.card)
        region[at] = value.to(region.device, region.dtype)

    # Nodes without a place

    def _compute(self, ready: Any) -> None:
        queue = deque(ready)
        while queue:
            node = self.plan.nodes[queue.popleft()]
            self.pause()
            with during(self.plan.task.graph, node):
                value = self._value(node)
            self._release(node)
            self._store(node, value)
            queue.extend(self._unblocked(node.id))

    def _value(self, node: Node) -> Value:
        if isinstance(node, Get):
            return self._parameter(node)
        if isinstance(node, Call):
            return self._called(node)
        assert isinstance(node, Module)
        return self._applied(node)

    def _called(self, node: Call) -> Value:
        op = find_op(node.op)
        args, kwargs = with_literals(
            op,
            tuple(self._operand(op.params[at].kind, arg) for at, arg in enumerate(node.args)),
            {name: self._operand(op.by_name[name].kind, arg) for name, arg in node.kwargs.items()},
            lambda found: as_tensor(found, self.device),
        )
        return run_op(op.name, args, kwargs, device=self.device)

    def _operand(self, kind: str, value: JsonValue) -> Value:
        return self._index(value) if kind == "index" and isinstance(value, list) else self._argument(value)

    def _applied(self, node: Module) -> Value:
        path = sites.parse(f"{node.path}:output").fill(self._number).path
        module = self.card.by_path[sites.native_path(self.card, path)]
        args = [self._argument(arg) for arg in node.args]
        if isinstance(args[0], torch.Tensor) and not args[0].dtype.is_floating_point:
            _check_ids(args[0], self.card, self.model.module.get_submodule(module.path))
        kwargs = {name: self._argument(arg) for name, arg in node.kwargs.items()}
        found = self.model.apply(module.path, args, kwargs)
        assert module.output is not None
        return read_leaf(found, Place(module.path, "output", module.output.leaves[module.output.primary].path))

    def _number(self, name: str) -> int:
        found = self._constants[name]
        assert isinstance(found, int)
        return found

    # Arguments

    def _argument(self, value: JsonValue) -> Value:
        if isinstance(value, list):
            return [self._argument(one) for one in value]
        if isinstance(value, dict):
            return self._constant(value)
        return refs.resolve(value, self.lookup)

    def _index(self, index: list[JsonValue] | None) -> Index:
        return indexing.parse(index or [], self.lookup)

    def _constant(self, value: JsonValue) -> Value:
        if not isinstance(value, dict):
            return value
        if "range" in value:
            return numbers(value["range"])
        if "tensor" in value:
            return self.plan.task.attachment[str(value["tensor"])].to(self.device)
        found = self.plan.task.results[str(value["result"]), str(value["name"])].to(self.device)
        index = value.get("index")
        return found[index_into(found, self._index(index))] if isinstance(index, list) and index else found

    # Lifetimes

    def _unblocked(self, name: str) -> list[str]:
        """The nodes that can be computed now that this one is known."""
        users = self.plan.users.get(name, ())
        for user in users:
            self._missing[user] -= 1
        return [user for user in users if not self._missing[user]]

    def _store(self, node: Node, value: Value) -> None:
        if node.id not in self.plan.kept and not self._uses.get(node.id):
            return
        if node.id in self.plan.kept:
            value = compact(value)
        self._values[node.id] = value
        self._held += bytes_of(value)
        if self._held > self.card.limits.max_bytes:
            with during(self.plan.task.graph, node):
                raise TooLarge(
                    f"the job's values take {self._held:,} bytes at once; the limit of model '{self.card.id}' is "
                    f"{self.card.limits.max_bytes:,}"
                )

    def _release(self, node: Node) -> None:
        """One use of everything that the node needs is over."""
        for name in self.plan.needs[node.id]:
            self._uses[name] -= 1
            if not self._uses[name] and name not in self.plan.kept:
                self._held -= bytes_of(self._values.pop(name, None))


def _index_of_each(index: Index, rank: int) -> Index | None:
    """The index of each module's own value that gives, stacked, the index of the stack; None where there is none such.

    Advanced indices apart from each other put their axes in front of all others, the stacked one too.
    """
    first = index[0] if index else Ellipsis
    if first is not Ellipsis and not (isinstance(first, indexing.Slice) and first == indexing.Slice()):
        return None
    inner = starred_index(index)
    advanced = sum(1 for item in inner if isinstance(item, list | torch.Tensor))
    named = sum(1 for item in inner if item is not None and item is not Ellipsis)
    masked = any(isinstance(item, torch.Tensor) and item.ndim > 1 for item in inner)
    return None if advanced > 1 or masked or named > rank else inner


def _check_ids(value: torch.Tensor, card: ModelCard, module: torch.nn.Module | None = None) -> None:
    """Refuse numbers that an embedding does not have: on a GPU they would end the whole process."""
    most = module.num_embeddings if isinstance(module, torch.nn.Embedding) else card.vocabulary
    if value.numel() and not (int(value.min()) >= 0 and int(value.max()) < most):
        raise IndexOutOfRange(
            f"integers from {int(value.min())} to {int(value.max())} are not all among 0 to {most - 1}, which is what "
            f"{'this embedding' if module else 'the model'} takes"
        )
