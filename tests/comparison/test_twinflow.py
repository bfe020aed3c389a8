"""The TwinFlow trainer: what it asks its networks, what it costs, that it resumes exactly and that it learns."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor, nn

from advdmd_ray.comparison import twin_trajectories
from advdmd_ray.comparison.twin_cost import steps_of_rows, update_cost
from advdmd_ray.comparison.twin_losses import TwinLosses
from advdmd_ray.comparison.twin_trajectories import TwinFlowReport, TwinTrajectories
from advdmd_ray.comparison.twinflow_settings import TwinFlowSettings
from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning, guided
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.errors import CheckpointError
from advdmd_ray.runs.needs.compute import Network
from small_parts import SHAPE, Mixer, config, normal, real_images, table

NETWORK = Network(layers=1)
VARIANTS = [{}, {"consistency": 0.0}]


def run(steps: int = 2, guidance: float = 1.0, updates: int = 50) -> Config:
    return config(
        run={"cycles": updates},
        model={"guidance": guidance},
        diffusion={"sigmas": [1.0, 0.6, 0.3][:steps]},
        policy_gradient={"enabled": False},
        learner={"ema_decay": 0.9},
    )


def settings(**values: Any) -> TwinFlowSettings:
    return TwinFlowSettings.model_validate({"batch_size": 8, "learning_rate": 1e-2, "warm_updates": 0} | values)


def trainer(
    chosen: Config,
    own: TwinFlowSettings | None = None,
    *,
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    micro_batch: int | None = None,
) -> TwinTrajectories:
    sigmas = student_sigmas(chosen.diffusion.sigmas, 1.0)
    frozen = guided(teacher or Mixer(1), table().unconditional, chosen.model.guidance)
    own = settings() if own is None else own
    return TwinTrajectories(
        chosen, own, frozen, NETWORK, student or Mixer(1), table(), real_images(), sigmas, micro_batch
    )


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Witness(nn.Module):
    """Passes questions on to a network and notes the times and the cost of each."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.spent = 0
        self.times: list[Tensor] = []

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert len(x) == len(t) == len(conditioning)
        learning = torch.is_grad_enabled() and next(self.network.parameters()).requires_grad
        self.spent += len(x) * (3 if learning else 1)
        self.times.append(t)
        return self.network(x, t, conditioning)


# What an update asks and costs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", VARIANTS)
@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_counted_cost_is_what_the_networks_are_asked(section: dict[str, Any], guidance: float, steps: int) -> None:
    chosen, own = run(steps, guidance), settings(warm_updates=1, **section)
    teacher, student = Witness(Mixer(1).requires_grad_(requires_grad=False)), Witness(Mixer(1))
    taught = trainer(chosen, own, teacher=teacher, student=student)
    for warm in (True, False):
        before = teacher.spent + student.spent
        cost = taught.update().forward_equivalents
        assert cost == update_cost(chosen, own, NETWORK, warm=warm) == teacher.spent + student.spent - before
    assert taught.forward_equivalents == teacher.spent + student.spent


@pytest.mark.parametrize("section", VARIANTS)
def test_each_role_is_asked_at_its_own_times(section: dict[str, Any]) -> None:
    teacher, student = Witness(Mixer(1)), Witness(Mixer(1))
    trainer(run(2), settings(**section), teacher=teacher, student=student).update()
    asked = torch.cat(student.times)
    # Two rows out of eight train the first of two steps, and six go on to the second.
    assert int((asked == 1).sum()) >= 8
    assert int((asked < 0).sum()) == 16, "flow matching and the gap ask the twin once a row"
    assert -1 <= float(asked.min()) <= float(asked.max()) <= 1
    assert all(0 < float(t.min()) <= float(t.max()) <= 1 for t in teacher.times)


@given(st.integers(1, 200), st.integers(1, 6), st.floats(1, 8))
def test_the_share_of_rows_of_early_steps_follows_the_emphasis(rows: int, steps: int, emphasis: float) -> None:
    chosen = steps_of_rows(rows, steps, emphasis)
    assert len(chosen) == rows
    assert torch.equal(chosen, chosen.sort().values)
    for step in range(steps + 1):
        assert int((chosen < step).sum()) == pytest.approx(rows * (step / steps) ** emphasis, abs=0.5 + 1e-6)


def test_the_predictions_of_every_step_meet_every_level() -> None:
    student = Witness(Mixer(1))
    chosen = run(2)
    taught = trainer(chosen, settings(batch_size=16, consistency=0.0), student=student)
    for _ in range(30):
        taught.update()
    twin = torch.stack([-t[t < 0] for t in student.times if bool((t < 0).any())])
    assert len(twin) == 60, "flow matching and the gap, in each update"
    first = steps_of_rows(16, 2, chosen.learner.late_steps) == 0
    for levels in (twin[:, first], twin[:, ~first]):
        assert float(levels.min()) < 0.1
        assert float(levels.max()) > 0.9
        assert float(levels.mean()) == pytest.approx(0.5, abs=0.1)


def test_a_guidance_that_is_an_input_of_the_network_costs_no_second_forward() -> None:
    chosen, own, embedded = run(guidance=2.0), settings(), Network(layers=1, embedded_guidance=True)
    rows = own.batch_size
    # Both the rectification's target and the consistency's ask the guided teacher once a row.
    assert update_cost(chosen, own, NETWORK, warm=False) - update_cost(chosen, own, embedded, warm=False) == 2 * rows


def test_a_warm_update_rectifies_nothing() -> None:
    taught = trainer(run(), settings(warm_updates=1))
    first, second = taught.update(), taught.update()
    assert "rectification" not in first.losses
    assert first.gap == 0
    assert second.losses["rectification"] == pytest.approx(second.gap**2)
    assert second.gap > 0


def test_the_twin_learns_the_students_samples_and_not_the_real_images() -> None:
    def twin_after(shift: float) -> Tensor:
        chosen, own = run(), settings(warm_updates=99, consistency=0.0)
        student = Mixer(1)
        sigmas = student_sigmas(chosen.diffusion.sigmas, 1.0)
        taught = TwinTrajectories(chosen, own, Mixer(1), NETWORK, student, table(), real_images(shift=shift), sigmas)
        taught.update()
        return student.spatial.detach()

    assert torch.equal(twin_after(0.0), twin_after(5.0))


class Recording(TwinLosses):
    """Remembers the losses that are asked for."""

    def __init__(self, rows: int, *, row_weights: bool) -> None:
        super().__init__(rows, row_weights=row_weights)
        self.row_weights = row_weights
        self.asked: dict[str, tuple[Tensor, Tensor | float]] = {}

    def of(self, name: str, part: slice, velocity: Tensor, difference: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        assert velocity.requires_grad
        assert not difference.requires_grad
        self.asked[name] = difference, weight
        return super().of(name, part, velocity, difference, weight)


@pytest.mark.parametrize("row_weights", [True, False])
def test_the_consistency_alone_counts_by_the_time_of_its_jumps(
    monkeypatch: pytest.MonkeyPatch, row_weights: bool
) -> None:
    made: list[Recording] = []

    def losses(rows: int, *, row_weights: bool) -> Recording:
        made.append(Recording(rows, row_weights=row_weights))
        return made[-1]

    monkeypatch.setattr(twin_trajectories, "TwinLosses", losses)
    teacher = Witness(Mixer(1))
    trainer(run(), settings(row_weights=row_weights), teacher=teacher).update()
    (one,) = made
    assert one.row_weights == row_weights
    assert {name for name, (_, weight) in one.asked.items() if isinstance(weight, float)} == {"rectification", "twin"}
    _, jumps = teacher.times  # the gap asks first
    torch.testing.assert_close(one.asked["consistency"][1], torch.tan((1 - jumps) * math.pi / 2.5) + 1)


@pytest.mark.parametrize(("row_weights", "expected"), [(True, [1.0, 2.0]), (False, [0.01, 10.0])])
def test_a_row_far_from_its_target_draws_no_harder_than_a_near_one(row_weights: bool, expected: list[float]) -> None:
    velocity = torch.zeros(2, 1, 2, 2, requires_grad=True)
    difference = torch.tensor([0.01, 10.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    losses = TwinLosses(4, row_weights=row_weights)
    loss = losses.of("twin", slice(0, 2), velocity, difference, torch.tensor([1.0, 2.0]))
    (gradient,) = torch.autograd.grad(loss, velocity)
    torch.testing.assert_close(gradient[:, 0, 0, 0] * 4, torch.tensor(expected), rtol=1e-2, atol=0)
    assert losses.squares["twin"] == pytest.approx(0.5 * (1e-4 + 100) / 2)  # half of the rows, without any weight


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    student = Mixer(1)
    taught = trainer(run(), student=student)
    before = {name: tensor.clone() for name, tensor in taught.student_state().items()}
    with torch.no_grad():
        student.spatial.fill_(math.nan)
    report = taught.update()
    assert report.skipped
    assert not math.isfinite(report.gradient_norm)
    assert same(taught.student_state(), before)
    assert torch.equal(student.text.detach(), Mixer(1).text.detach())


def test_the_learning_rate_falls_to_its_last_share() -> None:
    chosen = run(updates=3)
    taught = trainer(chosen.model_copy(update={"learner": chosen.learner.model_copy(update={"final_rate": 0.5})}))
    rates = [taught.update().learning_rate for _ in range(4)]
    assert rates == pytest.approx([1e-2, 0.75e-2, 0.5e-2, 0.5e-2])


def test_levels_of_another_number_of_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 3 levels"):
        TwinTrajectories(
            run(2), settings(), Mixer(1), NETWORK, Mixer(1), table(), real_images(), student_sigmas((1.0,), 1.0)
        )
    frozen = Mixer(1).requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="no trainable parameter"):
        trainer(run(2), student=frozen)


# Parts --------------------------------------------------------------------------------------------------------------

TRIED = [{}, {"consistency": 0.0}, {"warm_updates": 1}, {"warm_updates": 1, "consistency": 0.0}]


class Held(nn.Module):
    """Counts the rows whose graph is held, from their forward pass to their backward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.rows = self.now = self.most = 0

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        velocity = self.network(x, t, conditioning)
        if velocity.requires_grad:
            self.rows, self.now = self.rows + len(x), self.now + len(x)
            self.most = max(self.most, self.now)
            velocity.register_hook(lambda _: self._let_go(len(x)))
        return velocity

    def _let_go(self, rows: int) -> None:
        self.now -= rows


@pytest.mark.parametrize("section", TRIED)
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 5, 8])
def test_no_more_rows_are_held_than_a_micro_batch_and_none_goes_forward_twice(
    micro_batch: int, section: dict[str, Any]
) -> None:
    own, student = settings(**section), Held(Mixer(1))
    taught = trainer(run(3, guidance=2.0), own, student=student, micro_batch=micro_batch)
    taught.update()
    losses = 1 + (own.consistency > 0) + (own.warm_updates == 0)
    assert student.rows == losses * own.batch_size
    assert student.now == 0
    pair = 2 if own.consistency > 0 else 1
    assert student.most <= max(micro_batch, pair)


def after_one(own: TwinFlowSettings, micro_batch: int | None) -> tuple[TwinFlowReport, dict[str, Tensor]]:
    """The report of an update and its gradient, which is too small to be clipped."""
    chosen, student = run(3, guidance=2.0), Mixer(1)
    free = chosen.model_copy(update={"learner": chosen.learner.model_copy(update={"max_grad_norm": 1e6})})
    report = trainer(free, own, student=student, micro_batch=micro_batch).update()
    return report, {name: weight.grad for name, weight in student.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("section", TRIED)
def test_parts_of_any_size_have_the_gradients_and_losses_of_the_whole(section: dict[str, Any]) -> None:
    own = settings(**section)
    whole, gradients = after_one(own, None)
    assert gradients.keys() == dict(Mixer(1).named_parameters()).keys()
    assert min(float(gradient.abs().max()) for gradient in gradients.values()) > 1e-4
    for micro_batch in (1, 2, 3, 5, 7, 100):
        report, found = after_one(own, micro_batch)
        assert report.losses == pytest.approx(whole.losses, rel=1e-4)
        assert report.gap == pytest.approx(whole.gap, rel=1e-4)
        assert report.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-4)
        for name, gradient in gradients.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=f"{name} {micro_batch}")


# Repeating and resuming ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("section", VARIANTS)
def test_a_training_repeats_and_another_seed_gives_another(section: dict[str, Any]) -> None:
    def after(seed: int) -> dict[str, Tensor]:
        chosen = run(2)
        seeded = chosen.model_copy(update={"run": chosen.run.model_copy(update={"seed": seed})})
        taught = trainer(seeded, settings(**section))
        for _ in range(3):
            taught.update()
        return taught.state_dict()

    assert same(after(0), after(0))
    assert not same(after(0), after(1))


@pytest.mark.parametrize("section", VARIANTS)
def test_a_resumed_training_ends_with_the_bits_of_one_that_was_not_interrupted(section: dict[str, Any]) -> None:
    whole, first, second = (trainer(run(2), settings(warm_updates=2, **section)) for _ in range(3))
    for _ in range(5):
        whole.update()
    for _ in range(3):
        first.update()
    second.load_state_dict(load(save(first.state_dict())))
    assert (second.updates, second.forward_equivalents) == (3, first.forward_equivalents)
    for _ in range(2):
        second.update()
    assert same(whole.state_dict(), second.state_dict())
    assert same(whole.student_state(), second.student_state())
    assert whole.forward_equivalents == second.forward_equivalents


def test_the_state_before_the_first_update_can_be_resumed_too() -> None:
    first, second = trainer(run()), trainer(run(), student=Mixer(9))
    second.load_state_dict(first.state_dict())
    first.update()
    second.update()
    assert same(first.state_dict(), second.state_dict())


def test_the_state_of_another_network_is_refused() -> None:
    state = trainer(run()).state_dict()
    del state["student.level"]
    with pytest.raises(CheckpointError, match=r"1 missing \['student\.level'\]"):
        trainer(run()).load_state_dict(state)
    state["student.level"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match=r"student\.level has shape \(7,\)"):
        trainer(run()).load_state_dict(state)


# Learning -----------------------------------------------------------------------------------------------------------

MEAN, STD = 0.8, 0.3
UPDATES = 300


class GaussianFlow(nn.Module):
    """The velocity of the flow from noise to images of N(MEAN, STD^2) per pixel."""

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        level = t.reshape(-1, 1, 1, 1)
        scale = (1 - level) ** 2 * STD**2 + level**2
        return (level - (1 - level) * STD**2) / scale * (x - (1 - level) * MEAN) - MEAN


class Line(nn.Module):
    """A velocity that is a line in each pixel, `a(t) x + b(t)`, with sinusoids of t; it begins as v = x."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner, self.outer = nn.Linear(32, 64), nn.Linear(64, 2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.15, generator=generator)

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        assert len(x) == len(t) == len(conditioning)
        phase = t[:, None] * torch.linspace(0.5, 8.0, 16)
        a, b = self.outer(torch.tanh(self.inner(torch.cat([phase.cos(), phase.sin()], dim=1)))).unbind(dim=1)
        return (1 + a.reshape(-1, 1, 1, 1)) * x + b.reshape(-1, 1, 1, 1)


def distance(network: nn.Module, chosen: Config) -> float:
    """How far mean and standard deviation of the student's samples are from the real ones."""
    sigmas = student_sigmas(chosen.diffusion.sigmas, 1.0)
    start = normal(500, *SHAPE, seed=77)
    images = sample(network, table().of(0, 500), Kernel.renoise(), sigmas, start, list(range(500)))
    return abs(float(images.mean()) - MEAN) + abs(float(images.std()) - STD)


def distilled(chosen: Config, own: TwinFlowSettings) -> float:
    student, sigmas = Line(), student_sigmas(chosen.diffusion.sigmas, 1.0)
    real = RealImages(MEAN + normal(300, *SHAPE, seed=5, scale=STD), torch.arange(300) // 100)
    taught = TwinTrajectories(chosen, own, GaussianFlow(), NETWORK, student, table(), real, sigmas)
    for _ in range(chosen.run.cycles):
        taught.update()
    student.load_state_dict(taught.student_state(), strict=False)
    return distance(student, chosen)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_students_samples_move_to_the_real_distribution(steps: int) -> None:
    learning: dict[str, Any] = {"batch_size": 32, "learning_rate": 1e-2, "warm_updates": 40}
    chosen = run(steps, updates=UPDATES)
    assert distilled(chosen, settings(**learning)) < 0.7 * distance(Line(), chosen)


def test_a_gap_of_the_wrong_sign_drives_the_student_away(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = run(2, updates=UPDATES)
    own = settings(batch_size=32, learning_rate=3e-3, warm_updates=40, consistency=0.0)
    gap = twin_trajectories.velocity_gap
    monkeypatch.setattr(twin_trajectories, "velocity_gap", lambda twin, real, bound: gap(real, twin, bound))
    assert distilled(chosen, own) > 1.5 * distance(Line(), chosen)
