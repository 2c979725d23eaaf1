"""What a model runs on."""

from __future__ import annotations

import nnsight as nn
import numpy as np
import torch
from table import BERT, LLAMA, MLP, VIT, Group

import telepatch

GROUP = Group("Inputs and batches")

PROMPT = "Paris is the capital of"
OTHER = "Rome is the capital of Italy, and"
IDS = [80, 97, 114, 105, 115]


@GROUP.row("token ids", "model.trace([IDS, IDS[::-1]])", "model.trace([IDS, IDS[::-1]])")
class Ids:
    @staticmethod
    def nnsight(model):
        with model.trace([IDS, IDS[::-1]]):
            hidden = nn.save(model.transformer.h[1].output)
        with model.trace(torch.tensor(IDS)):
            one = nn.save(model.transformer.h[1].output)
        return hidden, one

    @staticmethod
    def telepatch(model):
        with model.trace([IDS, IDS[::-1]]):
            hidden = model.transformer.h[1].output.save()
        with model.trace(np.array(IDS)):
            one = model.transformer.h[1].output.save()
        return hidden, one


@GROUP.row(
    "tokenizer",
    "model.tokenizer(PROMPT)",
    "model.tokenize(PROMPT)",
    note='`t.tokens.find("capital")` gives the position of a word; nnsight has no such thing.',
)
class Tokenizer:
    @staticmethod
    def nnsight(model):
        ids = model.tokenizer(PROMPT)["input_ids"]
        text = model.tokenizer.decode(ids)
        return ids, text

    @staticmethod
    def telepatch(model):
        ids = model.tokenize(PROMPT).ids
        text = model.decode(ids)
        return ids, text


@GROUP.row("chat messages", "model.trace(MESSAGES)", "model.trace(messages=MESSAGES)", model=LLAMA)
class Messages:
    @staticmethod
    def nnsight(model):
        with model.trace(MESSAGES):
            logits = nn.save(model.output.logits[:, -1])
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(messages=MESSAGES):
            logits = model.output[:, -1].save()
        return logits


MESSAGES = [{"role": "user", "content": "Is Paris in France?"}]


@GROUP.row(
    "several invokes in one forward",
    "with tracer.invoke(PROMPT):",
    "with t.invoke(PROMPT):",
    note="nnsight pads on the left, and a shorter prompt's values hold the padding: position 0 is not its first token. "
    "In Telepatch no value ever holds padding.",
)
class Invokes:
    @staticmethod
    def nnsight(model):
        with model.trace() as tracer:
            with tracer.invoke(PROMPT):
                short = nn.save(model.transformer.h[2].output)
            with tracer.invoke(OTHER):
                long = nn.save(model.transformer.h[2].output)
        padding = len(OTHER) - len(PROMPT)
        return short[:, padding:], long

    @staticmethod
    def telepatch(model):
        with model.trace() as t:
            with t.invoke(PROMPT):
                short = model.transformer.h[2].output.save()
            with t.invoke(OTHER):
                long = model.transformer.h[2].output.save()
        return short, long


@GROUP.row(
    "position -1",
    "model.transformer.h[2].output[:, -1]",
    "model.transformer.h[2].output[:, -1]",
    note="In both the input's own last token, for a decoder; in Telepatch for an encoder too (next row).",
)
class LastPosition:
    @staticmethod
    def nnsight(model):
        with model.trace() as tracer:
            with tracer.invoke(PROMPT):
                short = nn.save(model.transformer.h[2].output[:, -1])
            with tracer.invoke(OTHER):
                long = nn.save(model.transformer.h[2].output[:, -1])
        return short, long

    @staticmethod
    def telepatch(model):
        with model.trace() as t:
            with t.invoke(PROMPT):
                short = model.transformer.h[2].output[:, -1].save()
            with t.invoke(OTHER):
                long = model.transformer.h[2].output[:, -1].save()
        return short, long


@GROUP.row(
    "encoders",
    "model.encoder.layer[1].output",
    "model.encoder.layer[1].output",
    model=BERT,
    bare=True,
    note="nnsight pads encoders on the right, so there -1 is padding; here each input is run alone in nnsight.",
)
class Encoder:
    @staticmethod
    def nnsight(model):
        last = []
        for ids in (IDS, IDS + IDS):
            with model.trace(input_ids=torch.tensor([ids])):
                last.append(nn.save(model.encoder.layer[1].output[:, -1]))
        return last

    @staticmethod
    def telepatch(model):
        last = []
        with model.trace() as t:
            for ids in (IDS, IDS + IDS):
                with t.invoke(ids):
                    last.append(model.encoder.layer[1].output[:, -1].save())
        return last


@GROUP.row(
    "prompts of different lengths in one call",
    "model.trace([PROMPT, OTHER])",
    "model.each([PROMPT, OTHER])",
    note="A list in `trace` means rows of equal length; `each` takes any lengths, and reduces on the server if asked.",
)
class Ragged:
    @staticmethod
    def nnsight(model):
        with model.trace([PROMPT, OTHER]):
            last = nn.save(model.transformer.h[2].output[:, -1])
            mean = nn.save(model.transformer.h[2].output[:, -1].mean(0))
        return last, mean

    @staticmethod
    def telepatch(model):
        with model.each([PROMPT, OTHER]) as row:
            h = model.transformer.h[2].output[0, -1]
            mean = row.mean(h).save()
            last = h.save()
        return last, mean


@GROUP.row(
    "empty invoke (the whole batch)",
    "with tracer.invoke():",
    "telepatch.cat([a, b])",
    note="Values of several invokes are put together by name; there is no batch that a job could see.",
)
class EmptyInvoke:
    @staticmethod
    def nnsight(model):
        with model.trace() as tracer:
            with tracer.invoke(PROMPT):
                pass
            with tracer.invoke(OTHER):
                pass
            with tracer.invoke():
                both = nn.save(model.transformer.h[2].output[:, -1])
        return both

    @staticmethod
    def telepatch(model):
        with model.trace() as t:
            with t.invoke(PROMPT):
                a = model.transformer.h[2].output[:, -1]
            with t.invoke(OTHER):
                b = model.transformer.h[2].output[:, -1]
            both = telepatch.cat([a, b]).save()
        return both


@GROUP.row(
    "barrier",
    "barrier()",
    "model.transformer.h[1].output[:, -1] = clean",
    note="Values flow between invokes in any direction, and the planner orders them; there is nothing to wait for.",
)
class Barrier:
    @staticmethod
    def nnsight(model):
        with model.trace() as tracer:
            barrier = tracer.barrier(2)
            with tracer.invoke(PROMPT):
                clean = model.transformer.h[1].output[:, -1]
                barrier()
            with tracer.invoke(OTHER):
                barrier()
                model.transformer.h[1].output[:, -1] = clean
                patched = nn.save(model.output.logits[:, -1])
        return patched

    @staticmethod
    def telepatch(model):
        with model.trace() as t:
            with t.invoke(PROMPT):
                clean = model.transformer.h[1].output[:, -1]
            with t.invoke(OTHER):
                model.transformer.h[1].output[:, -1] = clean
                patched = model.output[:, -1].save()
        return patched


@GROUP.row(
    "NNsight(module): any torch module",
    "with model.trace(torch.tensor(PIXELS)):",
    'with model.trace(inputs={"x": PIXELS}):',
    model=MLP,
    bare=True,
    note="The module is served: a card names the code that builds it, [models.md](models.md).",
)
class AnyModule:
    @staticmethod
    def nnsight(model):
        with model.trace(torch.tensor(PIXELS)):
            model.blocks[0].output[:, :8] = 0
            hidden = nn.save(model.blocks[1].output)
            scores = nn.save(model.output)
        return hidden, scores

    @staticmethod
    def telepatch(model):
        with model.trace(inputs={"x": PIXELS}):
            model.blocks[0].output[:, :8] = 0
            hidden = model.blocks[1].output.save()
            scores = model.output.save()
        return hidden, scores


PIXELS = np.linspace(0, 1, 3 * 64, dtype=np.float32).reshape(3, 64)


@GROUP.row(
    "vision models",
    "model.trace(pixel_values=torch.tensor(IMAGES))",
    "model.trace(images=IMAGES)",
    model=VIT,
    bare=True,
)
class Vision:
    @staticmethod
    def nnsight(model):
        with model.trace(pixel_values=torch.tensor(IMAGES)):
            pooled = nn.save(model.vit.layers[2].output.mean(1))
            scores = nn.save(model.output.logits)
        return pooled, scores

    @staticmethod
    def telepatch(model):
        with model.trace(images=IMAGES):
            pooled = model.vit.layers[2].output.mean(1).save()
            scores = model.output.save()
        return pooled, scores


IMAGES = np.linspace(-1, 1, 2 * 64, dtype=np.float32).reshape(2, 1, 8, 8)
