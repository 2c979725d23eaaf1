"""Python inside a trace."""

from __future__ import annotations

import nnsight as nn
import torch
from table import Group

import telepatch

GROUP = Group("Choices, loops and Python inside a trace")

PROMPT = "Paris is the capital of"


@GROUP.row(
    "if on a value",
    "if h.norm() > 1:",
    "telepatch.where(h.norm() > 1, 0.0, old)",
    note="**Difference.** Inside a Telepatch block nothing has run yet, so `if value > 0` is refused. `where` chooses "
    "element by element, also what is written; `cond` chooses between values, or functions of which one is evaluated.",
)
class If:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output[:, -1]
            if h.norm() > 1:
                model.transformer.h[2].output[:, -1] = 0
            logits = nn.save(model.output.logits)
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output[:, -1]
            old = model.transformer.h[2].output[:, -1]
            model.transformer.h[2].output[:, -1] = telepatch.where(h.norm() > 1, 0.0, old)
            logits = model.output.save()
        return logits


@GROUP.row(
    "if / else with two computations",
    "else:",
    "telepatch.cond(h.sum() > 0, lambda: h.softmax(-1), lambda: h / h.norm())",
)
class IfElse:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output[0, -1]
            if h.sum() > 0:
                found = nn.save(h.softmax(-1))
            else:
                found = nn.save(h / h.norm())
        return found

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output[0, -1]
            found = telepatch.cond(h.sum() > 0, lambda: h.softmax(-1), lambda: h / h.norm()).save()
        return found


@GROUP.row(
    "for over layers",
    "for at in range(4):",
    "for at in range(4):",
    note="Loops whose number of turns is known are plain Python: each turn adds to the graph.",
)
class For:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            means = nn.save([])
            for at in range(4):
                model.transformer.h[at].mlp.output *= 0.5
                means.append(model.transformer.h[at].output.mean())
        return means

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            means = []
            for at in range(4):
                model.transformer.h[at].mlp.output *= 0.5
                means.append(model.transformer.h[at].output.mean().save())
        return means


@GROUP.row(
    "while on a value",
    "while y.norm() > 0.2:",
    "loop.while_(loop.y.norm() > 0.2)",
    note="A loop that ends by a value is `telepatch.repeat` with `while_`, on the server. It has a limit, and does "
    "one turn at least.",
)
class While:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            y = model.transformer.h[1].output[0, -1]
            while y.norm() > 0.2:
                y = y * 0.9
            end = nn.save(y)
        return end

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output[0, -1]
            with telepatch.repeat(50, y=h) as loop:
                loop.y = loop.y * 0.9
                loop.while_(loop.y.norm() > 0.2)
            end = loop.y.save()
        return end


@GROUP.row(
    "a grid of interventions",
    "for at in range(4):",
    "with model.sweep(layer=range(4), scale=[0.0, 0.5]) as v, model.trace(PROMPT):",
    note="A loop over traces works; a sweep is one job, whose variants run as rows of as few forwards as fit.",
)
class Sweep:
    @staticmethod
    def nnsight(model):
        grid = []
        for at in range(4):
            for scale in (0.0, 0.5):
                with model.trace(PROMPT):
                    model.transformer.h[at].mlp.output *= scale
                    logits = nn.save(model.output.logits[:, -1])
                grid.append(logits)
        grid = torch.stack(grid).unflatten(0, (4, 2))
        return grid

    @staticmethod
    def telepatch(model):
        with model.sweep(layer=range(4), scale=[0.0, 0.5]) as v, model.trace(PROMPT):
            model.transformer.h[v.layer].mlp.output *= v.scale
            grid = model.output[:, -1].save()
        return grid


@GROUP.row(
    "functions of one's own",
    "found = nn.save(centred(model.transformer.h[1].output))",
    "found = centred(model.transformer.h[1].output).save()",
    note="A function runs while the block is written down, so it works as far as it is made of operations of the "
    "vocabulary. It is not sent.",
)
class Functions:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            found = nn.save(centred(model.transformer.h[1].output))
        return found

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            found = centred(model.transformer.h[1].output).save()
        return found


def centred(x):
    return x - x.mean(-1, keepdim=True)


@GROUP.row(
    "saving lists and dicts",
    "found = nn.save({})",
    "found = {}",
    note="Containers are Python's own: save the values that go into them.",
)
class Containers:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            found = nn.save({})
            for at in (0, 3):
                found[f"layer {at}"] = model.transformer.h[at].output[:, -1]
        return found

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            found = {}
            for at in (0, 3):
                found[f"layer {at}"] = model.transformer.h[at].output[:, -1].save()
        return found


@GROUP.row(
    "print inside a trace",
    "print(h.mean())",
    "telepatch.show(mean=h.mean())",
    note="Printed on standard error once it is computed, with line, element and step; `t.shown` has it afterwards. "
    "`print` inside a block shows what is known before anything runs: node, shape, dtype, line.",
)
class Print:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output
            print(h.mean())
            shown = nn.save(h.mean())
        return shown

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT) as t:
            h = model.transformer.h[1].output
            telepatch.show(mean=h.mean())
        shown = t.shown[0].mean
        return shown


@GROUP.row(
    "random numbers",
    "torch.randn_like(h)",
    "telepatch.randn(h.shape, key=[7])",
    note="Every draw takes a `key`: the same key gives the same numbers in any company. They are not those of "
    "PyTorch's global generator, which a batch of strangers cannot share, so the spread is compared.",
)
class Random:
    @staticmethod
    def nnsight(model):
        torch.manual_seed(7)
        with model.trace(PROMPT):
            h = model.transformer.h[1].output
            noise = nn.save(torch.randn_like(h))
        return list(noise.shape), round(float(noise.std()), 1)

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output
            noise = telepatch.randn(h.shape, key=[7]).save()
        return list(noise.numpy().shape), round(float(noise.numpy().std()), 1)


GROUP.without(
    "any library inside a trace",
    "sklearn.decomposition.PCA().fit(h)",
    "A request is data: the service runs the operations of its vocabulary and no code that arrives.",
    "Decompositions (`svd`, `eigh`, `qr`, `lstsq`...), losses, sorting and keyed random numbers are in the "
    "vocabulary; for anything else save the value, compute with it, and send the outcome into the next trace.",
)
GROUP.without(
    "ndif.register(module), hook functions",
    "ndif.register(my_module)",
    "A registered module travels as pickled code, and a request here holds none.",
    "Write the function with operations (it is written down as the block runs), or ask the operator to serve the model "
    "with it: a card may name a loader.",
)
GROUP.without(
    "custom tracers, batchers and backends",
    "model.trace(x, tracer_cls=Mine)",
    "They change how the server runs a forward, for everyone in the batch.",
    "Nothing is left to them that is needed here: rows, positions and order are the planner's.",
)
