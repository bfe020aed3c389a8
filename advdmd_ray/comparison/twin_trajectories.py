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

The losses are means over rows, so an update goes forward and back with a part of them at a time (`learner/parts.py`):
first the student's jumps with their rectification, which leave the clean predictions behind, then what is learned at
noised states. No forward is made twice.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.comparison.twin_cost import steps_of_rows, update_cost
from advdmd_ray.comparison.twin_draws import TwinDraws
from advdmd_ray.comparison.twin_losses import TwinLosses
from advdmd_ray.comparison.twinflow_settings import TwinFlowSettings
from advdmd_ray.config import Config
from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.diffusion.kernels import clean_from_velocity, kernel_of, transition
from advdmd_ray.learner.ema import Ema
from advdmd_ray.learner.engine_state import require_fit, shapes_of
from advdmd_ray.learner.parts import LossPart, in_parts
from advdmd_ray.learner.updates import rate_factor
from advdmd_ray.losses.fake_score import noised
from advdmd_ray.losses.twinflow import CONSISTENCY_STEP, consistency_residual, time_gap_weight, velocity_gap
from advdmd_ray.runs.needs.compute import Network
from advdmd_ray.stations.prompt_table import PromptTable

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class TwinFlowReport:
    """One update.

    Attributes:
        update: Its number, from 0.
        losses: Mean square of each loss's difference, without any weight: `twin` and, where they took part,
            `rectification` and `consistency`.
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

    def part(self, rows: slice) -> Self:
        """Consecutive rows."""
        return self._replace(x=self.x[rows], time=self.time[rows], conditioning=self.conditioning.part(rows))


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
        micro_batch: Most rows whose graphs are held at a time; None: all. A generated and a real row are together.

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
        micro_batch: int | None = None,
    ) -> None:
        if len(sigmas) != config.steps + 1:
            raise ValueError(f"expected {config.steps + 1} levels, got {sigmas.tolist()}")
        self._config, self._section = config, settings
        self._student, self._table, self._real, self._sigmas = student, table, real, sigmas
        self._teacher, self._network, self._micro_batch = teacher, network, micro_batch
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
        warm = self._updates < self._section.warm_updates
        conditioning = self._table.rows(self._draws.prompt_ids(self._table.rollouts, "generated"))
        losses = TwinLosses(self._shape[0], row_weights=self._section.row_weights)
        x, level = self._states(conditioning), self._sigmas[self._steps]
        if warm:
            with torch.no_grad():
                (jump,) = self._ask(Question(x, level, conditioning))
            x0 = clean_from_velocity(x, jump, level)
            norm, rate = self._step(self._learned(x0, conditioning, losses))
        else:
            x0 = torch.empty_like(x)  # the parts of the rectification fill it before the others read it
            rectified = self._rectified(Question(x, level, conditioning), x0, losses)
            norm, rate = self._step([*rectified, *self._learned(x0, conditioning, losses)])
        if math.isfinite(norm):
            self._ema.update(self._parameters.items())
        cost = update_cost(self._config, self._section, self._network, warm=warm)
        report = TwinFlowReport(
            update=self._updates,
            losses=dict(losses.squares),
            gap=math.sqrt(losses.squares.get("rectification", 0.0)),
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
        return state | {"progress": torch.tensor([self._updates, self._spent, self._ema.updates])}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Goes on where `state_dict` was taken.

        Raises:
            CheckpointError: if names or shapes are not those of this student; nothing was changed.
        """
        require_fit(state, shapes_of(self.state_dict()))
        self._updates, self._spent, averaged = (int(number) for number in state["progress"])
        self._ema.load({name: state[f"ema.{name}"] for name in self._parameters}, averaged)
        for name, parameter in self._parameters.items():
            parameter.copy_(state[f"student.{name}"])
            if float(state[f"step.{name}"]):
                kept = {key: state[f"{key}.{name}"].to(parameter.device, copy=True) for key in MOMENTS}
                kept["step"] = state[f"step.{name}"].clone()  # a count, which AdamW keeps in host memory
                self._optimizer.state[parameter] = kept

    @property
    def _draws(self) -> TwinDraws:
        """Of the update that is made now."""
        return TwinDraws(self._shape, self._config.run.seed, self._updates)

    def _ask(self, *questions: Question) -> tuple[Tensor, ...]:
        """The student network's answers, in one batch."""
        velocity = self._student(
            torch.cat([question.x for question in questions]),
            torch.cat([question.time for question in questions]),
            Conditioning.concatenate([question.conditioning for question in questions]),
        )
        return velocity.float().split([len(question.x) for question in questions])

    @torch.no_grad()
    def _states(self, conditioning: Conditioning) -> Tensor:
        """States of the student's own trajectories, row i where its step `_steps[i]` begins."""
        x = self._draws.noise("generated", "start")
        for step in range(self._config.steps - 1):
            first = int((self._steps <= step).sum())
            going = slice(first, len(x))
            if first == len(x):
                break
            level, reached = self._sigmas[step], self._sigmas[step + 1]
            asked = Question(x[going], level.expand(len(x) - first), conditioning.part(going))
            gaussian = transition(self._kernel, x[going], *self._ask(asked), level, reached)
            fresh = self._draws.noise("generated", "step", str(step))[going]
            x = torch.cat([x[:first], gaussian.mean + gaussian.std * fresh])
        return x

    def _rectified(self, jumps: Question, x0: Tensor, losses: TwinLosses) -> list[LossPart]:
        """Rectification of the jumps by the gap; each part leaves its clean predictions in x0, without a graph."""
        eps, t = self._draws.noise("gap"), self._draws.levels("gap", "t")

        def loss(part: slice) -> Tensor:
            asked = jumps.part(part)
            (jump,) = self._ask(asked)
            x0[part] = clean_from_velocity(asked.x, jump.detach(), asked.time)
            direction = self._gap(Question(noised(x0[part], eps[part], t[part]), t[part], asked.conditioning))
            return self._section.rectification * losses.of("rectification", part, jump, direction)

        return in_parts(loss, len(x0), self._micro_batch)

    def _learned(self, x0: Tensor, conditioning: Conditioning, losses: TwinLosses) -> list[LossPart]:
        """Flow matching of the twin on generated x0, and what is learned at noised real images."""
        eps, t = self._draws.noise("twin"), self._draws.levels("twin", "t")

        def twin_at(part: slice) -> Question:
            return Question(noised(x0[part], eps[part], t[part]), -t[part], conditioning.part(part))

        def matched(part: slice, velocity: Tensor) -> Tensor:
            return losses.of("twin", part, velocity, velocity.detach() - (eps[part] - x0[part]))

        def twin(part: slice) -> Tensor:
            return matched(part, *self._ask(twin_at(part)))

        if not self._section.consistency > 0:
            return in_parts(twin, len(x0), self._micro_batch)
        real = self._noised_real()
        stride = real.time.clamp(max=CONSISTENCY_STEP)

        def both(part: slice) -> Tensor:
            there, step = real.part(part), stride[part]
            with torch.no_grad():
                target = self._teacher(*there).float()
                nearer = there.x - step.reshape(-1, 1, 1, 1) * target
                (following,) = self._ask(Question(nearer, there.time - step, there.conditioning))
            velocity, jump = self._ask(twin_at(part), there)
            residual = consistency_residual(jump, following, target, there.time, step, self._section.bound)
            consistency = losses.of("consistency", part, jump, residual, time_gap_weight(there.time))
            return matched(part, velocity) + self._section.consistency * consistency

        pairs = None if self._micro_batch is None else max(1, self._micro_batch // 2)
        return in_parts(both, len(x0), pairs)

    def _noised_real(self) -> Question:
        """Real images, each at a level of its own."""
        t = self._draws.levels("real", "t")
        images, ids = self._real.drawn(
            self._draws.prompt_ids(self._table.rollouts, "real"), self._draws.seed_of("real")
        )
        return Question(noised(images, self._draws.noise("real"), t), t, self._table.rows(ids))

    @torch.no_grad()
    def _gap(self, generated: Question) -> Tensor:
        """How far noised generated images are from real ones, as a bounded velocity."""
        (twin,) = self._ask(generated._replace(time=-generated.time))
        return velocity_gap(twin, self._teacher(*generated), self._section.bound)

    def _step(self, parts: Sequence[LossPart]) -> tuple[float, float]:
        """One AdamW step of the clipped gradient; nothing if it is not finite. Its norm and the learning rate."""
        rate = self._section.learning_rate * rate_factor(
            self._updates, self._config.run.cycles, self._config.learner.final_rate
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        for part in parts:
            part().backward()
        norm = float(nn.utils.clip_grad_norm_(self._parameters.values(), self._config.learner.max_grad_norm))
        if math.isfinite(norm):
            self._optimizer.step()
        return norm, rate
