"""Each objective on analytic networks: a wrong sign fails, and splitting a batch over ranks changes nothing."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.learner.actions import Actions, minibatch_slices
from advdmd_ray.learner.batch import LearnerBatch, clean_predictions, collate
from advdmd_ray.learner.objectives import (
    dmd_parts,
    fake_score_parts,
)
from advdmd_ray.learner.policy import policy_means, ratio_deviation
from advdmd_ray.learner.setting import Setting
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
    policy_update,
    real_images,
    scored_groups,
    setting,
    whole,
)

PATH = ("test", 0, 0)


def _halves(student: nn.Module, critic: nn.Module) -> tuple[LearnerBatch, LearnerBatch, LearnerBatch]:
    groups = scored_groups(student, critic)
    return collate(groups, 0), collate(groups[:2], 0), collate(groups[2:], 0)


def _descend(loss_of: Callable[[int], Tensor], network: nn.Module, steps: int, rate: float) -> list[float]:
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    losses = []
    for update in range(steps):
        optimizer.zero_grad()
        loss = loss_of(update)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# Distribution matching ----------------------------------------------------------------------------------------------


def _distance_after_dmd(settings: Config, steps: int = 5) -> tuple[float, float]:
    """Distance of the student's picture from the teacher's before and after DMD; the fake score knows the student."""
    picture, target = normal(*SHAPE, seed=1), normal(*SHAPE, seed=2)
    student, teacher, critic = Painter(picture), Painter(target), Constant()
    batch = batch_of(student, critic)
    fixed = setting(settings, teacher)

    def loss(update: int) -> Tensor:
        fake_score = Painter(student.picture.detach())
        return whole(dmd_parts(student, fake_score, critic, fixed, batch, ("dmd", 0, update)))

    _descend(loss, student, steps, rate=2.0)
    return float((picture - target).norm()), float((student.picture.detach() - target).norm())


def test_a_dmd_step_moves_the_student_to_the_teachers_prediction() -> None:
    before, after = _distance_after_dmd(config())
    assert after < 0.7 * before


def test_dmd_leaves_a_student_alone_that_the_teacher_cannot_tell_from_its_own() -> None:
    student = Painter(normal(*SHAPE, seed=1))
    batch = batch_of(student, Constant())
    same = Painter(student.picture.detach())
    loss = whole(dmd_parts(student, same, Constant(), setting(config(), same), batch, PATH))
    (gradient,) = torch.autograd.grad(loss, student.picture)
    assert float(gradient.abs().max()) == 0


def test_dmd_trains_the_student_alone() -> None:
    student, fake_score, critic, teacher = Mixer(1), Mixer(5), Judge(2), Mixer(9)
    batch = batch_of(student, critic)
    fixed = setting(config(dmd={"gan_weight": 0.5}), teacher)
    whole(dmd_parts(student, fake_score, critic, fixed, batch, PATH)).backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    for other in (fake_score, critic, teacher):
        assert all(parameter.grad is None for parameter in other.parameters())


def test_the_gan_term_moves_the_student_to_what_the_critic_takes_for_real() -> None:
    student = Painter(normal(*SHAPE, seed=1))
    batch = batch_of(student, Brightness())
    # The teacher differs from the fake score by a picture of mean zero: DMD alone does not change the brightness.
    pattern = torch.tensor([1.0, -1.0]).repeat(8).reshape(SHAPE)
    fake_score, teacher = Painter(torch.zeros(SHAPE)), Painter(pattern)

    def brightening(weight: float, gain: float) -> float:
        fixed = setting(config(dmd={"gan_weight": weight}), teacher)
        loss = whole(dmd_parts(student, fake_score, Brightness(gain), fixed, batch, PATH))
        (gradient,) = torch.autograd.grad(loss, student.picture)
        return -float(gradient.mean())

    assert abs(brightening(0.0, 1.0)) < 1e-6
    assert brightening(1.0, 1.0) > 1e-3
    assert brightening(1.0, -1.0) < -1e-3
    # The weight is relative to the DMD gradient: of a critic near 0 its own gain does not matter.
    assert brightening(1.0, 0.1) == pytest.approx(brightening(1.0, 0.2), rel=0.1)
    assert brightening(2.0, 1.0) == pytest.approx(2 * brightening(1.0, 1.0), rel=1e-3)


# Fake score ---------------------------------------------------------------------------------------------------------


def test_the_fake_score_learns_the_students_pictures() -> None:
    student, fake_score = Painter(normal(*SHAPE, seed=1)), Painter(torch.zeros(SHAPE))
    batch, fixed = batch_of(student, Constant()), setting(config(dmd={"t_min": 0.5}), Mixer(9))
    clean = clean_predictions(batch, fixed.kernel)
    losses = _descend(
        lambda update: whole(fake_score_parts(fake_score, fixed, batch, clean, ("f", 0, update))),
        fake_score,
        20,
        rate=1.0,
    )
    assert losses[-1] < 0.05 * losses[0]
    torch.testing.assert_close(fake_score.picture.detach(), student.picture.detach(), rtol=0, atol=0.15)


def test_the_perfect_fake_score_of_one_picture_has_loss_zero() -> None:
    student = Painter(normal(*SHAPE, seed=1))
    batch, fixed = batch_of(student, Constant()), setting(config(dmd={"t_min": 0.3}), Mixer(9))
    loss = whole(fake_score_parts(student, fixed, batch, clean_predictions(batch, fixed.kernel), PATH))
    assert float(loss.detach()) < 1e-6


# Discriminator ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 0.01])
def test_the_discriminator_learns_to_put_real_above_generated(penalty: float) -> None:
    critic = Judge(3, scale=0.05)
    batch = batch_of(Painter(normal(*SHAPE, seed=1) - 1.0), critic)
    settings = config(discriminator={"batch_size": 64, "gradient_penalty": penalty})
    fixed = setting(settings, Mixer(9), real=real_images(shift=1.0))
    before = heldout_auc(critic, fixed, batch, PATH)
    losses = _descend(lambda update: discriminator_update(critic, fixed, batch, ("d", 0, update)), critic, 40, rate=0.2)
    after = heldout_auc(critic, fixed, batch, PATH)
    assert losses[-1] < 0.6 * losses[0]
    assert bool((after > 0.9).all())
    assert float(after.mean()) > float(before.mean()) + 0.2


def test_a_blind_discriminator_costs_two_log_two() -> None:
    batch = batch_of(Mixer(1), Constant(0.0))
    loss = discriminator_update(Constant(0.0), setting(config(), Mixer(9)), batch, PATH)
    assert loss.item() == pytest.approx(2 * 0.6931472, rel=1e-6)


def test_the_penalty_grows_with_the_slope_of_the_critic() -> None:
    batch = batch_of(Mixer(1), Brightness())

    def penalty(gain: float) -> float:
        with_it = config(discriminator={"batch_size": 64, "gradient_penalty": 1.0})
        losses = [
            discriminator_update(Brightness(gain), setting(settings, Mixer(9)), batch, PATH).item()
            for settings in (with_it, config())
        ]
        return losses[0] - losses[1]

    # D = gain mean(x) on 16 elements: ||grad D||^2 = gain^2 / 16.
    assert penalty(2.0) == pytest.approx(4 / 16, rel=0.3)
    assert penalty(4.0) == pytest.approx(4 * penalty(2.0), rel=1e-3)


class _Spy(nn.Module):
    """A critic that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        self.shown.append((x.detach(), t, conditioning.pooled))
        return torch.zeros(len(x))


def test_real_and_generated_are_shown_at_the_same_levels_and_prompts() -> None:
    spy, batch = _Spy(), batch_of(Mixer(1), Constant())
    discriminator_update(spy, setting(config(), Mixer(9)), batch, PATH)
    x, t, pooled = spy.shown[0]
    assert x.shape == (128, *SHAPE)
    torch.testing.assert_close(t[:64], t[64:])
    torch.testing.assert_close(pooled[:64], pooled[64:])
    seen = set(t.tolist())
    assert seen == set(torch.tensor([0.6, 0.3, 0.05, 0.15]).tolist()) | {float(torch.tensor(0.3))}
    stored = {row.numpy().tobytes() for row in batch.latents[:, :, 1:3].flatten(0, 2)}
    inner = t[64:] == 0.6
    assert all(row.numpy().tobytes() in stored for row in x[64:][inner])


# Held-out AUC -------------------------------------------------------------------------------------------------------


def test_a_constant_critic_has_an_auc_of_exactly_one_half() -> None:
    batch = batch_of(Mixer(1), Constant())
    assert heldout_auc(Constant(0.3), setting(config(), Mixer(9)), batch, PATH).tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(("gain", "expected"), [(1.0, 1.0), (-1.0, 0.0)])
def test_a_critic_that_separates_has_an_auc_of_one_and_its_opposite_zero(gain: float, expected: float) -> None:
    batch = batch_of(Painter(torch.full(SHAPE, -20.0)), Constant())
    fixed = setting(config(), Mixer(9), real=real_images(shift=20.0))
    assert heldout_auc(Brightness(gain), fixed, batch, PATH).tolist() == [expected] * 3


def test_the_auc_looks_at_held_out_reals_only() -> None:
    batch, fixed = batch_of(Mixer(1), Constant()), setting(config(), Mixer(9))
    poisoned = RealImages(torch.full((len(fixed.real.prompt_ids), *SHAPE), torch.nan), fixed.real.prompt_ids)
    critic = Judge(3)
    expected = heldout_auc(critic, fixed, batch, PATH)
    without_learnt = dataclasses.replace(fixed, real=poisoned)
    assert torch.equal(heldout_auc(critic, without_learnt, batch, PATH), expected)
    without_heldout = dataclasses.replace(fixed, real_heldout=poisoned)
    assert bool(heldout_auc(critic, without_heldout, batch, PATH).isnan().all())


def test_the_auc_of_two_ranks_is_that_of_one() -> None:
    # Prompts differ in brightness, so pooling prompts of one rank would compare what the other rank does not see.
    critic = Judge(3, scale=1.0)
    whole, first, second = _halves(Mixer(1), critic)
    fixed = setting(config(), Mixer(9))
    halves = [heldout_auc(critic, fixed, half, PATH) for half in (first, second)]
    torch.testing.assert_close(heldout_auc(critic, fixed, whole, PATH), torch.stack(halves).mean(dim=0))


# Policy gradient ----------------------------------------------------------------------------------------------------

KERNELS = [Kernel.renoise(), Kernel.cps(0.7), Kernel.flow_sde(0.5)]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_fresh_groups_have_ratio_one_through_the_arrow_bytes(kernel: Kernel) -> None:
    student = Mixer(1)
    batch = batch_of(student, Judge(2), kernel=kernel)
    means = policy_means(student, setting(config(), Mixer(9), kernel=kernel), batch, Actions.of(batch))
    deviation = ratio_deviation(means, batch, Actions.of(batch))
    assert deviation is not None
    assert deviation <= 1e-6


def test_the_ratio_is_not_measured_where_no_group_is_fresh() -> None:
    student = Mixer(1)
    batch = dataclasses.replace(batch_of(student, Judge(2)), policy_ages=torch.ones(4, dtype=torch.int64))
    means = policy_means(student, setting(config(), Mixer(9)), batch, Actions.of(batch))
    assert ratio_deviation(means, batch, Actions.of(batch)) is None


def test_a_ratio_that_is_not_a_number_is_not_taken_for_one() -> None:
    student = Mixer(1)
    batch = batch_of(student, Judge(2))
    means = policy_means(student, setting(config(), Mixer(9)), batch, Actions.of(batch))
    means[0, 0, 0] = float("nan")
    deviation = ratio_deviation(means, batch, Actions.of(batch))
    assert deviation is not None
    assert math.isnan(deviation)


def test_a_positive_advantage_makes_the_action_more_probable_and_a_negative_one_less() -> None:
    student = Painter(torch.zeros(SHAPE))
    batch, fixed = batch_of(student, Constant()), setting(config(), Mixer(9))
    z_mean = ((batch.latents[:, :, 1:3] - batch.means) / batch.stds.reshape(1, 1, 2, 1, 1, 1)).mean(dim=(3, 4, 5))
    # Advantage = brightness of the noise: the picture must brighten; with the opposite sign it must darken.
    for sign in (1.0, -1.0):
        loss, _ = policy_update(student, fixed, batch, Actions.of(batch, sign * z_mean))
        (gradient,) = torch.autograd.grad(loss, student.picture)
        assert sign * float(gradient.mean()) < -1e-4


def test_the_gradient_at_equal_weights_is_the_score_times_the_advantage() -> None:
    student = Painter(torch.zeros(SHAPE))
    batch = batch_of(student, Constant())
    fixed = setting(config(policy_gradient={"step_weight_power": 0}), Mixer(9))
    advantage = normal(4, 4, 2, seed=8)
    loss, report = policy_update(student, fixed, batch, Actions.of(batch, advantage))
    (gradient,) = torch.autograd.grad(loss, student.picture)
    # mean_k = (1 - s_{k+1}) picture: d log p / d picture = (1 - s) (action - mean) / s^2, divided by 16 elements.
    s = batch.stds.reshape(1, 1, 2, 1, 1, 1)
    score = (1 - s) * (batch.latents[:, :, 1:3] - batch.means) / s.square() / 16
    expected = -(advantage[..., None, None, None] * score).flatten(0, 2).mean(dim=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)
    assert report.stale == 0


@pytest.mark.parametrize("kernel", [Kernel.renoise(), Kernel.cps(0.6), Kernel.flow_sde(0.5)], ids=lambda k: k.name)
def test_towards_the_end_the_gradient_is_that_of_flow_matching_from_the_state_to_the_final_image(
    kernel: Kernel,
) -> None:
    student, advantage = Mixer(1), normal(4, 4, 2, seed=8)
    batch = batch_of(student, Constant(), kernel=kernel)
    fixed = dataclasses.replace(setting(config(policy_gradient={"direction": "end"}), Mixer(9)), kernel=kernel)
    loss, report = policy_update(student, fixed, batch, Actions.of(batch, advantage))
    gradients = torch.autograd.grad(loss, list(student.parameters()))
    errors = []
    for step in range(2):
        x, t = batch.latents[:, :, step].flatten(0, 1), batch.sigmas[step].expand(16)
        conditioning = fixed.table.rows(batch.prompt_ids.repeat_interleave(4))
        towards = (x - batch.latents[:, :, -1].flatten(0, 1)) / t.reshape(-1, 1, 1, 1)
        errors.append((student(x, t, conditioning) - towards).square().flatten(1).mean(dim=1).unflatten(0, (4, 4)))
    matched = (advantage * torch.stack(errors, dim=2)).mean()
    for gradient, expected in zip(gradients, torch.autograd.grad(matched, list(student.parameters())), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)
    assert float(loss.detach()) == pytest.approx(-float(advantage.mean()), abs=1e-5)
    assert report.fresh_deviation is not None
    assert report.fresh_deviation <= 1e-6


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_towards_the_end_the_student_gets_what_the_final_images_with_the_larger_advantages_have(sign: float) -> None:
    student = Painter(torch.zeros(SHAPE))
    batch, fixed = batch_of(student, Constant()), setting(config(policy_gradient={"direction": "end"}), Mixer(9))
    ends = batch.latents[:, :, -1].clone()
    batch.latents[:, :, -1] += normal(4, 4, 1, 1, 1, seed=3)  # as if later steps had made it darker or brighter
    brighter = sign * (batch.latents[:, :, -1] - ends).mean(dim=(2, 3, 4)).unsqueeze(2).expand(-1, -1, 2)
    loss, _ = policy_update(student, fixed, batch, Actions.of(batch, brighter))
    (gradient,) = torch.autograd.grad(loss, student.picture)
    assert sign * float(gradient.mean()) < -1e-3


@pytest.mark.parametrize("direction", ["noise", "end"])
def test_constant_advantages_of_zero_give_exactly_no_gradient(direction: str) -> None:
    student = Mixer(1)
    batch, fixed = batch_of(student, Constant()), setting(config(policy_gradient={"direction": direction}), Mixer(9))
    loss, _ = policy_update(student, fixed, batch, Actions.of(batch, torch.zeros(4, 4, 2)))
    for gradient in torch.autograd.grad(loss, list(student.parameters())):
        assert float(gradient.abs().max()) == 0


def test_rows_of_a_policy_too_far_away_are_dropped_and_counted() -> None:
    actor, student = Painter(torch.zeros(SHAPE)), Painter(torch.full(SHAPE, 50.0))
    batch, fixed = batch_of(actor, Constant()), setting(config(), Mixer(9))
    loss, report = policy_update(student, fixed, batch, Actions.of(batch, torch.ones(4, 4, 2)))
    assert report.stale == 32
    assert float(torch.autograd.grad(loss, student.picture)[0].abs().max()) == 0


@given(share=st.integers(1, 5), count=st.integers(1, 5))
def test_minibatches_share_the_samples_out(share: int, count: int) -> None:
    samples = list(range(share * count))
    parts = [samples[part] for part in minibatch_slices(len(samples), count)]
    assert [len(part) for part in parts] == [share] * count
    assert [sample for part in parts for sample in part] == samples


def test_the_minibatches_of_a_turn_average_to_the_whole() -> None:
    student = Mixer(1)
    batch, fixed = batch_of(student, Judge(2)), setting(config(), Mixer(9))
    advantage = normal(4, 4, 2, seed=8)
    actions = Actions.of(batch, advantage)
    whole, _ = policy_update(student, fixed, batch, actions)
    parts = [policy_update(student, fixed, batch, actions.share(part))[0] for part in minibatch_slices(4, 2)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


# Splitting over ranks -----------------------------------------------------------------------------------------------

ADVANTAGE = normal(4, 4, 2, seed=8)


def _fake_score(fixed: Setting, batch: LearnerBatch, part: slice) -> tuple[Tensor, nn.Module]:
    network = Mixer(30)
    return whole(fake_score_parts(network, fixed, batch, clean_predictions(batch, fixed.kernel), PATH)), network


def _discriminator(fixed: Setting, batch: LearnerBatch, part: slice) -> tuple[Tensor, nn.Module]:
    network = Judge(30)
    return discriminator_update(network, fixed, batch, PATH), network


def _dmd(fixed: Setting, batch: LearnerBatch, part: slice) -> tuple[Tensor, nn.Module]:
    network = Mixer(30)
    return whole(dmd_parts(network, Mixer(40), Judge(50), fixed, batch, PATH)), network


def _policy(fixed: Setting, batch: LearnerBatch, part: slice) -> tuple[Tensor, nn.Module]:
    network = Mixer(1)
    with torch.no_grad():
        network.text.add_(0.01)
    return policy_update(network, fixed, batch, Actions.of(batch, ADVANTAGE[part]))[0], network


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (_fake_score, config()),
        (_discriminator, config()),
        (_discriminator, config(discriminator={"batch_size": 64, "gradient_penalty": 1.0})),
        (_discriminator, config(discriminator={"batch_size": 64, "mismatched_text": 0.5})),
        (_discriminator, config(discriminator={"batch_size": 64, "pairing": "relativistic"})),
        (_dmd, config()),
        (_dmd, config(dmd={"batch_size": 64, "gan_weight": 0.7})),
        (_dmd, config(dmd={"batch_size": 64, "gan_weight": 0.7}, discriminator={"pairing": "relativistic"})),
        (_policy, config()),
        (_policy, config(policy_gradient={"trust_region": "ppo_clip"})),
    ],
    ids=[
        "fake_score",
        "discriminator",
        "discriminator-penalty",
        "discriminator-mismatched",
        "discriminator-relativistic",
        "dmd",
        "dmd-gan",
        "dmd-gan-relativistic",
        "policy",
        "policy-ppo",
    ],
)
def test_a_batch_is_the_mean_of_its_halves(
    objective: Callable[[Setting, LearnerBatch, slice], tuple[Tensor, nn.Module]], settings: Config
) -> None:
    whole, first, second = _halves(Mixer(1), Judge(2))
    fixed = setting(settings, Mixer(9))
    losses, gradients = [], []
    for batch, part in ((whole, slice(0, 4)), (first, slice(0, 2)), (second, slice(2, 4))):
        loss, network = objective(fixed, batch, part)
        losses.append(loss.detach())
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.parameters()))]))
    torch.testing.assert_close(torch.stack(losses[1:]).mean(), losses[0], rtol=1e-5, atol=1e-6)
    tolerance = 1e-5 * float(gradients[0].abs().max())
    torch.testing.assert_close(torch.stack(gradients[1:]).mean(dim=0), gradients[0], rtol=1e-4, atol=tolerance)
    assert float((gradients[1] - gradients[2]).abs().max()) > 1e-4  # the halves do differ
