"""Image association test: does a vision model hold two kinds of images nearer to one attribute than to another?

As the Image Embedding Association Test: X and Y are two sets of images, A and B two sets of attributes. The score of
an image is how much more alike it is to A than to B, by the cosine of mean-pooled activations, and the effect is the
difference of scores between X and Y, in standard deviations. Whether that is chance is asked by giving the names X
and Y to the same images at random, many times (Steed and Caliskan 2021, "Image Representations Learned With
Unsupervised Pre-Training Contain Human-like Biases"; Caliskan et al. 2017). Here the images are digits, at every
layer of a ViT.

    python docs/examples/image_association.py [URL]
"""

import sys
from pathlib import Path

from safetensors.numpy import load_file

import telepatch

DIGITS = Path(__file__).parents[2] / "models" / "digits.safetensors"


def image_association(model, x, y, a, b, shuffles, key=0):
    """Effect and p-value at each layer, both (layers,); the sets are arrays of images, x and y equally many."""
    n = len(x)
    with model.trace() as t:

        def embedded(images):
            with t.invoke(images=images):
                return model.blocks[:].resid_post[:, :, 1:].mean(2)  # over patches, without the class token

        e = telepatch.cat([embedded(images) for images in (x, y, a, b)], 1)
        e = e / e.norm(dim=-1, keepdim=True)  # (layers, images, width)
        alike = e[:, : 2 * n] @ e[:, 2 * n :].mT  # (layers, 2n, attributes): cosines
        s = alike[:, :, : len(a)].mean(-1) - alike[:, :, len(a) :].mean(-1)
        effect = (s[:, :n].mean(1) - s[:, n:].mean(1)) / s.std(1)
        # Random numbers have a key: the same key gives the same shuffles, on every machine and in any company.
        order = telepatch.rand([shuffles, 2 * n], key=key).argsort(-1)[:, :n]
        as_large = s[:, order].sum(-1) >= s[:, :n].sum(1, keepdim=True)
        p = (as_large.sum(1) + 1) / (shuffles + 1)
        return effect.save(), p.save()


if __name__ == "__main__":
    images, labels = load_file(DIGITS)["images"], load_file(DIGITS)["labels"]
    x, y, a, b = (images[labels == digit] for digit in (1, 0, 7, 6))  # is a one more like a seven than a zero is?
    with telepatch.connect(*sys.argv[1:2]) as lab:
        effect, p = image_association(lab.model("vit-digits"), x[:30], y[:30], a[:20], b[:20], 9999)
        for layer, (size, chance) in enumerate(zip(effect.numpy(), p.numpy(), strict=True)):
            print(f"layer {layer}: effect {size:+.2f}, p = {chance:.4f}")
