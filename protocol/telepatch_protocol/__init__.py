"""The language of Telepatch: intervention graphs as data, the vocabulary, model cards, jobs and errors.

This room does no I/O and knows no PyTorch; client, gateway and worker all speak through it.
"""

PROTOCOL: tuple[int, int] = (1, 1)
"""Version of the document. The minor grows when something is added that an older reader would refuse by name; the major
grows when the meaning of an existing document changes. A reader takes every minor up to its own of the same major."""
