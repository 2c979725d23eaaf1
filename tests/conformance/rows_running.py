"""Running a model."""

from __future__ import annotations

import nnsight as nn
from table import LLAMA, Group

GROUP = Group("Running a model")

PROMPT = "Paris is the capital of"
OTHER = "Rome is the capital of Italy, and"
IDS = [80, 97, 114, 105, 115]


@GROUP.row("trace", "with model.trace(PROMPT):", "with model.trace(PROMPT):")
class Trace:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            hidden = nn.save(model.transformer.h[2].output)
            logits = nn.save(model.output.logits)
        return hidden, logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            hidden = model.transformer.h[2].output.save()
            logits = model.output.save()
        return hidden, logits


@GROUP.row(
    "trace=False",
    "model.trace(PROMPT, trace=False)",
    "with model.trace(PROMPT):",
    note="Only what is saved travels, so there is no plain call: a trace that saves the output is one.",
)
class Untraced:
    @staticmethod
    def nnsight(model):
        logits = model.trace(PROMPT, trace=False).logits
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            logits = model.output.save()
        return logits


@GROUP.row(
    "session",
    "with model.session():",
    "with model.session():",
    note="In both, a value of one trace is used in the next without being saved. The loop below is Python in nnsight's "
    "process there, and here each turn is one more run of the one job.",
)
class Session:
    @staticmethod
    def nnsight(model):
        with model.session():
            patched = nn.save([])
            with model.trace(PROMPT):
                clean = model.transformer.h[1].output[:, -1]
            for text in (OTHER, PROMPT[::-1]):
                with model.trace(text):
                    model.transformer.h[1].output[:, -1] = clean
                    patched.append(model.output.logits[:, -1])
        return patched

    @staticmethod
    def telepatch(model):
        with model.session():
            patched = []
            with model.trace(PROMPT):
                clean = model.transformer.h[1].output[:, -1]
            for text in (OTHER, PROMPT[::-1]):
                with model.trace(text):
                    model.transformer.h[1].output[:, -1] = clean
                    patched.append(model.output[:, -1].save())
        return patched


@GROUP.row(
    "a value of one trace in a later one",
    "nn.save(model.transformer.h[2].output[:, -1])",
    "direction = model.transformer.h[2].output[:, -1].save()",
    note="The later trace refers to the earlier one's result: the numbers stay with the service.",
)
class Later:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            direction = nn.save(model.transformer.h[2].output[:, -1])
        with model.trace(OTHER):
            model.transformer.h[2].output[:, -1] += direction
            logits = nn.save(model.output.logits[:, -1])
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            direction = model.transformer.h[2].output[:, -1].save()
        with model.trace(OTHER):
            model.transformer.h[2].output[:, -1] += direction
            logits = model.output[:, -1].save()
        return logits


@GROUP.row(
    "scan",
    "with model.scan(PROMPT):",
    "with model.scan(PROMPT) as s:",
    note="Telepatch has the shapes from the model's card, without a forward, and `s.price` besides.",
)
class Scan:
    @staticmethod
    def nnsight(model):
        with model.scan(PROMPT):
            shape = nn.save(tuple(model.transformer.h[1].output.shape))
            last = nn.save(tuple(model.output.logits[:, -1].shape))
        return shape, last

    @staticmethod
    def telepatch(model):
        with model.scan(PROMPT) as s:
            hidden = model.transformer.h[1].output.save()
            logits = model.output[:, -1].save()
        shape, last = hidden.shape, logits.shape
        assert s.price.saved_bytes > 0
        return shape, last


@GROUP.row(
    "several models",
    "with other.trace(OTHER):",
    "with other.trace(OTHER):",
    other=LLAMA,
    note="Models of one connection; a value of one is used in a trace of the other by reference.",
)
class TwoModels:
    @staticmethod
    def nnsight(model, other):
        with model.trace(PROMPT):
            direction = nn.save(model.transformer.h[2].output[:, -1])
        with other.trace(OTHER):
            other.model.layers[1].output[:, -1, :48] += direction
            logits = nn.save(other.output.logits[:, -1])
        return logits

    @staticmethod
    def telepatch(model, other):
        with model.trace(PROMPT):
            direction = model.transformer.h[2].output[:, -1].save()
        with other.trace(OTHER):
            other.model.layers[1].output[:, -1, :48] += direction
            logits = other.output[:, -1].save()
        return logits
