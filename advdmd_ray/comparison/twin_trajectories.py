"""The training of the rival TwinFlow: self-adversarial twin trajectories (arXiv 2512.05150) over the same teacher.

One network has all roles, told apart by the number it is given as time:

* t in [0, 1]: the student. Its velocity jumps from level t to data, `x0 = x_t - t F(x_t, t)`. This is what the sampler
  asks, so a trained student is a plain `SD3Transformer2DModel`.
* -t: the twin. The velocity of the flow from noise to the student's own samples, learned by flow matching.

An update is one optimizer step on the sum of three losses of the one network: flow matching of the twin, the
rectification of the student's samples by the gap between the twin's and the real velocity, and the consistency of the
student's jumps.

From the authors' text and code: signed time, the two losses of the twin, their targets and bound, the consistency
target, one optimizer step for all of them, and the sampler, which noises the clean prediction afresh between the levels
(their `stochast_ratio` 1; levels 1 and 0.6 or 0.7 for two steps), our kernel `renoise`. Theirs has a second time input,
the target time, that tells a jump from a velocity; stock transformers have none (the authors' recipe for SD3.5 with
adapters goes without), and here the number of the time stands for both.

Ours: the guided teacher as the real velocity (the authors offer a fixed teacher for their targets); rectification at
every step of the student, of samples from its own trajectories, where theirs has the first step only; drawing late
steps more often, as for the other rivals; and equal parts of a batch.

The negative branch begins untrained: the pretrained network has only seen t in [0, 1], and at -t it answers as at t
with the sign of half of the time's sinusoids turned. Flow matching corrects that within some tens of updates while the
bounded gap limits the harm; `warm_updates` holds the rectification back that long.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from advdmd_ray.comparison.twinflow_settings import TwinFlowSettings
from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import clean_from_velocity, kernel_of, transition
from advdmd_ray.diffusion.seeds import derive_seed, noise, uniform
from advdmd_ray.errors import CheckpointError
from advdmd_ray.learner.ema import Ema
from advdmd_ray.learner.updates import rate_factor
from advdmd_ray.losses.fake_score import flow_matching_loss, noised
from advdmd_ray.losses.twinflow import CONSISTENCY_STEP, consistency_residual, steering_loss, velocity_gap
from advdmd_ray.runs.needs.compute import FORWARD, WITH_BACKWARD, Network, guided_forward
from advdmd_ray.stations.prompt_table import PromptTable

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class TwinFlowReport:
    """One update.

    Attributes:
        update: Its number, from 0.
        losses: Value of each loss before its weight: `twin` and, where they took part, `rectification` and
            `consistency`.
        gap: Root mean square of the bounded velocity gap; 0 in a warm update.
        gradient_norm: L2 norm of the gradient of the weighted sum before clipping.
        skipped: True if that gradient was not finite: its step was left out, and the EMA stayed.
        learning_rate: The learning rate used.
        forward_equivalents: What the update spent.
    """

    update: int
    losses: Mapping[str, float]
    gap: float
    gradient_norm: float
    skipped: bool
    learning_rate: float
    forward_equivalents: int


class Question(NamedTuple):
    """Something a network is asked: states `[b, c, h, w]`, times `[b]` and b prompts."""

    x: Tensor
    time: Tensor
    conditioning: Conditioning


def steps_of_rows(rows: int, steps: int, emphasis: float) -> Int64[Tensor, " rows"]:
    """The student step that each row of a batch trains, ascending, in shares of `P(step < k) = (k / steps)^emphasis`.

    Fixed shares instead of draws: every update then costs the same.
    """
    places = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    return (steps * places.pow(1 / emphasis)).long().clamp(max=steps - 1)


def update_cost(config: Config, settings: TwinFlowSettings, network: Network, *, warm: bool) -> int:
    """Forward-equivalents of one update: a forward of the network for one image is 1, with its backward 3.

    Args:
        config: Steps, guidance and emphasis.
        settings: Batch size, and the parts that take part.
        network: The transformer.
        warm: Whether the update goes without rectification.
    """
    teacher = guided_forward(config.model.guidance, network)
    simulated = int(steps_of_rows(settings.batch_size, config.steps, config.learner.late_steps).sum())
    student = FORWARD if warm else WITH_BACKWARD
    gap = 0 if warm else FORWARD + teacher
    consistency = WITH_BACKWARD + FORWARD + teacher if settings.consistency > 0 else 0
    return simulated * FORWARD + settings.batch_size * (student + WITH_BACKWARD + gap + consistency)


class TwinTrajectories:
    """TwinFlow in one process, in plain torch: the same arguments and thread count give the same weights.

    Kernel, guidance, seed, Adam's decay rates, clipping, the EMA and the fall of the learning rate over `run.cycles`
    updates are those of the run.

    Args:
        config: The configuration.
        settings: Of TwinFlow alone.
        teacher: The frozen teacher, guided.
        network: What the count of compute must know of it.
        student: The network to train, in place; it starts as the teacher's copy, its parameters trainable.
        table: Encoded prompts, one row for each prompt id of the real images.
        real: Real latents.
        sigmas: `[K+1]` student levels, the last 0.

    Raises:
        ValueError: if nothing in the student is trainable, or `sigmas` is not as long as the configuration says.
    """

    def __init__(
        self,
        config: Config,
        settings: TwinFlowSettings,
        teacher: Denoiser,
        network: Network,
        student: nn.Module,
        table: PromptTable,
        real: RealImages,
        sigmas: Float[Tensor, " k1"],
    ) -> None:
        if len(sigmas) != config.steps + 1:
            raise ValueError(f"expected {config.steps + 1} levels, got {sigmas.tolist()}")
        self._config, self._section = config, settings
        self._student, self._table, self._real, self._sigmas = student, table, real, sigmas
        self._teacher, self._network = teacher, network
        self._kernel = kernel_of(config.diffusion)
        self._steps = steps_of_rows(self._section.batch_size, config.steps, config.learner.late_steps)
        self._shape = (self._section.batch_size, *real.latent_shape)
        self._parameters = {name: p for name, p in student.named_parameters() if p.requires_grad}
        if not self._parameters:
            raise ValueError("the student has no trainable parameter")
        self._optimizer = torch.optim.AdamW(
            self._parameters.values(),
            lr=self._section.learning_rate,
            betas=config.learner.betas,
            weight_decay=config.learner.weight_decay,
        )
        self._ema = Ema(self._parameters.items(), config.learner.ema_decay)
        self._updates = self._spent = 0

    @property
    def updates(self) -> int:
        """Updates made."""
        return self._updates

    @property
    def forward_equivalents(self) -> int:
        """Spent since the beginning, see `update_cost`."""
        return self._spent

    def student_state(self) -> dict[str, Tensor]:
        """The EMA of the student's trainable parameters: what is judged and exported."""
        return self._ema.state()

    def update(self) -> TwinFlowReport:
        """One optimizer step on the sum of the losses."""
        section, warm = self._section, self._updates < self._section.warm_updates
        conditioning = self._table.rows(self._prompt_ids("generated"))
        with torch.set_grad_enabled(not warm):
            jump, x0 = self._generate(conditioning, "generated")
        losses = self._learned_losses(x0.detach(), conditioning)
        total = losses["twin"] + section.consistency * losses.get("consistency", 0.0)
        gap = torch.zeros(())
        if not warm:
            direction = self._gap(x0.detach(), conditioning)
            gap = direction.square().mean().sqrt()
            losses["rectification"] = steering_loss(jump, direction)
            total = total + section.rectification * losses["rectification"]
        norm, rate = self._step(total)
        if math.isfinite(norm):
            self._ema.update(self._parameters.items())
        cost = update_cost(self._config, self._section, self._network, warm=warm)
        report = TwinFlowReport(
            update=self._updates,
            losses={name: float(loss.detach()) for name, loss in losses.items()},
            gap=float(gap),
            gradient_norm=norm,
            skipped=not math.isfinite(norm),
            learning_rate=rate,
            forward_equivalents=cost,
        )
        self._updates, self._spent = self._updates + 1, self._spent + cost
        return report

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next updates depend on besides the constructor's arguments, as named tensors."""
        state = {f"student.{name}": parameter.detach().clone() for name, parameter in self._parameters.items()}
        state |= {f"ema.{name}": tensor for name, tensor in self._ema.state().items()}
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state.get(parameter, {})
            for moment in MOMENTS:
                state[f"{moment}.{name}"] = moments[moment].clone() if moments else torch.zeros_like(parameter)
            state[f"step.{name}"] = moments["step"].clone() if moments else torch.zeros(())
        return state | {"progress": torch.tensor([self._updates, self._spent])}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            CheckpointError: if the names are not those of this student.
        """
        wrong = sorted(self.state_dict().keys() ^ state.keys())
        if wrong:
            raise CheckpointError(
                f"twinflow state does not fit: names differ, first {wrong[0]!r} ({len(wrong)} in all)"
            )
        self._ema.load({name: state[f"ema.{name}"] for name in self._parameters})
        for name, parameter in self._parameters.items():
            parameter.copy_(state[f"student.{name}"])
            if float(state[f"step.{name}"]):
                kept = {key: state[f"{key}.{name}"].to(parameter.device, copy=True) for key in MOMENTS}
                kept["step"] = state[f"step.{name}"].clone()  # a count, which AdamW keeps in host memory
                self._optimizer.state[parameter] = kept
        self._updates, self._spent = (int(number) for number in state["progress"])

    def _path(self, *names: str) -> tuple[int | str, ...]:
        return ("twinflow", self._updates, *names)

    def _noise(self, *names: str) -> Tensor:
        return noise(self._shape, self._config.run.seed, *self._path(*names))

    def _times(self, *names: str) -> Tensor:
        """Levels uniform on (0, 1], one from each of as many equal slices as there are rows, in a drawn order.

        The order matters: rows are sorted by the student's step, and each step's predictions must meet every level.
        """
        rows, seed = self._shape[0], self._config.run.seed
        slices = uniform((rows,), seed, *self._path(*names, "order")).argsort()
        return (slices + 1 - uniform((rows,), seed, *self._path(*names))) / rows

    def _prompt_ids(self, *names: str) -> Tensor:
        """Prompts drawn uniformly."""
        drawn = uniform((self._shape[0],), self._config.run.seed, *self._path(*names, "prompts"))
        return (drawn * self._table.rollouts).long()

    def _ask(self, *questions: Question) -> tuple[Tensor, ...]:
        """The student network's answers, in one batch."""
        velocity = self._student(
            torch.cat([question.x for question in questions]),
            torch.cat([question.time for question in questions]),
            Conditioning.concatenate([question.conditioning for question in questions]),
        )
        return velocity.float().split([len(question.x) for question in questions])

    def _generate(self, conditioning: Conditioning, name: str) -> tuple[Tensor, Tensor]:
        """The student's velocity and clean prediction at states of its own trajectories, row i at `_steps[i]`."""
        x = self._noise(name, "start")
        for step in range(self._config.steps - 1):
            first = int((self._steps <= step).sum())
            going = torch.arange(first, len(x))
            if not len(going):
                break
            level, reached = self._sigmas[step], self._sigmas[step + 1]
            with torch.no_grad():
                asked = Question(x[first:], level.expand(len(going)), conditioning.select(going))
                gaussian = transition(self._kernel, x[first:], *self._ask(asked), level, reached)
                fresh = self._noise(name, "step", str(step))[first:]
                x = torch.cat([x[:first], gaussian.mean + gaussian.std * fresh])
        level = self._sigmas[self._steps]
        (jump,) = self._ask(Question(x, level, conditioning))
        return jump, clean_from_velocity(x, jump, level)

    def _learned_losses(self, x0: Tensor, conditioning: Conditioning) -> dict[str, Tensor]:
        """Flow matching of the twin on generated x0, and what is learned at noised real images."""
        eps, t = self._noise("twin"), self._times("twin", "t")
        twin = Question(noised(x0, eps, t), -t, conditioning)
        if not self._section.consistency > 0:
            (velocity,) = self._ask(twin)
            return {"twin": flow_matching_loss(velocity, x0, eps)}
        real_t = self._times("real", "t")
        stride = real_t.clamp(max=CONSISTENCY_STEP)
        images, ids = self._real.drawn(
            self._prompt_ids("real"), derive_seed(self._config.run.seed, *self._path("real"))
        )
        prompts = self._table.rows(ids)
        y = noised(images, self._noise("real"), real_t)
        with torch.no_grad():
            target = self._teacher(y, real_t, prompts).float()
            nearer = y - stride.reshape(-1, 1, 1, 1) * target
            (following,) = self._ask(Question(nearer, real_t - stride, prompts))
        velocity, jump = self._ask(twin, Question(y, real_t, prompts))
        residual = consistency_residual(jump, following, target, real_t, stride, self._section.bound)
        return {"twin": flow_matching_loss(velocity, x0, eps), "consistency": steering_loss(jump, residual)}

    @torch.no_grad()
    def _gap(self, x0: Tensor, conditioning: Conditioning) -> Tensor:
        """How far the generated x0 are from real images, as a bounded velocity."""
        t = self._times("gap", "t")
        y = noised(x0, self._noise("gap"), t)
        (twin,) = self._ask(Question(y, -t, conditioning))
        real = self._teacher(y, t, conditioning)
        return velocity_gap(twin, real, self._section.bound)

    def _step(self, total: Tensor) -> tuple[float, float]:
        """One AdamW step of the clipped gradient; nothing if it is not finite. Its norm and the learning rate."""
        rate = self._section.learning_rate * rate_factor(
            self._updates, self._config.run.cycles, self._config.learner.final_rate
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = float(nn.utils.clip_grad_norm_(self._parameters.values(), self._config.learner.max_grad_norm))
        if math.isfinite(norm):
            self._optimizer.step()
        return norm, rate
