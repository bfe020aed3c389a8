"""Sampling a pipeline folder into a picture, with plain diffusers."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from advdmd_ray import cli
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation import folder_sampler
from advdmd_ray.evaluation.sample import sample_grid
from advdmd_ray.models.diffusers_classes import StableDiffusion3Pipeline
from advdmd_ray.models.sampling_settings import SAMPLING, SamplingSettings, write_sampling

SETTINGS: dict[str, Any] = {"steps": 2, "guidance": 1.0, "images": 3}
CLIP_TOKENS = 8
"""The tiny pipeline's tokens before the T5 slot."""


def test_a_grid_has_one_row_a_prompt_and_repeats_for_its_seed(tmp_path: Path) -> None:
    prompts = ["a handwritten seven", "a handwritten two"]
    first, again, other = (
        sample_grid("builtin:digits", prompts, seed=seed, out=tmp_path / f"{name}.png", **SETTINGS).read_bytes()
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first == again
    assert first != other
    one_row = sample_grid("builtin:digits", prompts[:1], seed=1, out=tmp_path / "row.png", **SETTINGS)
    with Image.open(tmp_path / "first.png") as grid, Image.open(one_row) as row:
        assert 1.5 * row.height < grid.height < 2 * row.height


def test_prompts_that_a_tokenizer_cuts_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["a handwritten two", "a handwritten " + "one " * CLIP_TOKENS]
    sample_grid("builtin:digits", prompts, seed=1, out=tmp_path / "one.png", steps=1, guidance=1.0, images=1)
    told = capsys.readouterr().err
    assert f"1 of 2 prompts and captions are cut by tokenizer, which hands on {CLIP_TOKENS} tokens" in told
    assert "'a handwritten one one" in told


def test_an_image_hangs_on_its_place_and_not_on_the_others(tmp_path: Path) -> None:
    few, more = (
        sample_grid(
            "builtin:digits",
            ["a handwritten two"],
            steps=2,
            guidance=1.0,
            images=images,
            seed=1,
            out=tmp_path / f"{images}.png",
        )
        for images in (2, 3)
    )
    two_images = (0, 30, 2 * 52, 70)  # of 48 pixels and a gap, below the caption
    with Image.open(few) as one, Image.open(more) as other:
        assert one.crop(two_images).tobytes() == other.crop(two_images).tobytes()


def test_the_seed_decides_a_students_images_step_noise_and_all_however_many_go_through_the_network_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"stochastic_sampling": True}))

    def drawn(seed: int) -> bytes:
        torch.randn(1)  # whatever else a process draws
        out = tmp_path / "grid.png"
        command = ["sample", "--pipeline", str(folder), "--prompt", "a handwritten two", "--seed", str(seed)]
        assert cli.main([*command, "--steps", "2", "--images", "3", "--device", "cpu", "--out", str(out)]) == cli.DONE
        return out.read_bytes()

    once = drawn(1)
    assert drawn(1) == once
    assert drawn(2) != once
    monkeypatch.setattr(folder_sampler, "TOKENS_AT_ONCE", 1)
    assert drawn(1) == once


@pytest.fixture
def folder(tmp_path: Path, tiny_pipeline: Path) -> Path:
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "pipeline"))


@pytest.mark.parametrize(("said", "taken"), [(1, 1), (8, 8), (512, 512), (None, 256)])
def test_the_text_slot_has_the_length_that_the_folder_says_and_else_that_of_diffusers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: int | None, taken: int
) -> None:
    encode, lengths = StableDiffusion3Pipeline.encode_prompt, list[int]()

    def recorded(*args: Any, **kwargs: Any) -> Any:
        encoded: Any = encode(*args, **kwargs)
        lengths.append(encoded[0].shape[1])
        return encoded

    monkeypatch.setattr(StableDiffusion3Pipeline, "encode_prompt", recorded)
    if said is not None:
        write_sampling(folder, SamplingSettings(said))
    sample_grid(str(folder), ["a handwritten two"], seed=0, out=tmp_path / "grid.png", **SETTINGS)
    assert {length - CLIP_TOKENS for length in lengths} == {taken}


def test_diffusers_own_length_is_what_diffusers_takes() -> None:
    default = inspect.signature(StableDiffusion3Pipeline.__call__).parameters["max_sequence_length"].default
    assert default == folder_sampler.DEFAULT_LENGTH


def test_a_damaged_sampling_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / SAMPLING).write_text("{")
    with pytest.raises(UserError, match=r"sampling\.json: cannot be read as JSON"):
        sample_grid(str(folder), ["x"], seed=0, out=tmp_path / "grid.png", **SETTINGS)


@pytest.mark.parametrize("name", ["grid.jpg", "absent/grid.png"])
def test_a_picture_that_cannot_be_written_is_refused_before_sampling(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="--out"):
        sample_grid("builtin:digits", ["x"], seed=0, out=tmp_path / name, **SETTINGS)
