"""The decode loop: many generations of many people, one token each a turn, in forwards that they share."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel

from telepatch_protocol.errors import BadArgument, NotYetSupported
from telepatch_worker.batch import pack
from telepatch_worker.company import Company, Guest, Member
from telepatch_worker.generation import Generation, Owner
from telepatch_worker.head import Head
from telepatch_worker.interleave import Interleaved
from telepatch_worker.layout import Rows, Seat
from telepatch_worker.load import Loaded, padding_of
from telepatch_worker.lobby import Lobby, Room, Unit
from telepatch_worker.moments import Job, Moment, Part
from telepatch_worker.past import Past, cache_name, new_cache, parameters_of, sharing_of
from telepatch_worker.past_price import past_bytes
from telepatch_worker.stopping import Stopper, eos_of
from telepatch_worker.trouble import as_job_error, bare

Dropped = Callable[[], Collection[Job]]
"""Asked between forwards and at their sites: the owners that shall leave. They know why, and are not told."""


Around = Callable[[Hashable], AbstractContextManager[object]]
"""What a forward of those of one kind needs around it."""


Stepped = Callable[[Sequence[object], int, int, float], None]
"""Told after a forward whose generations were in it, its rows, its positions, padding included, and its seconds."""


def unseen(owners: Sequence[object], rows: int, tokens: int, seconds: float) -> None:
    """A forward that nobody counts."""


class _Deserted(Exception):
    """Everybody has left this forward."""


@dataclass(frozen=True)
class _Beginners:
    """Those who read their prompts together."""

    members: list[Member]
    alone: bool
    kind: Hashable


class Decoder:
    """Generates. One call at a time, on the thread of the engine.

    Args:
        model: the model, interleaved.
        loaded: the same model, as it was loaded.
        room: how much goes on at once; a unit of too many rows or tokens runs when nothing else does.
        around: entered around the forwards of each kind.
        stepped: told after each forward its owners, rows, positions and seconds.

    Raises:
        NotYetSupported: the model is an encoder, or takes no cache.

    Example:
        >>> decoder = Decoder(engine.model, engine.loaded)
        >>> decoder.add(job, [Generation("x", tokens, Sampling(), Ending(max_new_tokens=20))])
        >>> while decoder.busy:
        ...     decoder.turn(dropped)
    """

    def __init__(
        self,
        model: Interleaved,
        loaded: Loaded,
        room: Room | None = None,
        around: Around = nullcontext,
        stepped: Stepped = unseen,
    ) -> None:
        if loaded.card.kind != "causal":
            raise NotYetSupported(f"model '{loaded.card.id}' is an encoder: it does not generate; a trace of it works")
        assert isinstance(loaded.module, PreTrainedModel)
        self._module = loaded.module
        self._cache_name = cache_name(loaded.module)
        self.sharing = sharing_of(loaded.module)
        self._model = model
        self._loaded = loaded
        self._card = loaded.card
        self.lobby = Lobby(room or Room())
        self._around = around
        self._stepped = stepped
        self._head = Head(loaded.module)
        self._positions = "position_ids" in parameters_of(loaded.module)
        self._eos = eos_of(loaded.module)
        self._pad = padding_of(loaded)
        self._guests: dict[int, Guest] = {}
        self._companies: list[Company] = []
        self._swept: list[Job] = []

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._companies) or not self.lobby.empty

    def price(self, generation: Generation) -> int:
        """Bytes that the cache of a generation takes at its end."""
        rows, length = generation.prompt.shape
        positions = min(length + generation.ending.max_new_tokens, self._card.limits.max_positions + 1)
        return past_bytes(self._module.config, self._loaded.dtype, rows, positions)

    def add(
        self, owner: Owner, generations: Sequence[Generation], *, alone: bool = False, kind: Hashable = None
    ) -> None:
        """Take in generations of one owner: they begin together, at a turn that has room for them.

        They take their steps together, in one forward, wherever the model lets them (`sharing`).

        Args:
            owner: whose they are.
            generations: of names that none of its other generations has.
            alone: whether nobody else may be in their forwards.
            kind: only those of the same kind share forwards.

        Raises:
            BadArgument: a prompt or a setting cannot work for this model, or a name is taken.
            TooLarge: their caches take more bytes than there are.
        """
        self._check(owner, generations)
        taken = sum(self.price(one) for one in generations)
        self.lobby.room.refuse_too_big(taken)
        guest = self._guests.setdefault(id(owner), Guest(owner))
        members = tuple(Member(one, guest, self._stopper(one), self._pad) for one in generations)
        self.lobby.add(Unit(members, alone, taken, kind))

    def turn(self, dropped: Dropped = tuple) -> Sequence[Job]:
        """Let everybody who runs take one step, then let in those for whom there is room.

        Returns:
            The owners that have failed for what was raised while they shared a forward: any of them may be the cause.
        """
        self._swept = []
        self._drop(dropped())
        for company in self._companies:
            self._guarded(company.members, company.kind, partial(self._step, company, dropped))
            company.part()
        self._companies = [company for company in self._companies if company.members]
        for one in self._forwards(self.lobby.admit()):
            self._guarded(one.members, one.kind, partial(self._begin, one, dropped))
        self._forget()
        return self._swept

    # Coming and going

    def _check(self, owner: Owner, generations: Sequence[Generation]) -> None:
        names = [one.name for one in generations]
        known = [member.name for unit in self.lobby for member in unit.members if member.guest.owner is owner]
        if not names or len({*names, *known}) < len(names) + len(known):
            raise BadArgument(f"generations of one owner need names of their own; found {[*known, *names]}")
        for one in generations:
            one.check(self._card)

    def _stopper(self, generation: Generation) -> Stopper:
        most = self._card.limits.max_positions - generation.prompt.shape[1] + 1
        return Stopper(generation.ending, self._eos, self._loaded.tokenizer, most)

    def _drop(self, owners: Collection[Job]) -> list[Guest]:
        """Mark those that shall leave."""
        found = [self._guests[id(owner)] for owner in owners if id(owner) in self._guests]
        for guest in found:
            guest.left = True
        return found

    def _forwards(self, units: Iterable[Unit]) -> list[_Beginners]:
        """The members that read their prompts together."""
        shared: dict[Hashable, list[Member]] = {}
        found: list[_Beginners] = []
        for unit in units:
            if unit.alone:
                found += [_Beginners(members, True, unit.kind) for members in self._alike(unit.members)]
            else:
                shared.setdefault(unit.kind, []).extend(unit.members)
        alone = self.sharing == "alone"
        return found + [
            _Beginners(alike, alone, kind) for kind, members in shared.items() for alike in self._alike(members)
        ]

    def _alike(self, members: Sequence[Member]) -> list[list[Member]]:
        """Those that the model lets share a forward."""
        if self.sharing == "any":
            return [list(members)] if members else []
        groups: dict[int, list[Member]] = {}
        for place, member in enumerate(members):
            groups.setdefault(member.prompt_length if self.sharing == "equal" else place, []).append(member)
        return list(groups.values())

    def _seat(self, begun: Company) -> None:
        for company in self._companies:
            if company.members and company.takes(begun, equal=self.sharing == "equal"):
                both = [*company.members, *begun.members]
                self._guarded(both, company.kind, partial(company.join, begun))
                company.part()
                return
        self._companies.append(begun)

    def _forget(self) -> None:
        """Let go of guests none of whose generations is left."""
        kept = {id(member.guest.owner) for unit in self.lobby for member in unit.members if not member.over}
        self._guests = {key: guest for key, guest in self._guests.items() if key in kept}

    # Forwards

    def _guarded(self, members: Sequence[Member], kind: Hashable, action: Callable[[], object]) -> None:
        """Do something for all of these; what is raised fails them all, and nobody else."""
        try:
            with self._around(kind):
                action()
        except Exception as error:
            present = {member.guest for member in members if not member.guest.left}
            if len(present) > 1:
                self._swept += [guest.owner for guest in present]
            for guest in present:
                guest.fail(bare(as_job_error(error, "the model")))

    def _begin(self, beginners: _Beginners, dropped: Dropped) -> None:
        """The forward over prompts; those that go on from it are seated."""
        present = [member for member in beginners.members if not member.over]
        if not present:
            return
        batch = pack(dict(enumerate(member.next for member in present)), self._card, self._loaded.device, pad=self._pad)
        cache = new_cache(self._module)
        inputs = {**batch.inputs, "use_cache": True, self._cache_name: cache}
        if any(rows.length != rows.padded for rows in batch.rows.values()):
            inputs["attention_mask"] = _real(batch.rows.values()).to(self._loaded.device)
        if not self._forward(present, inputs, batch.rows, dropped):
            return
        lengths = [member.prompt_length for member in present for _ in range(member.rows)]
        company = Company(present, Past(cache, lengths), open=not beginners.alone, kind=beginners.kind)
        company.part()
        if company.members:
            self._seat(company)

    def _step(self, company: Company, dropped: Dropped) -> None:
        """The forward over the last token of every member."""
        company.part()
        if not company.members:
            return
        told = company.past.inputs(self._loaded.device)
        if not self._positions:
            del told["position_ids"]
        tokens = company.tokens().to(self._loaded.device)
        inputs = {"input_ids": tokens, "use_cache": True, self._cache_name: company.past.cache, **told}
        if self._forward(company.members, inputs, company.layout(), dropped):
            company.past.grow()
        company.part()

    def _forward(
        self, members: Sequence[Member], inputs: Mapping[str, object], layout: Mapping[int, Rows], dropped: Dropped
    ) -> bool:
        """One forward, and the tokens that come of it. False if nobody is left."""
        parts = _parts(members, layout)
        moments = [moment for part in parts for moment in part.moments]
        ends = [rows.length for rows in layout.values() for _ in range(rows.count)]
        narrowed = self._head.narrow(ends, moments, self._loaded.device)
        guests = {member.guest for member in members}

        def watch() -> Sequence[Guest]:
            owners = dropped()
            found = self._drop(owners) if owners else []
            for guest in guests:
                if not guest.left:
                    break
            else:
                raise _Deserted
            return found

        began = time.perf_counter()
        try:
            output = self._model.whole({**inputs, **narrowed}, parts, watch, watched=max(ends) > 1)
        except _Deserted:
            return False
        rows, padded = len(ends), max(rows.padded for rows in layout.values())
        owners = [guest.owner for guest in guests]
        self._stepped(owners, rows, rows * padded, time.perf_counter() - began)
        self._sample(members, layout, self._head.last(output.logits, ends, narrowed))
        return True

    def _sample(self, members: Sequence[Member], layout: Mapping[int, Rows], logits: torch.Tensor) -> None:
        """Choose everybody's next token; then ask everybody whether it goes on."""
        likeliest = logits.argmax(-1).cpu()
        for member, rows in zip(members, layout.values(), strict=True):
            own = slice(rows.start, rows.start + rows.count)
            member.guest.ask(partial(member.sample, likeliest[own], logits[own], self._card), None)
        for member in members:
            member.guest.ask(member.go_on, None)
            if member.over:
                member.guest.ask(member.say_end, None)


def _parts(members: Sequence[Member], layout: Mapping[int, Rows]) -> list[Part]:
    """What the owners do in a forward."""
    own: dict[Guest, dict[str, tuple[int, Rows]]] = {}
    for member, rows in zip(members, layout.values(), strict=True):
        own.setdefault(member.guest, {})[member.name] = (member.step, rows)
    found: list[Part] = []
    for guest, named in own.items():
        steps = {name: step for name, (step, _) in named.items()}
        nothing: Sequence[Moment] = ()
        moments = guest.ask(partial(guest.owner.moments, steps), nothing)
        if moments:
            found.append(Part(guest, tuple(moments), {name: Seat(rows) for name, (_, rows) in named.items()}))
    return found


def _real(layout: Iterable[Rows]) -> torch.Tensor:
    """Which positions of right-padded prompts are not padding: int64 (rows, positions)."""
    lengths = torch.tensor([rows.length for rows in layout for _ in range(rows.count)])
    return (torch.arange(int(lengths.max()))[None] < lengths[:, None]).long()
