"""Generating, step by step."""

from __future__ import annotations

import nnsight as nn
import torch
from table import Group

import telepatch

GROUP = Group("Generation")

PROMPT, OTHER = "Paris is the capital of", "Rome is the capital of Italy, and"


@GROUP.row(
    "generate, tracer.result",
    "with model.generate(PROMPT, max_new_tokens=6) as tracer:",
    "with model.generate(PROMPT, max_new_tokens=6) as t:",
    note="`t.result` is the text, `t.generated` the new ids, without the prompt's. Greedy unless a temperature is "
    "given, in both.",
)
class Generate:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=6) as tracer:
            ids = nn.save(tracer.result)
        new = ids[:, len(PROMPT) :]
        return new, model.tokenizer.decode(new[0])

    @staticmethod
    def telepatch(model):
        with model.generate(PROMPT, max_new_tokens=6) as t:
            new = t.generated.save()
        return new, t.result


@GROUP.row(
    "tracer.iter[:], tracer.all(): every step",
    "for step in tracer.iter[:5]:",
    "last = model.transformer.h[2].output[:, -1].save()",
    note="What the block reads and writes happens at every step; what is saved is stacked over the steps that ran.",
)
class EveryStep:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=5) as tracer:
            kept = nn.save([])
            for step in tracer.iter[:5]:
                kept.append(model.transformer.h[2].output[:, -1])
        last = torch.stack(kept)
        return last

    @staticmethod
    def telepatch(model):
        with model.generate(PROMPT, max_new_tokens=5):
            last = model.transformer.h[2].output[:, -1].save()
        return last


@GROUP.row(
    "tracer.iter[a:b]: some steps",
    "for step in tracer.iter[1:3]:",
    "with t.steps(1, 3):",
)
class SomeSteps:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=5) as tracer:
            kept = nn.save([])
            for step in tracer.iter[1:3]:
                kept.append(model.transformer.h[2].output)
        return torch.stack(kept)

    @staticmethod
    def telepatch(model):
        with model.generate(PROMPT, max_new_tokens=5) as t:
            with t.steps(1, 3):
                kept = model.transformer.h[2].output.save()
        return kept


@GROUP.row(
    "tracer.iter[i]: one step",
    "for step in tracer.iter[0]:",
    "with t.step(0):",
    note="Step 0 is the forward over the prompt, with all its positions; every later one has one position. In both.",
)
class OneStep:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=5) as tracer:
            for step in tracer.iter[0]:
                prompt = nn.save(model.transformer.h[2].output)
        return prompt

    @staticmethod
    def telepatch(model):
        with model.generate(PROMPT, max_new_tokens=5) as t:
            with t.step(0):
                prompt = model.transformer.h[2].output.save()
        return prompt[0]


@GROUP.row(
    "tracer.iter[[i, j]]: chosen steps",
    "for step in tracer.iter[[0, 2]]:",
    "for at in (0, 2):",
)
class ChosenSteps:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=5) as tracer:
            kept = nn.save([])
            for step in tracer.iter[[0, 2]]:
                kept.append(model.transformer.h[2].output[:, -1])
        return kept

    @staticmethod
    def telepatch(model):
        kept = []
        with model.generate(PROMPT, max_new_tokens=5) as t:
            for at in (0, 2):
                with t.step(at):
                    kept.append(model.transformer.h[2].output[:, -1].save())
        return [one[0] for one in kept]


@GROUP.row(
    "steering at every step",
    "model.transformer.h[1].output[:, -1] += VECTOR",
    "model.transformer.h[1].output[:, -1] += VECTOR",
)
class Steering:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=6) as tracer:
            last = nn.save([])
            for step in tracer.iter[:6]:
                model.transformer.h[1].output[:, -1] += VECTOR
                last.append(model.lm_head.output[:, -1])
            ids = nn.save(tracer.result)
        return ids[:, len(PROMPT) :], torch.stack(last)

    @staticmethod
    def telepatch(model):
        with model.generate(PROMPT, max_new_tokens=6) as t:
            model.transformer.h[1].output[:, -1] += VECTOR
            last = model.lm_head.output[:, -1].save()
            ids = t.generated.save()
        return ids, last


VECTOR = torch.linspace(-2, 2, 48)


@GROUP.row(
    "if step == 2",
    "if step == 2:",
    "with t.step(2):",
)
class AtStep:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=6) as tracer:
            last = nn.save([])
            for step in tracer.iter[:6]:
                if step == 2:
                    model.transformer.h[0].output[:] = 0
                last.append(model.lm_head.output[:, -1])
        return torch.stack(last)

    @staticmethod
    def telepatch(model):
        with model.generate(PROMPT, max_new_tokens=6) as t:
            with t.step(2):
                model.transformer.h[0].output[:] = 0
            last = model.lm_head.output[:, -1].save()
        return last


@GROUP.row(
    "state carried over steps",
    "fired = fired or bool(score > 0)",
    "fired.set(fired | (score > 0).any())",
    note="A Python variable there, `t.state` here: what one step leaves is what the next begins with.",
)
class State:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=6) as tracer:
            last = nn.save([])
            fired = False
            for step in tracer.iter[:6]:
                h = model.transformer.h[1].output
                score = h[0, -1, 0] + 0.02 * step
                fired = fired or bool(score > 0)
                if fired:
                    h[:, -1] += 2
                last.append(model.lm_head.output[:, -1])
        return torch.stack(last)

    @staticmethod
    def telepatch(model):
        with model.generate(PROMPT, max_new_tokens=6) as t:
            fired = t.state(False)
            with t.steps() as step:
                h = model.transformer.h[1].output
                score = h[0, -1, 0] + 0.02 * step.index
                fired.set(fired | (score > 0).any())
                h[:, -1] += telepatch.where(fired, 2.0, 0.0)
                last = model.lm_head.output[:, -1].save()
        return last


@GROUP.row(
    "generation with several invokes",
    "with tracer.invoke(OTHER):",
    "with t.invoke(OTHER) as b:",
    note="Each with settings of its own (`t.invoke(prompt, temperature=0.7, seed=1)`); nnsight has one set for all.",
)
class Invokes:
    @staticmethod
    def nnsight(model):
        with model.generate(max_new_tokens=5) as tracer:
            with tracer.invoke(PROMPT):
                first = nn.save([])
                for step in tracer.iter[:5]:
                    first.append(model.lm_head.output[:, -1].argmax(-1))
            with tracer.invoke(OTHER):
                second = nn.save([])
                for step in tracer.iter[:5]:
                    model.transformer.h[1].output[:, -1] += 2
                    second.append(model.lm_head.output[:, -1].argmax(-1))
        return torch.stack(first, 1), torch.stack(second, 1)

    @staticmethod
    def telepatch(model):
        with model.generate(max_new_tokens=5) as t:
            with t.invoke(PROMPT) as a:
                first = a.generated.save()
            with t.invoke(OTHER) as b:
                model.transformer.h[1].output[:, -1] += 2
                second = b.generated.save()
        return first, second


@GROUP.row(
    "streamed tokens",
    "model.generator.streamer.output",
    "for event in t.stream():",
    note="Tokens, text and what `t.emit(score=...)` names come while the generation goes on.",
)
class Streamed:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=5) as tracer:
            tokens = nn.save([])
            for step in tracer.iter[:6]:
                tokens.append(model.generator.streamer.output)
        return [int(one) for one in tokens[1:]]

    @staticmethod
    def telepatch(model):
        with model.generate(PROMPT, max_new_tokens=5) as t:
            pass
        tokens = []
        for event in t.stream():
            tokens.append(event.token)
        return tokens


@GROUP.row(
    "cache in generation",
    "tracer.cache(modules=[model.transformer.h[1].mlp])",
    "with t.steps(1):",
    note="nnsight's cache has one entry per step; here a save of all positions is from step 1 on, or of the newest.",
)
class Cached:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=4) as tracer:
            cache = tracer.cache(modules=[model.transformer.h[1].mlp])
        steps = cache["model.transformer.h.1.mlp"].output
        return torch.stack(steps[1:])

    @staticmethod
    def telepatch(model):
        with model.generate(PROMPT, max_new_tokens=4) as t:
            with t.steps(1):
                steps = model.transformer.h[1].mlp.output.save()
        return steps


@GROUP.row(
    "stopping a generation from inside",
    "tracer.stop()",
    "t.stop_if(score > 0)",
    note="`tracer.stop()` ends the run of every invoke; `stop_if` ends this generation after the step, with its token.",
)
class StopIf:
    @staticmethod
    def nnsight(model):
        with model.generate(PROMPT, max_new_tokens=8) as tracer:
            scores = nn.save([])
            for step in tracer.iter[:8]:
                score = model.transformer.h[1].output[0, -1, 0] * 0 + step - 2.5
                scores.append(score)
                if score > 0:
                    tracer.stop()
        return torch.stack(scores)

    @staticmethod
    def telepatch(model):
        with model.generate(PROMPT, max_new_tokens=8) as t:
            with t.steps() as step:
                score = model.transformer.h[1].output[0, -1, 0] * 0 + step.index - 2.5
                t.stop_if(score > 0)
                scores = score.save()
        return scores


GROUP.without(
    "gradients of a generation",
    "model.generate(...) and backward()",
    "Tokens are chosen, not computed, so no gradient passes from one step to the next; nnsight refuses it, too.",
    "Generate first, and take the gradient in a trace over the generated ids: `t.generated` can be its input.",
)
GROUP.without(
    "beam search, num_return_sequences and other generation_config",
    "model.generate(PROMPT, num_beams=4)",
    "Rows of many people share one decode loop, whose settings are those of single rows.",
    "`temperature`, `top_p`, `top_k`, `min_p`, `repetition_penalty`, `no_repeat_ngram_size`, `seed`, `stop`, "
    "`min_new_tokens`, `max_new_tokens` per input; several samples are several invokes.",
)


@GROUP.row(
    "an edit at every step",
    "with model.edit() as (tracer, edited):",
    "model.edited(e).generate(PROMPT, max_new_tokens=6)",
)
class EditedSteps:
    @staticmethod
    def nnsight(model):
        with model.edit() as (tracer, edited):
            for step in tracer.iter[:6]:
                edited.transformer.h[1].output[:, -1] += VECTOR
        with edited.generate(PROMPT, max_new_tokens=6) as tracer:
            last = nn.save([])
            for step in tracer.iter[:6]:
                last.append(edited.lm_head.output[:, -1])
        return torch.stack(last)

    @staticmethod
    def telepatch(model):
        with model.edit() as e:
            model.transformer.h[1].output[:, -1] += VECTOR
        with model.edited(e).generate(PROMPT, max_new_tokens=6):
            last = model.lm_head.output[:, -1].save()
        return last
