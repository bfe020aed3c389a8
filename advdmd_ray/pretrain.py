"""Training of the small teachers: flow matching with classifier-free guidance, then judged and written."""

import hashlib
import json
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.config import Config
from advdmd_ray.data.digits import DIGIT_PROMPTS, DIGIT_WORDS, load_digits
from advdmd_ray.data.real import RealImages
from advdmd_ray.data.shapes.prompts import all_prompts, prompt_words
from advdmd_ray.data.shapes.training import draw_images, draw_rows
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judge import JudgeScore, build_judge
from advdmd_ray.evaluation.judging import judge_pipeline
from advdmd_ray.learner.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from advdmd_ray.models.codec import PatchCodec, PixelCodec
from advdmd_ray.models.diffusers_classes import StableDiffusion3Pipeline
from advdmd_ray.models.folder import SamplingSettings, write_sampling
from advdmd_ray.models.pipeline import save_pipeline
from advdmd_ray.models.sd3 import SD3Denoiser
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.models.tiny import DIGITS, SHAPES, Architecture, build_tiny_pipeline
from advdmd_ray.muon import Muon
from advdmd_ray.weights import digest_of

WARMUP_STEPS = 100
GRADIENT_CLIP = 1.0
WEIGHT_DECAY = 0.01
REPORT_EVERY = 50
TEACHER_CARD = "teacher.json"
JUDGE_SEED = 0
RECORDED_VERSIONS = ("torch", "diffusers", "transformers", "scikit-learn", "numpy")
FITTED_IMAGES = 5000
"""Images of the training set that the shapes' codec is fitted to."""
PATCH, COMPONENTS, WHITENING = 4, 32, 0.0
"""Of the shapes' codec, see `PatchCodec.fit`."""


@dataclass(frozen=True, slots=True)
class TeacherRecipe:
    """What a teacher is made of and trained on.

    Attributes:
        prompts: By prompt id.
        words: Words that become tokens of their own.
        codec: The image codec.
        architecture: Sizes of the networks.
        real: Real latents and the prompt id of each.
    """

    prompts: tuple[str, ...]
    words: tuple[str, ...]
    codec: PixelCodec | PatchCodec
    architecture: Architecture
    real: RealImages


def build_recipe(config: Config) -> TeacherRecipe:
    """The recipe for `data.source`; what it draws is seeded by `run.seed`."""
    if config.data.source == "digits":
        return digits_recipe()
    return shapes_recipe(config.pretrain.images, config.run.seed)


def digits_recipe() -> TeacherRecipe:
    """Pixels of the training digits, their labels as prompt ids."""
    digits = load_digits("train")
    return TeacherRecipe(DIGIT_PROMPTS, DIGIT_WORDS, PixelCodec(), DIGITS, RealImages(digits.images, digits.labels))


def shapes_recipe(images: int, seed: int) -> TeacherRecipe:
    """Patches of scenes drawn for the seen prompts, on their principal components; prompt ids are all prompts' rows.

    Args:
        images: About how many scenes are drawn.
        seed: Seeds the choice of prompts and the scenes.
    """
    rows = draw_rows(images, seed)
    drawn = torch.from_numpy(draw_images(rows, seed))
    codec = PatchCodec.fit(drawn[:FITTED_IMAGES], patch=PATCH, components=COMPONENTS, whitening=WHITENING)
    real = RealImages(codec.encode(drawn, return_dict=False)[0].mode(), torch.from_numpy(rows))
    return TeacherRecipe(tuple(prompt.text for prompt in all_prompts()), prompt_words(), codec, SHAPES, real)


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
        """One step of every optimizer at `factor` of its learning rate; the average follows by `weight`."""
        for optimizer, learning_rate in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * factor
            optimizer.zero_grad(set_to_none=True)
        parameters: list[Tensor] = list(self.parameters.values())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
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
        ema: Decay of the moving average, approached as `min(ema, (1 + step) / (10 + step))`.
        checkpoints: Where to begin, if a training stopped there, and where to write; None keeps nothing.
        progress: Called with the number of steps done and the mean loss since the last call, every 50 steps.

    Returns:
        The step it began at: 0, or that of the checkpoint.

    Raises:
        UserError: `checkpoints` holds a training of other settings.
    """
    transformer = pipeline.transformer.train().requires_grad_(True)
    denoiser = SD3Denoiser(transformer)
    training = _Training(transformer, learning_rate, muon_learning_rate, seed)
    start = 0
    if checkpoints is not None and (found := checkpoints.load()) is not None:
        training.restore(found)
        start = found.step
    generator, empty = training.generator, len(conditioning.pooled) - 1
    total, counted = 0.0, 0
    for step in range(start, steps):
        rows = torch.randint(len(real), (batch_size,), generator=generator)
        dropped = torch.rand(batch_size, generator=generator) < prompt_dropout
        prompt_ids = torch.where(dropped, empty, real.prompt_ids[rows])
        loss = _flow_matching_batch_loss(denoiser, real.latents[rows], conditioning.select(prompt_ids), generator)
        average_weight = 1 - min(ema, (1 + step) / (10 + step))
        training.update(loss, learning_rate_factor(step, steps), average_weight)
        total, counted = total + loss.item(), counted + 1
        if progress is not None and (counted == REPORT_EVERY or step == steps - 1):
            progress(step + 1, total / counted)
            total, counted = 0.0, 0
        if checkpoints is not None and (step + 1) % checkpoints.every == 0:
            checkpoints.save(step + 1, training.state())
    training.finish()
    transformer.eval().requires_grad_(False)
    return start


def _judged(pipeline: StableDiffusion3Pipeline, config: Config) -> dict[str, Any]:
    """The judge's part of the record: the teacher at each number of steps, and real held-out images."""
    judge, samples = build_judge(config), config.evaluation.samples
    scores = judge_pipeline(
        pipeline,
        judge,
        guidance=config.model.guidance,
        max_sequence_length=config.model.max_sequence_length,
        samples=samples,
        seed=JUDGE_SEED,
    )
    ceiling = judge.ceiling()
    return {
        "samples": samples,
        "seed": JUDGE_SEED,
        "teacher": {str(count): _figures(score) for count, score in scores.items()},
        "real": {**_figures(ceiling), "samples": ceiling.images},
    }


def pretrain_teacher(
    config: Config, *, command: str, progress: Callable[[int, float], None] | None = None
) -> dict[str, Any]:
    """Build, train, judge and write the teacher of `data.source` into `pretrain.folder`.

    A training that was stopped goes on from its last checkpoint, in `.FOLDER-training` beside the folder.

    Args:
        config: `run.seed` seeds the networks, the data and the training; `model.guidance` is what it is judged with.
        command: The command line, for the record.
        progress: See `pretrain`.

    Returns:
        The record that is also written as `teacher.json`: command, settings, figures, the step this process began at
        and its seconds, machine, versions and the SHA-256 of each weight file.

    Raises:
        UserError: `pretrain.folder` exists, or cannot be made, or a stopped training has other settings.
    """
    folder, section, seed = Path(config.pretrain.folder), config.pretrain, config.run.seed
    _check_free(folder)
    start = time.perf_counter()
    recipe = build_recipe(config)
    pipeline = build_tiny_pipeline(recipe.words, recipe.codec, recipe.architecture, seed=seed)
    conditioning = encode_prompts(pipeline, [*recipe.prompts, ""], config.model.max_sequence_length)
    settings = {
        "source": config.data.source,
        "seed": seed,
        "images": len(recipe.real),
        "steps": section.steps,
        "batch_size": section.batch_size,
        "learning_rate": section.learning_rate,
        "muon_learning_rate": section.muon_learning_rate,
        "max_sequence_length": config.model.max_sequence_length,
    }
    inputs = {
        "first weights": digest_of(pipeline.transformer.state_dict()),
        "scenes": digest_of({"latents": recipe.real.latents, "prompt_ids": recipe.real.prompt_ids}),
        "prompts": digest_of({"embeds": conditioning.embeds, "pooled": conditioning.pooled}),
    }
    checkpoints = Checkpoints(_training_folder(folder), section.checkpoint_steps, settings | inputs)
    begun = pretrain(
        pipeline,
        recipe.real,
        conditioning,
        steps=section.steps,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        muon_learning_rate=section.muon_learning_rate,
        seed=seed,
        checkpoints=checkpoints,
        progress=progress,
    )
    trained = time.perf_counter()
    judged = _judged(pipeline, config)
    record = {
        "command": command,
        **settings,
        "guidance": config.model.guidance,
        "judge": judged,
        "begun_at_step": begun,
        "seconds": {"train": round(trained - start, 1), "judge": round(time.perf_counter() - trained, 1)},
        "machine": {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "kind": platform.machine()},
        "versions": {name: version(name) for name in RECORDED_VERSIONS},
    }
    full = write_teacher(pipeline, folder, record)
    shutil.rmtree(checkpoints.folder, ignore_errors=True)
    return full


def write_teacher(pipeline: StableDiffusion3Pipeline, folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write a pipeline folder with its record, all or nothing, and return the record with the weight files' hashes.

    Args:
        pipeline: The teacher.
        folder: Where to write; must not exist.
        record: What `teacher.json` holds; its `max_sequence_length` goes into `sampling.json` too.

    Raises:
        UserError: `folder` exists, or cannot be made.
    """
    _check_free(folder)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_pipeline(pipeline, draft)
        write_sampling(draft, SamplingSettings(record["max_sequence_length"]))
        for file in draft.rglob("*"):
            # safetensors writes files that only their owner can read; a shipped folder is for everyone.
            file.chmod(0o755 if file.is_dir() else 0o644)
        full = {**record, "sha256": weight_hashes(draft)}
        (draft / TEACHER_CARD).write_text(json.dumps(full, indent=2) + "\n", encoding="utf-8")
        draft.chmod(0o755)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return full


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every safetensors file below a folder, by its path in the folder."""
    files = sorted(folder.rglob("*.safetensors"))
    return {file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _training_folder(folder: Path) -> Path:
    """Where a training that is to end in `folder` keeps its checkpoints."""
    return folder.with_name(f".{folder.name}-training")


def _check_free(folder: Path) -> None:
    if folder.exists():
        raise UserError(f"{folder}: exists; remove it or choose another pretrain.folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder.parent}: cannot be made ({error.strerror}); choose another pretrain.folder") from None


def _figures(score: JudgeScore) -> dict[str, float]:
    return {key: round(value, 4) for key, value in score.figures.items()}
