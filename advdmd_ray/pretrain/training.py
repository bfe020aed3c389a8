"""Flow matching with classifier-free guidance in mind, and checkpoints from which a stopped training goes on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.data.real import RealImages
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import DivergedError, UserError
from advdmd_ray.learner.cadence import Every
from advdmd_ray.learner.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from advdmd_ray.learner.ema import warm_decay
from advdmd_ray.models.diffusers_classes import StableDiffusion3Pipeline
from advdmd_ray.models.families.sd3 import SD3Denoiser
from advdmd_ray.pretrain.muon import Muon

WARMUP_STEPS = 100
GRADIENT_CLIP = 1.0
MOST_SKIPPED = 3
WEIGHT_DECAY = 0.01
REPORT_EVERY = 50


def learning_rate_factor(step: int, steps: int, warmup: int = WARMUP_STEPS) -> float:
    """Factor of the peak learning rate: linear warm-up, then half a cosine down to 0.

    Args:
        step: Step about to be taken, from 0.
        steps: All steps.
        warmup: Steps of the warm-up; shortened to `steps` if longer.
    """
    warmup = min(warmup, steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def stratified_times(count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
    """Draw noise levels uniform on (0, 1), one from each of `count` equal slices: less variance than free draws."""
    return (torch.arange(count) + torch.rand(count, generator=generator)) / count


def _flow_matching_batch_loss(
    denoiser: SD3Denoiser, x0: Tensor, conditioning: Conditioning, generator: torch.Generator
) -> Tensor:
    """`mean (v(x_t, t) - (eps - x0))^2` with `x_t = (1 - t) x0 + t eps` (Lipman et al. 2023)."""
    t = stratified_times(len(x0), generator)
    eps = torch.randn(x0.shape, generator=generator)
    level = t.view(-1, 1, 1, 1)
    velocity = denoiser((1 - level) * x0 + level * eps, t, conditioning)
    return (velocity - (eps - x0)).square().mean()


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Where a training leaves its state, so that the same command goes on after a stop.

    Attributes:
        folder: Of `learner.checkpoint`'s layout.
        every: Steps between checkpoints.
        facts: What the training is made from; a checkpoint of other facts is refused.
    """

    folder: Path
    every: int
    facts: Mapping[str, Any]

    def load(self) -> Checkpoint | None:
        """The newest checkpoint, or None where none was written.

        Raises:
            UserError: It is of other settings.
            CheckpointError: Checkpoints stand there and none is whole.
        """
        if not self.folder.is_dir() or not any(self.folder.glob("*step-*")):
            return None
        found = latest_checkpoint(self.folder)
        if found.facts != dict(self.facts):
            changed = sorted(key for key in {*found.facts, *self.facts} if found.facts.get(key) != self.facts.get(key))
            raise UserError(
                f"{self.folder}: holds a training with other {', '.join(changed)}; set them as they were to go on with "
                "it, or remove the folder to start anew"
            )
        return found

    def save(self, step: int, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Write the state after `step` steps; it replaces the one before."""
        save_checkpoint(self.folder, step, state, dict(self.facts), keep=1)


class _Training:
    """What changes from step to step: weights, their moving average, the optimizer's moments and the generator."""

    def __init__(
        self, transformer: nn.Module, learning_rate: float, muon_learning_rate: float | None, seed: int
    ) -> None:
        self.parameters = dict(transformer.named_parameters())
        self.average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        matrices = (
            () if muon_learning_rate is None else [p for n, p in self.parameters.items() if _is_block_matrix(n, p)]
        )
        others = set(self.parameters.values()) - set(matrices)
        adamw = torch.optim.AdamW(
            [parameter for parameter in self.parameters.values() if parameter in others],
            lr=learning_rate,
            betas=(0.9, 0.99),
            weight_decay=WEIGHT_DECAY,
            fused=True,
        )
        self.optimizers: dict[torch.optim.Optimizer, float] = {adamw: learning_rate}
        if muon_learning_rate is not None:
            muon = Muon(matrices, learning_rate=muon_learning_rate, weight_decay=WEIGHT_DECAY)
            self.optimizers[muon] = muon_learning_rate
        self.generator = torch.Generator().manual_seed(seed)
        self._skipped = 0  # in a row

    def state(self) -> dict[str, dict[str, Tensor]]:
        """All of it as named tensors."""
        moments = {
            f"{name}:{key}": value
            for optimizer in self.optimizers
            for name, parameter in self.parameters.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        }
        draws = {"generator": self.generator.get_state()}
        return {"weights": dict(self.parameters), "average": self.average, "moments": moments, "draws": draws}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take the place of a training that wrote `state`."""
        weights, average, moments = (checkpoint.load(stem) for stem in ("weights", "average", "moments"))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
                self.average[name].copy_(average[name])
            for optimizer in self.optimizers:
                trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
                for name, parameter in self.parameters.items():
                    if parameter in trained:
                        kept = {key: value for key, value in moments.items() if key.startswith(f"{name}:")}
                        optimizer.state[parameter] = {key.rpartition(":")[2]: value for key, value in kept.items()}
        self.generator.set_state(checkpoint.load("draws")["generator"])

    def update(self, loss: Tensor, factor: float, weight: float) -> None:
        """One step of every optimizer at `factor` of its learning rate; the average follows by `weight`.

        A step whose gradient is not finite is left out: no weight, moment or average changes.

        Raises:
            DivergedError: if that is so for `MOST_SKIPPED` steps in a row.
        """
        for optimizer, learning_rate in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            optimizer.zero_grad(set_to_none=True)
        parameters: list[Tensor] = list(self.parameters.values())
        loss.backward()
        if not torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP).isfinite():
            self._skipped += 1
            if self._skipped == MOST_SKIPPED:
                raise DivergedError(
                    f"the gradients of {MOST_SKIPPED} steps in a row are not finite; lower the learning rate, and look "
                    "at the images"
                )
            return
        self._skipped = 0
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), parameters, weight)  # pyright: ignore[reportPrivateImportUsage] - one call for all tensors

    def finish(self) -> None:
        """Leave the average in the network."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name])


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon may train it: a linear map inside a block, and not the one that modulates a norm."""
    return parameter.ndim == 2 and name.startswith("transformer_blocks.") and ".norm" not in name  # noqa: PLR2004


def pretrain(
    pipeline: StableDiffusion3Pipeline,
    real: RealImages,
    conditioning: Conditioning,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    muon_learning_rate: float | None = None,
    prompt_dropout: float = 0.1,
    ema: float = 0.999,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> int:
    """Train the pipeline's transformer on real images and leave the moving average of its weights in it.

    AdamW, and Muon if asked for, with warm-up and cosine decay. The same arguments and thread count give the same
    weights.

    Args:
        pipeline: Its transformer is trained in place.
        real: Images and prompt ids.
        conditioning: The encoded prompts, row i for prompt id i, and the empty prompt as the last row.
        steps: Optimizer steps.
        batch_size: Images per step, drawn with replacement.
        learning_rate: Peak learning rate of AdamW.
        seed: Seeds every draw.
        muon_learning_rate: Peak learning rate of Muon on the matrices of the blocks; None: AdamW trains them too.
        prompt_dropout: Share of samples trained with the empty prompt, for classifier-free guidance.
        ema: Decay of the moving average, after its warm-up (`warm_decay`).
        checkpoints: Where to begin, if a training stopped there, and where to write; None keeps nothing.
        progress: Called with the number of steps done and the mean loss since the last call, every 50 steps.

    Returns:
        The step it began at: 0, or that of the checkpoint.

    Raises:
        UserError: `checkpoints` holds a training of other settings.
        DivergedError: the gradients of some steps in a row are not finite.
    """
    transformer = pipeline.transformer.train().requires_grad_(True)
    denoiser = SD3Denoiser(transformer)
    training = _Training(transformer, learning_rate, muon_learning_rate, seed)
    start = 0
    if checkpoints is not None and (found := checkpoints.load()) is not None:
        training.restore(found)
        start = found.step
    generator, empty = training.generator, len(conditioning.pooled) - 1
    saving = Every(0 if checkpoints is None else checkpoints.every)
    total, counted = 0.0, 0
    for step in range(start, steps):
        rows = torch.randint(len(real), (batch_size,), generator=generator)
        dropped = torch.rand(batch_size, generator=generator) < prompt_dropout
        prompt_ids = torch.where(dropped, empty, real.prompt_ids[rows])
        loss = _flow_matching_batch_loss(denoiser, real.latents[rows], conditioning.select(prompt_ids), generator)
        average_weight = 1 - warm_decay(ema, step)
        training.update(loss, learning_rate_factor(step, steps), average_weight)
        total, counted = total + loss.item(), counted + 1
        if progress is not None and (counted == REPORT_EVERY or step == steps - 1):
            progress(step + 1, total / counted)
            total, counted = 0.0, 0
        if checkpoints is not None and saving.due(step + 1):
            checkpoints.save(step + 1, training.state())
    training.finish()
    transformer.eval().requires_grad_(False)
    return start
