"""What the doctor says of the balance between actors, reward workers and learner."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from advdmd_ray.config import Config
from advdmd_ray.runs.doctor.balance import LEAST, MOST, examine_balance
from advdmd_ray.runs.needs.compute import Network, full_cycle_cost

NETWORK = Network(layers=4)


def config(**sections: Mapping[str, Any]) -> Config:
    """A cycle in which actors and learner have about the same to do, on one thread each."""
    tree: dict[str, dict[str, Any]] = {
        "rollout": {"actors": 1, "group_size": 16, "groups_per_cycle": 8},
        "fake_score": {"batch_size": 32},
        "dmd": {"batch_size": 16},
        "discriminator": {"batch_size": 16},
        "cadence": {"fake_score_updates": 1, "discriminator_updates": 1},
        "policy_gradient": {"group_rows": 2},
    }
    return Config.model_validate({**tree, **{key: {**tree.get(key, {}), **own} for key, own in sections.items()}})


def suggested(settings: Config, setting: str) -> int:
    """The number that the doctor proposes for a setting."""
    found = re.search(rf"{setting}=(\d+)", examine_balance(settings, NETWORK).text)
    assert found is not None, examine_balance(settings, NETWORK).text
    return int(found[1])


def with_count(settings: Config, setting: str, count: int) -> Config:
    section, _, key = setting.partition(".")
    tree = settings.model_dump()
    tree[section][key] = count
    return Config.model_validate(tree)


@pytest.mark.parametrize("setting", ["rollout.actors", "reward.workers"])
def test_a_learner_that_waits_names_the_count_that_balances(setting: str) -> None:
    heavy = {"reward": {"final_levels": tuple(0.01 * level for level in range(1, 30))}}
    settings = config(**(heavy if setting == "reward.workers" else {"rollout": {"group_size": 64}}))
    finding = examine_balance(settings, NETWORK)
    assert finding.state == "note"
    assert f"the learner waits for the {'reward workers' if 'reward' in setting else 'actors'}" in finding.text
    better = with_count(settings, setting, suggested(settings, setting))
    assert setting not in examine_balance(better, NETWORK).text


def test_actors_that_wait_are_told_how_many_would_do() -> None:
    settings = config(rollout={"actors": 12})
    finding = examine_balance(settings, NETWORK)
    assert finding.state == "note"
    assert "the actors wait" in finding.text
    fewer = with_count(settings, "rollout.actors", suggested(settings, "rollout.actors"))
    assert "actors wait" not in examine_balance(fewer, NETWORK).text


def test_the_smallest_number_of_actors_is_never_called_too_many() -> None:
    settings = config(cadence={"fake_score_updates": 50})
    assert examine_balance(settings, NETWORK).state == "ok"


def test_the_shares_are_those_of_the_count_of_compute() -> None:
    settings = config()
    cost = full_cycle_cost(settings, NETWORK)
    share = cost.rollout / cost.learner
    assert LEAST < share < MOST
    finding = examine_balance(settings, NETWORK)
    assert f"actors need {share:.2f} and" in finding.text


@pytest.mark.parametrize("speed", ["threads", "num_gpus"])
def test_a_role_of_twice_the_speed_needs_half_the_time(speed: str) -> None:
    both = {key: {speed: 1} for key in ("rollout", "reward", "learner")}
    shares = []
    for fast in (1, 2):
        text = examine_balance(config(**{**both, "rollout": {speed: fast}}), NETWORK).text
        found = re.search(r"actors need ([0-9.]+)", text)
        assert found is not None
        shares.append(float(found[1]))
    assert shares[1] == pytest.approx(shares[0] / 2, abs=0.01)


def test_guidance_that_is_an_input_leaves_the_learner_less_to_do() -> None:
    settings = config(model={"guidance": 3.5})
    assert "for the learner" in examine_balance(settings, NETWORK).text
    assert examine_balance(settings, NETWORK).text != examine_balance(settings, Network(4, True)).text


def test_without_age_the_roles_take_turns() -> None:
    finding = examine_balance(config(rollout={"max_policy_age": 0}), NETWORK)
    assert finding.state == "note"
    assert finding.text.endswith("one after the other: rollout.max_policy_age=1 would overlap them")


def test_devices_of_two_kinds_are_not_compared() -> None:
    finding = examine_balance(config(learner={"num_gpus": 1.0}), NETWORK)
    assert finding.state == "note"
    assert "advdmd_run_role_seconds_total" in finding.text
