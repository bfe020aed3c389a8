"""A teacher from its recipe: trained, judged, and written as a pipeline folder with its record."""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from advdmd_ray.config import Config
from advdmd_ray.config.pretrain import PretrainConfig, PretrainSection
from advdmd_ray.data.real import RealImages
from advdmd_ray.data.recipe import TeacherRecipe
from advdmd_ray.data.registry import source_of
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.schedule import teacher_sigmas
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.contract import JudgeScore
from advdmd_ray.evaluation.judges.pipelines import TEACHER_STEPS, PipelineSampler
from advdmd_ray.files import drafted_folder
from advdmd_ray.models.diffusers_classes import StableDiffusion3Pipeline
from advdmd_ray.models.pipeline import save_pipeline
from advdmd_ray.models.sampling_settings import SamplingSettings, write_sampling
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.models.tiny import Architecture, build_tiny_pipeline
from advdmd_ray.pretrain.reader import learn_to_say
from advdmd_ray.pretrain.training import Checkpoints, pretrain
from advdmd_ray.stations.weights.snapshot import digest_of

TEACHER_CARD = "teacher.json"
JUDGE_SEED = 0
RECORDED_VERSIONS = ("torch", "diffusers", "transformers", "scikit-learn", "numpy")


def _judged(pipeline: StableDiffusion3Pipeline, config: Config) -> dict[str, Any]:
    """The judge's part of the record: the teacher at each number of Euler steps, and real held-out images."""
    judge, samples, sizes = source_of(config).judge(), config.evaluation.samples, pipeline.transformer.config
    shape = (sizes["in_channels"], sizes["sample_size"], sizes["sample_size"])
    shift = float(pipeline.scheduler.config["shift"])
    length = config.model.max_sequence_length
    sampler = PipelineSampler(judge, pipeline, config.judged_guidance, length, shape, shift)
    scores = {
        steps: sampler.judged(Kernel.ode(), teacher_sigmas(steps, shift), samples=samples, seed=JUDGE_SEED)
        for steps in TEACHER_STEPS
    }
    ceiling = judge.ceiling()
    return {
        "samples": samples,
        "seed": JUDGE_SEED,
        "teacher": {str(count): _figures(score) for count, score in scores.items()},
        "real": {**_figures(ceiling), "samples": ceiling.images},
    }


def pretrain_teacher(
    config: PretrainConfig,
    *,
    command: str,
    progress: Callable[[int, float], None] | None = None,
    reading: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """Build, train, judge and write the teacher of `data.source` into `pretrain.folder`.

    A training that was stopped goes on from its last checkpoint, in `.FOLDER-training` beside the folder.

    Args:
        config: `run.seed` seeds the networks, the data and the training; it is judged with `judged_guidance`.
        command: The command line, for the record.
        progress: See `pretrain`.
        reading: See `learn_to_say`.

    Returns:
        The record that is also written as `teacher.json`, to which the SHA-256 of each weight file belongs.

    Raises:
        UserError: `pretrain.folder` exists or cannot be made, a stopped training has other settings, captions
            state nothing that a text encoder could learn, or there are none beyond the prompts.
    """
    folder, section, seed = Path(config.pretrain.folder), config.pretrain, config.run.seed
    _check_free(folder)
    start = time.perf_counter()
    recipe = _with_captions(source_of(config).teacher_recipe(section.images, seed), section.relation_captions, seed)
    _make_parent(folder)
    architecture = architecture_of(section, recipe.architecture)
    pipeline = _built(recipe, architecture, section.text_steps, seed, reading)
    conditioning = encode_prompts(pipeline, [*recipe.prompts, ""], config.model.max_sequence_length)
    settings = _settings(config, len(recipe.real), architecture)
    made_of = settings | _digests(pipeline, recipe.real, conditioning)
    checkpoints = Checkpoints(_training_folder(folder), section.checkpoint_steps, made_of)
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
    record = {
        "command": command,
        **settings,
        "guidance": config.judged_guidance,
        "judge": _judged(pipeline, config),
        "begun_at_step": begun,
        "seconds": {"train": round(trained - start, 1), "judge": round(time.perf_counter() - trained, 1)},
        **_made_with(),
    }
    full = write_teacher(pipeline, folder, record)
    shutil.rmtree(checkpoints.folder, ignore_errors=True)
    return full


def _digests(pipeline: StableDiffusion3Pipeline, real: RealImages, conditioning: Conditioning) -> dict[str, str]:
    """Of what a training begins with, by which a stopped one knows whether it may go on."""
    return {
        "first weights": digest_of(pipeline.transformer.state_dict()),
        "scenes": digest_of({"latents": real.all(), "prompt_ids": real.prompt_ids}),
        "prompts": digest_of({"embeds": conditioning.embeds, "pooled": conditioning.pooled}),
    }


def _made_with() -> dict[str, Any]:
    """The record's part about this machine and its packages."""
    return {
        "machine": {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "kind": platform.machine()},
        "versions": {name: version(name) for name in RECORDED_VERSIONS},
    }


def _with_captions(recipe: TeacherRecipe, count: int, seed: int) -> TeacherRecipe:
    """The recipe with so many captions, and their images, behind its prompts."""
    if not count:
        return recipe
    if recipe.captioned is None:
        raise UserError("pretrain.relation_captions: this data.source draws no captions; set it to 0")
    more = recipe.captioned(count, seed)
    latents = torch.cat([recipe.real.all(), more.real.all()])
    ids = torch.cat([recipe.real.prompt_ids, more.real.prompt_ids + len(recipe.prompts)])
    return replace(recipe, prompts=(*recipe.prompts, *more.texts), real=RealImages(latents, ids))


def _built(
    recipe: TeacherRecipe,
    architecture: Architecture,
    text_steps: int,
    seed: int,
    reading: Callable[[int, float], None] | None,
) -> StableDiffusion3Pipeline:
    """With random networks, but for a first text encoder that has learnt what captions state, if it is to."""
    pipeline = build_tiny_pipeline(recipe.words, recipe.codec, architecture, seed=seed)
    if not text_steps:
        return pipeline
    if recipe.lessons is None:
        raise UserError("pretrain.text_steps: the captions of this data.source state nothing to learn; set it to 0")
    lessons, encoder = recipe.lessons(seed), pipeline.text_encoder
    width, stated = encoder.config.projection_dim, lessons.facts.shape[1]
    if stated > width:
        raise UserError(
            f"pretrain.text_width is {width} and captions state {stated} facts; set it to as many or more, or "
            "pretrain.text_steps to 0"
        )
    learn_to_say(encoder, pipeline.tokenizer, lessons, steps=text_steps, seed=seed, progress=reading)
    return pipeline


def architecture_of(section: PretrainSection, usual: Architecture) -> Architecture:
    """The sizes of the networks: those of the data source, but for what `section` says of the text encoders."""
    width, scale = section.text_width, section.text_position_scale
    return replace(
        usual,
        text_width=usual.text_width if width is None else width,
        position_scale=usual.position_scale if scale is None else scale,
    )


def _settings(config: PretrainConfig, images: int, architecture: Architecture) -> dict[str, Any]:
    """What the record, and a checkpoint of the training, say of the configuration."""
    section = config.pretrain
    return {
        "source": config.data.source,
        "seed": config.run.seed,
        "images": images,
        "steps": section.steps,
        "batch_size": section.batch_size,
        "learning_rate": section.learning_rate,
        "muon_learning_rate": section.muon_learning_rate,
        "text_width": architecture.text_width,
        "text_position_scale": architecture.position_scale,
        "text_steps": section.text_steps,
        "relation_captions": section.relation_captions,
        "max_sequence_length": config.model.max_sequence_length,
    }


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
    _make_parent(folder)
    with drafted_folder(folder) as draft:
        save_pipeline(pipeline, draft)
        write_sampling(draft, SamplingSettings(record["max_sequence_length"]))
        full = {**record, "sha256": weight_hashes(draft)}
        (draft / TEACHER_CARD).write_text(json.dumps(full, indent=2) + "\n", encoding="utf-8")
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


def _make_parent(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder.parent}: cannot be made ({error.strerror}); choose another pretrain.folder") from None


def _figures(score: JudgeScore) -> dict[str, float]:
    return {key: round(value, 4) for key, value in score.figures.items()}
