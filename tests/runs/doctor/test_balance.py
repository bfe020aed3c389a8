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
        "discriminator": {"batch_size": 16, "auc_rows": 1},
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


@pytest.mark.parametrize(("speed", "faster"), [("threads", 2), ("num_gpus", 1)])
def test_more_threads_are_faster_and_more_gpus_than_one_are_not(speed: str, faster: int) -> None:
    both = {key: {speed: 1} for key in ("rollout", "reward", "learner")}
    shares = []
    for given in (1, 2):
        text = examine_balance(config(**{**both, "rollout": {speed: given}}), NETWORK).text
        found = re.search(r"actors need ([0-9.]+)", text)
        assert found is not None
        shares.append(float(found[1]))
    assert shares[1] == pytest.approx(shares[0] / faster, abs=0.01)


def test_cards_that_two_roles_share_have_the_work_of_both() -> None:
    halves = {"rollout": {"num_gpus": 0.5}, "reward": {"num_gpus": 0.5}, "learner": {"num_gpus": 1}}
    settings = config(**halves)
    cost = full_cycle_cost(settings, NETWORK)
    text = examine_balance(settings, NETWORK).text
    assert f"actors need {cost.rollout / cost.learner:.2f} and" in text
    assert f"on the 1 card that they share {(cost.rollout + cost.reward) / cost.learner:.2f}" in text
    crowded = config(**{**halves, "cadence": {"fake_score_updates": 1, "dmd_updates": 1}, "dmd": {"batch_size": 8}})
    assert examine_balance(crowded, NETWORK).state == "note"


def test_actors_that_share_cards_among_themselves_have_the_work_of_all_on_them() -> None:
    settings = config(
        rollout={"actors": 4, "num_gpus": 0.5},
        reward={"num_gpus": 1},
        learner={"num_gpus": 1},
        cadence={"dmd_updates": 1},
    )
    cost = full_cycle_cost(settings, NETWORK)
    text = examine_balance(settings, NETWORK).text
    assert f"on the 2 cards that they share {cost.rollout / 2 / cost.learner:.2f}" in text
    assert "actors wait" not in text.replace("the cards that actors", "")


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
