"""Inside modules, and many places at once."""

from __future__ import annotations

import nnsight as nn
import torch
from table import ALBERT, LLAMA, Group

GROUP = Group("Inside modules, and many places at once")

PROMPT = "Paris is the capital of"


@GROUP.row(
    "source: operations inside a forward",
    "model.transformer.h[1].mlp.source.self_act_0.output",
    "model.transformer.h[1].mlp.source.self_act_0.output",
    note="The same names. `print(model.transformer.h[1].mlp.source)` shows them with their lines in both.",
)
class Source:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            model.transformer.h[1].mlp.source.self_act_0.output *= 0.5
            active = nn.save(model.transformer.h[1].mlp.source.self_act_0.output)
            logits = nn.save(model.output.logits)
        return active, logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            model.transformer.h[1].mlp.source.self_act_0.output *= 0.5
            active = model.transformer.h[1].mlp.source.self_act_0.output.save()
            logits = model.output.save()
        return active, logits


@GROUP.row(
    "recursive source",
    "model.model.layers[1].self_attn.source.apply_rotary_pos_emb_0.source.rotate_half_0.output",
    "model.model.layers[1].self_attn.source.apply_rotary_pos_emb_0.source.rotate_half_0.output",
    model=LLAMA,
)
class Recursive:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            half = nn.save(model.model.layers[1].self_attn.source.apply_rotary_pos_emb_0.source.rotate_half_0.output)
        return half

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            half = model.model.layers[1].self_attn.source.apply_rotary_pos_emb_0.source.rotate_half_0.output.save()
        return half


@GROUP.row(
    "skip of an operation",
    "operation.skip(operation.input * 0.5)",
    "operation.output = operation.input * 0.5",
    note="The operation runs all the same, and what it gave is not used.",
)
class SkipOperation:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            operation = model.transformer.h[1].mlp.source.self_act_0
            operation.skip(operation.input * 0.5)
            logits = nn.save(model.output.logits)
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            operation = model.transformer.h[1].mlp.source.self_act_0
            operation.output = operation.input * 0.5
            logits = model.output.save()
        return logits


@GROUP.row(
    "a module that is called several times",
    "for _ in tracer.iter[:3]:",
    "layer.calls[call].output",
    model=ALBERT,
    bare=True,
    note="Each call within one forward is a place of its own; without `calls` such a module is refused. Steps of a "
    "generation are counted apart.",
)
class Calls:
    @staticmethod
    def nnsight(model):
        layer = model.encoder.albert_layer_groups[0].albert_layers[0]
        with model.trace(input_ids=torch.tensor([[8, 9, 10]])) as tracer:
            kept = nn.save([])
            for _ in tracer.iter[:3]:
                kept.append(layer.ffn.output)
        return kept

    @staticmethod
    def telepatch(model):
        layer = model.encoder.albert_layer_groups[0].albert_layers[0].ffn
        with model.trace([8, 9, 10]):
            kept = []
            for call in range(3):
                kept.append(layer.calls[call].output.save())
        return kept


@GROUP.row(
    "eproperty and envoys=: views of one's own",
    "z.view(1, -1, 4, 12)",
    "model.blocks[1].z",
    note="Subclasses of `Envoy` are code and stay on the client; the views that people write them for (heads of q, k, "
    "v and z, patterns, residual streams) are ports with standard names, [sites.md](sites.md).",
)
class Heads:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            z = model.transformer.h[1].attn.c_proj.input
            heads = nn.save(z.view(1, -1, 4, 12).clone())
            z.view(1, -1, 4, 12)[:, :, 2] = 0
            logits = nn.save(model.output.logits)
        return heads, logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            heads = model.blocks[1].z.save()
            model.blocks[1].z[:, :, 2] = 0
            logits = model.output.save()
        return heads, logits


@GROUP.row(
    "attention patterns",
    "model.transformer.h[1].attn.output[1]",
    "model.blocks[1].pattern",
    eager=True,
    note="nnsight's model has to be loaded with eager attention. Here the job that names a place which exists under "
    "eager attention only runs eager, and others do not.",
)
class Patterns:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            pattern = nn.save(model.transformer.h[1].attn.output[1])
        return pattern

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            pattern = model.blocks[1].pattern.save()
        return pattern


@GROUP.row(
    "attention knockout",
    "scores[:, 2, :, 3] = -1e9",
    'model.blocks[1].scores[:, 2, :, 3] = float("-inf")',
    eager=True,
    note="The scores before the softmax are a port with a standard name; the operation is the same one.",
)
class Knockout:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            softmax = model.transformer.h[1].attn.source.attention_interface_1.source.nn_functional_softmax_0
            scores = softmax.input
            scores[:, 2, :, 3] = -1e9
            logits = nn.save(model.output.logits[:, 4:])
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            model.blocks[1].scores[:, 2, :, 3] = float("-inf")
            logits = model.output[:, 4:].save()
        return logits


@GROUP.row(
    "all layers at once",
    "for block in model.transformer.h:",
    "model.transformer.h[:].output",
    note="A loop works, too; a star is one node, and a stack of all blocks.",
)
class AllLayers:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            last = nn.save([])
            for block in model.transformer.h:
                last.append(block.output[:, -1])
        return torch.stack(last)

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            last = model.transformer.h[:].output[:, :, -1].save()
        return last


@GROUP.row(
    "cache",
    "tracer.cache(modules=[model.transformer.h[1], model.transformer.h[2].mlp])",
    't.cache("transformer.h.1", "transformer.h.2.mlp")',
    note='Modules, sites or patterns (`"blocks.*:resid_post"`); `index` takes a part of each before it travels.',
)
class Cache:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT) as tracer:
            cache = tracer.cache(modules=[model.transformer.h[1], model.transformer.h[2].mlp])
            model.transformer.h[1].output[:, 0] = 0
        block = cache["model.transformer.h.1"].output
        mlp = cache["model.transformer.h.2.mlp"].output
        return block, mlp

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT) as t:
            cache = t.cache("transformer.h.1", "transformer.h.2.mlp")
            model.transformer.h[1].output[:, 0] = 0
        block = cache["transformer.h.1"]
        mlp = cache["transformer.h.2.mlp"]
        return block, mlp


@GROUP.row(
    "cache with inputs and dtype",
    "include_inputs=True",
    "include_inputs=True",
    note="`device` and `detach` have no meaning for what comes back as numpy arrays.",
)
class CacheInputs:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT) as tracer:
            cache = tracer.cache(modules=[model.transformer.h[1].mlp.c_fc], include_inputs=True, dtype=torch.float64)
        taken = cache["model.transformer.h.1.mlp.c_fc"].input
        given = cache["model.transformer.h.1.mlp.c_fc"].output
        return taken, given

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT) as t:
            cache = t.cache("transformer.h.1.mlp.c_fc", include_inputs=True, dtype="float64")
        taken = cache["transformer.h.1.mlp.c_fc:input"]
        given = cache["transformer.h.1.mlp.c_fc:output"]
        return taken, given
