"""Students and their adapters as folders that plain diffusers reads."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from advdmd_ray.files import drafted_folder
from advdmd_ray.models.diffusers_classes import pipeline_class
from advdmd_ray.models.folder import PipelineInfo, inspect_pipeline
from advdmd_ray.models.headers import plain_weight_names
from advdmd_ray.models.lora import adapter_weights
from advdmd_ray.models.model_card import README, About, Call, KernelName, adapter_card, student_card
from advdmd_ray.models.pipeline import load_transformer, quiet
from advdmd_ray.models.sampling_settings import SamplingSettings, write_sampling
from advdmd_ray.models.student_scheduler import student_scheduler


def export_student(
    pipeline_path: str | Path,
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    sigmas_before_shift: Sequence[float],
    kernel: KernelName,
    sampling: SamplingSettings,
    guidance: float = 1.0,
    prompt: str,
    about: About,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a student as a diffusers pipeline folder that stock diffusers samples in few steps.

    The transformer has the student's weights; the text encoders and the image codec are the teacher's files; the
    scheduler is the stock `FlowMatchEulerDiscreteScheduler`. A README has the lines that sample it, and
    `sampling.json` what it was trained with. The folder is written beside its place and renamed into it, so it is
    there as a whole or not at all.

    Args:
        pipeline_path: The teacher's folder, or `builtin:NAME`.
        state: All weights of the student's transformer.
        folder: Where to write; must not exist.
        sigmas_before_shift: The K noise levels of the student, before the scheduler's shift.
        kernel: Kernel of training. The stock scheduler has two: `renoise` (`stochastic_sampling=True`) and `ode`.
            Students of `cps` and `flow_sde` are sampled with `renoise`, and the README says so.
        sampling: What the student was trained with.
        guidance: What it was given in training, if its family takes the guidance scale as an input.
        prompt: Prompt of the README's lines.
        about: What else the README says.
        dtype: Of the transformer's file.

    Raises:
        UserError: The teacher's folder is not whole.
        FileExistsError: `folder` exists.
        RuntimeError: `state` does not fit the transformer.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another folder")
    info = inspect_pipeline(pipeline_path, sampling.pixels)
    transformer = load_transformer(info.folder, dtype)
    transformer.load_state_dict(dict(state))
    call = Call(info, sigmas_before_shift, kernel, guidance, sampling.max_sequence_length, prompt, dtype)
    with drafted_folder(folder) as draft:
        for component in info.components:
            if component.name not in {"transformer", "scheduler"}:
                plain_weight_names(Path(shutil.copytree(info.folder / component.name, draft / component.name)))
        with quiet():
            transformer.save_pretrained(str(draft / "transformer"), safe_serialization=True)
        _write_sampler(draft, info, kernel, sampling)
        index = json.loads((info.folder / "model_index.json").read_text(encoding="utf-8"))
        index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
        (draft / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        (draft / README).write_text(student_card(call, about), encoding="utf-8")


def export_adapters(
    pipeline_path: str | Path,
    state: Mapping[str, Tensor],
    folder: Path,
    *,
    scale: float,
    sigmas_before_shift: Sequence[float],
    kernel: KernelName,
    sampling: SamplingSettings,
    guidance: float = 1.0,
    prompt: str,
    about: About,
) -> None:
    """Write adapters as a folder that `load_lora_weights` of the family's pipeline reads, whole or not at all.

    Beside them are the student's scheduler, its `sampling.json` and a README with the lines that sample it.

    Args:
        pipeline_path: The folder of the base, or `builtin:NAME`.
        state: Adapter weights by their names in the denoiser.
        folder: Where to write; must not exist.
        scale: What the adapters count; it goes into their weights.
        sigmas_before_shift: See `export_student`, as for all others.
        kernel: See there.
        sampling: See there.
        guidance: See there.
        prompt: See there.
        about: See there.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another folder")
    info = inspect_pipeline(pipeline_path, sampling.pixels)
    layers = {
        name: (tensor * scale if ".lora_B." in name else tensor).detach().contiguous()
        for name, tensor in adapter_weights(state).items()
    }
    call = Call(info, sigmas_before_shift, kernel, guidance, sampling.max_sequence_length, prompt, torch.float32)
    with drafted_folder(folder) as draft:
        with quiet():
            pipeline_class(info.family).save_lora_weights(str(draft), transformer_lora_layers=layers)
        _write_sampler(draft, info, kernel, sampling)
        (draft / README).write_text(adapter_card(call, about, how=""), encoding="utf-8")


def _write_sampler(draft: Path, info: PipelineInfo, kernel: KernelName, sampling: SamplingSettings) -> None:
    """The stock scheduler that a student is sampled with, and its levels and sizes."""
    scheduler = student_scheduler(info, stochastic=kernel != "ode", several=sampling.sizes is not None)
    with quiet():
        scheduler.save_pretrained(str(draft / "scheduler"))
    write_sampling(draft, sampling)
