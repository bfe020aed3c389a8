"""Whatever writes proves that it sees the folder, and nothing is written where Ray deletes it."""

import fcntl
import socket
import threading
from pathlib import Path

import pytest

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.runs import preflight
from advdmd_ray.runs.folder import RunFolder, Start, claim, is_live
from advdmd_ray.runs.lasting import SUBMITTED, Mark, check_places, marked
from advdmd_ray.runs.outputs import check_writable

HERE = socket.gethostname()


def held(folder: Path) -> Start:
    return Start(folder, None, None, "")


def test_a_process_that_sees_the_run_folder_passes(tmp_path: Path) -> None:
    with claim(held(tmp_path / "r")) as folder:
        RunFolder(folder).mark().check_seen("learner rank 0", within_s=0)


@pytest.mark.parametrize("there", ["nothing", "the lock of an earlier start", "bytes"])
def test_a_process_that_sees_another_folder_of_that_name_is_named_with_its_node(tmp_path: Path, there: str) -> None:
    with claim(held(tmp_path / "r")) as folder:
        mark = RunFolder(folder).mark()
    other = tmp_path / "other"
    if there == "the lock of an earlier start":
        with claim(held(other)):
            pass
    elif there == "bytes":
        other.mkdir()
        RunFolder(other).lock.write_bytes(b"\xff\xfe")
    elsewhere = Mark(RunFolder(other).lock, mark.text, mark.setting)
    with pytest.raises(UserError) as refused:
        elsewhere.check_seen("learner rank 1", within_s=0)
    said = str(refused.value)
    why = "run.lock: no such file or directory" if there == "nothing" else "another run.lock is there"
    assert said.startswith(f"learner rank 1 on node {HERE} does not see {other} of node {HERE} ({why}); set run.output")
    assert "\n" not in said


def test_each_start_in_a_folder_marks_it_anew(tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        with claim(held(tmp_path / "r")) as folder:
            texts.append(RunFolder(folder).mark().text)
    assert len(set(texts)) == 2


def test_who_comes_too_late_does_not_change_the_mark(tmp_path: Path) -> None:
    with claim(held(tmp_path / "r")) as folder:
        before = RunFolder(folder).mark()
        with pytest.raises(UserError, match="another process"), claim(held(tmp_path / "r")):
            pass
        assert RunFolder(folder).mark() == before


def test_who_looks_whether_a_folder_is_held_keeps_nobody_from_it(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    lock = RunFolder(tmp_path / "r").lock
    lock.touch()
    with lock.open("rb") as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(looked_at, fcntl.LOCK_UN)).start()
        with claim(held(tmp_path / "r")):
            assert is_live(tmp_path / "r")


def test_a_file_that_shows_up_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = Mark(tmp_path / "run.lock", "node 1 a\n", "run.output")
    monkeypatch.setattr("advdmd_ray.runs.lasting.time.sleep", lambda _: mark.file.write_text(mark.text))
    mark.check_seen("learner rank 0")


def test_a_folder_is_marked_only_as_long_as_workers_may_ask(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with marked(folder, "data.cache") as mark:
        mark.check_seen("a worker", within_s=0)
    assert [*tmp_path.iterdir()] == []
    with marked(folder, "data.cache"):
        (folder / "x.arrow").touch()
    assert [*tmp_path.rglob("*")] == [tmp_path / "a", folder, folder / "x.arrow"]


@pytest.mark.parametrize("setting", ["run.output=runs", "data.cache=latents", "model.embeddings=texts"])
def test_a_submitted_job_must_say_where_it_writes(
    setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _, value = setting.partition("=")
    section, name = key.split(".")
    tree = {"run": {"output": str(tmp_path)}}
    tree.setdefault(section, {})[name] = value
    config = Config.model_validate(tree)
    check_places(config)
    monkeypatch.setenv(SUBMITTED, "{}")
    with pytest.raises(UserError, match=f"{setting} is relative, and a submitted job runs in a folder that Ray del"):
        preflight.check_folder(config)
    check_places(Config.model_validate({"run": {"output": str(tmp_path)}}))


@pytest.mark.parametrize("by", ["its path", "the working directory", "a link"])
def test_nothing_is_written_into_a_folder_that_ray_deletes(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tmp_path / "session_2026-11-29_12-34-09_123456_7890" / "runtime_resources" / "working_dir_files" / "pkg"
    job.mkdir(parents=True)
    folder = job / "runs"
    if by == "the working directory":
        monkeypatch.chdir(job)
        folder = Path("runs")
    elif by == "a link":
        folder = tmp_path / "link"
        folder.symlink_to(job)
    with pytest.raises(UserError, match="is in one of Ray's own, which Ray deletes; choose another run"):
        check_writable(folder)
    assert [*job.iterdir()] == []
