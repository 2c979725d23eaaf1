"""Read and change what happens inside a neural network that runs somewhere else.

    lab = telepatch.connect("http://127.0.0.1:8000")
    model = lab.model("smollm2-135m")
    with model.trace("When Mary and John went to the store, John gave a drink to"):
        model.blocks[20].mlp.output[:, -1] = 0
        logits = model.lm_head.output[:, -1].save()
    print(logits)

Every operation of `telepatch.ops` is here by its own name, too: ``telepatch.where``, ``telepatch.einsum``...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from telepatch import ops
    from telepatch.cache import Cache
    from telepatch.chats import Chat
    from telepatch.choices import cond
    from telepatch.constants import tensor
    from telepatch.data import DataColumn, Dataset
    from telepatch.edit import Edit
    from telepatch.fit import Fit
    from telepatch.gradients import grad
    from telepatch.habits import SlowLoop
    from telepatch.lab import Lab, connect, gather
    from telepatch.loops import repeat
    from telepatch.maps import map
    from telepatch.model import Model
    from telepatch.optimisers import SGD, Adam, AdamW, Buffer
    from telepatch.outputs import Outputs
    from telepatch.scan import Scan
    from telepatch.shown import Shown, show
    from telepatch.stored_edits import StoredEdit
    from telepatch.tokens import TokenRows, Tokens
    from telepatch.trace import Trace, TraceWarning
    from telepatch.transport import SlowedDown
    from telepatch.values import Value
    from telepatch_protocol import errors
    from telepatch_protocol.errors import NotSaved, TelepatchError, TraceError

__version__ = "0.2.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Buffer",
    "Fit",
    "Cache",
    "Chat",
    "DataColumn",
    "Dataset",
    "Edit",
    "Lab",
    "Model",
    "NotSaved",
    "Outputs",
    "Scan",
    "Shown",
    "SlowLoop",
    "SlowedDown",
    "StoredEdit",
    "TelepatchError",
    "TokenRows",
    "Tokens",
    "Trace",
    "TraceError",
    "TraceWarning",
    "Value",
    "__version__",
    "cond",
    "connect",
    "errors",
    "gather",
    "grad",
    "map",
    "ops",
    "repeat",
    "show",
    "tensor",
]

_HOMES = {
    "cache": ("Cache",),
    "chats": ("Chat",),
    "constants": ("tensor",),
    "data": ("DataColumn", "Dataset"),
    "edit": ("Edit",),
    "habits": ("SlowLoop",),
    "lab": ("Lab", "connect", "gather"),
    "fit": ("Fit",),
    "optimisers": ("Adam", "AdamW", "Buffer", "SGD"),
    "choices": ("cond",),
    "gradients": ("grad",),
    "loops": ("repeat",),
    "maps": ("map",),
    "model": ("Model",),
    "outputs": ("Outputs",),
    "scan": ("Scan",),
    "shown": ("Shown", "show"),
    "stored_edits": ("StoredEdit",),
    "tokens": ("TokenRows", "Tokens"),
    "trace": ("Trace", "TraceWarning"),
    "transport": ("SlowedDown",),
    "values": ("Value",),
}
_HOME = {name: f"telepatch.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """What is asked for is imported then; so the import of the package itself costs next to nothing."""
    if name in _HOME:
        found = getattr(importlib.import_module(_HOME[name]), name)
    elif name.startswith("_"):
        raise AttributeError(f"module 'telepatch' has no attribute '{name}'")
    elif name == "ops":
        found = importlib.import_module("telepatch.ops")
    elif name == "errors":
        found = importlib.import_module("telepatch_protocol.errors")
    else:
        errors_ = importlib.import_module("telepatch_protocol.errors").__dict__
        named = errors_.get(name)
        found = named if isinstance(named, type) else getattr(importlib.import_module("telepatch.ops"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *dir(importlib.import_module("telepatch.ops"))})
