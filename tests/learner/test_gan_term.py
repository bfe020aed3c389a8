"""The direct GAN term of the student: how large it is, and at which levels its discriminator learns and judges."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.learner.batch import clean_predictions
from advdmd_ray.learner.objectives import discriminator_parts, dmd_parts
from small_parts import (
    SHAPE,
    Brightness,
    Constant,
    Judge,
    Mixer,
    Painter,
    batch_of,
    config,
    infos_of,
    learner,
    normal,
    scored_groups,
    setting,
    whole,
)

PATH = ("test", 0, 0)
ROWS = 64
REWARD_LEVELS = [0.6, 0.3, 0.05, 0.15]
PAIRINGS = pytest.mark.parametrize("pairing", ["independent", "relativistic"])


class Shifted(nn.Module):
    """A critic plus a constant."""

    def __init__(self, critic: nn.Module, shift: float) -> None:
        super().__init__()
        self.critic, self.shift = critic, shift

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self.critic(x, t, conditioning) + self.shift


class Spy(nn.Module):
    """A critic that remembers the states and levels that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = Judge(3)
        self.shown: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.shown.append((x.detach(), t))
        return self.critic(x, t, conditioning)


def gan(weight: float = 1.0, levels: str = "uniform", **sections: Mapping[str, Any]) -> Config:
    tree: dict[str, Mapping[str, Any]] = {
        "dmd": {"gan_weight": weight, "gan_levels": levels, "batch_size": ROWS},
        "reward": {"final_levels": (0.05, 0.15)},
    }
    return config(**tree | sections)


def term(critic: nn.Module, settings: Config, picture: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """At the student's picture, what the term adds to the gradient and what is there without it; and what is told."""
    student = Painter(normal(*SHAPE, seed=1) if picture is None else picture)
    batch, ratios = batch_of(student, Constant()), list[Tensor]()
    gradients = []
    for chosen in (settings, settings.model_copy(update={"dmd": settings.dmd.model_copy(update={"gan_weight": 0.0})})):
        parts = dmd_parts(student, Mixer(5), critic, setting(chosen, Mixer(9)), batch, PATH, ratios.append)
        gradients.append(torch.autograd.grad(whole(parts), student.picture)[0])
    return gradients[0] - gradients[1], gradients[1], torch.cat(ratios)


# How large it is ----------------------------------------------------------------------------------------------------


def test_the_term_falls_to_nothing_as_the_critic_takes_everything_for_real() -> None:
    found = [term(Shifted(Judge(3), shift), gan()) for shift in (0.0, 1.0, 3.0, 9.0, 27.0)]
    norms = [float(added.norm()) for added, *_ in found]
    ratios = [float(told.mean()) for *_, told in found]
    for falling in (norms, ratios):
        assert falling == sorted(falling, reverse=True)
        assert falling[0] > 100 * falling[3] > 0
    assert norms[-1] < 1e-6 * float(found[0][1].norm())


def test_a_critic_whose_slope_is_round_off_contributes_exactly_nothing() -> None:
    added, _, told = term(Shifted(Brightness(1e-7), 0.1), gan())
    assert torch.equal(added, torch.zeros(SHAPE))
    assert torch.equal(told, torch.zeros(4))


@PAIRINGS
@pytest.mark.parametrize(("brightness", "expected"), [(50.0, 0.0), (-50.0, 2.0)])
def test_only_samples_that_the_critic_finds_out_are_moved(pairing: str, brightness: float, expected: float) -> None:
    """Real images have a brightness near 0; the critic is sure of either sign."""
    settings = gan(discriminator={"pairing": pairing})
    *_, told = term(Brightness(100.0), settings, picture=torch.full(SHAPE, brightness))
    torch.testing.assert_close(told, torch.full((4,), expected), rtol=0, atol=1e-3)


@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_an_undecided_critic_has_the_weight_of_the_settings_in_every_group(weight: float) -> None:
    class Undecided(nn.Module):
        """Logits of 0 with a slope."""

        def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
            seen = Judge(3)(x, t, conditioning)
            return seen - seen.detach()

    *_, told = term(Undecided(), gan(weight))
    torch.testing.assert_close(told, torch.full((4,), weight), rtol=2e-3, atol=0)


def test_before_it_begins_the_critic_is_not_asked() -> None:
    class Deaf(nn.Module):
        """A critic that must not be asked."""

        def forward(self, *_: object) -> Tensor:
            raise AssertionError

    student, told = Painter(normal(*SHAPE, seed=1)), list[Tensor]()
    batch, gradients = batch_of(student, Constant()), []
    for settings in (gan(), gan(0.0)):
        parts = dmd_parts(student, Mixer(5), Deaf(), setting(settings, Mixer(9)), batch, PATH, told.append, gan=False)
        gradients.append(torch.autograd.grad(whole(parts), student.picture)[0])
    assert torch.equal(*gradients)
    assert told == []


# Where it is judged, and where the discriminator learns -------------------------------------------------------------


def levels_of_the_term(settings: Config) -> list[float]:
    spy, batch = Spy(), batch_of(Mixer(1), Constant())
    whole(dmd_parts(Mixer(1), Mixer(5), spy, setting(settings, Mixer(9)), batch, PATH))
    return torch.cat([t for _, t in spy.shown]).tolist()


def test_the_term_is_judged_at_levels_drawn_as_those_of_dmd() -> None:
    dmd = {"gan_weight": 1.0, "t_min": 0.2, "t_max": 0.7, "batch_size": 1024}
    found = torch.tensor(levels_of_the_term(gan(dmd=dmd)))
    assert len(found) == len(found.unique()) == 1024
    assert 0.2 <= float(found.min()) < 0.21
    assert 0.69 < float(found.max()) < 0.7
    assert float(found.mean()) == pytest.approx(0.45, abs=0.02)


def test_its_levels_may_be_the_final_ones_alone() -> None:
    assert set(levels_of_the_term(gan(levels="final"))) == set(torch.tensor([0.05, 0.15]).tolist())


def fakes(settings: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Generated states, their levels and those of their real partners, where each clean prediction is 7 everywhere."""
    spy, batch = Spy(), batch_of(Mixer(1), Constant())
    fixed = setting(settings, Mixer(9))
    seven = torch.full_like(clean_predictions(batch, fixed.kernel), 7.0)
    whole(discriminator_parts(spy, fixed, batch, seven, PATH))
    ((x, t),) = spy.shown
    rows = settings.discriminator.batch_size
    return x[rows:], t[rows:], t[:rows]


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        (gan(discriminator={"batch_size": 1024}), 0.5),
        (gan(discriminator={"batch_size": 1024}, policy_gradient={"enabled": False}), 1.0),
        (gan(discriminator={"batch_size": 1024}, reward={"kind": "oracle", "final_levels": (0.05, 0.15)}), 1.0),
        (gan(discriminator={"batch_size": 1024}, levels="final"), 0.0),
        (gan(0.0, discriminator={"batch_size": 1024}), 0.0),
    ],
    ids=["with RL", "without RL", "RL on an oracle's reward", "final levels", "without the term"],
)
def test_the_discriminator_learns_where_the_term_is_judged(settings: Config, share: float) -> None:
    x, t, partners = fakes(settings)
    assert torch.equal(t, partners)
    of_rewards = torch.isin(t, torch.tensor(REWARD_LEVELS))
    assert float((~of_rewards).float().mean()) == pytest.approx(share, abs=0.05)
    level = t.reshape(-1, 1, 1, 1)
    noise = ((x - 7 * (1 - level)) / level)[~of_rewards]
    if share:
        assert float(noise.mean()) == pytest.approx(0, abs=0.05)
        assert float(noise.std()) == pytest.approx(1, abs=0.05)
        assert float(t[~of_rewards].mean()) == pytest.approx(0.5, abs=0.05)
    if share < 1:  # states as reached are near 0 and not near 7
        assert abs(float(x[of_rewards].mean())) < 1


# What is told of it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_cycle_tells_how_large_the_term_was(weight: float) -> None:
    taught = learner(gan(weight, cadence={"dmd_updates": 2}), student=Mixer(1), critic=Judge(2))
    groups = scored_groups(Mixer(1), Judge(2))
    report = taught.cycle(groups, infos_of(groups))
    told = {sample.name: sample.value for sample in report.samples()}.get("advdmd_learner_gan_ratio")
    if weight:
        assert told == report.gan_ratio
        assert 0 < report.gan_ratio < 2 * weight
    else:
        assert told is None
        assert math.isnan(report.gan_ratio)


def test_a_learner_has_the_term_from_the_cycle_on_that_the_cadence_names() -> None:
    settings = gan(1.0, cadence={"dmd_updates": 2, "warm_gan_updates": 3})
    taught = learner(settings, student=Mixer(1), critic=Judge(2))
    told = []
    for _ in range(3):
        groups = scored_groups(Mixer(1), Judge(2))
        told.append(taught.cycle(groups, infos_of(groups)).gan_ratio)
    assert [math.isnan(ratio) for ratio in told] == [True, True, False]
