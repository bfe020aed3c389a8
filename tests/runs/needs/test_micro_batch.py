"""`micro_batch=auto` by the estimate: as many rows as fit, and not one more."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.memory import GIB, memory
from advdmd_ray.runs.needs.micro_batch import (
    HEADROOM,
    fitting_rows,
    held_without_activations,
    role_memory,
    rows_at_once,
)
from large_model import SIZES

ROLES = st.sampled_from(["rollout", "reward", "learner"])


def config(micro_batch: Any = "auto", **learner: Any) -> Config:
    place = {"num_gpus": 1.0, "micro_batch": micro_batch}
    return Config.model_validate(
        {
            "rollout": place,
            "reward": place,
            "learner": place | {"gradient_checkpointing": True} | learner,
            "model": {"precision": "bfloat16"},
            "lora": {"rank": 16},
            "dmd": {"gan_weight": 0.5},
            "discriminator": {"backbone": "own"},
        }
    )


@given(ROLES, st.floats(min_value=8, max_value=400))
def test_the_rows_fit_and_one_more_would_not(role: str, gib: float) -> None:
    available = gib * GIB
    rows = fitting_rows(config(), SIZES, role, available)

    def fits(most: int | None) -> bool:
        return role_memory(config(), SIZES, role, most).gpu <= HEADROOM * available

    if rows is None:
        assert fits(None)
    else:
        assert fits(rows) or rows == 1
        assert not fits(rows + 1)


@given(ROLES, st.floats(min_value=8, max_value=400), st.floats(min_value=1, max_value=4))
def test_more_memory_takes_as_many_rows_or_more(role: str, gib: float, more: float) -> None:
    few, many = (fitting_rows(config(), SIZES, role, size * GIB) for size in (gib, more * gib))
    assert many is None or (few is not None and many >= few)


def test_what_is_held_between_calls_and_the_activations_are_all() -> None:
    row = role_memory(config(), SIZES, "learner", 3)
    (activations,) = (size for name, size in row.parts if name.startswith("activations"))
    assert held_without_activations(config(), SIZES, "learner") + activations == row.gpu


def test_an_estimate_without_a_known_gpu_has_one_row_and_on_a_cpu_all() -> None:
    auto, one = (memory(config(given), SIZES) for given in ("auto", 1))
    assert auto == one
    on_cpus = [{name: {"micro_batch": given} for name in ("rollout", "reward", "learner")} for given in ("auto", None)]
    auto, whole = (memory(Config.model_validate(tree), SIZES) for tree in on_cpus)
    assert auto == whole


def test_a_number_is_left_as_it_is() -> None:
    assert role_memory(config(2), SIZES, "learner", 7) == role_memory(config(2), SIZES, "learner", 1)


def test_all_rows_of_a_learner_are_those_of_its_largest_update() -> None:
    settings = config()
    groups, actions = settings.rollout.groups_per_cycle, settings.steps - 1
    rows = groups * actions * settings.rl_rows // settings.policy_gradient.minibatches
    assert rows_at_once(settings, SIZES, "learner") == max(rows, settings.fake_score.batch_size)
    assert rows_at_once(settings, SIZES, "rollout") == settings.rollout.group_size


@pytest.mark.parametrize("given", ["fast", 0, True])
def test_anything_but_a_number_or_auto_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="micro_batch"):
        config(given)
