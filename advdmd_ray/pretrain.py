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
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.data.digits import DIGIT_PROMPTS, DIGIT_WORDS, load_digits
from advdmd_ray.data.real import RealImages
from advdmd_ray.data.shapes.prompts import all_prompts, prompt_words
from advdmd_ray.data.shapes.training import draw_images, draw_rows
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judge import JudgeScore, build_judge
from advdmd_ray.evaluation.judging import judge_pipeline
from advdmd_ray.models.codec import PatchCodec, PixelCodec
from advdmd_ray.models.diffusers_classes import StableDiffusion3Pipeline
from advdmd_ray.models.pipeline import save_pipeline
from advdmd_ray.models.sd3 import SD3Denoiser
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.models.tiny import DIGITS, SHAPES, Architecture, build_tiny_pipeline

WARMUP_STEPS = 100
GRADIENT_CLIP = 1.0
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


def pretrain(
    pipeline: StableDiffusion3Pipeline,
    real: RealImages,
    conditioning: Conditioning,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    prompt_dropout: float = 0.1,
    ema: float = 0.999,
    progress: Callable[[int, float], None] | None = None,
) -> None:
    """Train the pipeline's transformer on real images and leave the moving average of its weights in it.

    AdamW with warm-up and cosine decay. The same arguments and thread count give the same weights.

    Args:
        pipeline: Its transformer is trained in place.
        real: Images and prompt ids.
        conditioning: The encoded prompts, row i for prompt id i, and the empty prompt as the last row.
        steps: Optimizer steps.
        batch_size: Images per step, drawn with replacement.
        learning_rate: Peak learning rate.
        seed: Seeds every draw.
        prompt_dropout: Share of samples trained with the empty prompt, for classifier-free guidance.
        ema: Decay of the moving average, approached as `min(ema, (1 + step) / (10 + step))`.
        progress: Called with the number of steps done and the mean loss since the last call, every 50 steps.
    """
    transformer = pipeline.transformer.train().requires_grad_(True)
    denoiser = SD3Denoiser(transformer)
    parameters = list(transformer.parameters())
    average = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    generator = torch.Generator().manual_seed(seed)
    empty = len(conditioning.pooled) - 1
    total, counted = 0.0, 0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * learning_rate_factor(step, steps)
        rows = torch.randint(len(real), (batch_size,), generator=generator)
        dropped = torch.rand(batch_size, generator=generator) < prompt_dropout
        prompt_ids = torch.where(dropped, empty, real.prompt_ids[rows])
        batch_conditioning = conditioning.select(prompt_ids)
        loss = _flow_matching_batch_loss(denoiser, real.latents[rows], batch_conditioning, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        optimizer.step()
        with torch.no_grad():
            weight = 1 - min(ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, parameters, weight)  # pyright: ignore[reportPrivateImportUsage] - one call for all tensors
        total, counted = total + loss.item(), counted + 1
        if progress is not None and (counted == REPORT_EVERY or step == steps - 1):
            progress(step + 1, total / counted)
            total, counted = 0.0, 0
    with torch.no_grad():
        for parameter, mean in zip(parameters, average, strict=True):
            parameter.copy_(mean)
    transformer.eval().requires_grad_(False)


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

    Args:
        config: `run.seed` seeds the networks, the data and the training; `model.guidance` is what it is judged with.
        command: The command line, for the record.
        progress: See `pretrain`.

    Returns:
        The record that is also written as `teacher.json`: command, settings, figures, seconds, machine, versions and
        the SHA-256 of each weight file.

    Raises:
        UserError: `pretrain.folder` exists, or cannot be made.
    """
    folder, section, seed = Path(config.pretrain.folder), config.pretrain, config.run.seed
    _check_free(folder)
    start = time.perf_counter()
    recipe = build_recipe(config)
    pipeline = build_tiny_pipeline(recipe.words, recipe.codec, recipe.architecture, seed=seed)
    conditioning = encode_prompts(pipeline, [*recipe.prompts, ""], config.model.max_sequence_length)
    pretrain(
        pipeline,
        recipe.real,
        conditioning,
        steps=section.steps,
        batch_size=section.batch_size,
        learning_rate=section.learning_rate,
        seed=seed,
        progress=progress,
    )
    trained = time.perf_counter()
    judged = _judged(pipeline, config)
    return write_teacher(
        pipeline,
        folder,
        {
            "command": command,
            "source": config.data.source,
            "seed": seed,
            "images": len(recipe.real),
            "steps": section.steps,
            "batch_size": section.batch_size,
            "learning_rate": section.learning_rate,
            "guidance": config.model.guidance,
            "max_sequence_length": config.model.max_sequence_length,
            "judge": judged,
            "seconds": {"train": round(trained - start, 1), "judge": round(time.perf_counter() - trained, 1)},
            "machine": {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "kind": platform.machine()},
            "versions": {name: version(name) for name in RECORDED_VERSIONS},
        },
    )


def write_teacher(pipeline: StableDiffusion3Pipeline, folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write a pipeline folder with its record, all or nothing, and return the record with the weight files' hashes.

    Raises:
        UserError: `folder` exists, or cannot be made.
    """
    _check_free(folder)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        save_pipeline(pipeline, draft)
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


def _check_free(folder: Path) -> None:
    if folder.exists():
        raise UserError(f"{folder}: exists; remove it or choose another pretrain.folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder.parent}: cannot be made ({error.strerror}); choose another pretrain.folder") from None


def _figures(score: JudgeScore) -> dict[str, float]:
    return {key: round(value, 4) for key, value in score.figures.items()}
