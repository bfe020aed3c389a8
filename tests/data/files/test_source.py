"""Captioned images on disk as a source: encoded once, with progress, and matched with the prompt table."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advdmd_ray.config import Config
from advdmd_ray.data.files.source import FilesSource
from advdmd_ray.data.registry import source_of
from advdmd_ray.errors import UserError
from tiny_families import write_family

CAPTIONS = ("a handwritten one", "a handwritten two")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose codec takes three colours."""
    return write_family("sd3", tmp_path_factory.mktemp("files") / "teacher")


def config(tmp_path: Path, pipeline: Path, images: int, **data: str) -> Config:
    folder = tmp_path / "images"
    folder.mkdir()
    draws = np.random.default_rng(0)
    for number in range(images):
        Image.fromarray(draws.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(CAPTIONS[number % 2])
    return Config.model_validate(
        {
            "run": {"output": str(tmp_path)},
            "model": {"path": str(pipeline), "height": 32, "width": 32},
            "data": {"source": "files", "path": str(folder), **data},
        }
    )


def test_images_are_encoded_once_and_described_by_their_captions(tmp_path: Path, teacher: Path) -> None:
    source, told = source_of(config(tmp_path, teacher, 40)), list[tuple[int, int]]()
    assert source.prepare(lambda done, of: told.append((done, of))) == "40 real images with 2 captions"
    assert told
    assert told[-1][0] == told[-1][1]
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "latents").rglob("*.arrow")}
    assert source.prompts() == source.captions() == CAPTIONS
    real = source.real_images(("another prompt", *CAPTIONS))
    assert real.prompt_ids.tolist() == [1, 2] * 20
    assert torch.isfinite(real.all()).all()
    assert source.judge().prompts == CAPTIONS
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "latents").rglob("*.arrow")} == made


def test_other_prompts_leave_the_captions_as_they_are(tmp_path: Path, teacher: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a handwritten nine\n")
    source = FilesSource(config(tmp_path, teacher, 40, prompts=str(tmp_path / "prompts.txt")))
    source.check()
    assert not (tmp_path / "latents").exists()
    assert (source.prompts(), source.captions()) == (("a handwritten nine",), CAPTIONS)


def test_too_few_images_for_the_judge_are_refused_before_the_run(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(UserError, match="39 real images can be used, and the judge compares with at least 40"):
        source_of(config(tmp_path, teacher, 39)).prepare(lambda _done, _of: None)
