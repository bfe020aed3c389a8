"""Students and their adapters as folders that plain diffusers reads."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.files import drafted_folder
from advdmd_ray.models.adapter_keys import LOADED_BY_DIFFUSERS, Convention, renamed
from advdmd_ray.models.diffusers_classes import pipeline_class
from advdmd_ray.models.folder import PipelineInfo, inspect_pipeline
from advdmd_ray.models.headers import number_kind, plain_weight_names
from advdmd_ray.models.lora import adapter_weights
from advdmd_ray.models.model_card import README, About, Call, KernelName, adapter_card, student_card
from advdmd_ray.models.pipeline import load_transformer, quiet
from advdmd_ray.models.sampling_settings import SamplingSettings, write_sampling
from advdmd_ray.models.student_scheduler import student_scheduler
from advdmd_ray.models.targets import linear_layers

DTYPES: Mapping[str, torch.dtype] = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Of weights that are kept, by their kind in a file; all others become float32."""


@dataclass(frozen=True, slots=True)
class Stored:
    """In what numbers a student's weights were written, and what that took.

    Attributes:
        dtype: The numbers.
        as_base: Whether they are those of the base.
        lost: Norm of what rounding took, as a share of the norm of what was learnt; over all weights that changed.
    """

    dtype: torch.dtype
    as_base: bool
    lost: float

    @property
    def words(self) -> str:
        """The same, for a reader."""
        name = f"{self.dtype}".removeprefix("torch.")
        like = ", as the base" if self.as_base else ""
        if not self.lost:
            return f"{name}{like}: nothing of what was learnt is rounded away"
        return f"{name}{like}: rounding takes {self.lost:.1%} of what was learnt (by norms), which float32 keeps"


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
    dtype: torch.dtype | None = None,
) -> Stored:
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
        dtype: Of the transformer's file; None: that of its teacher's.

    Returns:
        What became of the weights; the README says it too.

    Raises:
        UserError: The teacher's folder is not whole.
        FileExistsError: `folder` exists.
        RuntimeError: `state` does not fit the transformer.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another folder")
    info = inspect_pipeline(pipeline_path, sampling.pixels)
    own = own_dtype(info)
    kept = own if dtype is None else dtype
    transformer = load_transformer(info.folder, kept)
    transformer.load_state_dict(dict(state))
    stored = Stored(kept, kept == own, rounded_away(state, info, kept))
    call = Call(info, sigmas_before_shift, kernel, guidance, sampling.max_sequence_length, prompt, kept)
    about = replace(about, recipe={**about.recipe, "weights": stored.words})
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
    return stored


def own_dtype(info: PipelineInfo) -> torch.dtype:
    """Of the weights of a pipeline's transformer, by the headers of its files."""
    return DTYPES.get(number_kind(info.component("transformer").weight_files), torch.float32)


def rounded_away(state: Mapping[str, Tensor], info: PipelineInfo, dtype: torch.dtype) -> float:
    """What a student loses where its weights are stored in fewer digits, as a share of what it learnt.

    A base of bfloat16 has steps of 0.4 to 0.8 % of a weight: what a short run adds to it may be less. Where the base
    itself is of that kind, the share is at most 1, for then its own weights are nearest.

    Args:
        state: All weights of the student, in float32.
        info: The pipeline of its teacher.
        dtype: What they are stored in.

    Returns:
        `|round(W) - W| / |W - W_teacher|` over all tensors that changed, norms of Frobenius; 0 if none did.
    """
    learnt = lost = 0.0
    for file in info.component("transformer").weight_files:
        with safe_open(file, "pt") as tensors:
            for name in sorted(state.keys() & set(tensors.keys())):
                after = state[name].detach().float()
                change = after - tensors.get_tensor(name).float()
                if not change.any():
                    continue
                learnt += float(torch.linalg.vector_norm(change, dtype=torch.float64)) ** 2
                rounded = after.to(dtype).float() - after
                lost += float(torch.linalg.vector_norm(rounded, dtype=torch.float64)) ** 2
    return math.sqrt(lost / learnt) if learnt else 0.0


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
    keys: Convention = "diffusers",
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
        keys: Whose keys the file has.

    Raises:
        UserError: the family's layers have no known names in that convention.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; remove it or choose another folder")
    info = inspect_pipeline(pipeline_path, sampling.pixels)
    layers = {
        name: (tensor * scale if ".lora_B." in name else tensor).detach().contiguous()
        for name, tensor in adapter_weights(state).items()
    }
    call = Call(info, sigmas_before_shift, kernel, guidance, sampling.max_sequence_length, prompt, own_dtype(info))
    told = layers if keys == "diffusers" else renamed(layers, keys, info.family.name, linear_layers(info))
    with drafted_folder(folder) as draft:
        if keys == "diffusers":
            file = "pytorch_lora_weights.safetensors"
            with quiet():
                pipeline_class(info.family).save_lora_weights(str(draft), transformer_lora_layers=told)
        else:
            file = f"{folder.name}.safetensors"
            save_file(told, draft / file, {"format": "pt"})
        _write_sampler(draft, info, kernel, sampling)
        loads = keys == "diffusers" or info.family.name in LOADED_BY_DIFFUSERS
        card = adapter_card(call, about, how=_how(file, keys, call), loads=loads)
        (draft / README).write_text(card, encoding="utf-8")


def _how(file: str, keys: Convention, call: Call) -> str:
    """What the adapters' file is for, and how ComfyUI samples with it."""
    if keys == "diffusers":
        return f"`{file}` has diffusers' keys, for `load_lora_weights`."
    levels = [round(float(level), 6) for level in student_sigmas(call.sigmas, call.info.scheduler_shift)]
    sampler = "lcm" if call.draws_noise else "euler"
    return (
        f"`{file}` has the keys of {'ComfyUI' if keys == 'comfyui' else 'kohya'}. In ComfyUI: CFG 1, the sampler "
        f"`{sampler}`, whose steps are those of training, and these sigmas, after the shift: "
        f"{', '.join(f'{level:g}' for level in levels)}."
    )


def _write_sampler(draft: Path, info: PipelineInfo, kernel: KernelName, sampling: SamplingSettings) -> None:
    """The stock scheduler that a student is sampled with, and its levels and sizes."""
    scheduler = student_scheduler(info, stochastic=kernel != "ode", several=sampling.sizes is not None)
    with quiet():
        scheduler.save_pretrained(str(draft / "scheduler"))
    write_sampling(draft, sampling)
