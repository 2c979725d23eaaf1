"""A small model card for tests that need no model."""

from __future__ import annotations

import pytest

from telepatch_protocol.card import Aliases, Axis, Leaf, Limits, ModelCard, ModuleCard, ParamCard, PortCard


def leaf(*axes: Axis, path: str = "", dtype: str = "float32", engine: bool = False) -> Leaf:
    return Leaf(path=path, axes=axes, dtype=dtype, engine=engine)


def port(order: int, *leaves: Leaf, arity: int | None = None) -> PortCard:
    return PortCard(order=(order,), leaves=leaves, arity=arity)


def block(number: int) -> list[ModuleCard]:
    start = 10 * number + 2
    path = f"layers.{number}"
    resid = leaf("row", "pos", 8)
    return [
        ModuleCard(
            path=path, kind="Block", input=port(start, leaf("row", "pos", 8, path="0")), output=port(start + 9, resid)
        ),
        ModuleCard(
            path=f"{path}.attn",
            kind="Attention",
            input=port(
                start + 1,
                leaf("row", "pos", 8, path="hidden_states"),
                leaf(1, "pos", path="position_ids", dtype="int64", engine=True),
            ),
            output=port(start + 4, leaf("row", "pos", 8, path="0"), leaf("row", 2, "pos", "pos", path="1"), arity=2),
        ),
        ModuleCard(path=f"{path}.mlp", kind="MLP", input=port(start + 5, resid), output=port(start + 8, resid)),
        ModuleCard(
            path=f"{path}.mlp.up",
            kind="Linear",
            input=port(start + 6, resid),
            output=port(start + 7, leaf("row", "pos", 32)),
            params={"weight": ParamCard(shape=(32, 8), dtype="float32")},
        ),
    ]


@pytest.fixture(scope="session")
def card() -> ModelCard:
    """A decoder of four blocks, width 8, vocabulary 100, at most 64 positions; `norm` fires twice."""
    modules = [
        ModuleCard(
            path="",
            kind="Decoder",
            input=port(0, leaf("row", "pos", dtype="int64")),
            output=port(99, leaf("row", "pos", 100)),
        ),
        ModuleCard(
            path="embed",
            kind="Embedding",
            input=port(1, leaf("row", "pos", dtype="int64")),
            output=port(1, leaf("row", "pos", 8)),
        ),
        ModuleCard(path="layers", kind="ModuleList"),
        *(module for number in range(4) for module in block(number)),
        ModuleCard(
            path="norm",
            kind="Norm",
            input=PortCard(order=(50, 52), leaves=(leaf("row", "pos", 8),)),
            output=PortCard(order=(51, 53), leaves=(leaf("row", "pos", 8),)),
        ),
        ModuleCard(
            path="head", kind="Linear", input=port(60, leaf("row", "pos", 8)), output=port(61, leaf("row", "pos", 100))
        ),
        ModuleCard(path="unused", kind="Linear"),
    ]
    aliases = Aliases(
        modules={"blocks": "layers", "blocks.*": "layers.*", "unembed": "head"},
        ports={"blocks.*": {"resid_pre": "input", "resid_post": "output"}},
    )
    return ModelCard(
        id="tiny",
        revision="r1",
        parameters=1000,
        vocabulary=100,
        limits=Limits(max_positions=64),
        aliases=aliases,
        modules=tuple(modules),
    )
