"""A served model: its tree of modules, traces on it, and its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from telepatch import arguments
from telepatch.applying import Use, uses
from telepatch.blocks import Block
from telepatch.cache import Cache, keep
from telepatch.chats import Chat, check_template, is_messages
from telepatch.edit import Edit
from telepatch.fit import Fit
from telepatch.fit_parts import settings_of
from telepatch.generate import Generate
from telepatch.lines import points_home
from telepatch.modules import ModuleView
from telepatch.places import Spot
from telepatch.queueing import USUAL, Queueing
from telepatch.rename import Rename, renamed
from telepatch.scan import Scan
from telepatch.session import Session
from telepatch.sweeps import PROMPT, Each, Sweep
from telepatch.tokens import TokenRows
from telepatch.trace import Trace, one_form
from telepatch_protocol.adapters import check_adapter
from telepatch_protocol.card import ModelCard
from telepatch_protocol.errors import BadArgument, TraceError
from telepatch_protocol.graph import Options

if TYPE_CHECKING:
    from telepatch.lab import Lab


B = TypeVar("B", bound=Block)


class Model(ModuleView):
    """A model as its card describes it: no weights, no framework, only names and shapes.

    Args:
        card: the model's card.
        lab: the connection that runs traces; without one they can be built and exported.
        rename: names of one's own for modules and ports, as `Lab.model` takes them.

    Example:
        >>> model = lab.model("gpt2-random")
        >>> with model.trace("Hello") as t:
        ...     h = model.blocks[2].resid_post[:, -1].save()
    """

    __slots__ = ("_edits", "_lab", "_queueing")
    _lab: Lab | None
    _edits: tuple[Use, ...]
    _queueing: Queueing

    def __init__(self, card: ModelCard, lab: Lab | None = None, rename: Rename | None = None) -> None:
        super().__init__(Spot(card, names=renamed(card, rename)))
        object.__setattr__(self, "_lab", lab)
        object.__setattr__(self, "_edits", ())
        object.__setattr__(self, "_queueing", USUAL)

    @property
    def card(self) -> ModelCard:
        """Everything that is known of the model."""
        return self._spot.card

    @points_home
    def trace(
        self,
        prompt: Any = None,
        *,
        text: Any = None,
        ids: Any = None,
        messages: Any = None,
        inputs: Any = None,
        images: Any = None,
        audio: Any = None,
        exact: bool = False,
        isolate: bool = False,
        aligned: bool = False,
        adapter: str | None = None,
        edits: Any = None,
    ) -> Trace:
        """A block whose body reads, computes and writes inside the model.

        Args:
            prompt: text, a list of texts that are equally long in tokens, token ids, or rows of them; left out where
                the body opens its inputs itself with ``t.invoke(...)``.
            text, ids, messages, inputs: the same by name, where the form is not to be guessed; `inputs` is a dict of
                named tensors, for models that take no tokens (``model.card.inputs`` says which); `telepatch.Chat` has
                messages with settings of the chat template.
            images: for a model of images: arrays (rows, channels, height, width) or (channels, height, width), or a
                list of images. uint8 is normalised as the model's image processor does it, floats are taken as they
                are. Images without channels, or with channels last, are turned where that is the only way they fit.
            audio: for a model of audio: the array, or list of arrays, that it takes.
            exact: run alone, without saving any work: in float32 bit for bit what PyTorch hooks give.
            isolate: run in a batch of its own.
            aligned: refuse inputs that differ in number of tokens.
            adapter: the name of an adapter of this model (``model.card.adapters``) that is in force in the job; left
                out for the model as it is.
            edits: what every input runs with: names of edits that are stored, edits that `edit` made, or either with
                arguments, as in ``[e, "clip", ("steer", {"scale": 2.0})]``. They are applied in that order, and before
                what the block itself reads and writes at the same site.

        Returns:
            A context manager, for ``with`` and ``async with``.

        Raises:
            BadArgument: more than one input.
        """
        named = {"text": text, "ids": ids, "messages": messages, "inputs": inputs, "images": images, "audio": audio}
        form = one_form(self.card, prompt, **named)
        options = self._options(exact=exact, isolate=isolate, aligned=aligned, adapter=adapter)
        return self._named(Trace(self._lab, self.card, options, form), edits)

    @points_home
    def generate(
        self,
        prompt: Any = None,
        *,
        text: Any = None,
        ids: Any = None,
        messages: Any = None,
        max_new_tokens: Any = None,
        temperature: Any = 0,
        top_p: Any = None,
        top_k: Any = None,
        min_p: Any = None,
        repetition_penalty: Any = None,
        no_repeat_ngram_size: Any = None,
        min_new_tokens: Any = None,
        seed: Any = None,
        stop: Any = None,
        exact: bool = False,
        isolate: bool = False,
        adapter: str | None = None,
        edits: Any = None,
    ) -> Generate:
        """A block in which the model generates, token by token; what it reads and writes happens at every step.

        Args:
            prompt: text, a list of texts that are equally long in tokens, token ids, or rows of them; left out where
                the body opens its generations itself with ``t.invoke(...)``.
            text, ids, messages: the same by name, where the form is not to be guessed.
            max_new_tokens: the most tokens that are made.
            temperature: 0 takes the likeliest token; above, logits are divided by it and a token is drawn.
            top_p: draw only from the fewest likeliest tokens whose probabilities add up to it.
            top_k: draw only from so many likeliest tokens.
            min_p: draw only from tokens with at least this share of the likeliest one's probability.
            repetition_penalty: logits of tokens that the row has already, its prompt included, are divided by it, or
                multiplied where they are below 0; above 1 they become rarer, and 1 changes nothing.
            no_repeat_ngram_size: no row, its prompt included, holds the same so many tokens twice.
            min_new_tokens: the model's own last token is not taken before so many.
            seed: of the random numbers; the same one gives the same tokens, whatever else runs.
            stop: a text, a token id, or a list of these, at which a row ends; it ends at the model's own end too.
            exact, isolate, adapter: as for `trace`.
            edits: what every input runs with, at every step; as for `trace`.

        Returns:
            A context manager, for ``with`` and ``async with``. After the block ``t.result`` is the text, and
            ``t.stream()`` gives each step as it comes.

        Raises:
            BadArgument: more than one input, or a setting that cannot be.

        Example:
            >>> with model.generate("Paris is the capital of", max_new_tokens=5) as t:
            ...     model.blocks[2].output[:, -1] *= 0.5
            >>> print(t.result)
        """
        form = one_form(self.card, prompt, text=text, ids=ids, messages=messages)
        settings = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "no_repeat_ngram_size": no_repeat_ngram_size,
            "min_new_tokens": min_new_tokens,
            "seed": seed,
            "stop": stop,
        }
        options = self._options(exact=exact, isolate=isolate, adapter=adapter)
        return self._named(Generate(self._lab, self.card, options, form, settings), edits)

    @points_home
    def session(
        self, *, exact: bool = False, isolate: bool = False, aligned: bool = False, adapter: str | None = None
    ) -> Session:
        """A block in which several traces, sweeps and gradients become one job.

        Values flow from one trace to another without being saved. Everything is sent when the block ends.

        Args:
            exact, isolate, aligned, adapter: as for `trace`, for the whole job.

        Example:
            >>> with model.session():
            ...     with model.trace("Paris is the capital of"):
            ...         clean = model.blocks[2].output[:, -1]
            ...     with model.trace("Rome is the capital of"):
            ...         model.blocks[2].output[:, -1] = clean
            ...         logits = model.lm_head.output[:, -1].save()
        """
        options = self._options(exact=exact, isolate=isolate, aligned=aligned, adapter=adapter)
        return self._named(Session(self._lab, self.card, options))

    @points_home
    def sweep(self, **names: Any) -> Sweep:
        """A block that runs for every combination of the elements of several lists.

        Args:
            names: what each name goes over: a range, a list of numbers, texts or token ids, an array, or the first axis
                of a value. Inside the block ``v.name`` is one element: as an index, in arithmetic, as an input, and
                where it is a number also in a path, ``model.blocks[v.layer]``.

        Returns:
            A context manager. What is saved inside, or used after the block, has one axis per name in front.

        Raises:
            BadArgument: an empty list, or something that has no elements.

        Example:
            >>> with model.sweep(layer=range(4), scale=[0.0, 0.5]) as v, model.trace("Hello"):
            ...     model.blocks[v.layer].output *= v.scale
            ...     logits = model.lm_head.output[:, -1].save()  # (4, 2, 1, vocabulary)
        """
        return self._named(Sweep(self._lab, self.card, Options(), names))

    @points_home
    def each(self, inputs: Any = None, /, **columns: Any) -> Each:
        """A block that runs for every row of one or several lists, such as inputs of any lengths.

        Args:
            inputs: texts, or lists of token ids: the block then reads and writes the model for each of them.
            columns: lists of the same length by name; ``row.name`` is one element. An input among them is run with
                ``model.trace(row.name)`` inside.

        Returns:
            A context manager. What is saved inside, or used after the block, has an axis for the rows in front;
            ``row.mean(x)`` and its like make one value of all rows'.

        Raises:
            ShapeError: lists of different lengths.

        Example:
            >>> with model.each(["one text", "a second, longer text"]) as row:
            ...     mean = row.mean(model.blocks[2].output[:, -1]).save()
        """
        if inputs is not None and PROMPT in columns:
            raise BadArgument(f"inputs are given once: without a name, or as {PROMPT}= with model.trace(row.{PROMPT})")
        given = columns if inputs is None else {PROMPT: inputs, **columns}
        return self._named(Each(self._lab, self.card, Options(), given, runs=inputs is not None))

    @points_home
    def fit(
        self,
        data: Any,
        *,
        batch_size: Any,
        steps: Any = None,
        epochs: Any = None,
        optimiser: Any = None,
        shuffle: Any = 0,
        checkpoint_every: Any = None,
        adapter: str | None = None,
    ) -> Fit:
        """A block that is one step of training, done by the service beside the model.

        Args:
            data: an upload, or a dict of columns of one length (lists, arrays, values, columns of uploads): the block
                is that of one example, ``f.row.name``. Or a `telepatch.Buffer` of rows: the block sees batches of them,
                ``f.batch``.
            batch_size: examples or rows of a step.
            steps, epochs: how many steps, or how often to go through the data; one of the two.
            optimiser: `telepatch.SGD`, `Adam` (as it is, if left out) or `AdamW`.
            shuffle: the key of the order of the data; None for the order in which it stands.
            checkpoint_every: steps between checkpoints, from which a lost job goes on.
            adapter: as for `trace`; it is not trained.

        Returns:
            A context manager; see `telepatch.Fit`.

        Raises:
            BadArgument: neither steps nor epochs, or no data.

        Example:
            >>> data = {"text": ["a good film", "a bad film"], "label": [1, 0]}
            >>> with model.fit(data, batch_size=2, steps=50, optimiser=telepatch.Adam(lr=0.01)) as f:
            ...     w = f.param("w", telepatch.zeros(48, 2))
            ...     with f.invoke(f.row.text):
            ...         h = model.blocks[2].output[0, -1]
            ...     f.loss(telepatch.cross_entropy((h @ w)[None], f.row.label[None]))
            >>> f.w.numpy()
        """
        settings = settings_of(
            batch_size=batch_size,
            steps=steps,
            epochs=epochs,
            optimiser=optimiser,
            shuffle=shuffle,
            checkpoint_every=checkpoint_every,
        )
        return self._named(Fit(self._lab, self.card, self._options(adapter=adapter), data, settings))

    @points_home
    def scan(
        self,
        prompt: Any = None,
        *,
        text: Any = None,
        ids: Any = None,
        messages: Any = None,
        inputs: Any = None,
        images: Any = None,
        audio: Any = None,
        exact: bool = False,
        isolate: bool = False,
        aligned: bool = False,
        adapter: str | None = None,
        edits: Any = None,
    ) -> Scan:
        """A block as of `trace`, which nothing runs: every value in it has ``shape`` and ``dtype``, and it has a price.

        Args:
            prompt, text, ids, messages, inputs, images, audio, exact, isolate, aligned, adapter, edits: as for `trace`.

        Returns:
            A context manager; its ``price`` is what the gateway would ask.

        Raises:
            BadArgument: more than one input.
        """
        named = {"text": text, "ids": ids, "messages": messages, "inputs": inputs, "images": images, "audio": audio}
        form = one_form(self.card, prompt, **named)
        options = self._options(exact=exact, isolate=isolate, aligned=aligned, adapter=adapter)
        return self._named(Scan(self._lab, self.card, options, form), edits)

    @points_home
    def edit(self, name: str | None = None, /, **arguments: Any) -> Edit:
        """A block that is written as the body of a trace, without an input, and applied to inputs of later traces.

        Args:
            name: under which the service keeps it when the block ends, in place of another of that name; without one
                it goes with each trace that it is applied to.
            arguments: what may be told when it is applied, with defaults: numbers, arrays, values of earlier jobs, or
                ``...`` where there is none. Inside the block ``e.scale`` stands for it.

        Returns:
            A context manager. Sites are read and written inside; nothing runs or is saved. Arrays are uploaded with a
            stored edit; values of earlier jobs and uploads are used by reference.

        Raises:
            BadArgument: a name, or an argument, that cannot be.

        Example:
            >>> with model.edit("steer", direction=..., scale=1.0) as e:
            ...     model.blocks[2].resid_post += e.direction * e.scale
            >>> with model.trace("Hello", edits=[("steer", {"direction": direction})]):
            ...     logits = model.unembed.output[:, -1].save()
        """
        return self._named(Edit(self._lab, self.card, Options(), name, arguments))

    @points_home
    def edited(self, *edits: Any) -> Model:
        """The same model, whose every input runs with some edits: in traces, sessions, sweeps and rows.

        Args:
            edits: each as `trace` takes them; they come before those of a single trace.

        Example:
            >>> steered = model.edited(("steer", {"direction": direction}))
            >>> with steered.each(prompts) as row:
            ...     mean = row.mean(steered.unembed.output[:, -1]).save()
        """
        return self._as(edits=(*self._edits, *(use for one in edits for use in uses(one))))

    @points_home
    def queued(self, *, priority: str | None = None, timeout_seconds: float | None = None) -> Model:
        """The same model, whose every job stands in the queue as is said here: traces, sweeps, generations and fits.

        Args:
            priority: ``"low"`` for jobs that come after all one's others, ``"high"`` for those that come before them,
                and a little before those of other people; they count four times in one's turn, and the service may not
                allow them.
            timeout_seconds: how long a job may compute; longer, and it fails with `TimeLimit` where it is, and others
                in its batch go on. Waiting does not count.

        Raises:
            BadArgument: no priority, or no number of seconds.

        Example:
            >>> with model.queued(priority="low").sweep(layer=range(12)) as v, model.trace("Hello"):
            ...     logits = model.unembed.output[:, -1].save()
        """
        return self._as(queueing=Queueing.of(priority, timeout_seconds).over(self._queueing))

    @points_home
    def cache(self, *sites: Any, **options: Any) -> Cache:
        """As `Trace.cache`, in the trace that is open."""
        return keep(self.card, sites, **options)

    @points_home
    def tokenize(self, text: Any, *, special: bool = True) -> Any:
        """Tokens of a text, of each of several, or of chat messages.

        Args:
            text: one text or a list of them; chat messages or a list of conversations, or a `telepatch.Chat`.
            special: whether the tokens that the model expects around a text are added; of messages the chat template
                decides.

        Returns:
            `Tokens` with ``ids``, ``pieces`` (the text of each token), ``offsets`` (characters) and ``text``, or
            `TokenRows`, a list of them. ``find("Mary")`` of either is a position.

        Raises:
            BadArgument: none of these, or messages to a model without a chat template.
        """
        if is_messages(text):
            check_template(self.card)
            chat = Chat.of(text)
            rows = TokenRows(self._service().tokenize_chats(self.card.id, chat.conversations, chat.settings))
            return rows if chat.is_several else rows[0]
        texts = [text] if isinstance(text, str) else text
        if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
            raise BadArgument(f"tokenize takes a text, a list of texts or chat messages; found {text!r}")
        found = TokenRows(self._service().tokenize(self.card.id, list(texts), special))
        return found[0] if isinstance(text, str) else found

    @points_home
    def token(self, text: str) -> int:
        """The id of the one token that `text` is.

        Raises:
            BadArgument: it is several tokens; the message shows them.
        """
        found = self.tokenize(text, special=False)
        if len(found.ids) != 1:
            pieces = " ".join(repr(piece) for piece in found.pieces)
            raise BadArgument(
                f"{text!r} is {len(found.ids)} tokens for '{self.card.id}': {pieces}; a leading space often matters"
            )
        return int(found.ids[0])

    @points_home
    def detokenize(self, ids: Any) -> Any:
        """The text of token ids.

        Args:
            ids: one id, a list or array of ids, or a list of such lists; a saved value of integers is fetched.

        Returns:
            A string; of several lists a list of strings.

        Raises:
            BadArgument: something that is no id.
        """
        from telepatch.looking import looked

        rows = looked(ids)
        rows = rows.tolist() if hasattr(rows, "tolist") else rows
        rows = [rows] if isinstance(rows, int) else rows
        if not isinstance(rows, list | tuple | range):
            raise BadArgument(f"token ids are integers, in a list, an array or alone; found {ids!r}")
        rows = [arguments.plain(one) for one in rows]
        rows = [one.tolist() if isinstance(one, np.ndarray) else one for one in rows]
        nested = bool(rows) and isinstance(rows[0], list)
        found = self._service().detokenize(self.card.id, rows if nested else [rows])
        return found if nested else found[0]

    decode = detokenize

    def _options(self, **asked: Any) -> Options:
        """How a job is to run; an adapter that there is not is refused where it is asked for."""
        check_adapter(asked["adapter"], self.card)
        return Options(**asked)

    def _named(self, block: B, edits: Any = None) -> B:
        """A block in which the author's own names are known, and whose inputs run with this model's edits."""
        block._builder.names = self._spot.names
        block._builder.queueing = self._queueing
        block._edits = (*self._edits, *uses(edits))
        return block

    def _as(self, edits: tuple[Use, ...] | None = None, queueing: Queueing | None = None) -> Model:
        """The same model with something else said of its jobs."""
        found = Model.__new__(Model)
        ModuleView.__init__(found, self._spot)
        object.__setattr__(found, "_lab", self._lab)
        object.__setattr__(found, "_edits", self._edits if edits is None else edits)
        object.__setattr__(found, "_queueing", self._queueing if queueing is None else queueing)
        return found

    def _service(self) -> Lab:
        if self._lab is None:
            raise TraceError(f"this '{self.card.id}' is a card without a connection; get it from lab.model(...)")
        return self._lab
