"""The page of the documentation that lists every operation; run as a module, this prints it."""

from __future__ import annotations

from collections.abc import Iterator

from telepatch_protocol.ops.table import Op
from telepatch_protocol.ops.vocabulary import GROUPS

_HEAD = """# Operations

Everything that can be computed in a graph. Names and arguments are PyTorch's, so
[its documentation](https://pytorch.org/docs/stable/torch.html) says what each one computes; anything else is refused by
name. This page is written from the table itself.

**How to read a signature.** `tensor` is a value, `operand` a value or number, `dim` an axis and `dims` one or several,
`shape` a list of sizes, `int` an integer or a size, `dtype` a name such as `"float32"`, and `index` what stands between
square brackets. A parameter with `= None` may be left out or null. Numbers that JSON does not have are written `"inf"`,
`"-inf"` and `"nan"`.

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
    yield f"## {name}\n"
    yield "| operation | what it gives |"
    yield "|---|---|"
    for op in sorted(ops, key=lambda op: op.name.lower()):
        outputs = f" Outputs: {', '.join(f'`{output}`' for output in op.outputs)}." if op.outputs else ""
        yield f"| `{op}` | {op.doc}{outputs} |"
    yield ""


if __name__ == "__main__":
    print(page(), end="")
