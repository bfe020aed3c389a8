"""All or nothing: whatever happens while saving, the last whole checkpoint can be read."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advdmd_ray.errors import CheckpointError
from advdmd_ray.learner import checkpoint as under_test
from advdmd_ray.learner.checkpoint import (
    latest_checkpoint,
    open_checkpoint,
    save_checkpoint,
    saved_steps,
    verified_checkpoint,
)


def tensors(seed: int) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "student": {"w": torch.randn(4, 5, generator=generator), "b": torch.randn((), generator=generator)},
        "student.optimizer": {"dmd.exp_avg/w": torch.randn(4, 5, generator=generator), "dmd.steps": torch.tensor(seed)},
    }


def save(folder: Path, step: int, keep: int = 3) -> Path:
    return save_checkpoint(folder, step, tensors(step), {"cycle": step}, keep)


def assert_whole(folder: Path, step: int) -> None:
    found = latest_checkpoint(folder)
    assert (found.step, found.facts) == (step, {"cycle": step})
    for stem, named in tensors(step).items():
        loaded = found.load(stem)
        assert loaded.keys() == named.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in named.items())


class Killed(BaseException):
    """The process ends here: nothing of ours catches it."""


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> Callable[[], int]:
    """Lets `at` operations on the disk through, then fails. Returns the count of operations asked for."""
    count = 0

    def wrap(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count > at:
                raise error
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, operation)

    wrap(os, "replace")
    wrap(os, "fsync")
    wrap(os, "mkdir")
    wrap(Path, "write_text")
    wrap(shutil, "rmtree")
    wrap(under_test, "write_tensors")
    return lambda: count


OPERATIONS = 40


@pytest.mark.parametrize("step", [2, 3])
def test_a_kill_at_any_operation_leaves_the_previous_or_the_new_checkpoint(tmp_path: Path, step: int) -> None:
    """Step 3 is new; step 2 is saved again over itself. Afterwards saving works again and leftovers are gone."""
    completed = False
    for at in range(OPERATIONS):
        folder = tmp_path / str(at)
        save(folder, 1)
        save(folder, 2)
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, at, Killed())
            try:
                save(folder, step, keep=2)
                completed = True
            except Killed:
                pass
        assert latest_checkpoint(folder).step in {2, step}
        assert_whole(folder, latest_checkpoint(folder).step)
        save(folder, 4, keep=2)
        assert_whole(folder, 4)
        assert len(list(folder.iterdir())) == 2
        if completed:
            break
    assert completed


def test_a_disk_that_refuses_any_operation_leaves_the_older_ones_and_no_debris(tmp_path: Path) -> None:
    removal = shutil.rmtree
    for at in range(OPERATIONS):
        folder = tmp_path / str(at)
        save(folder, 1)
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, at, OSError(28, "No space left on device"))
            patch.setattr(shutil, "rmtree", removal)  # a full disk refuses to be written, not to be cleared
            try:
                save(folder, 2, keep=2)
                break
            except CheckpointError as error:
                assert "No space left on device" in str(error)  # noqa: PT017 - the last round must not raise
        assert latest_checkpoint(folder).step in {1, 2}  # 2 if only the last sync of the folder failed
        assert_whole(folder, latest_checkpoint(folder).step)
        assert {path.name for path in folder.iterdir()} <= {"step-00000001", "step-00000002"}
    else:
        pytest.fail("saving never got through")


def test_an_unwritable_place_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointError, match="could not be saved"):
        save(tmp_path / "file" / "checkpoints", 1)


@settings(max_examples=25)
@given(data=st.data(), values=st.lists(st.floats(width=32), max_size=8))
def test_a_round_trip_is_exact_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, values: list[float]
) -> None:
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
    given_tensors = {"a": torch.tensor(values).to(dtype), "rows": torch.arange(12).reshape(3, 4).t()}
    facts = data.draw(
        st.dictionaries(
            st.text(), st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())
        )
    )
    folder = tmp_path_factory.mktemp("round")
    save_checkpoint(folder, 7, {"x": given_tensors, "none": {}}, facts, keep=1)
    found = latest_checkpoint(folder)
    assert found.facts == facts
    assert found.stems == ("none", "x")
    assert found.load("none") == {}
    loaded = found.load("x")
    assert torch.equal(loaded["rows"], given_tensors["rows"])
    assert loaded["a"].dtype == dtype
    as_bytes = [t.view(torch.uint8).tolist() if t.numel() else [] for t in (loaded["a"], given_tensors["a"])]
    assert as_bytes[0] == as_bytes[1]


@settings(max_examples=30)
@given(data=st.data())
def test_any_changed_byte_or_truncation_is_found_and_the_one_before_is_used(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    save(folder, 1)
    newest = save(folder, 2)
    file = data.draw(st.sampled_from(sorted(newest.iterdir())))
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[at] ^= data.draw(st.sampled_from([1, 2, 128]))
    else:
        del content[at:]
    file.write_bytes(content)
    try:
        manifest_says_the_same = file.name == "manifest.json" and open_checkpoint(newest).facts == {"cycle": 2}
    except CheckpointError:
        manifest_says_the_same = False  # white space between JSON tokens may change; nothing else may
    assert latest_checkpoint(folder).step == (2 if manifest_says_the_same else 1)


def test_falling_back_says_what_was_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    file = newest / "student.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING):
        assert_whole(tmp_path, 1)
    assert "student.safetensors has" in caplog.text
    assert "falling back to the checkpoint of step 1" in caplog.text


def test_a_missing_file_or_manifest_is_damage(tmp_path: Path) -> None:
    for step, name in ((2, "student.safetensors"), (3, "manifest.json")):
        save(tmp_path, 1)
        (save(tmp_path, step) / name).unlink()
        assert_whole(tmp_path, 1)


def test_if_none_is_whole_the_error_names_every_damage(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="none at all"):
        latest_checkpoint(tmp_path / "absent")
    for step in (1, 2):
        (save(tmp_path, step) / "manifest.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"step-00000002.*step-00000001"):
        latest_checkpoint(tmp_path)


@settings(max_examples=15)
@given(steps=st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True), keep=st.integers(1, 4))
def test_the_last_checkpoints_are_kept_and_the_newest_save_is_the_latest(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], keep: int
) -> None:
    folder = tmp_path_factory.mktemp("keep")
    expected: list[int] = []
    for step in steps:
        assert save(folder, step, keep).name == f"step-{step:08d}"
        expected = [*(s for s in expected if s < step), step][-keep:]
        assert sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir()) == expected
        assert latest_checkpoint(folder).step == step


def test_one_that_is_to_be_spared_stays_beside_those_that_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    save_checkpoint(tmp_path, 4, tensors(4), {"cycle": 4}, 1, spare=2)
    assert saved_steps(tmp_path) == {step: tmp_path / f"step-{step:08d}" for step in (2, 4)}
    save_checkpoint(tmp_path, 5, tensors(5), {"cycle": 5}, 1, spare=9)
    assert [*saved_steps(tmp_path)] == [5]


def test_other_things_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-old").mkdir()
    save(tmp_path, 1, keep=1)
    save(tmp_path, 2, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "step-old", "step-00000002"}


def test_what_cannot_be_saved_is_refused_before_the_disk_is_touched(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step, stem, facts, keep in (
        (-1, "a", {}, 1),
        (1, "../a", {}, 1),
        (1, "a", {}, 0),
        (1, "a", {"x": math.nan}, 1),
    ):
        with pytest.raises(ValueError, match=r"need step|JSON"):
            save_checkpoint(folder, step, {stem: {}}, facts, keep)
    assert not folder.exists()


def test_an_unknown_stem_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"'teacher'.*student"):
        latest_checkpoint(tmp_path).load("teacher")


def test_the_manifest_can_be_read_by_a_person(tmp_path: Path) -> None:
    body = json.loads((save(tmp_path, 5) / "manifest.json").read_text())["body"]
    assert (body["step"], body["facts"]) == (5, {"cycle": 5})
    assert (
        body["files"]["student.safetensors"]["bytes"] == (tmp_path / "step-00000005/student.safetensors").stat().st_size
    )


def test_one_that_was_verified_is_opened_by_its_manifest_and_its_sizes_alone(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    file = path / "student.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert verified_checkpoint(path).stems == ("student", "student.optimizer")
    with pytest.raises(CheckpointError, match="has changed"):
        open_checkpoint(path)
    file.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match="bytes"):
        verified_checkpoint(path)


def test_what_is_loaded_is_mapped_from_its_file_and_not_read_into_memory(tmp_path: Path) -> None:
    """As a restore hands on one tensor at a time, no rank has a network in memory beside its own."""
    size = 64 * 2**20
    save_checkpoint(tmp_path, 1, {"student": {"w": torch.ones(size // 4)}}, {}, 1)
    before = anonymous_bytes()
    loaded = latest_checkpoint(tmp_path).load("student")
    assert float(loaded["w"].sum()) == size / 4
    assert anonymous_bytes() - before < size / 4


def anonymous_bytes() -> int:
    """Memory of this process that is no file's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
