"""Splicing a sparse autoencoder into the forward: how much of the loss does it recover?

Each text runs as it is, with the stream after one block replaced by the autoencoder's reconstruction, and with zeros
there. Loss recovered is how far the reconstruction gets from the zeros to the model itself (Bricken et al. 2023,
"Towards Monosemanticity"; Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders").
With the error term put back the loss is the model's own, and the features are part of the forward (Marks et al. 2024,
"Sparse Feature Circuits").

    python docs/examples/sae_splice.py [URL]
"""

import sys

import numpy as np

import telepatch

TEXTS = [
    "Paris is the capital of France.",
    "When it rains, people open umbrellas.",
    "The cat sat on the mat and slept.",
]


def sae_splice(model, rows, sae, layer):
    """Mean losses of next tokens untouched, spliced, with the error put back, and with zeros; features per token."""

    def loss(ids, change=None):
        with model.trace(ids):
            x = model.blocks[layer].resid_post[:]  # [:] is the value there, where the name alone would be the place
            f = ((x - sae["bd"]) @ sae["We"] + sae["be"]).relu()
            if change is not None:
                model.blocks[layer].resid_post = change(x, f @ sae["Wd"] + sae["bd"])
            return telepatch.cross_entropy(model.unembed.output[0, :-1], ids[1:]), (f > 0).sum(-1).to("float32").mean()

    # Several traces of one row are one part of the same job; the mean over rows is taken where they are.
    with model.each(ids=rows) as row:
        whole, features = loss(row.ids)
        spliced, _ = loss(row.ids, lambda x, y: y)
        exact, _ = loss(row.ids, lambda x, y: y + (x - y).detach())
        zeros, _ = loss(row.ids, lambda x, y: 0)
        return [row.mean(one).save() for one in (whole, spliced, exact, zeros, features)]


if __name__ == "__main__":
    with telepatch.connect(*sys.argv[1:2]) as lab:
        model = lab.model("smollm2-135m")
        rows = [model.tokenize(text).ids for text in TEXTS]
        with model.each(rows) as row:
            x = row.cat(model.blocks[12].resid_post[0]).save()  # of different lengths, one below the other
        # In place of a trained autoencoder, the main directions of these texts themselves, and their opposites.
        main = np.linalg.svd(x.numpy() - x.numpy().mean(0), full_matrices=False)[2][:16]
        up = np.concatenate([main, -main])
        sae = {"We": up.T, "Wd": up, "be": np.zeros(32, np.float32), "bd": x.numpy().mean(0)}
        sae = {name: lab.upload(value) for name, value in sae.items()}  # sent once, however often it is used
        found = sae_splice(model, rows, sae, 12)
        whole, spliced, exact, zeros, features = map(float, found)
        print(f"loss {whole:.3f}, spliced {spliced:.3f}, with the error put back {exact:.3f}, with zeros {zeros:.3f}")
        print(f"loss recovered {(zeros - spliced) / (zeros - whole):.1%} with {features:.0f} features a token")
