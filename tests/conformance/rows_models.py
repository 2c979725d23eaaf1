"""What kinds of models there are, and how they are held."""

from __future__ import annotations

from pathlib import Path

import nnsight as nn
import numpy as np
import torch
from table import ADAPTED, INT8, LLAVA, T5, Group

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
    "Fields of its card (`dtype`, `device`, `device_map`, `attention`, a pinned revision in `source`); code from a "
    "hub is never run. A place that exists under eager attention only makes its job run eager.",
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
    "Where a model's parts lie is the worker's business, and a request does not see it.",
    "`tp_size` on a model's card, and torchrun to start the worker, [models.md](models.md): every place is read and "
    "written whole, operations inside forwards and gradients included.",
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


@GROUP.row(
    "vision-language models",
    "model.trace(input_ids=torch.tensor(MIXED), pixel_values=torch.tensor(PICTURES))",
    'model.trace(inputs={"input_ids": MIXED, "pixel_values": PICTURES})',
    model=LLAVA,
    bare=True,
    shows="VisionLanguageModel(repo).trace(PROMPT, images=[image])",
    note="An image is a named tensor beside the token ids, in which its patches have their places, as the model's "
    "processor makes them: it stays on your side, as does the prompt's template. A card serves such a model with the "
    "loader that comes along, [models.md](models.md); images are of one size.",
)
class VisionLanguage:
    @staticmethod
    def nnsight(model):
        with model.trace(input_ids=torch.tensor(MIXED), pixel_values=torch.tensor(PICTURES)):
            seen = nn.save(model.model.vision_tower.encoder.layers[1].output)
            model.model.multi_modal_projector.output[:, 2] = 0
            stream = nn.save(model.model.language_model.layers[1].output)
            logits = nn.save(model.output.logits)
        return seen, stream, logits

    @staticmethod
    def telepatch(model):
        with model.trace(inputs={"input_ids": MIXED, "pixel_values": PICTURES}):
            seen = model.model.vision_tower.encoder.layers[1].output.save()
            model.model.multi_modal_projector.output[:, 2] = 0
            stream = model.model.language_model.layers[1].output.save()
            logits = model.output.save()
        return seen, stream, logits


MIXED = np.array([[5, 66, 66, 66, 66, 7, 8], [9, 66, 66, 66, 66, 3, 1]])
PICTURES = np.linspace(-1, 1, 2 * 3 * 64, dtype=np.float32).reshape(2, 3, 8, 8)


@GROUP.row(
    "one image in place of another",
    "model.model.multi_modal_projector.output[:] = other",
    "model.model.multi_modal_projector.output = other",
    model=LLAVA,
    bare=True,
    note="Two inputs of one trace share a forward here, also of named tensors.",
)
class OtherImage:
    @staticmethod
    def nnsight(model):
        with model.trace(input_ids=torch.tensor(MIXED[:1]), pixel_values=torch.tensor(PICTURES[:1])):
            other = nn.save(model.model.multi_modal_projector.output)
        with model.trace(input_ids=torch.tensor(MIXED[1:]), pixel_values=torch.tensor(PICTURES[1:])):
            model.model.multi_modal_projector.output[:] = other
            logits = nn.save(model.output.logits)
        return logits

    @staticmethod
    def telepatch(model):
        with model.trace() as t:
            with t.invoke(inputs={"input_ids": MIXED[:1], "pixel_values": PICTURES[:1]}):
                other = model.model.multi_modal_projector.output
            with t.invoke(inputs={"input_ids": MIXED[1:], "pixel_values": PICTURES[1:]}):
                model.model.multi_modal_projector.output = other
                logits = model.output.save()
        return logits


@GROUP.row(
    "encoder-decoder models",
    "model.trace(input_ids=torch.tensor(SOURCE), decoder_input_ids=torch.tensor(TARGET))",
    'model.trace(inputs={"input_ids": SOURCE, "decoder_input_ids": TARGET})',
    model=T5,
    bare=True,
    note="What the encoder reads and what the decoder is given each have a length of their own. **Difference.** "
    "Generation is for models with a decoder alone: here a trace is one forward, and a loop of traces gives the "
    "decoder one token more each time.",
)
class EncoderDecoder:
    @staticmethod
    def nnsight(model):
        with model.trace(input_ids=torch.tensor(SOURCE), decoder_input_ids=torch.tensor(TARGET)):
            read = nn.save(model.encoder.block[1].output[0])
            model.encoder.final_layer_norm.output[:, 3] = 0
            across = nn.save(model.decoder.block[0].layer[1].EncDecAttention.output[0])
            model.decoder.block[1].layer[1].EncDecAttention.q.output[:, -1] = 0
            logits = nn.save(model.output.logits)
        return read, across, logits

    @staticmethod
    def telepatch(model):
        with model.trace(inputs={"input_ids": SOURCE, "decoder_input_ids": TARGET}):
            read = model.encoder.block[1].outputs[0].save()
            model.encoder.final_layer_norm.output[:, 3] = 0
            across = model.decoder.block[0].layer[1].EncDecAttention.outputs[0].save()
            model.decoder.block[1].layer[1].EncDecAttention.q.output[:, -1] = 0
            logits = model.output.save()
        return read, across, logits


SOURCE = np.array([[5, 9, 12, 7, 30, 1], [8, 8, 2, 40, 11, 1]])
TARGET = np.array([[0, 14, 3], [0, 21, 60]])


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
