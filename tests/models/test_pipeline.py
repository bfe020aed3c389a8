"""Loading pipelines and exporting students."""

import json
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from safetensors import safe_open

from advdmd_ray.diffusion.kernels import Kernel
from advdmd_ray.diffusion.sampling import sample
from advdmd_ray.diffusion.schedule import student_sigmas
from advdmd_ray.models.families.sd3 import SD3Denoiser
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import (
    KernelName,
    export_student,
    load_pipeline,
    load_transformer,
    quiet,
)
from advdmd_ray.models.sampling_settings import SamplingSettings, read_sampling, write_sampling
from advdmd_ray.models.text import encode_prompts

ROOT = Path(__file__).parents[2]
BEFORE_SHIFT = (1.0, 0.7, 0.4, 0.1)
PROMPTS = ["a handwritten two", "a handwritten nine"]


def student_state(pipeline: StableDiffusion3Pipeline) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    state = pipeline.transformer.state_dict()
    return {name: value + 0.01 * torch.randn(value.shape, generator=generator) for name, value in state.items()}


def export(
    tiny_folder: Path, state: dict[str, torch.Tensor], folder: Path, kernel: KernelName, *, max_sequence_length: int = 8
) -> None:
    export_student(
        tiny_folder,
        state,
        folder,
        sigmas_before_shift=BEFORE_SHIFT,
        kernel=kernel,
        sampling=SamplingSettings(max_sequence_length),
        prompt=PROMPTS[0],
        card={"steps": "4"},
    )


def load_with_plain_diffusers(folder: Path) -> StableDiffusion3Pipeline:
    with quiet():
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            str(folder), dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_loading_is_silent_and_gives_frozen_float32_networks(
    tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = load_pipeline(tiny_folder)
    assert capfd.readouterr() == ("", "")
    for network in (pipeline.transformer, pipeline.text_encoder, pipeline.text_encoder_2, pipeline.vae):
        assert not network.training
        assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())


def test_the_transformer_alone_is_the_pipelines(tiny_folder: Path, tiny: StableDiffusion3Pipeline) -> None:
    alone = load_transformer(tiny_folder).state_dict()
    assert all(torch.equal(alone[name], value) for name, value in tiny.transformer.state_dict().items())


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
    exported: Any = load_with_plain_diffusers(tmp_path / "student")
    start = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    drawn: list[torch.Tensor] = []

    def recorded(shape: Any, generator: torch.Generator | None = None, **_: Any) -> torch.Tensor:
        drawn.append(torch.randn(shape, generator=generator))
        return drawn[-1]

    monkeypatch.setattr("diffusers.schedulers.scheduling_flow_match_euler_discrete.randn_tensor", recorded)
    pixels = exported(
        PROMPTS, sigmas=list(BEFORE_SHIFT), guidance_scale=1.0, max_sequence_length=8, height=8, width=8,
        latents=start, generator=torch.Generator().manual_seed(2), output_type="np",
    ).images  # fmt: skip
    # Our sampler gets the very noise that the scheduler drew, step by step.
    monkeypatch.setattr("advdmd_ray.diffusion.sampling.group_noise", lambda _shape, _seeds, _name, step: drawn[step])
    final = sample(
        SD3Denoiser(exported.transformer),
        encode_prompts(exported, PROMPTS, 8),
        Kernel(kernel),
        student_sigmas(BEFORE_SHIFT, inspect_pipeline(tmp_path / "student").scheduler_shift),
        start,
        [0, 1],
    )
    own = (final / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert own.std() > 0.05
    np.testing.assert_allclose(pixels, own, atol=1e-4)
    assert len(drawn) == (0 if kernel == "ode" else 4)
    assert all(torch.equal(exported.transformer.state_dict()[name], value) for name, value in state.items())


def test_the_readme_snippet_runs_in_a_fresh_interpreter(
    tiny_folder: Path, tiny: StableDiffusion3Pipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "student"
    export(tiny_folder, student_state(tiny), folder, "renoise")
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    command = [sys.executable, "-c", blocks[0]]
    subprocess.run(command, cwd=folder, check=True, timeout=120, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    with Image.open(folder / "image.png") as image:
        assert image.size == (8, 8)


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


def test_stock_diffusers_says_no_more_of_a_folder_with_a_sampling_file_than_of_one_without(
    tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "pipeline"))
    write_sampling(folder, SamplingSettings(8))
    logger = diffusers_logging.get_logger("diffusers")
    logger.addHandler(caplog.handler)
    try:
        for path in (tiny_folder, folder):
            StableDiffusion3Pipeline.from_pretrained(
                str(path), dtype=torch.float32, text_encoder_3=None, tokenizer_3=None
            )
    finally:
        logger.removeHandler(caplog.handler)
    # What it says of both is that the image codec is no AutoencoderKL.
    without, with_file = caplog.messages
    assert with_file == without
    assert "PixelCodec" in without


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


def test_silence_ends_where_it_began() -> None:
    before = diffusers_logging.get_verbosity()
    with quiet():
        assert diffusers_logging.get_verbosity() == diffusers_logging.log_levels["error"]
    assert diffusers_logging.get_verbosity() == before
