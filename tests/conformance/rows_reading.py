"""Reading and writing what modules take and return."""

from __future__ import annotations

import nnsight as nn
import numpy as np
import torch
from table import BERT, LLAMA, Group

import telepatch

GROUP = Group("Reading and writing")

PROMPT = "Paris is the capital of"


@GROUP.row("output, input", "model.transformer.h[1].mlp.input", "model.transformer.h[1].mlp.input")
class Ports:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            taken = nn.save(model.transformer.h[1].mlp.input)
            given = nn.save(model.transformer.h[1].mlp.output)
        return taken, given

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            taken = model.transformer.h[1].mlp.input.save()
            given = model.transformer.h[1].mlp.output.save()
        return taken, given


@GROUP.row(
    "inputs: everything that a module takes",
    "args, kwargs = model.model.layers[1].self_attn.inputs",
    'model.model.layers[1].self_attn.inputs["hidden_states"]',
    model=LLAMA,
    note="Parts are named and written one by one. Masks, positions and rotary tables can be read, and not written.",
)
class Inputs:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            args, kwargs = model.model.layers[1].self_attn.inputs
            cosines = nn.save(kwargs["position_embeddings"][0])
            model.model.layers[1].self_attn.inputs = (args, {**kwargs, "hidden_states": kwargs["hidden_states"] * 2})
            logits = nn.save(model.output.logits)
        return cosines, logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            cosines = model.model.layers[1].self_attn.inputs["position_embeddings"][0].save()
            model.model.layers[1].self_attn.inputs["hidden_states"] *= 2
            logits = model.output.save()
        return cosines, logits


@GROUP.row(
    "replacement",
    "model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * 0.5",
    "model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * 0.5",
)
class Replacement:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * 0.5
            logits = nn.save(model.output.logits)
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            model.transformer.h[1].mlp.output = model.transformer.h[1].mlp.output * 0.5
            logits = model.output.save()
        return logits


@GROUP.row(
    "in-place writes",
    "model.transformer.h[1].output[:, -1] += 1",
    "model.transformer.h[1].output[:, -1] += 1",
    note="Index assignment to a site is a write; a slice bound to a name is a value, and changing it in place is "
    "refused with the spelling that writes.",
)
class InPlace:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            model.transformer.h[0].output[:] = 0
            model.transformer.h[1].output[:, -1] += 1
            model.transformer.h[2].output[:, :, [3, 5]] = 2
            logits = nn.save(model.output.logits)
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            model.transformer.h[0].output[:] = 0
            model.transformer.h[1].output[:, -1] += 1
            model.transformer.h[2].output[:, :, [3, 5]] = 2
            logits = model.output.save()
        return logits


@GROUP.row(
    "a save before a write",
    "before = nn.save(model.transformer.h[1].output.clone())",
    "before = model.transformer.h[1].output.save()",
    note="**Difference.** In Telepatch a read is the value at its place and keeps it; in nnsight a save before a "
    "write in place holds what was written, unless it is cloned.",
)
class SaveBeforeWrite:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            before = nn.save(model.transformer.h[1].output.clone())
            alias = nn.save(model.transformer.h[1].output)
            model.transformer.h[1].output[:] = 0
            after = nn.save(model.transformer.h[1].output)
        assert torch.equal(alias, after)
        return before, after

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            before = model.transformer.h[1].output.save()
            model.transformer.h[1].output[:] = 0
            after = model.transformer.h[1].output.save()
        return before, after


@GROUP.row(
    "tuple outputs",
    "model.transformer.h[1].attn.output[0]",
    "model.transformer.h[1].attn.output",
    note="**Difference.** `output` is the tensor that a module returns, or the first of them; `outputs[0]` spells "
    "the item. `output[0]` of a module that returns a tuple is refused, because it could mean the first row.",
)
class Tuples:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            model.transformer.h[1].attn.output[0][:, 0] = 0
            mixed = nn.save(model.transformer.h[1].attn.output[0])
            logits = nn.save(model.output.logits)
        return mixed, logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            model.transformer.h[1].attn.output[:, 0] = 0
            mixed = model.transformer.h[1].attn.outputs[0].save()
            logits = model.output.save()
        return mixed, logits


@GROUP.row(
    "children named like a port",
    "model.encoder.layer[1].E_output.output",
    'model.encoder.layer[1]["output"].output',
    model=BERT,
    bare=True,
)
class TakenNames:
    @staticmethod
    def nnsight(model):
        with model.trace(input_ids=torch.tensor([[80, 97, 114]])):
            hidden = nn.save(model.encoder.layer[1].E_output.output)
        return hidden

    @staticmethod
    def telepatch(model):
        with model.trace([80, 97, 114]):
            hidden = model.encoder.layer[1]["output"].output.save()
        return hidden


@GROUP.row(
    "order of reads",
    "with tracer.invoke(PROMPT):",
    "late = model.transformer.h[3].output",
    note="nnsight wants modules in firing order within one invoke, and a second invoke otherwise. In Telepatch the "
    "order of lines does not matter between places; within one place it does.",
)
class Order:
    @staticmethod
    def nnsight(model):
        with model.trace() as tracer:
            with tracer.invoke(PROMPT):
                late = nn.save(model.transformer.h[3].output)
            with tracer.invoke(PROMPT):
                early = nn.save(model.transformer.h[0].output)
        return late, early

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            late = model.transformer.h[3].output.save()
            early = model.transformer.h[0].output.save()
        return late, early


@GROUP.row(
    ".shape",
    "h.shape[1]",
    "h.shape[1]",
    note="Known sizes are integers; a length in tokens is a value that stands for one, and works in slices and "
    "arithmetic.",
)
class Shape:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output
            middle = nn.save(h[:, h.shape[1] // 2])
            scaled = nn.save(h / h.shape[-1])
        return middle, scaled

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output
            middle = h[:, h.shape[1] // 2].save()
            scaled = (h / h.shape[-1]).save()
        return middle, scaled


@GROUP.row(
    "tensors from outside",
    "model.transformer.h[1].output += torch.tensor(VECTOR)",
    "model.transformer.h[1].output += VECTOR",
    note="numpy arrays, and torch tensors where torch is installed; they travel with the request.",
)
class Outside:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            model.transformer.h[1].output += torch.tensor(VECTOR)
            logits = nn.save(model.output.logits)
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            model.transformer.h[1].output += VECTOR
            logits = model.output.save()
        return logits


VECTOR = np.linspace(-1, 1, 48, dtype=np.float32)


@GROUP.row(
    "torch functions on values",
    'torch.einsum("pd,qd->pq", h, h)',
    'telepatch.einsum("pd,qd->pq", h, h)',
    note="The operations of [operations.md](operations.md), with PyTorch's names and arguments; "
    "`torch.softmax(value, -1)` and numpy's functions work on values, too. What is not in the list is refused by "
    "name.",
)
class Functions:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output[0]
            alike = nn.save(torch.einsum("pd,qd->pq", h, h))
            chances = nn.save(torch.softmax(model.output.logits[:, -1], -1))
            best = nn.save(chances.topk(3).values)
        return alike, chances, best

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output[0]
            alike = telepatch.einsum("pd,qd->pq", h, h).save()
            chances = torch.softmax(model.output[:, -1], -1).save()
            best = chances.topk(3).values.save()
        return alike, chances, best


@GROUP.row(
    "applying modules (logit lens)",
    "model.lm_head(model.transformer.ln_f(hidden))",
    "model.lm_head(model.transformer.ln_f(hidden))",
)
class Lens:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            hidden = model.transformer.h[1].output
            logits = nn.save(model.lm_head(model.transformer.ln_f(hidden)))
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            hidden = model.transformer.h[1].output
            logits = model.lm_head(model.transformer.ln_f(hidden)).save()
        return logits


@GROUP.row("parameters", "model.transformer.h[0].mlp.c_fc.weight", "model.transformer.h[0].mlp.c_fc.weight")
class Parameters:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            h = model.transformer.h[0].mlp.input
            found = nn.save(h @ model.transformer.h[0].mlp.c_fc.weight)
        return found

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            h = model.transformer.h[0].mlp.input
            found = (h @ model.transformer.h[0].mlp.c_fc.weight).save()
        return found


@GROUP.row(
    "skip",
    "model.transformer.h[1].skip(model.transformer.h[1].input)",
    "model.transformer.h[1].output = model.transformer.h[1].input",
    note="A module whose output is wholly replaced, and whose inside nobody reads, does not run; strangers in the same "
    "batch that need it are served, where nnsight refuses a skip that not every invoke shares.",
)
class Skip:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            model.transformer.h[1].skip(model.transformer.h[1].input)
            logits = nn.save(model.output.logits)
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            model.transformer.h[1].output = model.transformer.h[1].input
            logits = model.output.save()
        return logits


@GROUP.row(
    "stop",
    "tracer.stop()",
    "hidden = model.transformer.h[0].output.save()",
    note="There is nothing to say: the forward ends after the last place that anyone needs.",
)
class Stop:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT) as tracer:
            hidden = nn.save(model.transformer.h[0].output)
            tracer.stop()
        return hidden

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            hidden = model.transformer.h[0].output.save()
        return hidden


@GROUP.row(
    "get(path)",
    'model.get("transformer.h.1.mlp").output',
    'model["transformer.h.1.mlp"].output',
)
class Get:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            found = nn.save(model.get("transformer.h.1.mlp").output)
        return found

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            found = model["transformer.h.1.mlp"].output.save()
        return found


@GROUP.row(
    "tracer.result in a trace",
    "tracer.result",
    "model.output",
    note="The output of the whole model is a site like any other; `model.outputs` names its parts.",
)
class Result:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT) as tracer:
            logits = nn.save(tracer.result.logits)
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            logits = model.output.save()
        return logits
