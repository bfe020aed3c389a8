"""The controller's row: what its turns run, and that its goals are of contestants that take part."""

import pytest

from benchmarks.host.contest import OURS
from benchmarks.host.rows import controller
from benchmarks.host.rows.controller import CONTROLLER, MANY, settings, turn


def test_a_turn_settles_all_its_groups_and_says_what_one_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller, "GROUPS", 20)
    assert settings(4, 8).run.cycles == 3
    assert turn(4, 8) > 0


def test_a_tenth_of_the_workers_score() -> None:
    config = settings(*MANY)
    assert (config.rollout.actors, config.reward.workers, config.rollout.groups_per_cycle) == (1000, 100, 2048)
    assert config.run.cycles * config.rollout.groups_per_cycle >= controller.GROUPS


def test_every_goal_is_of_a_contestant() -> None:
    with CONTROLLER.opened() as field:
        assert CONTROLLER.goals.keys() == field.turns.keys() - {OURS}
