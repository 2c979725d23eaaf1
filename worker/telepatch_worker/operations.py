"""Watch the operations inside modules' forwards, so that the card can offer them as places.

One module of each kind is watched: modules of one class whose events and tensors are the same, inside and out, run the
same code. Functions of the model's own file are followed, the attention function in a forward under eager attention.
"""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface

from telepatch_worker.interleave import Code, announcing, is_assignment
from telepatch_worker.offload import fetching, hook_of
from telepatch_worker.probe import ENGINE_NAMES, Event, Record, Seen, argument_names, flatten, named_inputs

DEPTH = 3
"""How many functions deep a forward is followed."""

_OTHERS = ("torch.", "nnsight.", "accelerate.")
_FOLLOWED = ("transformers.pytorch_utils",)


class Watched(Record):
    """The record of one forward, with operations as events of their modules, and where each of those lies.

    Attributes:
        places: for the event of each number: how many events of modules the module's call has had before, and which
            event of an operation it is since.
        lines: where each operation stands, by module and name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[int, tuple[int, int]] = {}
        self.lines: dict[str, dict[str, tuple[int, str]]] = {}


def can_be_watched(module: nn.Module) -> bool:
    """Whether its forward is its class's own and written in Python by somebody else than PyTorch."""
    own = "forward" not in module.__dict__ or hook_of(module) is not None
    return own and not type(module).__module__.startswith(_OTHERS)


def specific_to_attention(function: object) -> bool:
    """Whether it is one of the attention functions among which a model's configuration chooses."""
    return function in AttentionInterface().values()


class _Watcher:
    """Notes events of modules, and of operations in the modules that are watched."""

    def __init__(self, orders: dict[tuple[str, str], tuple[int, ...]]) -> None:
        self.record = Watched()
        self._orders = orders
        self._calls: dict[tuple[str, str], int] = {}
        self._last = self._since = 0
        self._numbers = WeakIdKeyDictionary()
        self._next = itertools.count()

    def module_event(self, path: str, port: str) -> None:
        """A module was entered or left; only those on the card count, by the numbers they have there."""
        known = self._orders.get((path, port), ())
        number = self._calls.get((path, port), 0)
        self._calls[path, port] = number + 1
        if number < len(known):
            self._last, self._since = known[number], 0

    def own(self, values: Iterable[tuple[str, object]]) -> None:
        """Remember what belongs to the engine, under whatever name it turns up."""
        for name, value in values:
            if name in ENGINE_NAMES:
                self.record.owned |= {self._number(tensor) for _, tensor in flatten(value)}

    def operation(self, path: str, port: str, leaves: list[tuple[str, str, torch.Tensor]], arity: int | None) -> None:
        """An operation of a module begins or has ended."""
        begun = self._orders[path, "input"][self._calls[path, "input"] - 1]
        number = len(self.record.events)
        self.record.places[number] = (self._last - begun, self._since)
        self._since += 1
        seen = tuple(self._seen(place, name, tensor) for place, name, tensor in leaves)
        self.record.events.append(Event(number, path, port, seen, arity))

    def _seen(self, place: str, name: str, tensor: torch.Tensor) -> Seen:
        dtype = str(tensor.dtype).removeprefix("torch.")
        return Seen(place, tuple(tensor.shape), dtype, name in ENGINE_NAMES, self._number(tensor))

    def _number(self, tensor: torch.Tensor) -> int:
        """The tensor's own number; there are too many tensors to hold on to them all, as their addresses would need."""
        number: int = self._numbers.setdefault(tensor, next(self._next))
        return number


class _Listener:
    """Follows the operations of one module, and of the functions that its forward calls."""

    def __init__(self, watcher: _Watcher, path: str, home: str, attention: bool) -> None:
        self.watcher = watcher
        self.path = path
        self.home = home
        self.attention = attention
        self._code: dict[str, Code | None] = {}

    def forward(self, module: nn.Module) -> Callable[..., Any] | None:
        """The module's forward with its operations announced."""
        code = announcing(type(module).forward, self._announcer("", 1))
        if code is None:
            return None
        self._note("", code)
        return types.MethodType(code.run, module)

    def _note(self, prefix: str, code: Code) -> None:
        lines = self.watcher.record.lines.setdefault(self.path, {})
        lines |= {prefix + name: line for name, line in code.lines.items()}

    def _announcer(self, prefix: str, depth: int) -> Callable[..., Any]:
        def announce(name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
            whole = prefix + name
            if is_assignment(function):
                self._out(whole, name.rpartition("_")[0], args[0])
                return args[0]
            self._in(whole, function, args, kwargs)
            value = self._followed(whole, function, depth)(*args, **kwargs)
            self._out(whole, "", value)
            return value

        return announce

    def _in(self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        names = [] if isinstance(function, nn.Module) else argument_names(function)
        leaves = [
            (place, named, tensor)
            for root, named, value in named_inputs(names, args, kwargs)
            for place, tensor in flatten(value, root)
        ]
        self.watcher.operation(self.path, f"source.{name}.input", leaves, None)

    def _out(self, name: str, bound: str, value: object) -> None:
        arity = len(value) if type(value) is tuple or type(value) is list else None
        leaves = [(place, bound, tensor) for place, tensor in flatten(value)]
        self.watcher.operation(self.path, f"source.{name}.output", leaves, arity)

    def _followed(self, name: str, function: Callable[..., Any], depth: int) -> Callable[..., Any]:
        """The function with its own operations announced, where they are of interest."""
        if depth >= DEPTH or not self._of_interest(function):
            return function
        prefix = f"{name}.source."
        code = announcing(function, self._announcer(prefix, depth + 1))
        if code is None:
            return function
        self._note(prefix, code)
        return code.run

    def _of_interest(self, function: Any) -> bool:
        """Whether it is of the model's own file, or of the few that take part in what the model computes."""
        if not isinstance(function, types.FunctionType | types.MethodType):
            return False
        if specific_to_attention(function):
            return self.attention
        return function.__module__ in (self.home, *_FOLLOWED)


@contextmanager
def watching_operations(
    model: nn.Module, paths: Sequence[str], orders: dict[tuple[str, str], tuple[int, ...]], *, attention: bool
) -> Iterator[Watched]:
    """Record the operations of some modules in the one forward inside the block; afterwards they are as they were.

    Args:
        model: the model.
        paths: of the modules.
        orders: numbers of the events of modules on the card, by path and port.
        attention: whether to follow the attention function that the configuration chooses.
    """
    watcher = _Watcher(orders)
    with ExitStack() as undo:
        for path, module in model.named_modules():
            for handle in _hooks(watcher, path, module):
                undo.callback(handle.remove)
        for path in paths:
            module = model.get_submodule(path)
            forward = _Listener(watcher, path, type(module).__module__, attention).forward(module)
            if forward is not None:
                undo.callback(_put_back, module, module.__dict__.get("forward"))
                module.__dict__["forward"] = fetching(module, forward)
        yield watcher.record


def _put_back(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """The forward that a module itself had, if it had one."""
    module.__dict__.pop("forward", None)
    if forward is not None:
        module.__dict__["forward"] = forward


def _hooks(watcher: _Watcher, path: str, module: nn.Module) -> list[Any]:
    names = argument_names(type(module).forward)[1:]

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        watcher.own((name, value) for _, name, value in named_inputs(names, args, kwargs))
        watcher.module_event(path, "input")

    def after(module: nn.Module, args: Any, output: Any) -> None:
        watcher.module_event(path, "output")

    return [module.register_forward_pre_hook(before, with_kwargs=True), module.register_forward_hook(after)]
