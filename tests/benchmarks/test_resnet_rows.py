from __future__ import annotations

import pytest

from benchmarks.paper_table import GOALS, RESNETS
from benchmarks.resnet_rows import CASES, RUNS, Case
from squeezer.recipe import parse_recipe

MOST_EPOCHS = 12


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_recipes_are_valid_and_say_what_they_need(case: Case) -> None:
    recipes = [parse_recipe(case.recipe(20, run)) for run in range(RUNS)]
    for recipe in recipes:
        recipe.check_data(has_data=case.data is not None)
        assert not recipe.encoding.graph
        assert sum(getattr(step, "epochs", 0) for step in recipe.steps) <= MOST_EPOCHS
    assert len({recipe.model_dump_json() for recipe in recipes}) == RUNS


def test_rows_without_labels_are_all_that_calibration_gets() -> None:
    assert [case.name for case in CASES if case.data == "rows"] == ["512 images"]
    [case] = [case for case in CASES if case.data == "rows"]
    assert parse_recipe(case.recipe(20, 0)).data.inputs == ("x",)


def test_each_goal_belongs_to_a_case_that_is_measured() -> None:
    for name, layers in RESNETS.items():
        measured = {case.name for case in CASES if layers in case.numbers}
        assert {what for network, what in GOALS if network == name} <= measured
