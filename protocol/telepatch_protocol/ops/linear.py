"""Rules of products of matrices and of their decompositions."""

from __future__ import annotations

import re

from telepatch_protocol.errors import BadArgument, ShapeError
from telepatch_protocol.meta import Meta
from telepatch_protocol.ops.room import need_room
from telepatch_protocol.ops.rules import (
    axis,
    chosen,
    fit,
    meta,
    metas,
    mixed,
    need_float,
    one_dtype,
    shapes_fit,
    together,
)
from telepatch_protocol.ops.table import Bound
from telepatch_protocol.sizes import Dim, Shape, Size, broadcast

_TERM = re.compile(r"[A-Za-z]*(\.\.\.)?[A-Za-z]*", re.ASCII)


def matmul(args: Bound) -> Meta:
    """PyTorch's matmul: vectors, matrices, and batches of matrices that broadcast."""
    value, other = meta(args, "input"), meta(args, "other")
    need_float(value, other)
    return Meta(_matmul_shape(value.shape, other.shape), one_dtype([value, other]))


def linear(args: Bound) -> Meta:
    """A value times a transposed weight of shape (out, in), or (in), plus a bias."""
    value, weight, bias = meta(args, "input"), meta(args, "weight"), args["bias"]
    need_float(*metas(args))
    dtype = one_dtype(metas(args))
    if value.shape is None or weight.shape is None:
        return Meta(None, dtype)
    if len(weight.shape) not in (1, 2) or not value.shape:
        raise ShapeError(f"needs a value with axes and a weight of one or two; found {value.shape}, {weight.shape}")
    if not fit(value.shape[-1], weight.shape[-1]):
        raise ShapeError(f"the value's last axis has size {value.shape[-1]}, the weight's {weight.shape[-1]}")
    out = weight.shape[:-1]
    if isinstance(bias, Meta) and bias.shape is not None and bias.shape != () and not shapes_fit(bias.shape, out):
        raise ShapeError(f"'bias' has shape {bias.shape}; the weight gives {out}")
    return Meta((*value.shape[:-1], *out), dtype)


def outer(args: Bound) -> Meta:
    """Every product of the elements of two vectors."""
    value, other = meta(args, "input"), meta(args, "vec2")
    dtype = mixed([value, other])
    if value.shape is None or other.shape is None:
        return Meta(None, dtype)
    if len(value.shape) != 1 or len(other.shape) != 1:
        raise ShapeError(f"needs two vectors, found shapes {value.shape} and {other.shape}")
    return Meta((*value.shape, *other.shape), dtype)


def einsum(args: Bound) -> Meta:
    """Products summed over the letters of an equation that its right side leaves out."""
    values = metas(args)
    need_float(*values)
    dtype = one_dtype(values)
    terms, result = equation_terms(str(args["equation"]))
    if len(terms) != len(values):
        raise BadArgument(f"'{args['equation']}' has {len(terms)} terms for {len(values)} values")
    if any(value.shape is None for value in values):
        return Meta(None, dtype)
    sizes, dots = letter_sizes(terms, [value.shape for value in values if value.shape is not None])
    for letter in result.replace("...", ""):
        if letter not in sizes or result.count(letter) > 1:
            raise BadArgument(f"'{args['equation']}': letter '{letter}' of the result is in no term, or twice in it")
    _need_room_between(terms, result, sizes, dots)
    before, dotted, after = result.partition("...")
    shape = (*(sizes[letter] for letter in before), *(dots if dotted else ()), *(sizes[letter] for letter in after))
    return Meta(shape, dtype)


def _need_room_between(terms: list[str], result: str, sizes: dict[str, Dim], dots: Shape) -> None:
    """Refuse a product of the first terms, of three or more, that is too large before the next one sums it up."""
    for count in range(2, len(terms)):
        ahead = "".join((*terms[count:], result))
        open_letters = [letter for letter in dict.fromkeys("".join(terms[:count])) if letter in ahead]
        need_room((*dots, *(sizes[letter] for letter in open_letters if letter != ".")), "products")


def equation_terms(equation: str) -> tuple[list[str], str]:
    """The terms of an einsum equation, and its result, spelled out where it is left out.

    Raises:
        BadArgument: something else than letters and one ``...`` per term.
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    for term in (*terms, result):
        if _TERM.fullmatch(term) is None:
            raise BadArgument(f"{equation!r} is no equation; write letters, as in 'bqd,bkd->bqk'")
    if not arrow:
        once = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
        result = ("..." if "..." in left else "") + "".join(once)
    return terms, result


def letter_sizes(terms: list[str], shapes: list[Shape]) -> tuple[dict[str, Dim], Shape]:
    """The size of every letter, and the shape that ``...`` stands for.

    Raises:
        ShapeError: a term with another number of axes than its value, or a letter of two sizes.
    """
    sizes: dict[str, Dim] = {}
    dots: Shape = ()
    for term, shape in zip(terms, shapes, strict=True):
        before, dotted, after = term.partition("...")
        middle = len(shape) - len(before) - len(after)
        if middle < 0 or (middle > 0 and not dotted):
            raise ShapeError(f"term '{term}' names {len(before + after)} axes; its value has shape {shape}")
        end = len(before) + middle
        dots = together(dots, shape[len(before) : end]) or ()
        for letter, dim in zip(before + after, (*shape[: len(before)], *shape[end:]), strict=True):
            joined = broadcast((sizes.get(letter, 1),), (dim,))
            if joined is None:
                raise ShapeError(f"letter '{letter}' stands for sizes {sizes[letter]} and {dim}")
            sizes[letter] = joined[0]
    return sizes, dots


def svd(args: Bound) -> dict[str, Meta]:
    """``U``, ``S`` and ``Vh`` of a batch of matrices."""
    rows, columns, batch, dtype = matrix_of(args)
    if batch is None:
        return {name: Meta(None, dtype) for name in ("U", "S", "Vh")}
    short = smaller(rows, columns)
    inner_u, inner_v = (rows, columns) if args["full_matrices"] else (short, short)
    return {
        "U": Meta((*batch, rows, inner_u), dtype),
        "S": Meta((*batch, short), dtype),
        "Vh": Meta((*batch, inner_v, columns), dtype),
    }


def qr(args: Bound) -> dict[str, Meta]:
    """``Q`` and ``R`` of a batch of matrices."""
    mode = chosen(args, "mode", "reduced", "complete")
    rows, columns, batch, dtype = matrix_of(args)
    if batch is None:
        return {name: Meta(None, dtype) for name in ("Q", "R")}
    inner = rows if mode == "complete" else smaller(rows, columns)
    return {"Q": Meta((*batch, rows, inner), dtype), "R": Meta((*batch, inner, columns), dtype)}


def eigh(args: Bound) -> dict[str, Meta]:
    """``eigenvalues`` and ``eigenvectors`` of a batch of symmetric matrices."""
    rows, columns, batch, dtype = matrix_of(args)
    chosen(args, "UPLO", "L", "U")
    if batch is None:
        return {name: Meta(None, dtype) for name in ("eigenvalues", "eigenvectors")}
    need_square(rows, columns)
    return {"eigenvalues": Meta((*batch, rows), dtype), "eigenvectors": Meta((*batch, rows, columns), dtype)}


def eigenvalues(args: Bound) -> Meta:
    """The ``eigenvalues`` alone."""
    return eigh(args)["eigenvalues"]


def pinv(args: Bound) -> Meta:
    """The pseudoinverse of a batch of matrices."""
    rows, columns, batch, dtype = matrix_of(args)
    return Meta(None if batch is None else (*batch, columns, rows), dtype)


def solve(args: Bound) -> Meta:
    """``X`` such that ``A X = B``."""
    rows, columns, batch, dtype = matrix_of(args)
    right = meta(args, "B")
    one_dtype(metas(args))
    if batch is None or right.shape is None:
        return Meta(None, dtype)
    need_square(rows, columns)
    if len(right.shape) == 1 or shapes_fit(right.shape, (*batch, rows)):
        if not right.shape or not fit(right.shape[-1], rows):
            raise ShapeError(f"A has {rows} rows; B has shape {right.shape}")
        return Meta((*(together(batch, right.shape[:-1]) or ()), rows), dtype)
    if len(right.shape) < 2 or not fit(right.shape[-2], rows):
        raise ShapeError(f"A has {rows} rows; B has shape {right.shape}")
    return Meta((*(together(batch, right.shape[:-2]) or ()), rows, right.shape[-1]), dtype)


def cosine_similarity(args: Bound) -> Meta:
    """The cosine of the angle between two values along an axis of their common shape."""
    left, right = meta(args, "x1"), meta(args, "x2")
    need_float(left, right)
    shape = together(left.shape, right.shape)
    need_room(shape, "products")
    if shape is None:
        return Meta(None, one_dtype([left, right]))
    place = axis(shape, args["dim"])
    return Meta((*shape[:place], *shape[place + 1 :]), one_dtype([left, right]))


def _matmul_shape(value: Shape | None, other: Shape | None) -> Shape | None:
    if value is None or other is None:
        return None
    if not value or not other:
        raise ShapeError(f"needs at least one axis on both sides; found {value} and {other}")
    left = (1, *value) if len(value) == 1 else value
    right = (*other, 1) if len(other) == 1 else other
    batch = broadcast(left[:-2], right[:-2])
    if not fit(left[-1], right[-2]) or batch is None:
        raise ShapeError(f"shapes {value} and {other} do not fit; {left[-1]} columns meet {right[-2]} rows")
    rows = () if len(value) == 1 else (left[-2],)
    columns = () if len(other) == 1 else (right[-1],)
    return (*batch, *rows, *columns)


def matrix_of(args: Bound, name: str = "A") -> tuple[Dim, Dim, Shape | None, str | None]:
    """Rows, columns, batch shape (None where unknown) and dtype of a matrix.

    Raises:
        DtypeError: not float32 or float64.
        ShapeError: fewer than two axes.
    """
    value = meta(args, name)
    need_float(*metas(args), wide=True)
    if value.shape is None:
        return 0, 0, None, value.dtype
    if len(value.shape) < 2:
        raise ShapeError(f"needs a matrix, found shape {value.shape}")
    return value.shape[-2], value.shape[-1], value.shape[:-2], value.dtype


def need_square(rows: Dim, columns: Dim) -> None:
    """Refuse a matrix that is not square.

    Raises:
        ShapeError: its sides differ.
    """
    if not fit(rows, columns):
        raise ShapeError(f"needs a square matrix, found {rows} rows and {columns} columns")


def smaller(left: Dim, right: Dim) -> Dim:
    """The smaller of two sizes."""
    if left == right:
        return left
    if isinstance(left, int) and isinstance(right, int):
        return min(left, right)
    return Size.unknown(left if isinstance(left, int) else right)
