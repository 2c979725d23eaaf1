"""The same interventions on the same weights: hooks, nnsight, the engine alone, the engine in company."""

from __future__ import annotations

from collections.abc import Callable

import by_hooks
import by_nnsight
import pytest
import torch
from benches import Bench
from cases import Case, Read, Write, document, tokens
from suite import CASES, HALF

from telepatch_worker.engine import Engine, Task

Models = Callable[[str], Bench]
TOLERANCE = 1e-5


def strangers(case: Case) -> list[Case]:
    """Jobs of other people: shorter and longer inputs, reads and writes at the same sites as the case."""
    sites = list(
        dict.fromkeys(step.site for step in case.steps if isinstance(step, Read | Write) and ":param" not in step.site)
    )
    found = []
    for number, length in enumerate((1, 3, 8, 13, 20)):
        site = sites[number % len(sites)]
        steps = (
            (Write(site, 0.7), Read("mine", site))
            if number % 2 and ".wpe" not in site and site != ":output"
            else (Read("mine", site),)
        )
        found.append(Case(f"stranger {number}", case.model, steps, {"a": tokens(length, 50 + number)}))
    return found


def run(engine: Engine, cases: list[Case], **options: bool) -> list[dict[str, torch.Tensor]]:
    tasks = [Task(f"job-{number}", document(case, **options)) for number, case in enumerate(cases)]
    outcomes = engine.run(tasks)
    assert [outcome.error for outcome in outcomes] == [None] * len(cases)
    return [outcome.saved or {} for outcome in outcomes]


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        assert torch.equal(found[name].nan_to_num(), value.nan_to_num()), name


def assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name],
            value,
            rtol=TOLERANCE,
            atol=TOLERANCE * float(_scale(value)),
            equal_nan=True,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def _scale(value: torch.Tensor) -> torch.Tensor:
    finite = value[value.isfinite()].float().abs()
    return finite.max().clamp(min=1e-3) if finite.numel() else torch.tensor(1.0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_engine_alone_gives_bit_for_bit_what_hooks_give(case: Case, models: Models):
    bench = models(case.model)
    wanted = by_hooks.carry_out(case, bench.plain.module)
    assert_same(run(bench.engine, [case], exact=True)[0], wanted)


@pytest.mark.parametrize("case", HALF, ids=str)
def test_the_engine_alone_gives_bit_for_bit_what_hooks_give_in_bfloat16(case: Case, models: Models):
    bench = models(case.model)
    wanted = by_hooks.carry_out(case, bench.plain.module)
    assert torch.bfloat16 in {value.dtype for value in wanted.values()}
    assert_same(run(bench.engine, [case], exact=True)[0], wanted)


def test_jobs_in_bfloat16_agree_in_company_within_the_bound_on_their_card(models: Models):
    bench = models("gpt2-bfloat16")
    plain = [case for case in HALF if "computed" not in case.name and "mask" not in case.name]
    for case, found in zip(plain, run(bench.engine, plain), strict=True):
        for name, value in by_hooks.carry_out(case, bench.plain.module).items():
            bound = bench.engine.card.tolerance * float(_scale(value))
            torch.testing.assert_close(found[name], value, rtol=bench.engine.card.tolerance, atol=bound, equal_nan=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_nnsight_gives_what_hooks_give(case: Case, models: Models):
    bench = models(case.model)
    wanted = by_hooks.carry_out(case, bench.plain.module)
    assert_close(by_nnsight.carry_out(case, bench.plain.card, bench.envoy, bench.envoy._module), wanted)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_engine_gives_the_same_in_a_batch_with_strangers_who_write_too(case: Case, models: Models):
    bench = models(case.model)
    wanted = by_hooks.carry_out(case, bench.plain.module)
    others = strangers(case)
    found = run(bench.engine, [*others[:2], case, *others[2:]])
    assert_close(found[2], wanted)
    for other, value in zip(others, found[:2] + found[3:], strict=True):
        assert_close(value, by_hooks.carry_out(other, bench.plain.module))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_engine_without_exact_but_alone_gives_the_same(case: Case, models: Models):
    bench = models(case.model)
    assert_close(run(bench.engine, [case])[0], by_hooks.carry_out(case, bench.plain.module))


@pytest.mark.parametrize("model", ["gpt2-random", "llama-random", "bert-random"])
def test_all_cases_of_a_model_in_one_batch_give_the_same(model: str, models: Models):
    bench = models(model)
    cases = [case for case in CASES if case.model == model]
    for case, found in zip(cases, run(bench.engine, cases), strict=True):
        assert_close(found, by_hooks.carry_out(case, bench.plain.module))


@pytest.mark.parametrize("model", ["gpt2-random", "llama-random", "bert-random"])
def test_no_job_leaves_anything_behind_in_the_model(model: str, models: Models):
    bench = models(model)
    fresh = {name: value.clone() for name, value in bench.plain.module.state_dict().items()}
    run(bench.engine, [case for case in CASES if case.model == model])
    for name, value in bench.engine.loaded.module.state_dict().items():
        assert torch.equal(value, fresh[name]), name
    ids = torch.tensor([tokens(9, 77)])
    with torch.no_grad():
        one, other = bench.engine.loaded.module(ids)[0], bench.plain.module(ids)[0]
    assert torch.equal(one, other)


def test_there_are_at_least_forty_cases_on_three_families():
    assert len(CASES) >= 40
    assert {case.model for case in CASES} >= {"gpt2-random", "llama-random", "bert-random"}
