"""The same interventions through the whole service: gateway, queue and worker in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import by_hooks
import httpx
import numpy as np
import pytest
from benches import Bench
from cases import Case, document
from suite import CASES

from telepatch_protocol.tensors import Tensor, decode

Models = Callable[[str], Bench]
SERVED = [case for case in CASES if not case.model.endswith("-eager")]


@pytest.fixture(scope="module")
def gateway(service_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service_url, timeout=60) as client:
        yield client


def answer(gateway: httpx.Client, case: Case, **options: bool) -> dict[str, Tensor]:
    body = document(case, **options).to_json()
    done = gateway.post("/v1/jobs", params={"wait": 30, "format": "safetensors"}, content=body)
    assert done.status_code == 200, done.text
    (job,) = done.json()["jobs"]
    assert job["state"] == "completed", job
    return decode(gateway.get(f"/v1/jobs/{job['id']}/result").content)


@pytest.mark.parametrize("case", SERVED, ids=str)
def test_the_whole_service_gives_bit_for_bit_what_hooks_give(case: Case, models: Models, gateway: httpx.Client):
    wanted = by_hooks.carry_out(case, models(case.model).plain.module)
    found = answer(gateway, case, exact=True)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name].array, value.numpy(), err_msg=name)


def test_jobs_sent_together_without_exact_agree_within_the_tolerance(models: Models, gateway: httpx.Client):
    cases = [case for case in SERVED if case.model == "llama-random"]
    ids = [f"0197f000-0000-7000-8000-{number:012d}" for number in range(len(cases))]
    submission = {
        "documents": [document(case).to_dict() for case in cases],
        "jobs": [{"id": job, "document": number} for number, job in enumerate(ids)],
    }
    done = gateway.post("/v1/jobs", params={"wait": 30}, json=submission)
    assert [job["state"] for job in done.json()["jobs"]] == ["completed"] * len(cases)
    for case, job in zip(cases, ids, strict=True):
        found = decode(gateway.get(f"/v1/jobs/{job}/result").content)
        for name, value in by_hooks.carry_out(case, models(case.model).plain.module).items():
            scale = float(value.abs().max())
            np.testing.assert_allclose(found[name].array, value.numpy(), rtol=1e-5, atol=1e-5 * scale, err_msg=name)
