"""The page of the documentation that lists every operation; run as a module, this prints it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import takewhile

from telepatch_protocol.ops.table import REQUIRED, Op, Param
from telepatch_protocol.ops.vocabulary import GROUPS

_HEAD = """# Operations

Everything that can be computed in a graph. Names and arguments are PyTorch's, so
[its documentation](https://pytorch.org/docs/stable/torch.html) says what each one computes; anything else is refused by
name. This page is written from the table itself.

**How to read a signature.** `tensor` is a value, `operand` a value or number, `dim` an axis and `dims` one or several,
`shape` a list of sizes, `int` an integer or a size, `dtype` a name such as `"float32"`, and `index` what stands between
square brackets. A parameter with `= None` may be left out or null. Numbers that JSON does not have are written `"inf"`,
`"-inf"` and `"nan"`.

**On the wire** an operation is a node of kind `call`. Its `args` stand in the order of the signature, its `kwargs` by
name, in any mixture. Below each table its operations stand as such nodes: what may be left out is by name there, with
its default or, where that is `None`, an example. `"$input"` and its like are references, to other nodes or to constants
([protocol.md](protocol.md#references-and-constants)).

**What differs from PyTorch.** Different floating-point dtypes never mix silently: convert one with `to`. Products of
matrices and `einsum` take floating-point values only. Random operations take a `key`, not a hidden generator: the same
key gives the same numbers, on every device and whatever else runs. `one_hot` is told its number of classes, and
`bincount` with `minlength` how many integers it counts. Sorting keeps the order of equal elements. `max`, `min` and
`median` give one value without `dim`, and `values` and `indices` with it. Integers that pick what is not there are
refused with their numbers. An operation that would make more than 268,435,456 numbers on the way to a smaller result
(the scores of an attention, the windows of a convolution) is refused.

**What is not there, and what to do.** `split`, `chunk` and `unbind`: `index` takes any part, and the client has all
three. Fourier transforms and eigenvalues of general matrices give complex numbers, which are no values here: a
transform of known length is a product with the matrix of its cosines, and one with that of its sines. Operations on
bits: masks have `logical_and` and its like. What writes in place (`index_put_`, `fill_`): `where`, `slice_scatter`,
`index_copy` and `scatter` give the changed value.
"""


def page() -> str:
    """The whole page, as Markdown."""
    return "\n".join([_HEAD, *(line for name, ops in GROUPS.items() for line in _section(name, ops))])


def _section(name: str, ops: tuple[Op, ...]) -> Iterator[str]:
    ordered = sorted(ops, key=lambda op: op.name.lower())
    yield f"## {name}\n"
    yield "| operation | what it gives |"
    yield "|---|---|"
    for op in ordered:
        outputs = f" Outputs: {', '.join(f'`{output}`' for output in op.outputs)}." if op.outputs else ""
        yield f"| `{op}` | {op.doc}{outputs} |"
    yield "\n```json"
    yield "[" + ",\n ".join(json.dumps(node(op)) for op in ordered) + "]"
    yield "```\n"


_EXAMPLES: dict[str, object] = {
    "number": 0.5,
    "int": 2,
    "ints": 2,
    "bool": True,
    "dim": -1,
    "dims": [0, -1],
    "shape": [2, 3],
    "dtype": "float32",
    "index": [0, "1:", "..."],
    "key": [7],
    "tensors": ["$first", "$second"],
}
"""By kind, what stands for a parameter without a default; one value is a reference of the parameter's name."""

_BY_NAME: dict[str, object] = {
    "equation": "i,j->ij",
    "reduce": "sum",
    "rounding_mode": "floor",
    "pad": [1, 1],
    "low": 0,
    "high": 10,
}
"""What stands where the kind does not tell."""


def node(op: Op) -> dict[str, object]:
    """The operation as a node of a document: what it needs by position, the rest by name."""
    first = list(takewhile(lambda param: param.default is REQUIRED, op.params))
    named = {param.name: _example(param) for param in op.params[len(first) :]}
    found: dict[str, object] = {"kind": "call", "id": op.name, "op": op.name}
    found["args"] = [_example(param) for param in first]
    return {**found, "kwargs": named} if named else found


def _example(param: Param) -> object:
    if param.default is not REQUIRED and param.default is not None:
        return str(param.default) if isinstance(param.default, float) and math.isinf(param.default) else param.default
    if param.kind in ("tensor", "operand"):
        return f"${param.name}"
    return _BY_NAME.get(param.name, _EXAMPLES.get(param.kind))


if __name__ == "__main__":
    print(page(), end="")
