"""A benchmark drawn by Ray actors: interrupted, resumed, and the same images whoever draws them."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.suites.layout import GenEval
from advdmd_ray.runtime import suite as suite_module
from advdmd_ray.runtime.suite import SuiteSettings, draw_suite

SETTINGS = SuiteSettings("builtin:digits", 2, None, None, None, "float32", seed=3)


def _suite(tmp_path: Path) -> GenEval:
    words = ("one", "two", "three")
    lines = [json.dumps({"tag": "single_object", "prompt": f"a handwritten {word}"}) for word in words]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    return GenEval(tmp_path / "metadata.jsonl", 2)


def _images(out: Path) -> dict[str, bytes]:
    return {file.relative_to(out).as_posix(): file.read_bytes() for file in sorted(out.rglob("*.png"))}


@pytest.fixture
def _joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cluster for all that a test draws; each start of one takes seconds."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    monkeypatch.setenv("RAY_ADDRESS", str(cluster.address))
    yield
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("_joined")
def test_what_is_missing_is_drawn_again_and_is_what_it_was(tmp_path: Path) -> None:
    suite, out, told = _suite(tmp_path), tmp_path / "out", list[tuple[int, int]]()
    assert draw_suite(suite, out, SETTINGS, actors=2, progress=lambda done, of: told.append((done, of))) == 3
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    whole = _images(out)
    assert len(set(whole.values())) == len(whole) == 6
    (out / "00001" / "samples" / "0001.png").unlink()
    # By one actor in place of two, and after half a prompt: the images are those of their seeds all the same.
    assert draw_suite(suite, out, SETTINGS) == 1
    assert _images(out) == whole
    assert draw_suite(suite, out, SETTINGS) == 0
    assert not (tmp_path / "out.drafts").exists()
    (tmp_path / "metadata.jsonl").write_text((tmp_path / "metadata.jsonl").read_text().replace("two", "nine"))
    with pytest.raises(UserError, match="holds images with prompts"):
        draw_suite(GenEval(tmp_path / "metadata.jsonl", 2), out, SETTINGS)


def test_images_of_an_older_student_in_the_same_folder_are_not_taken_for_the_new_ones(
    tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = Path(shutil.copytree(tiny_pipeline, tmp_path / "student"))
    settings = replace(SETTINGS, pipeline=str(student))
    monkeypatch.setattr(suite_module, "missing", lambda _suite, _out: [])
    assert draw_suite(_suite(tmp_path), tmp_path / "out", settings) == 0
    file = student / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match="holds images with weights"):
        draw_suite(_suite(tmp_path), tmp_path / "out", settings)


def test_a_size_that_the_pipeline_has_not_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="9"):
        draw_suite(_suite(tmp_path), tmp_path / "out", replace(SETTINGS, height=9, width=9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata.jsonl"]


def test_a_pipeline_that_is_none_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    settings = SuiteSettings(str(tmp_path / "nowhere"), None, None, None, None, "float32", 0)
    with pytest.raises(UserError, match="no such folder"):
        draw_suite(_suite(tmp_path), tmp_path / "out", settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata.jsonl"]
