"""``telepatch models``, as an operator and the scripts under ``deploy`` use it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from telepatch_worker.commands import models


@pytest.mark.parametrize(("model", "ranks"), [("gpt2-random", "1"), ("llama-tp2-random", "2")])
def test_how_many_processes_hold_a_model_is_a_number_alone(model: str, ranks: str) -> None:
    told = CliRunner().invoke(models, ["ranks", model])
    assert (told.exit_code, told.stdout) == (0, f"{ranks}\n")


def test_a_card_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    told = CliRunner().invoke(models, ["ranks", "gpt2-radnom"])
    assert told.exit_code == 2
    assert "gpt2-random" in told.output
