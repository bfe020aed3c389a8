"""Branch groups: what siblings share, and that the gradient over them is that of the reward."""

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.diffusion import seeds
from benchmarks.estimators.branches import Branches
from benchmarks.estimators.estimators import ALL_LEVELS, FINAL, OWN_STEP, ExactGradient
from benchmarks.estimators.field import Field, Forwards
from benchmarks.estimators.measure import mean_cosine, turn_of
from estimator_field import Linear, field
from small_parts import SHAPE, Brightness, Constant, Judge, Mixer, config


@pytest.fixture(scope="module", autouse=True)
def _drawn_once() -> Iterator[None]:
    """The cases have the same seeds: each of their many rows of noise is drawn once."""
    drawn = functools.cache(seeds.noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeds, "noise", lambda shape, seed, *path: drawn(tuple(shape), seed, *path))
        yield


def settings(groups: int = 4) -> Config:
    return config(rollout={"groups_per_cycle": groups, "group_size": 4}, policy_gradient={"clip": 1e6})


def gradient(place: Field, estimator: Branches | ExactGradient, number: int = 0) -> Tensor:
    own = place.under(estimator.overrides, "test")
    return turn_of(own, estimator, estimator.turn(own, number)).gradient


@pytest.mark.parametrize("form", [ALL_LEVELS, FINAL], ids=["all levels", "final"])
@pytest.mark.parametrize("gain", [1.0, -1.0])
@pytest.mark.parametrize("own_later", [False, True], ids=["shared later noise", "their own"])
def test_of_many_children_the_gradient_is_the_exact_one(form: dict[str, str], gain: float, own_later: bool) -> None:
    place = field(Linear(torch.zeros(SHAPE)), Brightness(gain), settings(groups=8))
    estimate = gradient(place, Branches("", form, parents=6, children=512, own_later=own_later))
    exact = gradient(place, ExactGradient("", form))
    assert float(torch.nn.functional.cosine_similarity(estimate, exact, dim=0)) > 0.9
    # A brighter picture is what is asked for, and a loss falls against its gradient.
    assert gain * float(exact.sum()) < 0


@pytest.mark.parametrize("estimator", [Branches("", ALL_LEVELS, parents=2, children=3), ExactGradient("", ALL_LEVELS)])
def test_an_estimator_is_of_all_actions_whatever_the_run_learns_from(estimator: Branches | ExactGradient) -> None:
    sections = {"rollout": {"groups_per_cycle": 4, "group_size": 4}}
    places = [
        field(Mixer(1), Judge(2), config(**sections, policy_gradient=own))
        for own in ({}, {"last_actions": 1, "direction": "end"})
    ]
    assert torch.equal(*(gradient(place, estimator) for place in places))


def test_siblings_are_one_until_the_action_at_which_they_part() -> None:
    place = field(Mixer(1), Judge(2), settings())
    estimator = Branches("", FINAL, parents=2, children=3)
    batch = estimator.turn(place, 0)
    steps = estimator.steps(len(batch.prompt_ids), batch.stds.numel())
    assert len(batch.prompt_ids) == 4 * 2
    assert steps.unique().tolist() == [0, 1]
    noise = (batch.latents[:, :, 1:3] - batch.means) / batch.stds.reshape(1, 1, -1, 1, 1, 1)
    for family, step in enumerate(steps.tolist()):
        states, means = batch.latents[family], batch.means[family]
        assert torch.equal(states[0, : step + 1].expand_as(states[:, : step + 1]), states[:, : step + 1])
        assert torch.equal(means[0, : step + 1].expand_as(means[:, : step + 1]), means[:, : step + 1])
        assert float((states[1:, step + 1] - states[0, step + 1]).abs().amin(dim=(1, 2, 3)).min()) > 0
        # Later noise is theirs together.
        torch.testing.assert_close(
            noise[family, :, step + 1 :], noise[family, :1, step + 1 :].expand(3, -1, -1, -1, -1)
        )
    assert not torch.equal(batch.latents[0, 0, 0], batch.latents[1, 0, 0]), "another family begins elsewhere"


def test_later_noise_of_their_own_differs_and_pairs_are_mirrored() -> None:
    place = field(Mixer(1), Judge(2), settings())
    apart = Branches("", FINAL, parents=2, children=4, own_later=True, antithetic=True)
    batch = apart.turn(place, 0)
    noise = (batch.latents[:, :, 1:3] - batch.means) / batch.stds.reshape(1, 1, -1, 1, 1, 1)
    first = noise[apart.steps(len(noise), 2) == 0]
    torch.testing.assert_close(first[:, ::2, 0], -first[:, 1::2, 0], atol=1e-5, rtol=0)
    assert float((first[:, 0, 1] - first[:, 2, 1]).abs().min()) > 0


def test_a_row_is_paid_for_once_by_the_learner_and_shared_states_once_by_actors() -> None:
    place = field(Mixer(1), Judge(2), settings())
    estimator = Branches("", FINAL, parents=2, children=8)
    batch = estimator.turn(place, 0)
    # 4 prompts; three steps. One family parts before the second step, the other before the third.
    assert place.forwards.so_far.student == 4 * ((1 + 8 + 8) + (1 + 1 + 8))
    turn = turn_of(place, estimator, batch)
    assert (turn.updates, turn.learner) == (1, Forwards(student=4 * 2))


def test_more_children_make_a_less_noisy_gradient_at_the_same_cost_of_the_learner() -> None:
    place = field(Mixer(1), Judge(2), settings())
    cosines = []
    for children in (2, 64):
        estimator = Branches("", FINAL, parents=2, children=children)
        own = place.under(estimator.overrides, "test")
        turns = [turn_of(own, estimator, estimator.turn(own, number)) for number in range(12)]
        assert {turn.learner for turn in turns} == {Forwards(student=4 * 2)}
        cosines.append(mean_cosine(torch.stack([turn.gradient for turn in turns])).mean)
    assert cosines[1] > cosines[0] + 0.2


@pytest.mark.parametrize("form", [ALL_LEVELS, OWN_STEP], ids=["all levels", "own step"])
def test_levels_that_siblings_share_take_nothing_of_the_spread(form: dict[str, str]) -> None:
    place = field(Linear(torch.zeros(SHAPE)), Brightness(1.0), settings(groups=8))
    estimate = gradient(place, Branches("", form, parents=2, children=512, own_later=True))
    assert float(estimate.norm() / gradient(place, ExactGradient("", form)).norm()) == pytest.approx(1, abs=0.15)


def test_a_blind_discriminator_gives_a_turn_without_updates() -> None:
    place = field(Mixer(1), Constant(0.3), settings())
    estimator = Branches("", ALL_LEVELS)
    assert turn_of(place, estimator, estimator.turn(place, 0)).updates == 0
