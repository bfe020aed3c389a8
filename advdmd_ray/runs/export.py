"""From a run's newest checkpoint to a folder that plain diffusers samples, or to the adapters alone."""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from advdmd_ray.config import Config, Resume
from advdmd_ray.console import say
from advdmd_ray.data.registry import source_of
from advdmd_ray.errors import UserError
from advdmd_ray.learner.checkpoint import Checkpoint, latest_checkpoint
from advdmd_ray.models.adapter_keys import Convention
from advdmd_ray.models.exporting import export_adapters, export_student
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.lora import merged_weights
from advdmd_ray.models.pipeline import load_denoiser
from advdmd_ray.models.sampling_settings import SamplingSettings
from advdmd_ray.runs.card import about
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.outputs import check_free
from advdmd_ray.runs.parts.networks import learning
from advdmd_ray.runs.same_run import check_made_with


def export(config: Config, out: Path | None = None, *, dtype: torch.dtype | None = None) -> Path:
    """Write the EMA of the newest checkpoint as a diffusers pipeline folder, adapters merged.

    Args:
        config: The run's configuration.
        out: Where; default: `student` in the run folder, which replaces an earlier export.
        dtype: Of its weights; default: that of the base. A line says what of the learnt it rounds away, if anything.

    Raises:
        CheckpointError: the run has no intact checkpoint.
        UserError: `out` exists, or the checkpoint was made with other settings.
    """
    checkpoint, model = latest_checkpoint(RunFolder(config.folder).checkpoints), config.model
    student = student_of(config, checkpoint)
    folder = RunFolder(config.folder).student if out is None else out
    if out is not None:
        check_free(out)
    new, old = (folder.with_name(f".{folder.name}-{name}") for name in ("new", "old"))
    _remove(new)
    stored = export_student(
        model.path,
        merged_weights(student),
        new,
        sigmas_before_shift=config.diffusion.sigmas,
        kernel=config.diffusion.kernel,
        sampling=_sampling(config),
        guidance=model.guidance,
        prompt=source_of(config).prompts()[0],
        about=about(config, checkpoint.step),
        dtype=dtype,
    )
    # The new student is whole: only now does the old one leave.
    _remove(old)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    _remove(old)
    if stored.lost:
        say(f"{folder}: {stored.words}")
    return folder


def export_adapter(config: Config, out: Path, keys: Convention = "diffusers") -> Path:
    """Write the EMA's adapters alone, with the scheduler and the levels of the student.

    Args:
        config: The configuration of a run with `lora.rank` above 0.
        out: Folder to write; must not exist.
        keys: Whose keys they have: `diffusers` are what `load_lora_weights` of the family's pipeline reads.

    Raises:
        CheckpointError: the run has no intact checkpoint.
        UserError: the run has no adapters, `out` exists, the checkpoint was made with other settings, or the family's
            layers have no known names in the convention.
    """
    if not config.lora.rank:
        raise UserError("--adapter: this run learns whole networks (lora.rank=0); export without --adapter")
    check_free(out)
    checkpoint = latest_checkpoint(RunFolder(config.folder).checkpoints)
    student = student_of(config, checkpoint)
    export_adapters(
        config.model.path,
        {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad},
        out,
        scale=config.lora.scale_alpha / config.lora.rank,
        sigmas_before_shift=config.diffusion.sigmas,
        kernel=config.diffusion.kernel,
        sampling=_sampling(config),
        guidance=config.model.guidance,
        prompt=source_of(config).prompts()[0],
        about=about(config, checkpoint.step, merged=False),
        keys=keys,
    )
    return out


def student_of(config: Config, checkpoint: Checkpoint) -> TransformerDenoiser:
    """The student with the averaged weights of a checkpoint, float32.

    Raises:
        UserError: the checkpoint was made with other settings than those that a student hangs on.
    """
    why = "the student was trained with that; export with the run's own settings"
    check_made_with(config, checkpoint, (Resume.STUDENT,), why)
    student = learning(config, load_denoiser(config.model.path, config.model.guidance), "student")
    average: dict[str, Tensor] = checkpoint.load("ema")
    learnt = {name: parameter for name, parameter in student.named_parameters() if parameter.requires_grad}
    if learnt.keys() != average.keys():
        raise ValueError(f"{checkpoint.path}: the EMA's tensors are not those of {config.model.path}")
    with torch.no_grad():
        for name, parameter in learnt.items():
            parameter.copy_(average[name])
    return student


def _sampling(config: Config) -> SamplingSettings:
    model = config.model
    guidance = model.guidance if inspect_pipeline(model.path).embedded_guidance else None
    size, sizes = config.main_size or (None, None), config.data.buckets or None
    return SamplingSettings(model.max_sequence_length, *size, config.diffusion.sigmas, guidance, sizes)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
