"""The relativistic form: real and generated are compared in pairs of one prompt and one level."""

import math

import pytest
import torch
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.learner.objectives import dmd_parts
from small_parts import (
    SHAPE,
    Brightness,
    Constant,
    Judge,
    Mixer,
    Painter,
    batch_of,
    config,
    discriminator_update,
    heldout_auc,
    normal,
    real_images,
    setting,
    whole,
)

PATH = ("test", 0, 0)
ROWS = 64


class Shifted(nn.Module):
    """A critic plus any function of prompt and level."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return self.critic(x, t, conditioning) + 7 * t + 3 * conditioning.pooled[:, 0]


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_loss_is_that_of_the_differences_of_pairs(weight: float) -> None:
    fixed = setting(
        config(discriminator={"batch_size": ROWS, "pairing": "relativistic", "mismatched_text": weight}), Mixer(9)
    )
    critic, batch = Judge(3), batch_of(Mixer(1), Constant())
    seen: list[Tensor] = []

    def watched(x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        seen.append(critic(x, t, conditioning))
        return seen[-1]

    loss = discriminator_update(watched, fixed, batch, PATH)
    real, fake, *wrong = seen[0].split(ROWS)
    expected = torch.log1p(torch.exp(fake - real)).mean()
    if weight:
        expected = expected + weight * torch.log1p(torch.exp(wrong[0] - real)).mean()
    torch.testing.assert_close(loss, expected)


def test_what_depends_on_prompt_and_level_alone_changes_only_the_independent_loss() -> None:
    """So every pair has one prompt and one level, and a relativistic critic cannot win by them."""
    batch = batch_of(Mixer(1), Constant())

    def change(pairing: str) -> float:
        fixed = setting(config(discriminator={"batch_size": ROWS, "pairing": pairing}), Mixer(9))
        plain, shifted = (
            discriminator_update(critic, fixed, batch, PATH).item() for critic in (Judge(3), Shifted(Judge(3)))
        )
        return abs(shifted - plain)

    assert change("relativistic") < 1e-5
    assert change("independent") > 0.1


def test_a_blind_discriminator_costs_one_log_two() -> None:
    fixed = setting(config(discriminator={"batch_size": ROWS, "pairing": "relativistic"}), Mixer(9))
    loss = discriminator_update(Constant(0.4), fixed, batch_of(Mixer(1), Constant()), PATH)
    assert loss.item() == pytest.approx(math.log(2))


def test_the_relativistic_discriminator_learns_to_put_real_above_generated() -> None:
    critic = Judge(3, scale=0.05)
    batch = batch_of(Painter(normal(*SHAPE, seed=1) - 1.0), critic)
    fixed = setting(
        config(discriminator={"batch_size": ROWS, "pairing": "relativistic"}), Mixer(9), real=real_images(shift=1.0)
    )
    before = heldout_auc(critic, fixed, batch, PATH)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.2)
    for update in range(40):
        optimizer.zero_grad()
        discriminator_update(critic, fixed, batch, ("d", 0, update)).backward()
        optimizer.step()
    after = heldout_auc(critic, fixed, batch, PATH)
    assert bool((after > 0.9).all())
    assert float(after.mean()) > float(before.mean()) + 0.2


@pytest.mark.parametrize("gain", [1.0, -1.0])
@pytest.mark.parametrize("pairing", ["independent", "relativistic"])
def test_the_gan_term_moves_the_student_to_what_the_critic_takes_for_real(gain: float, pairing: str) -> None:
    student = Painter(normal(*SHAPE, seed=1))
    batch = batch_of(student, Brightness())
    pattern = torch.tensor([1.0, -1.0]).repeat(8).reshape(SHAPE)  # of mean 0: DMD alone does not change the brightness
    fixed = setting(config(dmd={"gan_weight": 1.0}, discriminator={"pairing": pairing}), Painter(pattern))
    fake_score = Painter(torch.zeros(SHAPE))
    loss = whole(dmd_parts(student, fake_score, Brightness(gain), fixed, batch, PATH))
    (gradient,) = torch.autograd.grad(loss, student.picture)
    assert -gain * float(gradient.mean()) > 1e-3


def test_the_gan_term_compares_with_reals_of_the_same_prompt_and_level() -> None:
    student, batch = Painter(normal(*SHAPE, seed=1)), batch_of(Painter(normal(*SHAPE, seed=1)), Constant())
    fixed = setting(config(dmd={"gan_weight": 1.0}, discriminator={"pairing": "relativistic"}), Mixer(9))
    gradients = []
    for critic in (Judge(3), Shifted(Judge(3))):
        loss = whole(dmd_parts(student, Mixer(5), critic, fixed, batch, PATH))
        gradients.append(torch.autograd.grad(loss, student.picture)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
