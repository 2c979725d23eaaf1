"""A card written by hand, with the shapes that matter: tuples, children with taken names, several calls, weights."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import telepatch
from telepatch.lab import Lab
from telepatch.model import Model
from telepatch_protocol.card import Aliases, ChatTemplate, Leaf, Limits, ModelCard, ModuleCard, ParamCard, PortCard

WIDTH, VOCABULARY, LAYERS = 8, 50, 4


def leaf(*axes: Any, path: str = "", dtype: str = "float32", engine: bool = False) -> Leaf:
    """One tensor of a module."""
    return Leaf(path=path, axes=axes, dtype=dtype, engine=engine)


def port(order: int | tuple[int, ...], *leaves: Leaf, arity: int | None = None) -> PortCard:
    """What flows through one side of a module."""
    return PortCard(order=(order,) if isinstance(order, int) else order, leaves=leaves, arity=arity)


def block(at: int) -> list[ModuleCard]:
    """A layer: its attention returns a tuple, and it has a child called `output`."""
    path, first = f"model.layers.{at}", 20 * at
    wide = ("row", "pos", WIDTH)
    mask = leaf("row", 1, "pos", "pos", path="attention_mask", engine=True)
    return [
        ModuleCard(
            path=path, kind="Block", input=port(first + 1, leaf(*wide, path="0")), output=port(first + 19, leaf(*wide))
        ),
        ModuleCard(
            path=f"{path}.attn_impl",
            kind="Attention",
            input=port(first + 2, leaf(*wide, path="hidden_states"), mask),
            output=port(first + 5, leaf(*wide, path="0"), leaf("row", 2, "pos", "pos", path="1"), arity=2),
            params={"scale": ParamCard(shape=(WIDTH,), dtype="float32")},
        ),
        ModuleCard(
            path=f"{path}.output",
            kind="Output",
            input=port(first + 6, leaf(*wide)),
            output=port(first + 9, leaf(*wide)),
        ),
        ModuleCard(
            path=f"{path}.norm",
            kind="Norm",
            input=port((first + 10, first + 12), leaf(*wide)),
            output=port((first + 11, first + 13), leaf(*wide)),
        ),
    ]


def model_card() -> ModelCard:
    """A decoder of four layers."""
    modules = [
        ModuleCard(
            path="",
            kind="Decoder",
            input=port(0, leaf("row", "pos", dtype="int64")),
            output=port(999, leaf("row", "pos", VOCABULARY, path="logits")),
        ),
        ModuleCard(path="model", kind="Inner"),
        ModuleCard(path="model.layers", kind="ModuleList"),
        *(module for at in range(LAYERS) for module in block(at)),
        ModuleCard(
            path="lm_head",
            kind="Linear",
            input=port(990, leaf("row", "pos", WIDTH)),
            output=port(991, leaf("row", "pos", VOCABULARY)),
            params={"weight": ParamCard(shape=(VOCABULARY, WIDTH), dtype="float32")},
        ),
    ]
    aliases = Aliases(
        modules={"blocks.*": "model.layers.*", "blocks.*.attn": "model.layers.*.attn_impl", "unembed": "lm_head"},
        ports={"blocks.*": {"resid_pre": "input", "resid_post": "output"}},
    )
    return ModelCard(
        id="tiny",
        revision="abc",
        vocabulary=VOCABULARY,
        limits=Limits(max_positions=64),
        aliases=aliases,
        modules=tuple(modules),
        chat=ChatTemplate(template="..."),
    )


@pytest.fixture(scope="session")
def card() -> ModelCard:
    """The card."""
    return model_card()


@pytest.fixture
def model(card: ModelCard) -> Model:
    """A model without a connection: its traces can be built and exported."""
    return Model(card)


def _gateway_module() -> Any:
    """The small gateway beside this file; tests are no package, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("client_gateway", Path(__file__).with_name("gateway.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["client_gateway"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gateway(card: ModelCard) -> Any:
    """A small gateway over real sockets; its faults are the test's to choose. Its address is `gateway.url`."""
    module = _gateway_module()
    gateway = module.Gateway(card)
    with module.serving(gateway) as url:
        gateway.url = url
        yield gateway


@pytest.fixture
def lab(gateway: Any) -> Iterator[Lab]:
    """A connection to it."""
    with telepatch.connect(gateway.url, progress=False) as lab:
        yield lab
