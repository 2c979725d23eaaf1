"""Running on somebody else's machine."""

from __future__ import annotations

import nnsight as nn
from table import Group

import telepatch

GROUP = Group("The service")

PROMPT = "Paris is the capital of"


@GROUP.row(
    "remote=True",
    "with model.trace(PROMPT):",
    "with model.trace(PROMPT):",
    shows="model.trace(PROMPT, remote=True)",
    note="Every trace runs on the service. Leaving the block sends and does not wait; the first look at a value does. "
    "(nnsight runs here in these rows, where its service is not to be had.)",
)
class Remote:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            hidden = nn.save(model.transformer.h[1].output)
        return hidden

    @staticmethod
    def telepatch(model):
        with model.trace(PROMPT):
            hidden = model.transformer.h[1].output.save()
        return hidden.numpy()


@GROUP.row(
    "blocking=False",
    "with model.trace(PROMPT):",
    'lab.result(t, "hidden")',
    shows="model.trace(PROMPT, remote=True, blocking=False) ... tracer.backend()",
    note="What happens anyway. `lab.status(t)`, `lab.wait()`, `lab.cancel(t)`, and a result by job and name, in "
    "another program, too.",
)
class NonBlocking:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            hidden = nn.save(model.transformer.h[1].output)
        return hidden

    @staticmethod
    def telepatch(model):
        lab = model._lab
        with model.trace(PROMPT) as t:
            model.transformer.h[1].output.save("hidden")
        hidden = lab.result(t, "hidden")
        return hidden


@GROUP.row(
    "async",
    "with model.trace(PROMPT):",
    "async with model.trace(PROMPT):",
    shows="AsyncRemoteBackend",
    note="`async with` around what needs it, and values can be awaited.",
)
class Async:
    @staticmethod
    def nnsight(model):
        with model.trace(PROMPT):
            hidden = nn.save(model.transformer.h[1].output)
        return hidden

    @staticmethod
    async def telepatch(model):
        async with model.trace(PROMPT):
            hidden = model.transformer.h[1].output.save()
        hidden = await hidden
        return hidden


@GROUP.row(
    "many traces in flight",
    "for at in range(4):",
    "telepatch.gather(kept)",
    note="Jobs that are pending together share forwards; a loop that looks at each value is warned once.",
)
class Many:
    @staticmethod
    def nnsight(model):
        kept = []
        for at in range(4):
            with model.trace(PROMPT):
                model.transformer.h[at].mlp.output[:] = 0
                logits = nn.save(model.output.logits[0, -1])
            kept.append(logits)
        return kept

    @staticmethod
    def telepatch(model):
        kept = []
        for at in range(4):
            with model.trace(PROMPT):
                model.transformer.h[at].mlp.output[:] = 0
                kept.append(model.output[0, -1].save())
        kept = telepatch.gather(kept)
        return kept


GROUP.without(
    "remote='local' and tracer.local()",
    'model.trace(PROMPT, remote="local")',
    "Nothing of a block runs on the client, so there is nothing to simulate or to mix.",
    "`telepatch.Model(card)` builds, checks and exports graphs without a connection; what is computed between traces "
    "is plain Python on saved values.",
    has="telepatch.Model(card)",
)
GROUP.without(
    "login, CONFIG and API keys",
    'CONFIG.set_default_api_key("...")',
    "It is the connection that has an address and a key.",
    "`telepatch.connect(url, api_key=...)`, or TELEPATCH_URL and TELEPATCH_API_KEY.",
    has="telepatch.connect(url, api_key=...)",
)
GROUP.without(
    "status, ndif_status, is_model_running, whoami",
    "nnsight.status()",
    "The same questions, put to the connection.",
    "`lab.models()`, `lab.me()`, `lab.status(job)`, and `telepatch status` at the command line.",
    has="lab.models()",
)
GROUP.without(
    "compare: do client and server have the same packages",
    "nnsight.compare()",
    "A document of data has a version and nothing else that could differ: client and server need no package in common.",
    "Nothing.",
)
