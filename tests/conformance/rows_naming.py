"""Finding one's way in a model, and changing it for good."""

from __future__ import annotations

import nnsight as nn
import torch
from table import Group

GROUP = Group("Names and trees")

PROMPT = "Paris is the capital of"


@GROUP.row(
    "print(model)",
    "repr(model)",
    "repr(model)",
    note="Telepatch's tree has shapes and standard names besides; the numbers compared are the modules and where "
    "they are.",
)
class Tree:
    @staticmethod
    def nnsight(model):
        tree = repr(model)
        found = {name: name in tree for name in NAMES}
        return found

    @staticmethod
    def telepatch(model):
        tree = repr(model)
        found = {name: name in tree for name in NAMES}
        return found


NAMES = ("transformer", "wte", "ln_1", "attn", "c_proj", "mlp", "lm_head", "no_such_module")


@GROUP.row(
    "iterating over modules",
    "len(model.transformer.h)",
    "len(model.transformer.h)",
)
class Iterating:
    @staticmethod
    def nnsight(model):
        count = len(model.transformer.h)
        with model.trace(PROMPT):
            norms = nn.save([])
            for block in model.transformer.h[1:3]:
                norms.append(block.output.norm())
        return count, norms

    @staticmethod
    def telepatch(model):
        count = len(model.transformer.h)
        with model.trace(PROMPT):
            norms = []
            for block in model.transformer.h[1:3]:
                norms.append(block.output.norm().save())
        return count, norms


@GROUP.row(
    "rename",
    'rename={"transformer.h": "layers", "mlp": "ffn"}',
    'rename={"layers": "transformer.h", "layers.*": {"stream": "output"}}',
    note="The other way round: the new name is the key, and ports can have names, too. Nothing is loaded again.",
    bare=True,
)
class Renamed:
    @staticmethod
    def nnsight(model):
        mine = nn.NNsight(model._module, rename={"transformer.h": "layers", "mlp": "ffn"})
        with mine.trace(input_ids=torch.tensor([[80, 97, 114]])):
            stream = nn.save(mine.layers[1].output)
        return stream

    @staticmethod
    def telepatch(model):
        mine = lab_of(model).model("gpt2-random", rename={"layers": "transformer.h", "layers.*": {"stream": "output"}})
        with mine.trace([80, 97, 114]):
            stream = mine.layers[1].stream.save()
        return stream


def lab_of(model):
    return model._lab


@GROUP.row(
    "standard names across families",
    "model.transformer.h[1].attn.output[0]",
    "model.blocks[1].attn.output",
    note="nnsight leaves this to `rename=` or to other libraries; here every decoder has `blocks`, `attn`, `mlp`, "
    "`embed`, `final_norm`, `unembed`, `resid_pre`, `resid_post`... beside the model's own names.",
)
class Standard:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            mixed = nn.save(model.transformer.h[1].attn.output[0])
            stream = nn.save(model.transformer.h[1].output)
        return mixed, stream

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            mixed = model.blocks[1].attn.output.save()
            stream = model.blocks[1].resid_post.save()
        return mixed, stream


@GROUP.row(
    "named_modules()",
    "model.named_modules()",
    "model.card.modules",
    bare=True,
    note="The card lists every module with its shapes and parameters; it is JSON, and needs no weights.",
)
class Modules:
    @staticmethod
    def nnsight(model):
        paths = sorted(path.removeprefix("model").removeprefix(".") for path, _ in model.named_modules())
        return paths

    @staticmethod
    def telepatch(model):
        paths = sorted(module.path for module in model.card.modules)
        return paths


GROUP.without(
    "parent, root",
    "model.transformer.h[1].mlp.parent",
    "A place is a path, and nothing hangs on the object that spells it.",
    'Build paths as text where they vary: `model[f"transformer.h.{at}"]`, or `blocks[at]`.',
)


@GROUP.row(
    "edit",
    "with model.edit() as (tracer, edited):",
    "with model.edit() as e:",
    note="An edit is a part of a graph, with arguments if wanted; `model.edited(e)` is the model with it in place. "
    'Under a name, `model.edit("ablate")`, the service keeps it, and later traces apply it by that name.',
)
class Edit:
    @staticmethod
    def nnsight(model):
        with model.edit() as (tracer, edited):
            edited.transformer.h[1].mlp.output[:] = 0
        with edited.trace(PROMPT):
            changed = nn.save(edited.output.logits)
        with model.trace(PROMPT):
            clean = nn.save(model.output.logits)
        return changed, clean

    @staticmethod
    def telepatch(model):
        with model.edit() as e:
            model.transformer.h[1].mlp.output[:] = 0
        edited = model.edited(e)
        with edited.trace(PROMPT):
            changed = edited.output.save()
        with model.trace(PROMPT):
            clean = model.output.save()
        return changed, clean


@GROUP.row(
    "edit(inplace=True), clear_edits()",
    "model.clear_edits()",
    "model = model.edited(e)",
    note="A model is not changed in place; the name is bound to the edited one, and back.",
)
class EditInPlace:
    @staticmethod
    def nnsight(model):
        with model.edit(inplace=True) as tracer:
            model.transformer.h[2].output[:, -1] *= 0.5
        with model.trace(PROMPT):
            changed = nn.save(model.output.logits)
        model.clear_edits()
        with model.trace(PROMPT):
            clean = nn.save(model.output.logits)
        return changed, clean

    @staticmethod
    def telepatch(model):
        original = model
        with model.edit() as e:
            model.transformer.h[2].output[:, -1] *= 0.5
        model = model.edited(e)
        with model.trace(PROMPT):
            changed = model.output.save()
        model = original
        with model.trace(PROMPT):
            clean = model.output.save()
        return changed, clean


@GROUP.row(
    "edits that stack",
    "with model.edit() as (tracer, first):",
    "model.trace(PROMPT, edits=[first, second(scale=0.25)])",
    note="Applied in their order; arguments make one edit serve many strengths, layers or directions.",
)
class Stacked:
    @staticmethod
    def nnsight(model):
        with model.edit() as (tracer, first):
            first.transformer.h[1].output[:] *= 2
        with first.edit() as (tracer, both):
            both.transformer.h[2].output[:] *= 0.25
        with both.trace(PROMPT):
            logits = nn.save(both.output.logits)
        return logits

    @staticmethod
    def telepatch(model):
        with model.edit() as first:
            model.transformer.h[1].output[:] *= 2
        with model.edit(scale=1.0) as second:
            model.transformer.h[2].output[:] *= second.scale
        with model.trace(PROMPT, edits=[first, second(scale=0.25)]):
            logits = model.output.save()
        return logits
