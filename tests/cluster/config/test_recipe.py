"""Recipes: every one fits at every size, and what it prints of a paper is where it says."""

from __future__ import annotations

import pytest

from cluster.config.recipe import RECIPES, STREAM, load_recipe
from cluster.inputs.routed_corpus import check_router
from trajectories.errors import UserError

SIZED = [(name, size) for name in RECIPES for size in load_recipe(name).sizes]
TRAINED = [(name, size) for name, size in SIZED if load_recipe(name).trains]


def test_the_issue_s_recipes_have_three_sizes_each():
    assert RECIPES == ("maestro-questions", "prism-alfworld", "prism-webshop", "se-gpt")
    assert all(tuple(load_recipe(name).sizes) == ("local", "gpu", "cluster") for name in RECIPES)


@pytest.mark.parametrize(("name", "size"), TRAINED)
def test_every_arm_is_a_valid_run_that_trains(name, size):
    recipe = load_recipe(name)
    runs, start = recipe.matrix_at(size).runs(), recipe.start_at(size)
    for config in [*runs.values(), *([start] if start else [])]:
        check_router(config.router, config.schedule)
        assert config.schedule.stages(192, 192)
    assert start is None or not start.evaluation.panels


@pytest.mark.parametrize(("name", "size"), TRAINED)
def test_what_a_size_plays_is_measured(name, size):
    recipe = load_recipe(name)
    panels = {measure.panel for measure in recipe.measures.values()}
    (played,) = {config.evaluation.panels for config in recipe.matrix_at(size).runs().values()}
    assert played and set(played) <= panels


@pytest.mark.parametrize("name", RECIPES)
def test_a_published_number_has_a_measure_with_a_source(name):
    recipe = load_recipe(name)
    for row in recipe.published.values():
        assert all(recipe.measures[measure].source for measure in row.values)


def test_all_arms_start_from_the_model_that_is_given():
    runs = load_recipe("prism-alfworld").matrix_at("local", "somewhere/model").runs()
    assert {config.policy.model for config in runs.values()} == {"somewhere/model"}
    assert {config.policy.model for config in load_recipe("prism-alfworld").matrix_at("local").runs().values()} != {
        "somewhere/model"
    }


def test_an_arm_that_is_null_is_not_run_at_that_size():
    recipe = load_recipe("maestro-questions")
    assert "nover" in recipe.matrix_at("gpu").arms and "nover" not in recipe.matrix_at("local").arms


def test_a_stream_trains_nothing():
    recipe = load_recipe("se-gpt")
    assert not recipe.trains and recipe.start_at("local") is None
    assert {measure.panel for measure in recipe.measures.values()} == {STREAM, None}


@pytest.mark.parametrize(("name", "size"), [sized for sized in TRAINED if sized[0].startswith("prism")])
def test_prism_is_given_epochs_so_that_half_of_the_data_is_half_of_the_work(name, size):
    schedules = [config.schedule for config in load_recipe(name).matrix_at(size).runs().values()]
    assert all(schedule.sft_epochs or schedule.grpo_epochs for schedule in schedules)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("prism-alfwrld", "local", "unknown recipe 'prism-alfwrld'.*Did you mean 'prism-alfworld'"),
        ("se-gpt", "lokal", "unknown size 'lokal': choose one of local, gpu, cluster. Did you mean 'local'"),
    ],
)
def test_what_there_is_not_names_what_there_is(name, size, message):
    with pytest.raises(UserError, match=message):
        load_recipe(name).at(size)
