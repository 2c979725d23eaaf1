"""Blocks: one is a job of its own where it is the outermost, and a part of the job that is open otherwise."""

from __future__ import annotations

import warnings
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

from telepatch.builder import Builder
from telepatch.current import open_builder, set_open
from telepatch.finishing import NO_EFFECT, finish
from telepatch.lines import here, placed, points_home, trim
from telepatch_protocol import tensors
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import TelepatchError, TraceError
from telepatch_protocol.graph import Graph, Options

if TYPE_CHECKING:
    from telepatch.applying import Use
    from telepatch.lab import Lab
    from telepatch.shown import Shown


class TraceWarning(UserWarning):
    """Something in a trace that is allowed, and surely not meant."""


class Block:
    """What a ``with`` statement opens: the outermost block checks the graph and hands it over when it ends."""

    what: ClassVar[str] = "trace"
    built_by: ClassVar[type[Builder]] = Builder

    def __init__(self, lab: Lab | None, card: ModelCard, options: Options) -> None:
        self._builder = self.built_by(lab, card, options)
        self._builder.block = self
        self._outermost: Block = self
        self._entered = False
        self._graph: Graph | None = None
        self._edits: tuple[Use, ...] = ()
        self._tensors = self._builder.tensors

    @property
    def job(self) -> str:
        """Id of the job that this block becomes, or is a part of."""
        return self._builder.job

    @property
    def graph(self) -> Graph:
        """The graph: as far as it has come inside the block, whole after it; its ``to_json()`` can be sent by hand."""
        return self._outermost._graph or self._builder.build()

    @property
    def attachment(self) -> bytes:
        """The tensors that go with the graph, as safetensors; empty where there are none."""
        found = self._outermost._tensors
        return tensors.encode(found) if found else b""

    @property
    @points_home
    def shown(self) -> list[Shown]:
        """What the job has shown (`telepatch.show`), as it came; waits for its end, and raises nothing if it failed.

        Raises:
            TraceError: the block is not over, or was not sent.
        """
        if self._builder.outcome is None:
            raise TraceError(f"a {self.what} shows something once its job runs, which is after the outermost block")
        return self._builder.outcome.shown()

    @points_home
    def cancel(self) -> str:
        """Stop the job of this block, if it has not ended; gives the state that it is in afterwards.

        Raises:
            TraceError: the block is not over, or was not sent.
        """
        builder = self._builder
        if builder.outcome is None or builder.lab is None:
            raise TraceError(f"a {self.what} is a job that can be cancelled once its outermost block has ended")
        return builder.lab.cancel(self)

    @points_home
    def __enter__(self) -> Self:
        other = open_builder()
        if self._entered:
            raise TraceError(f"this {self.what} was used before; each block needs a new model.{self.what}(...)")
        if other is not None:
            self._join(other)
        else:
            self._builder.opened = here()
            set_open(self._builder)
        self._entered = True
        try:
            self._begin()
        except BaseException as error:
            self._abandon(error)
            raise
        return self

    @points_home
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        builder = self._builder
        graph = self._leave(error)
        if graph is not None and builder.lab is not None:
            builder.outcome = builder.lab.submit(builder, graph)
            builder.handed_over()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        builder = self._builder
        graph = self._leave(error)
        if graph is not None and builder.lab is not None:
            builder.outcome = await builder.lab.submit_soon(builder, graph)
            builder.handed_over()

    def __repr__(self) -> str:
        builder = self._builder
        state = "open" if builder is open_builder() else "failed" if builder.failure else "submitted"
        state = state if self._entered else "new"
        saved = ", ".join(builder.saves) or "nothing"
        return f"<{self.what} of {builder.card.id}, job {self.job}: {state}, saves {saved}>"

    def _begin(self) -> None:
        """What this kind of block begins, once its job is open."""

    def _end(self) -> None:
        """What it ends."""

    def _fits(self, other: Builder) -> TraceError | None:
        """Why it cannot be a part of the job that is open; None where it can."""
        return None

    def _join(self, other: Builder) -> None:
        mine = self._builder
        other.alive()
        refused = other.refuses(self.what) or self._fits(other)
        if refused is not None:
            raise refused
        if (mine.card.id, mine.card.revision) != (other.card.id, other.card.revision) or mine.lab is not other.lab:
            raise TraceError(
                f"this {self.what} is of '{mine.card.id}', and the job that is open since {other.opened} is of "
                f"'{other.card.id}'; a job has one model and one connection"
            )
        adapter = other.options.adapter or other.card.adapter
        if mine.options.adapter not in (None, adapter):
            raise TraceError(
                f"this {self.what} asks for the adapter {mine.options.adapter!r}, and the job that is open since "
                f"{other.opened} runs with {adapter or 'none'}; a job has one, named by its outermost "
                f"block: with model.session(adapter={mine.options.adapter!r})"
            )
        assert other.block is not None
        self._builder, self._outermost = other, other.block
        both = mine.options.model_dump(), other.options.model_dump()
        other.options = Options(**{name: both[0][name] or both[1][name] for name in both[0]})

    def _leave(self, error: BaseException | None) -> Graph | None:
        """The graph that is to be sent, if this block is the outermost."""
        if error is not None:
            self._abandon(error)
            return None
        try:
            self._builder.alive()
            self._end()
            if self._outermost is not self:
                return None
            self._graph = graph = finish(self._builder)
            self._warn()
        except TelepatchError as found:
            self._give_up(found)
            raise placed(found, self._builder.opened) from None
        except TraceWarning as warning:  # for those who have warnings raised
            self._builder.failure = str(warning)
            raise
        finally:
            if self._outermost is self:
                set_open(None)
        return graph

    def _abandon(self, error: BaseException) -> None:
        self._give_up(error)
        if isinstance(error, TelepatchError):
            placed(error)
            trim(error.__traceback__)

    def _give_up(self, error: BaseException) -> None:
        if self._outermost is self:
            set_open(None)
        self._builder.give_up(error)

    def _warn(self) -> None:
        builder = self._builder
        for node in builder.unseen:
            place = builder.places.get(node, builder.opened)
            if place is not None:
                warnings.warn_explicit(NO_EFFECT, TraceWarning, place.file, place.line)
