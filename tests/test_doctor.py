"""The doctor: what it finds, and what it says to change."""

import importlib.metadata
import shutil
import sys
from pathlib import Path

import pytest
from pipeline_folder import write_pipeline

from advdmd_ray import doctor
from advdmd_ray.config import Config


def config_in(folder: Path, **sections: dict[str, object]) -> Config:
    tree: dict[str, object] = {
        "model": {"path": str(folder / "teacher")},
        "run": {"output": str(folder / "runs")},
        "metrics": {"port": 0},
    }
    return Config.model_validate(tree | sections)


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)


def test_a_sound_machine_is_ready_and_left_as_it_was(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "teacher")
    findings = doctor.examine(config_in(tmp_path, rollout={"num_cpus": 0.0}, learner={"num_cpus": 0.0}))
    assert {finding.state for finding in findings} <= {"ok", "note"}, doctor.verdict_text(findings)
    assert doctor.verdict_text(findings).splitlines()[-1].startswith("Ready")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_everything_wrong_is_found_in_one_visit(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    findings = doctor.examine(config_in(tmp_path, rollout={"actors": 10**6}))
    changes = {finding.subject for finding in findings if finding.state == "change"}
    assert changes == {"pipeline", "run folder", "placement"}
    assert doctor.verdict_text(findings).splitlines()[-1] == "Not ready: make the 3 changes above."


def test_missing_and_old_packages_are_named() -> None:
    finding = doctor.examine_packages(
        ["torch>=999.1", "no-such-package>=1", "ray[default]>=2.0", 'x>=1; extra == "dev"']
    )
    assert finding.state == "change"
    assert "torch" in finding.text
    assert "999.1" in finding.text
    assert "no-such-package is missing" in finding.text
    assert "ray" not in finding.text


def test_the_packages_of_this_environment_satisfy_the_project() -> None:
    assert doctor.examine_packages(importlib.metadata.requires("advdmd-ray") or []).state == "ok"


@pytest.mark.parametrize(("version", "state"), [((3, 10, 9), "change"), ((3, 11, 0), "ok"), ((3, 13, 0), "change")])
def test_python_must_be_a_tested_one(version: tuple[int, int, int], state: str) -> None:
    assert doctor.examine_python(version).state == state


def test_memory_that_is_not_there_is_a_change(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "teacher")
    config = config_in(tmp_path)
    assert doctor.examine_memory(config, 2**50).state == "ok"
    assert doctor.examine_memory(config, 2**20).state == "change"


def test_a_small_shared_memory_is_worth_a_note(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    config = config_in(tmp_path, ray={"object_store_bytes": 4 * free})
    assert doctor.examine_shared_memory(config, tmp_path).state == "note"
    assert doctor.examine_shared_memory(config, tmp_path / "absent").state == "note"
    assert doctor.examine_shared_memory(config_in(tmp_path), tmp_path).state == "ok"


def test_a_cluster_that_does_not_answer_is_given_up_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    finding = doctor.examine_cluster("127.0.0.1:1", deadline_s=0.2)
    assert finding.state == "change"
    assert "did not answer in 0.2 s" in finding.text


@pytest.mark.parametrize(
    ("mode", "joins", "state"),
    [
        (None, False, "ok"),
        (None, True, "note"),
        ("token", True, "ok"),
        ("disabled", True, "ok"),
        ("tokens", True, "change"),
    ],
)
def test_authentication_must_be_agreed_on(mode: str | None, joins: bool, state: str) -> None:
    assert doctor.examine_authentication(mode, joins=joins).state == state
