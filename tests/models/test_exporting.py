"""Students as folders that plain diffusers samples: with the same steps, and from a seed the same images."""

import json
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.models.exporting import Stored, export_adapters, export_student
from advdmd_ray.models.families.sd3 import SD3Denoiser
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.lora import add_lora, is_adapter, merged_weights
from advdmd_ray.models.model_card import About, KernelName
from advdmd_ray.models.pipeline import load_denoiser, load_pipeline, load_transformer, quiet
from advdmd_ray.models.sampling_settings import SamplingSettings, read_sampling, write_sampling
from advdmd_ray.models.text import encode_prompts

BEFORE_SHIFT = (1.0, 0.7, 0.4, 0.1)
PROMPTS = ["a handwritten two", "a handwritten nine"]
SEEDS = (5, 6)


def student_state(pipeline: StableDiffusion3Pipeline) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    state = pipeline.transformer.state_dict()
    return {name: value + 0.01 * torch.randn(value.shape, generator=generator) for name, value in state.items()}


def export(
    tiny_folder: Path,
    state: dict[str, torch.Tensor],
    folder: Path,
    kernel: KernelName,
    *,
    max_sequence_length: int = 8,
    dtype: torch.dtype | None = None,
) -> Stored:
    return export_student(
        tiny_folder,
        state,
        folder,
        sigmas_before_shift=BEFORE_SHIFT,
        kernel=kernel,
        sampling=SamplingSettings(max_sequence_length),
        prompt=PROMPTS[0],
        about=About("student", {"student steps": "4"}),
        dtype=dtype,
    )


def load_with_plain_diffusers(folder: Path) -> StableDiffusion3Pipeline:
    with quiet():
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            str(folder), dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generators(seeds: Sequence[int] = SEEDS) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def called(pipeline: Any, generator: Any, prompts: Sequence[str] = tuple(PROMPTS)) -> np.ndarray:
    """Images of a student, by what its README says."""
    return pipeline(
        list(prompts), sigmas=list(BEFORE_SHIFT), guidance_scale=1.0, max_sequence_length=8, height=8, width=8,
        generator=generator, output_type="np",
    ).images  # fmt: skip


def bound(pipeline: Any, generator: Any) -> Any:
    """The pipeline, whose steps draw from a generator too."""
    pipeline.scheduler.step = partial(type(pipeline.scheduler).step, pipeline.scheduler, generator=generator)
    return pipeline


@pytest.fixture
def exported(tiny_folder: Path, tiny: StableDiffusion3Pipeline, tmp_path: Path) -> StableDiffusion3Pipeline:
    """A student whose steps draw noise, in plain diffusers."""
    export(tiny_folder, student_state(tiny), tmp_path / "exported", "renoise")
    return load_with_plain_diffusers(tmp_path / "exported")


@pytest.mark.parametrize("kernel", ["ode", "renoise"])
def test_plain_diffusers_samples_an_exported_student_as_our_sampler_does(
    tiny_folder: Path,
    tiny: StableDiffusion3Pipeline,
    tmp_path: Path,
    kernel: KernelName,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = student_state(tiny)
    export(tiny_folder, state, tmp_path / "student", kernel)
    pipeline: Any = load_with_plain_diffusers(tmp_path / "student")
    theirs = generators()
    pixels = called(bound(pipeline, theirs), theirs)
    # Our sampler draws from generators of the same seeds: first the start of each image, then the noise of each step.
    ours = generators()
    draws: list[tuple[Any, ...]] = []

    def drawn(shape: Sequence[int], _seeds: Sequence[int], *path: Any) -> torch.Tensor:
        draws.append(path)
        return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in ours])

    start = drawn((1, 8, 8), SEEDS, "initial")
    monkeypatch.setattr("advdmd_ray.diffusion.sampling.group_noise", drawn)
    final = sample(
        SD3Denoiser(pipeline.transformer),
        encode_prompts(pipeline, PROMPTS, 8),
        Kernel(kernel),
        student_sigmas(BEFORE_SHIFT, inspect_pipeline(tmp_path / "student").scheduler_shift),
        start,
        SEEDS,
    )
    own = (final / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert own.std() > 0.05
    np.testing.assert_allclose(pixels, own, atol=1e-4)
    assert draws == [("initial",), *([] if kernel == "ode" else [("step", step) for step in range(3)])]
    assert all(torch.equal(pipeline.transformer.state_dict()[name], value) for name, value in state.items())


def test_a_generator_of_its_own_decides_an_image_and_not_those_beside_it(exported: StableDiffusion3Pipeline) -> None:
    given = generators()
    both = called(bound(exported, given), given)
    assert np.array_equal(
        called(exported, [one.manual_seed(seed) for one, seed in zip(given, SEEDS, strict=True)]), both
    )
    swapped = generators(SEEDS[::-1])
    assert np.array_equal(called(bound(exported, swapped), swapped, PROMPTS[::-1])[::-1], both)
    alone = generators(SEEDS[1:])
    np.testing.assert_allclose(called(bound(exported, alone), alone, PROMPTS[1:])[0], both[1], atol=1e-5)
    others = generators((7, 8))
    assert np.abs(called(bound(exported, others), others) - both).max(axis=(1, 2, 3)).min() > 0.1


def test_a_stock_pipeline_gives_its_generator_to_no_step_but_torchs_own_seed_reaches_them(
    exported: StableDiffusion3Pipeline,
) -> None:
    # If the first of these no longer holds, a README need not bind the generator to the scheduler.
    once, again = (called(exported, torch.Generator().manual_seed(0)) for _ in range(2))
    assert np.abs(once - again).max() > 0.1
    with torch.random.fork_rng(devices=[]):
        once, again, other = (called(exported, torch.manual_seed(seed)) for seed in (0, 0, 1))
    assert np.array_equal(once, again)
    assert np.abs(once - other).max() > 0.1


def lines_of(readme: Path) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    return block


def image_of(lines: str) -> np.ndarray:
    """What the lines of a README draw into the working directory."""
    with quiet():
        exec(lines, {})  # noqa: S102 - as a reader does
    with Image.open("image.png") as image:
        return np.asarray(image).astype(np.int64)


@pytest.mark.parametrize("kernel", ["renoise", "ode"])
def test_the_lines_of_a_readme_draw_for_a_seed_one_image_and_those_of_adapters_that_of_the_merged_student(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: KernelName
) -> None:
    settings: dict[str, Any] = {
        "sigmas_before_shift": BEFORE_SHIFT,
        "kernel": kernel,
        "sampling": SamplingSettings(8, sigmas=BEFORE_SHIFT),
        "prompt": PROMPTS[0],
        "about": About("student"),
    }
    role = add_lora(load_denoiser(tiny_folder), rank=2, alpha=2.0, targets=("to_q", "to_v"), seed=3)
    generator = torch.Generator().manual_seed(4)
    for name, parameter in role.named_parameters():
        if is_adapter(name):
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    adapters = {name: parameter for name, parameter in role.named_parameters() if is_adapter(name)}
    export_student(tiny_folder, merged_weights(role), tmp_path / "merged", **settings)
    export_adapters(tiny_folder, adapters, tmp_path / "adapters", scale=1.0, **settings)
    images: list[np.ndarray] = []
    for folder in (tmp_path / "merged", tmp_path / "adapters"):
        assert read_sampling(folder) == settings["sampling"]
        monkeypatch.chdir(folder)
        (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        once, again = image_of(lines), image_of(lines)
        assert np.array_equal(once, again)
        images.append(once)
    other = image_of(lines.replace("manual_seed(0)", "manual_seed(1)"))
    assert np.abs(other - images[1]).max() > 30
    assert np.abs(images[0] - images[1]).max() <= 1


def test_an_exported_student_is_itself_a_whole_pipeline(
    tiny_folder: Path, tiny: StableDiffusion3Pipeline, tmp_path: Path
) -> None:
    export(tiny_folder, student_state(tiny), tmp_path / "student", "flow_sde")
    assert load_pipeline(tmp_path / "student").scheduler.config.stochastic_sampling is True
    assert "`flow_sde`" in (tmp_path / "student" / "README.md").read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["student"]


def test_a_teacher_of_one_variant_loads_and_its_student_needs_none(
    tiny_folder: Path, tiny: StableDiffusion3Pipeline, tmp_path: Path
) -> None:
    teacher = Path(shutil.copytree(tiny_folder, tmp_path / "teacher"))
    for file in teacher.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))
    home = teacher / "text_encoder"  # in shards, as transformers writes them
    shard, index = "model.fp16-00001-of-00001.safetensors", home / "model.safetensors.index.fp16.json"
    (home / "model.fp16.safetensors").rename(home / shard)
    with safe_open(str(home / shard), "pt") as opened:
        weights = dict.fromkeys(opened.keys(), shard)
    index.write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    loaded = load_pipeline(teacher)
    for name in ("transformer", "text_encoder", "vae"):
        own, copy = tiny.components[name].state_dict(), loaded.components[name].state_dict()
        assert all(torch.equal(own[key], copy[key]) for key in own)
    export(teacher, student_state(tiny), tmp_path / "student", "ode")
    assert not list((tmp_path / "student").rglob("*fp16*"))
    StableDiffusion3Pipeline.from_pretrained(tmp_path / "student", text_encoder_3=None, tokenizer_3=None)


def test_an_exported_student_says_the_length_of_its_text_slot(
    tiny_folder: Path, tiny: StableDiffusion3Pipeline, tmp_path: Path
) -> None:
    # The teacher's own file is not what counts: a student has the length that it was trained with.
    teacher = Path(shutil.copytree(tiny_folder, tmp_path / "teacher"))
    write_sampling(teacher, SamplingSettings(8))
    export(teacher, student_state(tiny), tmp_path / "student", "ode", max_sequence_length=3)
    assert read_sampling(tmp_path / "student") == SamplingSettings(3)


@pytest.fixture
def half_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A base whose weights are bfloat16."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "half"))
    load_transformer(folder, torch.bfloat16).save_pretrained(str(folder / "transformer"))
    return folder


def written(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize(("half", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_a_student_has_the_numbers_of_its_base(
    tiny_folder: Path, half_folder: Path, tmp_path: Path, half: bool, dtype: torch.dtype
) -> None:
    base = half_folder if half else tiny_folder
    state = {name: value * 1.01 for name, value in load_transformer(base).state_dict().items()}
    stored = export(base, state, tmp_path / "student", "ode")
    assert (stored.dtype, stored.as_base) == (dtype, True)
    assert all(torch.equal(value, state[name].to(dtype)) for name, value in written(tmp_path / "student").items())
    lines = (tmp_path / "student" / "README.md").read_text()
    assert f"dtype={dtype}" in lines
    assert f"| weights | {stored.words} |" in lines


@pytest.mark.parametrize(
    ("learnt", "least", "most"), [(0.0, 0, 0), (1e-4, 0.99, 1.0), (0.02, 0.01, 0.2), (0.7, 1e-4, 0.005)]
)
def test_a_student_says_what_rounding_takes_of_what_it_learnt(
    half_folder: Path, tmp_path: Path, learnt: float, least: float, most: float
) -> None:
    base = load_transformer(half_folder).state_dict()
    state = {name: value * (1 + learnt if name.endswith("to_q.weight") else 1) for name, value in base.items()}
    stored = export(half_folder, state, tmp_path / "half-student", "ode")
    changed = [name for name in base if name.endswith("to_q.weight")]
    kept = written(tmp_path / "half-student")
    lost = torch.cat([(kept[name].float() - state[name]).flatten() for name in changed]).norm()
    change = torch.cat([(state[name] - base[name]).flatten() for name in changed]).norm()
    assert stored.lost == (pytest.approx(float(lost / change), rel=1e-4) if learnt else 0)
    assert least <= stored.lost <= most
    assert ("nothing" in stored.words) == (learnt == 0)
    whole = export(half_folder, state, tmp_path / "whole", "ode", dtype=torch.float32)
    assert (whole.dtype, whole.as_base, whole.lost) == (torch.float32, False, 0)
    assert all(torch.equal(value, state[name]) for name, value in written(tmp_path / "whole").items())


def test_a_failed_export_leaves_nothing_behind(
    tiny_folder: Path, tiny: StableDiffusion3Pipeline, tmp_path: Path
) -> None:
    state = student_state(tiny)
    state.pop("proj_out.bias")
    with pytest.raises(RuntimeError, match=r"proj_out\.bias"):
        export(tiny_folder, state, tmp_path / "student", "ode")
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_overwritten(
    tiny_folder: Path, tiny: StableDiffusion3Pipeline, tmp_path: Path
) -> None:
    (tmp_path / "student").mkdir()
    with pytest.raises(FileExistsError, match="student exists"):
        export(tiny_folder, student_state(tiny), tmp_path / "student", "ode")
