"""Room for encoded texts, told before a run."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from advdmd_ray.config import Config
from advdmd_ray.runs.doctor.nodes import Node
from advdmd_ray.runs.doctor.roles import examine_store, examine_texts
from advdmd_ray.runs.needs.memory import GIB, object_store_demand, sizes_of
from advdmd_ray.runs.needs.texts import TextNeed, text_need
from full_size import write_full_size

EACH = ((77 + 256) * 4096 + 2048) * 2
"""Bytes of an SD3 text in bfloat16."""


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_full_size("sd3_medium", tmp_path_factory.mktemp("models") / "sd3")


def configured(sd3: Path, texts: int, tmp_path: Path, **model: object) -> Config:
    """A run of so many prompts, among which one stands twice."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(["text 0", *(f"text {number}" for number in range(texts))]))
    given = {"path": str(sd3), "precision": "bfloat16", "max_sequence_length": 256, **model}
    return Config.model_validate({"model": given, "data": {"source": "teacher_samples", "prompts": str(prompts)}})


def test_ten_thousand_captions_fill_the_disk_of_the_folder_and_no_object_store(sd3: Path, tmp_path: Path) -> None:
    kept = configured(sd3, 10_000, tmp_path, embeddings=str(tmp_path / "kept"))
    need = text_need(kept)
    assert (need.texts, need.each) == (10_001, EACH)  # and the empty prompt
    assert need.total == pytest.approx(25.5 * GIB, rel=0.01)
    assert need.in_store == 0
    assert f"10,001 of 2,668 KiB at most take 25.4 GiB, in {tmp_path / 'kept'}" in need.text


def test_without_a_folder_they_fill_the_object_store_of_every_node_and_the_doctor_says_what_to_set(
    sd3: Path, tmp_path: Path
) -> None:
    config = configured(sd3, 999, tmp_path)
    finding, sizes = examine_texts(config), sizes_of(config)
    assert finding.state == "note"
    assert finding.text.endswith(
        "in the object store of every node; set model.embeddings to a folder that all nodes see"
    )
    nodes = [Node(name, 8, 0, 2.0**40, 2.0**40) for name in ("one", "two")]
    demand = object_store_demand(config, sizes) + 2 * 1000 * EACH
    assert (
        f"groups, snapshots and texts fill {demand / GIB:,.1f} GiB of 2,048.0 GiB"
        in examine_store(config, sizes, nodes).text
    )
    assert examine_texts(configured(sd3, 9, tmp_path)).state == "ok"


def test_a_folder_without_room_is_a_change_and_what_is_there_already_needs_none(
    sd3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = configured(sd3, 9, tmp_path, embeddings=str(tmp_path / "kept"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10 * EACH - 1))
    assert examine_texts(kept).state == "change"
    assert "choose another model.embeddings" in examine_texts(kept).text
    (tmp_path / "kept" / "encoder").mkdir(parents=True)
    (tmp_path / "kept" / "encoder" / "one.arrow").write_bytes(b"1")
    assert examine_texts(kept).state == "ok"


def test_of_captioned_images_each_may_have_a_caption_of_its_own(sd3: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8)).save(images / f"{number}.png")
    data = {"source": "files", "path": str(images)}
    config = Config.model_validate({"model": {"path": str(sd3), "max_sequence_length": 256}, "data": data})
    assert text_need(config).texts == 3 + 1


def test_how_many_are_in_a_tar_is_not_known_before_it_is_read() -> None:
    need = TextNeed(None, 2**20, None, 0)
    assert need.total == 0
    assert need.wants_folder
    assert "each takes 1,024 KiB at most; how many there are is known once images are read" in need.text


def test_data_that_would_be_refused_is_another_checks_finding(sd3: Path) -> None:
    data = {"source": "files", "path": "nowhere"}
    config = Config.model_validate({"model": {"path": str(sd3), "max_sequence_length": 256}, "data": data})
    assert text_need(config).texts is None
