"""Captioned images on disk as a source: encoded once, with progress, and matched with the prompt table."""

import json
import pickle
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advdmd_ray.config import Config
from advdmd_ray.data import encoding
from advdmd_ray.data.encoding import encode_here
from advdmd_ray.data.files.source import FilesSource
from advdmd_ray.data.registry import source_of
from advdmd_ray.data.source import Encoded, Source
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
    source = source_of(config(tmp_path, teacher, 40))
    assert prepared(source) == "40 real images with 2 captions"
    assert source.to_encode() == []
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
        prepared(source_of(config(tmp_path, teacher, 39)))


def prepared(source: Source) -> str:
    tasks = source.to_encode()
    return source.encoded(encode_here(source.config.model.path, tasks))


def test_what_a_worker_is_given_travels_and_knows_its_own_captions_alone(tmp_path: Path, teacher: Path) -> None:
    whole = config(tmp_path, teacher, 40)
    folder = Path(whole.data.path or "")
    lines = [json.dumps({"file_name": file.name, "text": f"of {file.name}"}) for file in sorted(folder.glob("*.png"))]
    lines += [json.dumps({"file_name": f"elsewhere-{number}.png", "text": "x" * 1000}) for number in range(500)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    (task,) = source_of(whole).to_encode()
    travelled = pickle.dumps(task)  # as Ray does
    assert len(travelled) < 10_000
    images = [*pickle.loads(travelled).shard.read()]  # noqa: S301 - just made
    assert [image.caption for image in images] == [f"of {image.name}" for image in images]


def test_the_codec_is_let_go_of_once_all_is_encoded(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codecs: list[weakref.ref[Any]] = []
    load = encoding.load_pipeline

    def watched(*given: Any, **named: Any) -> Any:
        pipeline = load(*given, **named)
        codecs.append(weakref.ref(pipeline.vae))
        return pipeline

    monkeypatch.setattr(encoding, "load_pipeline", watched)
    source = FilesSource(config(tmp_path, teacher, 40))
    assert len(source.latents()) == 40
    assert [codec() for codec in codecs] == [None]


def test_shards_that_no_worker_left_where_this_process_looks_are_named(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(UserError, match=r"1 of 1 shards .* data\.cache must be a folder that all of them see"):
        source_of(config(tmp_path, teacher, 40)).encoded([Encoded(40, {})])


def test_images_that_workers_could_not_use_are_counted_over_all_shards(tmp_path: Path, teacher: Path) -> None:
    source = source_of(config(tmp_path, teacher, 41))
    (tmp_path / "images" / "07.png").write_bytes(b"no image")
    assert prepared(source).startswith("40 real images with 2 captions; left out 1: 07.png (is no readable image")
    with pytest.raises(UserError, match=r"more than data\.most_skipped=100 images"):
        source.encoded([Encoded(0, {f"{shard}-{k}": "has no caption" for k in range(60)}) for shard in range(2)])
