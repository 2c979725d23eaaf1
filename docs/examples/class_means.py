"""Class means: the mean activation of every class over 1,000 prompts of different lengths.

Means of classes are what steering vectors and probes begin with: the difference of two is a direction (Marks and
Tegmark 2023, "The Geometry of Truth"; Rimsky et al. 2023, "Steering Llama 2"). The activations of 1,000 prompts never
travel and are never held together: each prompt is added to the sums as soon as it has run.

    python docs/examples/class_means.py [URL]
"""

import random
import sys

import telepatch

TOPICS = {
    "food": ["bread", "soup", "an apple", "dinner", "rice", "cheese"],
    "travel": ["a train", "the harbour", "a ticket", "the long road", "a map", "the airport"],
    "music": ["a song", "the violin", "an old record", "the choir", "a drum", "the concert hall"],
    "sums": ["two and two", "a dozen", "seven times eight", "half of ninety", "zero", "a square root"],
}


def prompts(count, seed=0):
    """Phrases of 2 to 16 words, and the number of the class of each."""
    draw = random.Random(seed)
    labels = [at % len(TOPICS) for at in range(count)]
    words = list(TOPICS.values())
    texts = [" and ".join(draw.choices(words[label], k=draw.randint(1, 4))) for label in labels]
    return [f"About {text}" for text in texts], labels


def class_means(model, texts, labels, classes):
    """Mean of the stream after each block at the last token, (classes, blocks, width), and the size of each class."""
    with model.session():
        with model.each(texts, label=labels) as row:
            last = model.blocks[:].resid_post[:, 0, -1]  # (blocks, width): this prompt's own last token
            one = telepatch.one_hot(row.label, classes)  # a one where the prompt belongs
            total = row.sum(one.to("float32")[:, None, None] * last)  # (classes, blocks, width)
            count = row.sum(one)
        return (total / count[:, None, None]).save(), count.save()


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        means, count = class_means(model, *prompts(1000), len(TOPICS))
        middle = means.numpy()[:, len(model.blocks) // 2]
        middle = middle - middle.mean(0)
        print("prompts:", dict(zip(TOPICS, count.tolist(), strict=True)))
        print("cosines of the classes' directions in the middle block:")
        unit = middle / ((middle**2).sum(-1, keepdims=True) ** 0.5)
        for name, row in zip(TOPICS, unit @ unit.T, strict=True):
            print(f"{name:8}", " ".join(f"{one:+.2f}" for one in row))
