"""The estimators against the exact gradient, which a wrong sign, weight or level would turn away from it."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.learner.batch import collate
from benchmarks.estimators.estimator import Estimator
from benchmarks.estimators.estimators import (
    ALL_LEVELS,
    CHECKER,
    ESTIMATORS,
    FINAL,
    OWN_STEP,
    ExactGradient,
    ForwardProcess,
    PolicyGradient,
)
from benchmarks.estimators.field import Field, Forwards
from benchmarks.estimators.measure import turn_of
from estimator_field import Linear, field
from small_parts import (
    SHAPE,
    Brightness,
    Constant,
    Judge,
    Mixer,
    config,
    infos_of,
    learner,
    scored_groups,
)


def many(size: int = 256, **policy_gradient: object) -> Config:
    return config(rollout={"group_size": size}, policy_gradient={"clip": 1e6, **policy_gradient})


def gradient(place: Field, estimator: Estimator, turn: int = 0) -> Tensor:
    own = place.under(estimator.overrides, "test")
    return turn_of(own, estimator, estimator.turn(own, turn)).gradient


def cosine(a: Tensor, b: Tensor) -> float:
    return float(nn.functional.cosine_similarity(a, b, dim=0))


FORMS: Mapping[str, Mapping[str, Any]] = {
    "own step": OWN_STEP,
    "to go": ALL_LEVELS,
    "final": FINAL,
    "discounted": {"policy_gradient.gamma": 0.5},
    "weighted": {"policy_gradient.intermediate_weight": [0.1, 2.0]},
    "potential": {"policy_gradient.advantage": "potential"},
}


@pytest.mark.parametrize("gain", [1.0, -1.0])
def test_of_many_rows_the_policy_gradient_of_a_linear_reward_is_the_exact_gradient(gain: float) -> None:
    place = field(Linear(torch.zeros(SHAPE)), Brightness(gain), many())
    batch = place.turn(0)
    for form in FORMS.values():
        own = place.under(form, "test")
        estimate, exact = (turn_of(own, kind("", form), batch).gradient for kind in (PolicyGradient, ExactGradient))
        assert cosine(estimate, exact) > 0.9
        assert float(estimate.norm() / exact.norm()) == pytest.approx(1, abs=0.15)
        # A brighter picture is what is asked for, and a loss falls against its gradient.
        assert gain * float(exact.sum()) < 0


def test_so_it_is_where_the_chain_and_the_judge_are_not_linear() -> None:
    place = field(Mixer(1), Judge(2), many(384))
    batch = place.turn(0)
    for form, power in zip(FORMS.values(), (0, 1, 2, 0, 1, 2), strict=True):
        own = place.under({**form, "policy_gradient.step_weight_power": power}, "test")
        estimate, exact = (turn_of(own, kind("", form), batch).gradient for kind in (PolicyGradient, ExactGradient))
        assert cosine(estimate, exact) > 0.8


@pytest.mark.parametrize("gain", [1.0, -1.0])
def test_the_forward_process_moves_towards_the_better_finals_and_away_from_the_worse(gain: float) -> None:
    place = field(Mixer(1), Brightness(gain), many())
    weights = gradient(place, ForwardProcess("", FINAL))
    own = place.under(FINAL, "test")
    batch = own.turn(1)
    x, ids = batch.latents[:, :, 1].flatten(0, 1), batch.prompt_ids.repeat_interleave(256)
    t = batch.sigmas[1].expand(len(x))

    def brightness() -> float:
        with torch.no_grad():
            return -float(own.student(x, t, own.setting.table.rows(ids)).mean())  # x0_hat = x - t v

    before = brightness()
    with torch.no_grad():
        for weight, step in zip(own.student.parameters(), weights.split([9, 5, 1]), strict=True):
            weight.sub_(0.01 * step.view_as(weight) / weights.norm())
    assert gain * (brightness() - before) > 0


def test_the_checker_in_the_discriminators_place_is_what_is_climbed() -> None:
    # The oracle likes bright images, this discriminator dark ones.
    place = field(Linear(torch.zeros(SHAPE)), Brightness(-1.0), many())
    by_checker, by_critic = (gradient(place, PolicyGradient("", FINAL | more)) for more in (CHECKER, {}))
    assert cosine(by_checker, by_critic) < -0.9


def test_the_estimator_makes_the_updates_of_the_learner() -> None:
    student, critic = Mixer(1), Judge(2)
    settings = config(learner={"max_grad_norm": 1e6}, policy_gradient={"group_rows": 2})
    groups = scored_groups(student, critic)
    turn = turn_of(field(student, critic, settings), ESTIMATORS["configured"], collate(groups, 0))
    critic.requires_grad_(requires_grad=True)
    taught = learner(settings, student=Mixer(1), critic=critic)
    taught.cycle(groups, infos_of(groups))
    moments = taught._engines["student"].optimizer_state()
    first = torch.cat([moments[f"rl.exp_avg/{name}"].reshape(-1) for name, _ in student.named_parameters()])
    torch.testing.assert_close(turn.gradient, first / (1 - settings.learner.betas[0]))
    assert turn.updates == 1


def test_a_blind_discriminator_gives_a_turn_without_updates() -> None:
    place = field(Mixer(1), Constant(0.3))
    turn = turn_of(place, ESTIMATORS["configured"], place.turn(0))
    assert turn.updates == 0
    assert float(turn.gradient.abs().max()) == 0


def test_turns_belong_to_the_seed_and_their_number() -> None:
    def latents(number: int, seed: int = 0) -> Tensor:
        return field(Mixer(1), Judge(2), seed=seed).turn(number).latents

    assert torch.equal(latents(0), latents(0))
    assert not torch.equal(latents(0), latents(1))
    assert not torch.equal(latents(0), latents(0, seed=1))


def test_a_turn_has_the_scores_that_reward_workers_give() -> None:
    student, critic = Mixer(1), Judge(2)
    groups = scored_groups(student, critic)
    place = field(student, critic)
    for scored in groups:
        group = scored.group
        ours = place.scores(torch.tensor(group.latents), group.prompt_id, int(group.seeds[0]))
        torch.testing.assert_close(ours, torch.tensor(scored.rewards))


@pytest.mark.parametrize(("rows", "minibatches"), [(None, 1), (2, 1), (4, 2)])
def test_forwards_are_counted_where_they_are_made(rows: int | None, minibatches: int) -> None:
    settings = config(policy_gradient={"group_rows": rows, "minibatches": minibatches})
    place = field(Mixer(1), Judge(2), settings)
    batch = place.turn(0)
    # 4 groups of 4, 3 steps of which 2 draw noise; D sees 2 intermediate states and 3 noisy final ones.
    assert place.forwards.so_far == Forwards(student=4 * 4 * 3, discriminator=4 * 4 * 5)
    turn = turn_of(place, ESTIMATORS["configured"], batch)
    assert (turn.updates, turn.learner) == (minibatches, Forwards(student=4 * (rows or 4) * 2))
    chosen = 4 * (rows or 4)
    exact = turn_of(place, ESTIMATORS["exact"], batch)
    assert (exact.updates, exact.learner) == (1, Forwards(student=chosen * 4, discriminator=chosen * 5))


def test_parts_of_any_size_give_one_gradient() -> None:
    whole = field(Mixer(1), Judge(2))
    for name in ("configured", "exact"):
        parted = field(Mixer(1), Judge(2))
        object.__setattr__(parted.setting, "micro_batch", 3)
        both = [turn_of(each, ESTIMATORS[name], each.turn(0)).gradient for each in (whole, parted)]
        torch.testing.assert_close(*both)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_that_ships_makes_a_turn(name: str) -> None:
    settings = config(data={"source": "shapes"}, policy_gradient={"group_rows": 4, "minibatches": 2})
    estimator = ESTIMATORS[name]
    place = field(Mixer(1), Judge(2), settings).under(estimator.overrides, name)
    turn = turn_of(place, estimator, estimator.turn(place, 0))
    one = name.startswith(("exact", "forward", "branches", "end")) or name.endswith("all_rows")
    assert turn.updates == (1 if one else 2)
    assert 0 < float(turn.gradient.norm()) < 1e3


def test_a_setting_that_does_not_fit_is_refused_by_the_estimators_name() -> None:
    with pytest.raises(UserError, match=r"^mine: .*group_rows must not exceed"):
        field(Mixer(1), Judge(2)).under({"policy_gradient.group_rows": 200}, "mine")
