"""The standard ports of a ViT's blocks, under the interleaver itself: images are no tokens."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, ViTModel

sys.path.insert(0, str(Path(__file__).parent))

from blocks import carried_on
from families import VIT

from telepatch_protocol.card import Limits, ModelCard
from telepatch_protocol.sites import find, parse
from telepatch_worker.attention import attention
from telepatch_worker.axes import Size, solve
from telepatch_worker.families import aliases_of
from telepatch_worker.interleave import Interleaved
from telepatch_worker.layout import Rows, Seat
from telepatch_worker.moments import Moment, Part
from telepatch_worker.probe import watch
from telepatch_worker.publish import module_cards
from telepatch_worker.random_weights import fill
from telepatch_worker.source_cards import offer
from telepatch_worker.standard_ports import with_standard_ports

SIZES = Size(3, 5), Size(7, 5)
LAYER, TOKENS = 1, 5


def images(rows: int) -> torch.Tensor:
    return torch.linspace(-1, 1, rows * 192).sin().reshape(rows, 3, 8, 8)


@pytest.fixture(scope="module")
def vit(one_thread) -> Iterator[tuple[Interleaved, ModelCard]]:
    config = AutoConfig.for_model("vit", **VIT.config)
    with torch.random.fork_rng(devices=[]):
        model = ViTModel._from_config(config, attn_implementation="sdpa").eval()
    fill(model, 3)
    modules = module_cards(model, solve(*(watch(model, {"pixel_values": images(size.rows)}) for size in SIZES), SIZES))
    offered = offer(model, modules, lambda size: model(pixel_values=images(size.rows)), SIZES)
    modules = tuple(one.model_copy(update={"source": offered.keys.get(one.path, "")}) for one in modules)
    card = ModelCard(
        id="vit",
        revision="r",
        family="vit",
        limits=Limits(max_positions=TOKENS),
        modules=modules,
        sources=dict(offered.sources),
        aliases=aliases_of(modules),
    )
    interleaved = Interleaved(model)
    yield interleaved, with_standard_ports(card, config.num_attention_heads)
    interleaved.close()


class Job:
    """Writes what it is given, and keeps what it reads."""

    def __init__(self, value: torch.Tensor | None = None) -> None:
        self.value = value
        self.found: list[torch.Tensor] = []

    def read(self, moment: Moment, value: torch.Tensor) -> None:
        self.found.append(value.clone())

    def write(self, moment: Moment, region: torch.Tensor) -> None:
        region[:, 1:3] = self.value[:, 1:3]

    def fail(self, error: Exception) -> None:
        raise error


def moment(card: ModelCard, site: str, *, writes: bool = False) -> Moment:
    (found,) = find(card, parse(site))
    return Moment(site, "a", writes, found.place, found.leaf.axes, 0, found.view)


def run(vit: tuple[Interleaved, ModelCard], job: Job, *moments: Moment, eager: bool) -> None:
    with attention(vit[0].module, eager=eager):
        vit[0].forward({"pixel_values": images(2)}, [Part(job, moments, {"a": Seat(Rows(0, 2, TOKENS, 2, TOKENS))})])


def by_hand(vit, port: str = "", value: torch.Tensor | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model, seen = vit[0].module, {}

    def tap(layer: int, name: str, there: torch.Tensor) -> torch.Tensor:
        if layer != LAYER:
            return there
        seen[name] = there.clone()
        if name == port:
            there = there.clone()
            there[:, 1:3] = value[:, 1:3]
        return there

    with torch.no_grad():
        start = model.embeddings(images(2))
    return carried_on(dict(model.state_dict()), model.config, vit[1].aliases.modules["blocks.*"], start, tap), seen


@pytest.mark.parametrize("port", VIT.ports)
def test_reading_and_writing_are_what_they_are_in_the_block(port, vit):
    plain, seen = by_hand(vit)
    value = seen[port].flip(-1) * 0.7 + 0.1
    wanted, _ = by_hand(vit, port, value)
    eager = find(vit[1], parse(f"blocks.{LAYER}:{port}"))[0].eager
    here = moment(vit[1], f"blocks.{LAYER}:{port}"), moment(vit[1], f"blocks.{LAYER}:{port}", writes=True)
    job = Job(value)
    run(vit, job, *here, moment(vit[1], "blocks.2:resid_post"), eager=eager)
    torch.testing.assert_close(job.found[0], seen[port], rtol=3e-5, atol=3e-5)
    torch.testing.assert_close(job.found[1], wanted, rtol=3e-5, atol=3e-5 * float(wanted.abs().max()))
    assert not torch.allclose(wanted, plain, rtol=1e-3)


def test_the_card_offers_every_port(vit):
    assert set(vit[1].aliases.ports["blocks.*"]) == set(VIT.ports)
