"""Each setting of RL reaches the law that it names: the objective with it is that law with its value."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import kl_per_element, log_ratio
from advdmd_ray.learner.actions import Actions
from advdmd_ray.learner.batch import clean_predictions, collate
from advdmd_ray.learner.objectives import (
    dmd_parts,
    fake_score_parts,
)
from advdmd_ray.learner.policy import policy_means
from advdmd_ray.learner.signal import RewardSignal
from advdmd_ray.losses.advantage import AdvantageForm, advantages, level_z_scores, nominal_scale, normalised
from advdmd_ray.losses.policy_gradient import PolicyTerms, TrustRegion, policy_gradient_loss
from small_parts import (
    Constant,
    Judge,
    Mixer,
    batch_of,
    config,
    discriminator_update,
    normal,
    policy_update,
    scored_groups,
    setting,
    whole,
)

PATH = ("test", 0, 0)
OPEN = (True, True, True)


def _drifted() -> Mixer:
    """The actor's student after some updates: divergences of about a nat from what acted."""
    student = Mixer(1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.1)
    return student


@pytest.mark.parametrize("region", get_args(TrustRegion))
@pytest.mark.parametrize("nats", [1e-3, 1e3])
@pytest.mark.parametrize("power", [0, 1, 2])
def test_trust_region_thresholds_and_step_weights_are_the_configurations(
    region: TrustRegion, nats: float, power: int
) -> None:
    batch, student = batch_of(Mixer(1), Constant()), _drifted()
    own = {"flow_dppo": "kl_nats"}.get(region, "clip_nats")
    rules = {"trust_region": region, "step_weight_power": power, "stale_nats": 1e6, own: nats}
    fixed, advantage = setting(config(policy_gradient=rules), Mixer(9)), normal(4, 4, 2, seed=8)
    loss, report = policy_update(student, fixed, batch, Actions.of(batch, advantage))
    action, old = batch.latents[:, :, 1:3].flatten(0, 2), batch.means.flatten(0, 2)
    new, std = policy_means(student, fixed, batch, Actions.of(batch)).flatten(0, 2), batch.stds.repeat(16)
    terms = PolicyTerms(
        log_ratio(action, new, old, std), kl_per_element(new, old, std), advantage.flatten(), std**power, std
    )
    expected, _ = policy_gradient_loss(terms, numel=16, trust_region=region, kl_nats=nats, clip_nats=nats)
    torch.testing.assert_close(loss, expected)
    assert (float(report.gradient.clipped_fraction) > 0) == (nats < 1)


@pytest.mark.parametrize("form", get_args(AdvantageForm))
@pytest.mark.parametrize(
    ("gamma", "floor", "clip"), [(1.0, 0.5, 5.0), (0.3, 0.5, 5.0), (0.9, 4.0, 5.0), (0.9, 0.5, 0.2)]
)
def test_form_discount_floor_and_clip_of_the_advantages_are_the_configurations(
    form: AdvantageForm, gamma: float, floor: float, clip: float
) -> None:
    rules = {"advantage": form, "gamma": gamma, "std_floor": floor, "clip": clip, "final_weight": 2.0}
    signal = RewardSignal(config(policy_gradient=rules))
    batch, std = collate(scored_groups(Mixer(1), Judge(2)), 0), torch.tensor([0.5, 1.0, 2.0])
    signal.follow(2 * std, OPEN)
    found, _ = signal.advantages(batch, std, OPEN)
    weights = torch.tensor([1.0, 1.0, 2.0])
    z = level_z_scores(batch.rewards, std, 2 * floor * std)
    raw = advantages(z, form, gamma, weights)
    torch.testing.assert_close(found, normalised(raw, nominal_scale(form, gamma, weights), clip), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", get_args(AdvantageForm))
@pytest.mark.parametrize("last", [1, 2])
def test_advantages_of_the_last_actions_are_in_proportion_those_of_all(form: AdvantageForm, last: int) -> None:
    batch, std = collate(scored_groups(Mixer(1), Judge(2)), 0), torch.tensor([0.5, 1.0, 2.0])
    rules = {"advantage": form, "clip": 100.0, "gamma": 0.5}
    whole, part = (RewardSignal(config(policy_gradient={**rules, **more})) for more in ({}, {"last_actions": last}))
    (all_of_them, _), (found, _) = (signal.advantages(batch, std, OPEN) for signal in (whole, part))
    wanted = all_of_them[..., -last:]
    factor = float((found * wanted).sum() / wanted.square().sum())
    assert factor > 0
    torch.testing.assert_close(found, factor * wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "used"),
    [
        ("reward_to_go", (False, True, True)),
        ("own_step", (False, True, False)),
        ("final_only", (False, False, True)),
        ("potential", (True, False, True)),  # gamma 1: the differences add up to the last less the first
    ],
)
def test_a_level_that_no_learnt_action_is_rewarded_by_is_not_asked_for(form: str, used: tuple[bool, ...]) -> None:
    assert RewardSignal(config(policy_gradient={"advantage": form, "last_actions": 1})).used_levels == used


class _Levels(nn.Module):
    """Remembers the noise levels it is called with."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.levels = inner, list[float]()

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.levels += t.tolist()
        return self.inner(x, t, conditioning)


def _late_share(emphasis: float) -> tuple[float, float]:
    """Share of the rows in which the student's last step, and the discriminator's last level, are drawn."""
    settings: dict[str, dict[str, Any]] = {
        "learner": {"engine": "torch", "late_steps": emphasis},
        "dmd": {"batch_size": 1024},
        "discriminator": {"batch_size": 1024},
        "reward": {"final_levels": (0.05, 0.15)},
    }
    batch, fixed = batch_of(Mixer(1), Constant()), setting(config(**settings), Mixer(9))
    student, judge = _Levels(Mixer(1)), _Levels(Constant())
    whole(dmd_parts(student, Mixer(5), Constant(), fixed, batch, PATH))
    discriminator_update(judge, fixed, batch, PATH)
    late_step = sum(level == pytest.approx(0.3) for level in student.levels) / len(student.levels)
    return late_step, sum(level < 0.2 for level in judge.levels) / len(judge.levels)


@pytest.mark.parametrize("emphasis", [1.0, 3.0])
def test_the_emphasis_on_late_steps_reaches_dmd_and_discriminator(emphasis: float) -> None:
    # P(step < k) = (k / 3)^e, so the last of three is drawn with probability 1 - (2/3)^e.
    expected = 1 - (2 / 3) ** emphasis
    assert _late_share(emphasis) == pytest.approx((expected, expected), abs=0.05)


def test_the_emphasis_on_late_steps_reaches_the_fake_score() -> None:
    """A fake score that is right about the last step's pictures only has less loss the more often they are drawn."""
    batch = batch_of(Mixer(1), Constant())
    losses = []
    for emphasis in (1.0, 8.0):
        fixed = setting(
            config(fake_score={"batch_size": 1024}, learner={"engine": "torch", "late_steps": emphasis}), Mixer(9)
        )
        clean = clean_predictions(batch, fixed.kernel)
        far = torch.cat([clean[:, :, :-1] + 5.0, torch.zeros_like(clean[:, :, -1:])], dim=2)

        class Zero(nn.Module):
            """Knows that the last picture is 0."""

            def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
                return x / t.reshape(-1, 1, 1, 1)

        losses.append(float(whole(fake_score_parts(Zero(), fixed, batch, far, PATH))))
    assert losses[1] < 0.3 * losses[0]
