"""Gradients."""

from __future__ import annotations

import nnsight as nn
import torch
from table import Group

import telepatch

GROUP = Group("Gradients")

PROMPT = "Paris is the capital of"


@GROUP.row(
    "backward, read .grad",
    "with logits.sum().backward():",
    "with logits.sum().backward():",
    note="nnsight reads gradients in reverse order of the forward; here in any order. `telepatch.grad(number, values)` "
    "says the same in one line.",
)
class Backward:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            first = model.transformer.h[0].output.requires_grad_(True)
            second = model.transformer.h[2].output
            logits = model.output.logits
            with logits.sum().backward():
                late = nn.save(second.grad)
                early = nn.save(first.grad)
        return early, late

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            first = model.transformer.h[0].output
            second = model.transformer.h[2].output
            logits = model.output
            with logits.sum().backward():
                early = first.grad.save()
                late = second.grad.save()
        return early, late


@GROUP.row(
    "gradients of all layers",
    "block.output.requires_grad_(True)",
    "telepatch.grad(model.output[:, -1].norm(), model.transformer.h[:].output)",
)
class AllLayers:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            outputs = []
            for block in model.transformer.h:
                outputs.append(block.output.requires_grad_(True))
            with model.output.logits[:, -1].norm().backward():
                grads = nn.save([])
                for output in reversed(outputs):
                    grads.insert(0, output.grad)
        return torch.stack(list(grads))

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            grads = telepatch.grad(model.output[:, -1].norm(), model.transformer.h[:].output).save()
        return grads


@GROUP.row(
    "write .grad",
    "mlp.grad = mlp.grad * 0.5",
    "mlp.grad = mlp.grad * 0.5",
    note="Also by index: `h.grad[:, -1] *= 2`.",
)
class WriteGrad:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            first = model.transformer.h[0].output.requires_grad_(True)
            mlp = model.transformer.h[1].mlp.output
            with model.output.logits[:, -1].norm().backward():
                mlp.grad = mlp.grad * 0.5
                grad = nn.save(first.grad)
        return grad

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            first = model.transformer.h[0].output
            mlp = model.transformer.h[1].mlp.output
            with model.output[:, -1].norm().backward():
                mlp.grad = mlp.grad * 0.5
                grad = first.grad.save()
        return grad


@GROUP.row(
    "several backward passes",
    "backward(retain_graph=True)",
    "telepatch.grad(logits[0, -1, 1], h)",
    note="Several passes of one job need no `retain_graph`.",
)
class Several:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output.requires_grad_(True)
            logits = model.output.logits
            with logits[0, -1, 1].backward(retain_graph=True):
                one = nn.save(h.grad.clone())
            with logits[0, -1, 2].backward():
                two = nn.save(h.grad.clone())
        return one, two

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output
            logits = model.output
            one = telepatch.grad(logits[0, -1, 1], h).save()
            two = telepatch.grad(logits[0, -1, 2], h).save()
        return one, two


@GROUP.row(
    "gradients through writes",
    "model.transformer.h[1].output = h * scale",
    "model.transformer.h[1].output = h * scale",
    note="Of written and computed values as of any other; a gradient of a value that the number does not depend on "
    "is zero here, and an error there.",
)
class ThroughWrites:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output
            scale = torch.full((48,), 1.5, requires_grad=True)
            model.transformer.h[1].output = h * scale
            with model.output.logits[:, -1].norm().backward():
                grad = nn.save(scale.grad)
        return grad

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            h = model.transformer.h[1].output
            scale = telepatch.full((48,), 1.5)
            model.transformer.h[1].output = h * scale
            grad = telepatch.grad(model.output[:, -1].norm(), scale).save()
        return grad


@GROUP.row(
    "gradients in batched invokes",
    "with tracer.invoke(text):",
    "with t.invoke(text):",
    note="Gradient jobs share forwards with each other, too.",
)
class Batched:
    @staticmethod
    def nnsight(model):
        grads = []
        for text in (PROMPT, PROMPT[::-1]):
            with model.trace() as tracer:
                with tracer.invoke(text):
                    h = model.transformer.h[1].output.requires_grad_(True)
                    with model.output.logits[:, -1].norm().backward():
                        grad = nn.save(h.grad)
            grads.append(grad)
        return grads

    @staticmethod
    def telepatch(model):
        grads = []
        with model.trace() as t:
            for text in (PROMPT, PROMPT[::-1]):
                with t.invoke(text):
                    h = model.transformer.h[1].output
                    grads.append(telepatch.grad(model.output[:, -1].norm(), h).save())
        return grads


@GROUP.row(
    "backward(gradient=v) of a tensor",
    "backward(gradient=torch.ones_like(h))",
    "telepatch.grad(h.sum(), first)",
    note="A gradient is of one number: for a vector, the number is `(h * v).sum()`.",
)
class OfATensor:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            first = model.transformer.h[0].output.requires_grad_(True)
            h = model.transformer.h[2].output
            with h.backward(gradient=torch.ones_like(h)):
                grad = nn.save(first.grad)
        return grad

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            first = model.transformer.h[0].output
            h = model.transformer.h[2].output
            grad = telepatch.grad(h.sum(), first).save()
        return grad
