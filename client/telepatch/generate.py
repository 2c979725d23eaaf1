"""The block of `model.generate`: one generation of its own, or one for each ``t.invoke``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from telepatch.applying import uses
from telepatch.blocks import Block
from telepatch.builder import Builder
from telepatch.elsewhere import OF_GENERATIONS, not_said
from telepatch.generation import Generation, Span
from telepatch.lines import points_home
from telepatch.state import State
from telepatch.streams import Stream
from telepatch.tokens import TokenRows, Tokens
from telepatch.trace import one_form
from telepatch.values import Value
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, TraceError
from telepatch_protocol.graph import Options

if TYPE_CHECKING:
    from telepatch.lab import Lab


class Generate(Block):
    """Generations as a job, or as a part of one: ``with model.generate("...", max_new_tokens=20) as t:``.

    With a prompt the block is that generation's own: what it reads and writes happens at every step. Without one, each
    ``with t.invoke(prompt, temperature=0.7) as x:`` inside is a generation with settings of its own; they take their
    steps together. See `Generation` for what can be said inside.
    """

    what = "generate"

    def __init__(
        self, lab: Lab | None, card: ModelCard, options: Options, form: dict[str, Any], settings: Mapping[str, Any]
    ) -> None:
        super().__init__(lab, card, options)
        self._form = form
        self._settings = settings
        self._only: Generation | None = None
        self._all: list[Generation] = []

    @points_home
    def invoke(
        self,
        prompt: Any = None,
        *,
        text: Any = None,
        ids: Any = None,
        messages: Any = None,
        edits: Any = None,
        **settings: Any,
    ) -> Generation:
        """One more generation of this job, for ``with t.invoke("...", temperature=0.7) as x:``.

        Args:
            prompt: text, a list of texts that are equally long in tokens (several rows), token ids, or rows of them.
            text, ids, messages: the same by name, where the form is not to be guessed.
            edits: what this input runs with at every step, after the edits of the whole block; as for `Model.trace`.
            settings: as for `model.generate`, in place of what was said there.

        Raises:
            BadArgument: not exactly one input, or a setting that there is not.
        """
        unknown = [name for name in settings if name not in self._settings]
        if unknown:
            raise BadArgument(f"a generation has no setting '{unknown[0]}'; it has {', '.join(self._settings)}")
        if self._only is not None:
            raise TraceError("this generation has its prompt already; for several, give model.generate() none")
        form = one_form(self._builder.card, prompt, text=text, ids=ids, messages=messages)
        made = Generation(self._builder, form, {**self._settings, **settings}, (*self._edits, *uses(edits)))
        self._all.append(made)
        return made

    def state(self, start: Any) -> State:
        """See `Generation.state`."""
        return self._own("state()").state(start)

    def steps(self, start: Any = 0, stop: Any = None) -> AbstractContextManager[Span]:
        """See `Generation.steps`."""
        return self._own("steps()").steps(start, stop)

    def step(self, number: Any) -> AbstractContextManager[Span]:
        """See `Generation.step`."""
        return self._own("step()").step(number)

    def emit(self, **values: Any) -> None:
        """See `Generation.emit`."""
        self._own("emit()").emit(**values)

    def stop_if(self, condition: Any) -> None:
        """See `Generation.stop_if`."""
        self._own("stop_if()").stop_if(condition)

    @property
    def token(self) -> Value:
        """See `Generation.token`."""
        return self._own("token").token

    @token.setter
    def token(self, value: Any) -> None:
        self._own("token").token = value

    @property
    def generated(self) -> Value:
        """See `Generation.generated`."""
        return self._own("generated").generated

    @property
    def tokens(self) -> Tokens | TokenRows:
        """See `Generation.tokens`."""
        return self._own("tokens").tokens

    @property
    def lengths(self) -> Value:
        """See `Generation.lengths`."""
        return self._own("lengths").lengths

    @property
    def seed(self) -> Value:
        """See `Generation.seed`."""
        return self._own("seed").seed

    @property
    def reasons(self) -> list[str]:
        """See `Generation.reasons`."""
        return self._own("reasons").reasons

    @property
    def result(self) -> Any:
        """The generated text; of several invokes a list, in their order. See `Generation.result`."""
        return self._only.result if self._only is not None else [one.result for one in self._all]

    def stream(self) -> Stream:
        """What each step gives, as it comes; see `Generation.stream`."""
        return self._own("stream()").stream()

    def _own(self, what: str) -> Generation:
        if self._only is None:
            begun = "say it of one of them: 'with t.invoke(...) as x', then x" if self._all else "it has not begun"
            raise TraceError(f"{what} is of one generation, and this block has {len(self._all) or 'none'}; {begun}")
        return self._only

    @points_home
    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):
            raise AttributeError(name)
        names = ["invoke", "steps", "step", "state", "emit", "stop_if", "token", "generated", "result", "stream"]
        raise not_said("generation", name, OF_GENERATIONS, names)

    def _fits(self, other: Builder) -> TraceError | None:
        scope = other.scope
        if scope.kind in ("cond", "grad", "generate"):
            return TraceError(f"a {scope.what} runs no generation inside; begin it before, or after")
        if scope.forward is None:
            return None
        return TraceError(
            f"a trace is open, since {other.opened}, and a generation is a run of its own; for both as one job put "
            "them one after the other into 'with model.session():'"
        )

    def _begin(self) -> None:
        if self._form:
            self._only = Generation(self._builder, self._form, self._settings, self._edits)
            self._only.__enter__()

    def _end(self) -> None:
        if self._only is not None:
            self._only.__exit__(None, None, None)
        elif not self._all:
            raise TraceError("this generation has no input; give model.generate(prompt) one, or open t.invoke(prompt)")
