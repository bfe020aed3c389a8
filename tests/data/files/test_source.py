"""Captioned images on disk as a source: encoded once, with progress, and matched with the prompt table."""

import json
import os
import pickle
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advdmd_ray import console
from advdmd_ray.config import Config
from advdmd_ray.data import encoding
from advdmd_ray.data.encoding import encode_here
from advdmd_ray.data.files import ledger
from advdmd_ray.data.files.encoding import ArrowLatents, make_cache
from advdmd_ray.data.files.source import FilesSource
from advdmd_ray.data.registry import source_of
from advdmd_ray.data.source import Encoded, Source
from advdmd_ray.errors import UserError
from data_sets import grey, tar_bytes, write_files
from tiny_families import write_family

CAPTIONS = ("a handwritten one", "a handwritten two")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose codec takes three colours."""
    return write_family("sd3", tmp_path_factory.mktemp("files") / "teacher")


def config(tmp_path: Path, pipeline: Path, images: int, **data: str | int) -> Config:
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
    assert prepared(source).splitlines() == [
        "40 real images with 2 captions: read 40, used 40, skipped 0",
        "  1 sizes, width x height: 32 x 32 (40)",
    ]
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
    return source.encoded(encode_here(source.config, tasks))


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
        source_of(config(tmp_path, teacher, 40)).encoded([Encoded(40)])


def test_images_that_workers_could_not_use_are_counted_over_all_shards(tmp_path: Path, teacher: Path) -> None:
    source = source_of(config(tmp_path, teacher, 41))
    (tmp_path / "images" / "07.png").write_bytes(b"no image")
    told = prepared(source).splitlines()
    assert told[0] == "40 real images with 2 captions: read 41, used 40, skipped 1"
    assert told[1] == "  1 skipped: is no image, or a broken one: 07.png"
    lost = tuple((f"{number}.png", "has no caption") for number in range(60))
    with pytest.raises(UserError, match=r"more than data\.most_skipped=100 images"):
        source_of(source.config).encoded([Encoded(0, lost), Encoded(0, lost)])


def test_images_of_a_shard_whose_worker_was_lost_before_it_could_tell_are_counted_too(
    tmp_path: Path, teacher: Path
) -> None:
    settings = config(tmp_path, teacher, 42, most_skipped=1)
    (tmp_path / "images" / "07.png").write_bytes(b"no image")
    (tmp_path / "images" / "08.png").write_bytes(b"no image")
    raised = settings.model_copy(update={"data": settings.data.model_copy(update={"most_skipped": 2})})
    assert [made.images for made in encode_here(raised, source_of(raised).to_encode())] == [40]
    with pytest.raises(UserError, match=r"more than data\.most_skipped=1 images cannot be used: 07\.png"):
        source_of(settings).encoded([Encoded(0)])
    assert source_of(raised).encoded([Encoded(0)]).startswith("40 real images with 2 captions: read 42, used 40")


def test_the_codec_has_the_threads_of_a_rollout_actor_and_others_keep_theirs(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last bits of a convolution on a CPU hang on them, so `--local` leaves the bytes of any team."""
    settings = config(tmp_path, teacher, 40)
    settings = settings.model_copy(update={"rollout": settings.rollout.model_copy(update={"threads": 3})})
    seen, before = list[int](), torch.get_num_threads()
    plain = encoding.image_encoder

    def watched(pipeline: Any) -> Any:
        codec = plain(pipeline)
        return lambda images: seen.append(torch.get_num_threads()) or codec(images)

    monkeypatch.setattr(encoding, "image_encoder", watched)
    for _ in encode_here(settings, source_of(settings).to_encode()):
        assert torch.get_num_threads() == before
    assert seen == [3] * 5


def test_what_a_killed_worker_began_is_removed_once_nobody_writes_to_it(tmp_path: Path, teacher: Path) -> None:
    source = FilesSource(config(tmp_path, teacher, 40))
    (task,) = source.to_encode()
    make_cache(task.file.parent)
    old, new, mark = (task.file.with_name(f".{name}") for name in ("a.arrow.1.part", "b.arrow.2.part", "mark"))
    hour_ago = time.time() - 3700
    for file in (old, new, mark):
        file.write_bytes(b"half")
        os.utime(file, None if file is new else (hour_ago, hour_ago))
    prepared(source)
    assert [file.exists() for file in (old, new, mark, task.file)] == [False, True, True, True]


def test_what_was_skipped_is_known_however_often_a_run_is_started(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path, teacher, 40, most_skipped=3)
    for number in range(3):
        members = [(f"{k}.png", grey(size=(32, 32)) if k < 4 else b"broken") for k in range(6)]
        members += [(f"{k}.txt", "a fox") for k in range(6)]
        write_files(tmp_path / "images", [(f"{number}.tar", tar_bytes(members))])
    for _ in range(3):
        with pytest.raises(UserError, match=r"more than data\.most_skipped=3 images cannot be used: 0\.tar: 4\.png"):
            prepared(source_of(settings))
    raised = settings.model_copy(update={"data": settings.data.model_copy(update={"most_skipped": 6})})
    first = prepared(source_of(raised))
    assert first.splitlines()[0] == "52 real images with 3 captions: read 58, used 52, skipped 6"
    monkeypatch.setattr(encoding, "load_pipeline", None)  # nothing is encoded again
    assert prepared(source_of(raised)) == first
    (skipped,) = (tmp_path / "latents").rglob("skipped.jsonl")
    assert str(skipped) in first
    names = [json.loads(line)["name"] for line in skipped.read_text().splitlines()]
    assert sorted(names) == [f"{number}.tar: {k}.png" for number in range(3) for k in (4, 5)]


def test_a_reading_ends_in_one_table_whose_counts_add_up(tmp_path: Path, teacher: Path) -> None:
    settings = config(tmp_path, teacher, 120)
    files = [(f"{number:02d}.png", b"broken") for number in range(5)] + [
        (".DS_Store", b"\0"),
        ("notes.md", "x"),
        ("odd.txt", "x"),
    ]
    animated = grey(kind="GIF", size=(40, 32), save_all=True, append_images=[Image.new("RGB", (40, 32))])
    write_files(
        tmp_path / "images", [*files, ("moving.gif", animated), ("moving.txt", "a fox"), ("10.txt", "a caf\ufffd")]
    )
    told = prepared(source_of(settings)).splitlines()
    assert told[:-1] == [
        "116 real images with 4 captions: read 124, used 116, skipped 8",
        "  1 used: has a replacement character in its caption, which is learnt as it stands: 10.png",
        "  1 used: has several pictures, of which the first is used: moving.gif",
        "  5 skipped: is no image, or a broken one: 00.png, 01.png, 02.png, 03.png, 04.png",
        "  1 skipped: is hidden, or belongs to a system: .DS_Store",
        "  1 skipped: is a caption without an image: odd.txt",
        "  1 skipped: is no image that is read here: notes.md (.md)",
        "  2 sizes, width x height: 32 x 32 (115), 40 x 32 (1)",
    ]
    assert told[-1].startswith("  all names: ")


def test_images_in_colours_become_those_of_a_grey_model(tmp_path: Path) -> None:
    settings = config(tmp_path, Path("builtin:digits"), 40)
    grey_model = settings.model_copy(
        update={"model": settings.model.model_copy(update={"height": None, "width": None})}
    )
    source = FilesSource(grey_model)
    source.check()
    assert prepared(source).startswith("40 real images with 2 captions")
    latents = source.latents()
    assert isinstance(latents, ArrowLatents)
    assert latents.shape[0] == 1
    assert source.judge().prompts == CAPTIONS


def test_latents_that_are_made_in_passing_are_told_too(
    tmp_path: Path, teacher: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = FilesSource(config(tmp_path, teacher, 40))
    console.PROGRESS.addHandler(caplog.handler)
    try:
        assert len(source.latents()) == len(source.latents()) == 40
    finally:
        console.PROGRESS.removeHandler(caplog.handler)
    assert [message for message in caplog.messages if "real images" in message] == [
        "40 real images with 2 captions: read 40, used 40, skipped 0"
    ]


def test_latents_that_are_not_those_that_were_counted_are_told(tmp_path: Path, teacher: Path) -> None:
    source = source_of(config(tmp_path, teacher, 40))
    prepared(source)
    (counts,) = (tmp_path / "latents").rglob("*.json")
    counts.write_text(counts.read_text().replace('"used": 40', '"used": 41'))
    with pytest.raises(UserError, match="has 40 latents, and the tables of their shards count 41"):
        prepared(source_of(source.config))


def test_a_cache_that_is_whole_needs_no_writing(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(tmp_path, teacher, 40)
    first = prepared(source_of(settings))

    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ledger, "write_atomically", refused)
    assert prepared(source_of(settings)) == first
    (tmp_path / "images" / ".DS_Store").write_text("x")
    with pytest.raises(UserError, match=r"skipped\.jsonl: cannot be written \(Permission denied\)"):
        source_of(settings).encoded(())
