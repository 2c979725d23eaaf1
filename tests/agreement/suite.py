"""The cases: what people do to models, on three families, and the shapes at which batching goes wrong."""

from __future__ import annotations

from dataclasses import replace

from cases import Apply, Case, Compute, Param, Read, Write, rows, tokens

A7, B9, C12 = tokens(7, 1), tokens(9, 2), tokens(12, 3)
ONES = [0.5, -0.5]


def gpt2(name: str, *steps: object, **inputs: object) -> Case:
    return Case(name, "gpt2-random", steps, inputs or {"a": A7})


def llama(name: str, *steps: object, **inputs: object) -> Case:
    return Case(name, "llama-random", steps, inputs or {"a": A7})


def bert(name: str, *steps: object, **inputs: object) -> Case:
    return Case(name, "bert-random", steps, inputs or {"a": A7})


LOGITS = Read("logits", "lm_head:output")
LAST = Read("last", "lm_head:output", [":", -1])

GPT2 = (
    gpt2("read a block", Read("h", "transformer.h.2:output")),
    gpt2("read the last position", Read("h", "transformer.h.2:output", [":", -1])),
    gpt2("read a slice, a list and a new axis", Read("h", "transformer.h.1:output", [":", "1:5:2", None, [0, 3, -1]])),
    gpt2(
        "read inputs and outputs", Read("i", "transformer.h.1:input"), Read("o", "transformer.h.1.mlp:output"), LOGITS
    ),
    gpt2(
        "read attention, a tuple's first tensor",
        Read("x", "transformer.h.1.attn:output"),
        Read("y", "transformer.h.1.attn:outputs.0"),
    ),
    gpt2("read every block", Read("h", "transformer.h.*:output"), LAST),
    gpt2("read every block at one position", Read("h", "transformer.h.*:output", [":", ":", 2])),
    gpt2(
        "read the embeddings",
        Read("w", "transformer.wte:output"),
        Read("p", "transformer.wpe:output"),
        Read("i", "transformer.wte:input"),
    ),
    gpt2("zero an MLP at the last position", Write("transformer.h.1.mlp:output", 0, [":", -1]), LAST),
    gpt2(
        "zero two MLPs",
        Write("transformer.h.1.mlp:output", 0),
        Write("transformer.h.3.mlp:output", 0, [":", "-2:"]),
        LOGITS,
    ),
    gpt2(
        "scale a block",
        Read("h", "transformer.h.1:output"),
        Compute("s", "mul", ("$h", 1.5)),
        Write("transformer.h.1:output", "$s"),
        LOGITS,
    ),
    gpt2(
        "add a vector to a block's input",
        Read("h", "transformer.h.2:input"),
        Compute("s", "add", ("$h", 0.25)),
        Write("transformer.h.2:input", "$s"),
        LOGITS,
        Read("o", "transformer.h.2:output"),
    ),
    gpt2("replace attention's output", Write("transformer.h.0.attn:output", 0.1), LOGITS),
    gpt2(
        "change queries only",
        Write("transformer.h.1.attn.c_attn:output", 0, ["...", ":48"]),
        LOGITS,
        Read("a", "transformer.h.1.attn:output"),
    ),
    gpt2(
        "zero one head before the projection",
        Write("transformer.h.2.attn.c_proj:input", 0, [":", ":", "12:24"]),
        LOGITS,
    ),
    gpt2(
        "replace a norm's input without the skip path",
        Write("transformer.h.1.ln_2:input", 0.3),
        LOGITS,
        Read("r", "transformer.h.1:output"),
    ),
    gpt2(
        "read, write and read one site",
        Read("x", "transformer.h.1:output"),
        Write("transformer.h.1:output", 0.5, [":", 0]),
        Read("y", "transformer.h.1:output"),
        LOGITS,
    ),
    gpt2(
        "write one site twice",
        Write("transformer.h.1:output", 0.5),
        Write("transformer.h.1:output", -0.5, [":", 2]),
        Read("y", "transformer.h.1:output"),
        LOGITS,
    ),
    gpt2(
        "write infinity over logits",
        Write("lm_head:output", "-inf", ["...", [1, 5, 9]]),
        Compute("p", "softmax", ("$logits", -1)),
        LOGITS,
    ),
    gpt2("write every block", Write("transformer.h.*.mlp:output", 0, [":", ":", -1]), LOGITS),
    gpt2(
        "write where a mask says",
        Read("x", "transformer.h.1:output"),
        Compute("m", "gt", ("$x", 0.0)),
        Write("transformer.h.1:output", 0, ["$m"]),
        LOGITS,
    ),
    gpt2(
        "write with an index that was computed",
        Read("z", "transformer.h.0:output", [0, ":", 0]),
        Compute("best", "argmax", ("$z",)),
        Write("transformer.h.2:output", 1.0, [":", "$best"]),
        LOGITS,
    ),
    gpt2(
        "read with an index that was computed",
        Read("z", "transformer.h.0:output", [0, ":", 0]),
        Compute("best", "argmax", ("$z",)),
        Read("h", "transformer.h.2:output", [0, "$best"]),
    ),
    gpt2(
        "patch from one prompt to another at one layer",
        Read("c", "transformer.h.2:output", [":", -1]),
        Write("transformer.h.2:output", "$c", [":", -1], "b"),
        Read("z", "lm_head:output", [":", -1], "b"),
        a=A7,
        b=B9,
    ),
    gpt2(
        "patch to a later layer",
        Read("c", "transformer.h.0:output", [":", -1]),
        Write("transformer.h.3:output", "$c", [":", -1], "b"),
        Read("z", "lm_head:output", None, "b"),
        a=A7,
        b=B9,
    ),
    gpt2(
        "patch to an earlier layer",
        Read("c", "transformer.h.3:output", [":", -1]),
        Write("transformer.h.0:output", "$c", [":", -1], "b"),
        Read("z", "lm_head:output", None, "b"),
        a=A7,
        b=B9,
    ),
    gpt2(
        "patch every layer from another prompt",
        Read("c", "transformer.h.*:output", [":", ":", -1]),
        Write("transformer.h.*:output", "$c", [":", ":", 0], "b"),
        Read("z", "lm_head:output", None, "b"),
        a=A7,
        b=B9,
    ),
    gpt2(
        "a chain of three prompts",
        Read("c", "transformer.h.3:output", [":", -1]),
        Write("transformer.h.1:output", "$c", [":", -1], "b"),
        Read("d", "transformer.h.2:output", [":", 0], "b"),
        Write("transformer.h.2.mlp:output", "$d", [":", 0], "c"),
        Read("z", "lm_head:output", None, "c"),
        a=A7,
        b=B9,
        c=C12,
    ),
    gpt2(
        "apply the head to the middle of the model",
        Read("h", "transformer.h.1:output"),
        Apply("n", "transformer.ln_f", "h"),
        Apply("lens", "lm_head", "n"),
        Compute("p", "log_softmax", ("$lens", -1)),
    ),
    gpt2(
        "apply the head to every block",
        Read("h", "transformer.h.*:output", [":", ":", -1]),
        Apply("n", "transformer.ln_f", "h"),
        Apply("lens", "lm_head", "n"),
        Compute("t", "topk", ("$lens", 5)),
        Compute("v", "exp", ("$t.values",)),
    ),
    gpt2(
        "apply a norm and write what it gives",
        Read("h", "transformer.h.1:output"),
        Apply("n", "transformer.ln_f", "h"),
        Write("transformer.h.1:output", "$n"),
        LOGITS,
    ),
    gpt2(
        "use a parameter",
        Param("w", "transformer.wte", "weight"),
        Read("h", "transformer.h.3:output", [":", -1]),
        Compute("t", "transpose", ("$w", 0, 1)),
        Compute("z", "matmul", ("$h", "$t")),
    ),
    gpt2(
        "add an embedding to the stream",
        Param("w", "transformer.wte", "weight"),
        Compute("e", "index", ("$w", [5])),
        Write("transformer.h.0:output", "$e", [":", 1]),
        LOGITS,
    ),
    gpt2(
        "several rows in one invoke",
        Read("h", "transformer.h.1:output"),
        Write("transformer.h.2.mlp:output", 0, [1, ":"]),
        LOGITS,
        a=rows(3, 6, 4),
    ),
    gpt2(
        "several rows from one to another",
        Read("c", "transformer.h.1:output"),
        Compute("m", "mean", ("$c", 0)),
        Write("transformer.h.1:output", "$m", [":"], "b"),
        Read("z", "lm_head:output", None, "b"),
        a=rows(3, 6, 4),
        b=rows(2, 6, 5),
    ),
    gpt2(
        "one token", Read("h", "transformer.h.1:output"), Write("transformer.h.2.mlp:output", 0), LOGITS, a=tokens(1, 6)
    ),
    gpt2(
        "as many tokens as heads",
        Write("transformer.h.1.attn:output", 0, [":", 1]),
        LOGITS,
        Read("h", "transformer.h.*.attn:output"),
        a=tokens(4, 7),
    ),
    gpt2(
        "as many tokens as a head is wide",
        Write("transformer.h.1.attn:output", 0, [":", 1]),
        LOGITS,
        Read("q", "transformer.h.1.attn.c_attn:output"),
        a=tokens(12, 8),
    ),
    gpt2(
        "as many tokens as the model is wide",
        Write("transformer.h.1:output", 0, [":", 1]),
        LOGITS,
        Read("h", "transformer.h.2:output"),
        a=tokens(48, 9),
    ),
    gpt2("as many rows as heads and as tokens", Write("transformer.h.1:output", 0, [0, 1]), LOGITS, a=rows(4, 4, 10)),
)

LLAMA = (
    llama("read a block and the logits", Read("h", "model.layers.2:output"), LOGITS),
    llama(
        "read attention's keyword input",
        Read("h", "model.layers.1.self_attn:input"),
        Read("k", "model.layers.1.self_attn:inputs.hidden_states"),
    ),
    llama("write attention's keyword input", Write("model.layers.1.self_attn:input", 0.2, [":", 1]), LOGITS),
    llama("zero keys of two heads", Write("model.layers.2.self_attn.k_proj:output", 0, ["...", ":16"]), LOGITS),
    llama("zero a gate", Write("model.layers.2.mlp.gate_proj:output", 0, [":", -1]), LOGITS),
    llama("knock out attention everywhere", Write("model.layers.*.self_attn:output", 0, [":", ":", -1]), LOGITS),
    llama(
        "steer a block",
        Read("h", "model.layers.1:output", [":", -1]),
        Compute("s", "mul", ("$h", 4.0)),
        Write("model.layers.3:output", "$s", [":", -1]),
        LAST,
    ),
    llama(
        "patch between prompts",
        Read("c", "model.layers.2:output", [":", -1]),
        Write("model.layers.2:output", "$c", [":", -1], "b"),
        Read("z", "lm_head:output", [":", -1], "b"),
        a=A7,
        b=C12,
    ),
    llama(
        "patch a later block into an earlier one",
        Read("c", "model.layers.4:output", [":", -1]),
        Write("model.layers.1:output", "$c", [":", -1], "b"),
        Read("z", "lm_head:output", None, "b"),
        a=A7,
        b=C12,
    ),
    llama(
        "a lens over every block",
        Read("h", "model.layers.*:output", [":", ":", -1]),
        Apply("n", "model.norm", "h"),
        Apply("z", "lm_head", "n"),
    ),
    llama(
        "the stream inside a block",
        Read("x", "model.layers.1.post_attention_layernorm:input"),
        Write("model.layers.1.post_attention_layernorm:output", 0.1, [":", 0]),
        LOGITS,
    ),
    llama(
        "as many tokens as a head is wide",
        Write("model.layers.1.self_attn:output", 0, [":", 1]),
        LOGITS,
        a=tokens(8, 8),
    ),
    llama("as many tokens as key heads", Write("model.layers.1.self_attn:output", 0, [":", 1]), LOGITS, a=tokens(4, 8)),
    llama(
        "as many tokens as the model is wide",
        Write("model.layers.1.self_attn:output", 0, [":", 1]),
        LOGITS,
        a=tokens(64, 8),
    ),
)

BERT = (
    bert(
        "read blocks and the pooled output",
        Read("h", "encoder.layer.*:output"),
        Read("p", "pooler:output"),
        Read("o", ":output"),
    ),
    bert(
        "a child module called output",
        Read("x", "encoder.layer.1.output:output"),
        Write("encoder.layer.2.output:output", 0, [":", 0]),
        Read("h", "encoder.layer.3:output"),
    ),
    bert(
        "a child of a child called output",
        Read("x", "encoder.layer.1.attention.output.dense:output"),
        Write("encoder.layer.1.attention.output:output", 0.1, [":", -1]),
        Read("h", "encoder.layer.3:output"),
    ),
    bert(
        "zero queries",
        Write("encoder.layer.1.attention.self.query:output", 0, [":", 1]),
        Read("h", "encoder.layer.3:output"),
    ),
    bert(
        "patch between inputs of two lengths",
        Read("c", "encoder.layer.1:output", [":", 0]),
        Write("encoder.layer.1:output", "$c", [":", 0], "b"),
        Read("h", "encoder.layer.3:output", None, "b"),
        a=A7,
        b=C12,
    ),
    bert("change the embeddings", Write("embeddings:output", 0.1, [":", 2]), Read("h", "encoder.layer.3:output")),
)

EAGER = (
    Case(
        "read attention patterns",
        "gpt2-eager",
        (Read("p", "transformer.h.1.attn:outputs.1"), Read("q", "transformer.h.*.attn:outputs.1", [":", ":", ":", -1])),
        {"a": A7},
    ),
    Case(
        "patterns as wide as there are heads",
        "gpt2-eager",
        (
            Read("p", "transformer.h.1.attn:outputs.1"),
            Write("transformer.h.1.attn:output", 0, [":", 1]),
            Read("q", "transformer.h.2.attn:outputs.1"),
            LAST,
        ),
        {"a": tokens(4, 5)},
    ),
    Case(
        "patterns of several rows",
        "gpt2-eager",
        (Read("p", "transformer.h.1.attn:outputs.1", [1, 2]), LAST),
        {"a": rows(4, 4, 11)},
    ),
)

CASES: tuple[Case, ...] = (*GPT2, *LLAMA, *BERT, *EAGER)

HALF: tuple[Case, ...] = tuple(
    replace(case, model="gpt2-bfloat16") for case in GPT2 if not case.name.startswith("write infinity")
)
"""The same in bfloat16, where company moves results by more than float32's tolerance."""
