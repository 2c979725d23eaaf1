"""What kinds of models there are, and how they are held."""

from __future__ import annotations

from pathlib import Path

import nnsight as nn
import numpy as np
import torch
from table import ADAPTED, INT8, Group

GROUP = Group("Models")

PROMPT = "Paris is the capital of"


@GROUP.row(
    "modules added to the tree (adapter, SAE, LoRA)",
    "adapter(acts)",
    "acts + acts @ DOWN @ UP",
    note="A module of one's own is code; what it computes is a write of values, and its weights are arrays that travel "
    "once. Its inside is read where it is computed.",
)
class Adapter:
    @staticmethod
    def nnsight(model):
        adapter = LowRank(DOWN, UP)
        with model.trace(PROMPT):
            acts = model.transformer.h[1].mlp.output
            model.transformer.h[1].mlp.output = adapter(acts)
            inner = nn.save(adapter.inner)
            logits = nn.save(model.output.logits)
        return inner, logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            acts = model.transformer.h[1].mlp.output.clone()
            model.transformer.h[1].mlp.output = acts + acts @ DOWN @ UP
            inner = (acts @ DOWN).save()
            logits = model.output.save()
        return inner, logits


class LowRank(torch.nn.Module):
    """A module of one's own."""

    def __init__(self, down, up):
        super().__init__()
        self.down, self.up = torch.tensor(down), torch.tensor(up)

    def forward(self, x):
        self.inner = x @ self.down
        return x + self.inner @ self.up


DOWN = np.linspace(-1, 1, 48 * 2, dtype=np.float32).reshape(48, 2)
UP = np.linspace(1, -1, 2 * 48, dtype=np.float32).reshape(2, 48)


@GROUP.row(
    "writing a parameter",
    "x @ weight",
    "x @ weight",
    note="**Difference.** In nnsight a trace may change the weights themselves. Here they are shared by everybody "
    "and can be read only; what an edited weight would compute is written at the module's output.",
)
class EditedWeight:
    @staticmethod
    def nnsight(model):
        projection = model.transformer.h[1].mlp.c_proj
        with model.trace(PROMPT):
            x = projection.input
            weight = projection.weight * 0.9
            projection.output = x @ weight + projection.bias
            logits = nn.save(model.output.logits)
        return logits

    @staticmethod
    def telepatch(model):
        projection = model.transformer.h[1].mlp.c_proj
        with model.trace(PROMPT):
            x = projection.input
            weight = projection.weight * 0.9
            projection.output = x @ weight + projection.bias
            logits = model.output.save()
        return logits


GROUP.without(
    "loading: dispatch, dtype, device_map, attn_implementation, revision, trust_remote_code",
    'TransformersModel(repo, dtype="bfloat16")',
    "A model is loaded once for everybody, by the operator, and a request names it.",
    "Fields of its card (`dtype`, `device`, `attention`, a pinned revision in `source`); code from a hub is never "
    "run. A place that exists under eager attention only makes its job run eager.",
)


@GROUP.row(
    "quantisation",
    "model.model.layers[1].mlp.up_proj.output",
    "model.model.layers[1].mlp.up_proj.output",
    model=INT8,
    shows='TransformersModel(repo, dtype="nf4")',
    note="How weights are held is said by the card, `[quantisation]`: bitsandbytes, torchao, hqq, quanto, or PyTorch's "
    "own int8, which is what runs here on both sides. Traces read the same.",
)
class Quantised:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            inner = nn.save(model.model.layers[1].mlp.up_proj.output)
            model.model.layers[2].mlp.output[:, -1] = 0
            logits = nn.save(model.output.logits)
        return inner, logits

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            inner = model.model.layers[1].mlp.up_proj.output.save()
            model.model.layers[2].mlp.output[:, -1] = 0
            logits = model.output.save()
        return inner, logits


FRENCH, GERMAN = (str(Path(__file__).parent / "cards" / "adapters" / name) for name in ("french", "german"))


@GROUP.row(
    "PEFT adapters, load_adapter",
    "model.load_adapter(FRENCH)",
    'model.trace(PROMPT, adapter="french")',
    model=ADAPTED,
    note="The operator's card names the adapters, and each job the one that is in force in it; without one it is the "
    "base model, bit for bit. A low-rank adapter of one's own is a write, as in the first row of this table.",
)
class Adapted:
    @staticmethod
    def nnsight(model):
        model.load_adapter(FRENCH)
        with model.trace(PROMPT):
            query = nn.save(model.model.layers[1].self_attn.q_proj.output)
            french = nn.save(model.output.logits)
        model.load_adapter(GERMAN)
        with model.trace(PROMPT):
            model.model.layers[2].mlp.output[:, -1] = 0
            german = nn.save(model.output.logits)
        model.load_adapter(None)
        with model.trace(PROMPT):
            base = nn.save(model.output.logits)
        return query, french, german, base

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT, adapter="french"):
            query = model.model.layers[1].self_attn.q_proj.output.save()
            french = model.output.save()
        with model.trace(PROMPT, adapter="german"):
            model.model.layers[2].mlp.output[:, -1] = 0
            german = model.output.save()
        with model.trace(PROMPT):
            base = model.output.save()
        return query, french, german, base


GROUP.without(
    "tensor parallel",
    'TransformersModel(repo, tp_plan="auto")',
    "Where a model's parts lie is the worker's business, and no worker of this version splits one model over several "
    "GPUs.",
    "Workers on several GPUs or machines share one queue; one model has to fit one device, in fewer bits if need be.",
)
GROUP.without(
    "vLLM",
    "VLLM(repo)",
    "It is an engine with modules, a batch and a scheduler of its own, and no worker of this version drives it.",
    "The worker batches jobs of all people into its forwards by itself, generations included.",
)
GROUP.without(
    "diffusion models",
    "DiffusionModel(repo)",
    "A pipeline of several models in a scheduler's loop is not one forward over an input, which is what a run is.",
    "Its denoiser alone can be served as a module with named tensors, [models.md](models.md), and the loop written as "
    "a session of traces.",
)
GROUP.without(
    "vision-language and encoder-decoder models",
    "VisionLanguageModel(repo)",
    "An input is tokens or named tensors, and the processors that mix the two are code of the model's own.",
    "Serve it as a module with named tensors (`input_ids`, `pixel_values`, `decoder_input_ids`) and run its processor "
    "on the client; images alone are an input of vision models.",
)
GROUP.without(
    "pipe: task pipelines",
    "with model.pipe(PROMPT) as tracer:",
    "What a pipeline makes of a model's outputs (records, labels, chunks) is code of transformers.",
    "The numbers behind it are sites; `model.decode(...)` makes text of ids, and chat messages are an input.",
)
GROUP.without(
    ".to(), .cpu(), .cuda(), .device, .devices",
    'model.to("cuda")',
    "The card says where a model is, and all share it.",
    "Nothing: values come back as numpy arrays, or as torch tensors with `.torch()`.",
)
