"""Every registered strategy keeps the contract, and the grid really drops plans."""

from __future__ import annotations

import pytest

from apexsim.errors import UsageError
from apexsim.search.figures import FIGURES, figure_named
from apexsim.search.strategies import Grid, strategy
from apexsim.testing.strategy import StrategyContract, play, toy


class TestRegisteredStrategies(StrategyContract):
    pass


def test_the_grid_drops_plans_that_cannot_matter():
    world = toy(seed=3)
    grid = Grid(world.candidates, FIGURES["goodput"], keep=1)
    asked = play(grid, world)
    assert len(asked) < len(world.candidates)
    assert "at most" in next(iter(grid.dropped.values()))


def test_without_a_limit_the_grid_replays_everything():
    world = toy(seed=3)
    grid = Grid(world.candidates, FIGURES["goodput"], keep=len(world.candidates) + 1)
    assert len(play(grid, world)) == len(world.candidates)


def test_auto_is_the_grid():
    assert strategy("auto") is Grid


@pytest.mark.parametrize("find", [strategy, figure_named])
def test_an_unknown_name_is_a_usage_error(find):
    with pytest.raises(UsageError, match="unknown"):
        find("gird")
