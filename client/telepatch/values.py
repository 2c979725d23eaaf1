"""What an author holds: inside a trace a node of its graph, afterwards a saved value that is fetched at first look.

One class for both, because one name in a program is both: bound in a block, looked at after it, and used as an argument
in the next block.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from telepatch import arguments, inplace, numpy_names, operations, torch_names
from telepatch.current import open_builder
from telepatch.differentiable import Differentiable
from telepatch.lines import Place, here, placed, points_home, user_frame
from telepatch.looking import looked, shown_key
from telepatch.names import missing_operation
from telepatch.numbers import Numbers
from telepatch.pieces import Pieces
from telepatch_protocol.errors import NotSaved, TraceError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops import OPS
from telepatch_protocol.sizes import Dim

if TYPE_CHECKING:
    import torch

    from telepatch.builder import Builder
    from telepatch.outcome import Outcome
    from telepatch.scope import Scope

Array = np.ndarray[Any, Any]


class Value(Numbers, Pieces, Differentiable):
    """A tensor somewhere else.

    Inside its trace it is a node: operators, indexing, numpy's functions and the operations of `telepatch.ops` make
    further nodes. After the block a saved value is a lazy array: ``numpy()``, ``torch()``, ``float()``, ``print`` and
    arithmetic wait for it and fetch it; ``shape`` and ``dtype`` never wait. Inside another block of the same lab it is
    a reference: the numbers stay with the service.

    Example:
        >>> with model.trace("Hello") as t:
        ...     logits = model.lm_head.output[:, -1].save()
        >>> logits.numpy().argmax()
    """

    _edit: str | None = None
    _origin: tuple[Value, Any] | None = None

    form: Literal["text", "ids"] = "ids"
    """What it is as the input of a model."""
    plain_number = False
    """Whether the service knows it as a number, not as a tensor."""

    def __init__(self, builder: Builder | None, ref: str | None, meta: Meta, scope: Scope | None = None) -> None:
        self._builder = builder
        self._ref = ref
        self._meta = meta
        self._scope = scope if scope is not None or builder is None else builder.scope
        self._place: Place | None = here()

    # What it is

    @property
    def shape(self) -> tuple[Any, ...]:
        """Sizes of the axes: integers where known, inside a trace values for lengths that are not."""
        builder = open_builder()
        if builder is not None and builder is self._builder:
            return tuple(self._length(axis, dim) for axis, dim in enumerate(self._dims()))
        return self._known_meta().shape or ()

    @property
    def dtype(self) -> str:
        """Its dtype as PyTorch names it, such as ``"float32"``."""
        return self._known_meta().dtype or "unknown"

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self._dims())

    def dim(self) -> int:
        """How many axes it has."""
        return self.ndim

    def size(self, dim: int | None = None) -> Any:
        """Its shape, or the size of one axis."""
        return self.shape if dim is None else self.shape[dim]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name in torch_names.CASTS and name not in OPS:
            return lambda: self.to(torch_names.CASTS[name])
        name = name if name in OPS else torch_names.NAMES.get(name, name)
        if name in OPS and OPS[name].method:
            return self._method(name)
        if open_builder() is not None and name in torch_names.IN_PLACE:
            raise placed(TraceError(f"'{name}' works in place: {self._how_to_write(' = ...')}"))
        if open_builder() is None and self._ref is not None and hasattr(np.ndarray, name):
            return getattr(self.numpy(), name)
        near = difflib.get_close_matches(name, [known for known in OPS if OPS[known].method], n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise missing_operation(f"values have no operation '{name}'{hint}; dir(telepatch.ops) lists them all")

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *(name for name, op in OPS.items() if op.method), *torch_names.CASTS})

    @property
    def T(self) -> Any:  # noqa: N802
        """All axes in reverse order."""
        builder = self._tracing()
        if builder is None:
            return looked(self).T
        return operations.apply_in(builder, "permute", (self, list(range(self.ndim))[::-1]), {})

    @property
    def mT(self) -> Any:  # noqa: N802
        """The last two axes exchanged."""
        builder = self._tracing()
        if builder is None:
            return np.swapaxes(looked(self), -1, -2)
        return operations.apply_in(builder, "transpose", (self, -2, -1), {})

    # Saving and looking

    @points_home
    def save(self, name: str | None = None) -> Any:
        """Have the service send this value back.

        Args:
            name: under which ``lab.result(job, name)`` and the exported graph know it; made up if left out.

        Returns:
            The value itself: after the block, a lazy array.

        Raises:
            TraceError: the trace it belongs to is not open.
        """
        builder = open_builder()
        if builder is None:
            raise TraceError("save() belongs inside the block of a trace; this one is over")
        if builder is not self._builder:
            return Value(builder, self.reference_in(builder)[1:], self._known_meta(), builder.root).save(name)
        ref = self._top_ref()
        if name is not None or builder.name_of(ref) is None:
            builder.save({"": ref}, name)
        return self

    @points_home
    def numpy(self) -> Array:
        """The numbers; waits for them if they have not come yet. A bfloat16 value comes as float32."""
        return self._outcome().array(self._saved_name())

    @points_home
    def torch(self) -> torch.Tensor:
        """The numbers as a PyTorch tensor of the value's own dtype, bfloat16 included."""
        return torch_names.to_torch(self.numpy(), self.dtype)

    def item(self) -> Any:
        """The single number that it is."""
        return self.numpy().item()

    def tolist(self) -> Any:
        """The numbers as nested lists."""
        return self.numpy().tolist()

    @points_home
    def __await__(self) -> Generator[Any, None, Value]:
        return self._come(self._outcome(), self._saved_name())

    def _come(self, outcome: Outcome, name: str) -> Generator[Any, None, Value]:
        yield from outcome.fetched_soon(name).__await__()
        return self

    # Parts

    @points_home
    def clone(self) -> Any:
        """The value as it is now, apart from any site; what has come back is copied."""
        builder = self._tracing()
        if builder is None:
            return self.numpy().copy()
        ref = self.reference_in(builder)[1:]
        found = self._scope if builder is self._builder and self._scope and not self._scope.closed else None
        return Value(builder, ref, self._known_meta(), found)

    @points_home
    def __getitem__(self, key: Any) -> Any:
        builder = self._tracing()
        if builder is None:
            return looked(self)[looked(key)]
        if builder is not self._builder:
            literal = arguments.literal_index(key)
            if literal is not None:
                return self._adopted(builder, literal)
        return operations.apply_in(builder, "index", (self, key), {})

    @points_home
    def __setitem__(self, key: Any, value: Any) -> None:
        if self._tracing() is None:
            raise TraceError("a value that came back cannot be written; change a copy: value.numpy()")
        if self._origin is None:
            raise TraceError(self._how_to_write(" = ..."))
        site = self._origin[0]._spelled()
        raise TraceError(
            f"a part of a site is a value and cannot be changed in place; to write to the model, index the site itself "
            f"once: {self._spelled()} = ... or {site}[{shown_key(self._origin[1])}, {shown_key(key)}] = ..."
        )

    def __iter__(self) -> Iterator[Any]:
        builder = self._tracing()
        if builder is None:
            return iter(looked(self))
        dims = self._dims()
        if not dims or not isinstance(dims[0], int):
            self._refuse("iterate over", "its length is not known yet; index it, or use operations on whole axes")
        return iter([self[at] for at in range(dims[0])])

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return numpy_names.ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return numpy_names.function(func, args, kwargs)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return torch_names.function(func, args, kwargs or {})

    def __format__(self, spec: str) -> str:
        if open_builder() is not None or not spec:
            return repr(self)
        found = self.numpy()
        return format(found.item() if found.size == 1 else found, spec)

    def __repr__(self) -> str:
        if open_builder() is not None or self._name() is None or self._builder is None or self._builder.outcome is None:
            return self._sketch()
        return repr(self.numpy())

    # How it works

    def reference_in(self, builder: Builder) -> str:
        """The reference that stands for this value in a trace: its own node, or another job's result.

        Raises:
            NotSaved: it belongs to another trace, which did not save it.
        """
        if builder is self._builder:
            assert self._scope is not None
            return f"${builder.reach(self._scope, self._own_ref())[1]}"
        if self._builder is not None and builder.lab is not self._builder.lab:
            return f"${builder.attach(arguments.tensor_of(self.numpy(), self.dtype))}"
        return f"${self._adopted(builder)._own_ref()}"

    def _own_ref(self) -> str:
        """The reference that stands for it where it was made."""
        assert self._ref is not None
        return self._ref

    def _top_ref(self) -> str:
        """The reference by which the document itself knows it."""
        assert self._builder is not None
        assert self._scope is not None
        return f"${self._builder.reach(self._scope, self._own_ref(), top=True)[1]}"

    def _adopted(self, builder: Builder, index: list[Any] | None = None) -> Value:
        """This saved value of another job, or a part of it, as a constant of `builder`."""
        assert self._builder is not None
        name = self._saved_name()
        builder.parents[self._builder.job] = self._builder
        constant: dict[str, Any] = {"result": self._builder.job, "name": name}
        ref = builder.constant(constant | ({"index": index} if index is not None else {}))
        found = builder.checker.values[ref]
        return Value(builder, ref, found if isinstance(found, Meta) else Meta(None, None), builder.root)

    def _tracing(self) -> Builder | None:
        """The open trace in which an operation on this value is a node; None where it works on the numbers."""
        builder = open_builder()
        if builder is None or self._builder is None:
            return builder
        return builder if builder is self._builder or builder.lab is self._builder.lab else None

    def _name(self) -> str | None:
        if self._builder is None or self._ref is None or self._scope is None:
            return None
        known = self._builder.known_as(self._scope, self._ref)
        return None if known is None else self._builder.name_of(f"${known}")

    def _saved_name(self) -> str:
        """The name it was saved under.

        Raises:
            TraceError: its block has not ended yet, or was left by an error.
            NotSaved: it was not saved.
        """
        builder = self._builder
        if builder is None:
            raise TraceError(f"{self._spelled()} is a place in the model; read and save it inside a trace")
        if builder is open_builder():
            raise TraceError("nothing has run yet inside the block; look at saved values after it")
        if builder.failure is not None:
            raise TraceError(f"the trace of this value was never submitted: {builder.failure}")
        if not builder.finished:
            raise TraceError("the trace of this value is still open; look at saved values after its block")
        name = self._name()
        if name is None:
            error = NotSaved("this value was not saved, so it never left the service; call .save() on it in its block")
            raise placed(error, self._place)
        return name

    def _outcome(self) -> Outcome:
        self._saved_name()
        if self._builder is None or self._builder.outcome is None:
            raise TraceError("this trace was only exported, not submitted, so it has no results")
        return self._builder.outcome

    def _known_meta(self) -> Meta:
        builder, name = self._builder, self._name()
        found = builder.outcome.meta(name) if builder is not None and builder.outcome is not None and name else None
        if found is not None or builder is None or self._scope is None:
            return found or self._meta
        return builder.outside(self._scope, self._meta)

    def _dims(self) -> tuple[Dim, ...]:
        dims = self._known_meta().shape
        if dims is None:
            raise placed(TraceError("how many axes this value has is only known once it runs"))
        return dims

    def _length(self, axis: int, dim: Dim) -> Any:
        from telepatch.outputs import Length

        return dim if isinstance(dim, int) else Length(self, axis, dim)

    def _method(self, name: str) -> Callable[..., Any]:
        @points_home
        def method(*args: Any, **kwargs: Any) -> Any:
            builder = self._tracing()
            if builder is None:
                return numpy_names.on_arrays(name, looked(self), args, kwargs)
            return operations.apply_in(builder, name, (self, *args), kwargs)

        method.__name__ = name
        method.__doc__ = operations.describe(OPS[name])
        return method

    @points_home
    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise TraceError(f"cannot {what} a value inside a trace, where nothing has run yet; {instead}")

    def _edited(self, builder: Builder, sign: str, name: str, other: Any) -> Any:
        """An in-place operator: allowed where the outcome goes straight back into the site it was taken from."""
        if self._origin is None or not inplace.stores_into_item(user_frame()):
            raise TraceError(self._how_to_write(f" {sign} ..."))
        made_value = operations.apply_in(builder, name, (self, other), {})
        made_value._edit = self._spelled() + f" {sign} ..."
        builder.edits[made_value._edit] = here()
        return made_value

    def _spelled(self) -> str:
        return "value" if self._origin is None else f"{self._origin[0]._spelled()}[{shown_key(self._origin[1])}]"

    def _how_to_write(self, tail: str) -> str:
        if self._origin is not None:
            return (
                f"a part of a site is a value and cannot be changed in place; to write to the model, say "
                f"{self._spelled()}{tail} in one statement"
            )
        return (
            "a computed value cannot be changed in place; make a new one (value = value + ...), "
            "and to change the model assign to a site (module.output[...] = value)"
        )

    def _sketch(self) -> str:
        where = f" at {self._place.short}" if self._place is not None else ""
        unsaved = ", not saved" if self._builder is not None and self._builder.finished and not self._name() else ""
        return f"<value {self._ref or 'unread'}: {self._meta}{where}{unsaved}>"
