"""Conditional steering: change what a model is saying, but only from the moment it says a certain thing.

A probe late in the model looks at the stream at every step of a generation. Once it fires, a vector is added early in
the model at every step from the next one on, and a little later the generation ends. Where nothing fires, the model is
left as it is (Lee et al. 2024, "Programming Refusal with Conditional Activation Steering"). The condition is computed
beside the model's own forward, so nothing waits for a round trip, and probe and token of each step are seen here while
the next one is made.

    python docs/examples/conditional_steering.py [URL]
"""

import sys

import telepatch

SAD = ["I am so sad and unhappy", "This is terrible, awful news", "She cried with grief and pain"]
GLAD = ["I am so glad and happy", "This is wonderful, great news", "She laughed with joy and pride"]


def direction(model, these, those, layer):
    """Mean of the stream at the last token of these prompts less that of those: (width,)."""
    with model.session():
        with model.each(these) as row:
            here = row.mean(model.blocks[layer].resid_post[0, -1])
        with model.each(those) as row:
            there = row.mean(model.blocks[layer].resid_post[0, -1])
        return (here - there).save()


def conditional_steering(model, prompt, early, late, probe, threshold, vector, most, after):
    """A generation that is steered once the probe fires and ends `after` steps later, and the score of every step."""
    with model.generate(prompt, max_new_tokens=most) as t:
        fired, since = t.state(False), t.state(0)  # carried from step to step
        with t.steps():  # written once; step 0 is the forward over the prompt, every later one has one position
            h = model.blocks[early].resid_post
            h[:, -1] = telepatch.where(fired, h[:, -1] + vector, h[:, -1])
            last = model.blocks[late].resid_post[:, -1]
            score = last @ probe / last.norm(dim=-1)
            fired.set(fired | (score > threshold).any())
            since.set(since + fired)
            t.emit(score=score, fired=fired)
            t.stop_if(since > after)
        scores = score.save()  # (steps, 1)
    return t, scores


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        glad = direction(model, GLAD, SAD, 12).numpy()
        with model.trace("sorry"):
            sorry = model.unembed.weight[model.token(" sorry")].save()  # as a probe: what makes the model say so
        probe = sorry.numpy() / (sorry.numpy() ** 2).sum() ** 0.5
        vector = 18 * glad / (glad**2).sum() ** 0.5
        for prompt in ("My dog died last week. I feel", "The sun is up. I feel"):
            t, _ = conditional_steering(model, prompt, 12, 27, probe, 0.12, vector, 20, 12)
            print(prompt)
            for event in t.stream():
                print(f"{event.text!r:12} {float(event.score[0]):+.3f} {'fired' if event.fired else ''}")
