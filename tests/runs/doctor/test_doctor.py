"""The doctor: what it finds, and what it says to change."""

import importlib.metadata
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from advdmd_ray.config import Config
from advdmd_ray.runs import doctor
from advdmd_ray.runs.doctor import nodes
from advdmd_ray.runs.doctor.machine import (
    examine_authentication,
    examine_cuda,
    examine_packages,
    examine_python,
    examine_shared_memory,
)
from pipeline_folder import write_pipeline


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


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"source": "digtis"}, "did you mean digits?"),
        ({"source": "files"}, "data.source=files needs data.path"),
        ({"source": "files", "path": "absent"}, "absent"),
        ({"prompts": "absent.txt"}, "absent.txt"),
    ],
)
def test_data_that_a_run_would_refuse_must_change(tmp_path: Path, data: dict[str, object], says: str) -> None:
    write_pipeline(tmp_path / "teacher")
    free: dict[str, object] = {"num_cpus": 0.0}
    findings = doctor.examine(config_in(tmp_path, data=data, rollout=free, learner=free))
    (change,) = [finding for finding in findings if finding.state == "change"]
    assert change.subject == "data"
    assert says in change.text


def test_every_fault_of_a_configuration_is_told_and_that_of_the_whole_pipeline_once(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "teacher")
    free: dict[str, object] = {"num_cpus": 0.0}
    wrong: dict[str, dict[str, object]] = {
        "model": {"path": str(tmp_path / "teacher"), "max_sequence_length": 513, "embeddings": "/proc/embeddings"},
        "lora": {"rank": 2, "targets": ("to_query",)},
        "discriminator": {"blocks": (1, 99)},
        "buffer": {"max_bytes": 2**16},
        "data": {"prompts": "absent.txt"},
        "run": {"output": "/proc/runs"},
        "rollout": free,
        "learner": free,
    }
    found = doctor.examine(config_in(tmp_path, **wrong))
    changes = {finding.subject: finding.text for finding in found if finding.state == "change"}
    assert list(changes) == [
        "text length", "discriminator", "adapters", "buffer", "data", "run folder", "embeddings",
    ]  # fmt: skip
    assert "did you mean to_q?" in changes["adapters"]
    shutil.rmtree(tmp_path / "teacher" / "vae")
    broken = [finding.text for finding in doctor.examine(config_in(tmp_path, **wrong)) if "vae" in finding.text]
    assert len(broken) == 1


def test_a_run_folder_that_is_used_needs_a_choice(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "teacher")
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "metrics.jsonl").touch()
    (note,) = [finding for finding in doctor.examine(config_in(tmp_path)) if finding.subject == "start"]
    assert note.state == "note"
    assert "--resume auto" in note.text


def test_missing_and_old_packages_are_named() -> None:
    finding = examine_packages(["torch>=999.1", "no-such-package>=1", "ray[default]>=2.0", 'x>=1; extra == "dev"'])
    assert finding.state == "change"
    assert "torch" in finding.text
    assert "999.1" in finding.text
    assert "no-such-package is missing" in finding.text
    assert "install the package's wheel again by pip" in finding.text
    assert "make venv in a checkout" in finding.text
    assert "ray" not in finding.text


def test_the_packages_of_this_environment_satisfy_the_project() -> None:
    assert examine_packages(importlib.metadata.requires("advdmd-ray") or []).state == "ok"


@pytest.mark.parametrize(("version", "state"), [((3, 10, 9), "change"), ((3, 11, 0), "ok"), ((3, 13, 0), "change")])
def test_python_must_be_a_tested_one(version: tuple[int, int, int], state: str) -> None:
    assert examine_python(version).state == state


def test_a_small_shared_memory_is_worth_a_note(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    config = config_in(tmp_path, ray={"object_store_bytes": 4 * free})
    assert examine_shared_memory(config, tmp_path).state == "note"
    assert examine_shared_memory(config, tmp_path / "absent").state == "note"
    assert examine_shared_memory(config_in(tmp_path), tmp_path).state == "ok"


def test_a_cluster_that_does_not_answer_is_given_up_at_the_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python_that_answers(tmp_path, "exec sleep 30", monkeypatch)
    finding, offered = nodes.ask_cluster("127.0.0.1:1", deadline_s=0.2)
    assert (finding.state, offered) == ("change", ())
    assert "did not answer in 0.2 s" in finding.text


def python_that_answers(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A python whose every program is this shell script."""
    fake = folder / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))


def test_a_cluster_says_what_its_nodes_offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        {"name": "head", "resources": {"CPU": 8.0, "memory": 2.0**34, "object_store_memory": 2.0**33}},
        {"name": "gpu", "resources": {"CPU": 32.0, "GPU": 8.0, "memory": 2.0**39, "accelerator_type:H100": 1.0}},
    ]
    python_that_answers(tmp_path, f"echo 'joining'\necho '{json.dumps(listed)}'", monkeypatch)
    finding, (head, gpu) = nodes.ask_cluster("auto", deadline_s=10)
    assert finding.state == "ok"
    assert "2 nodes with 40 CPUs, 8 GPUs (H100), 528.0 GiB of memory and 8.0 GiB of object store" in finding.text
    assert (head.gpus, head.gpu_memory, gpu.gpu_memory) == (0, None, 80 * 2**30)


def test_a_cluster_that_refuses_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_that_answers(tmp_path, "echo noise >&2; echo 'no Ray cluster takes us' >&2; exit 2", monkeypatch)
    finding, offered = nodes.ask_cluster("auto", deadline_s=10)
    assert (finding.state, finding.text, offered) == ("change", "no Ray cluster takes us", ())


def test_without_an_answer_the_balance_is_told_and_no_place_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pipeline(tmp_path / "teacher")
    python_that_answers(tmp_path, "exit 1", monkeypatch)
    found = {finding.subject: finding for finding in doctor.examine(config_in(tmp_path, ray={"address": "auto"}))}
    assert found["ray"].state == "change"
    assert "balance" in found
    assert not {"placement", "learner", "memory", "object store"} & set(found)


@pytest.mark.parametrize(
    ("build", "joins", "state", "says"),
    [
        (None, False, "change", "is a build without CUDA; install a CUDA build of torch, or set learner.num_gpus to 0"),
        (None, True, "note", "the cluster's nodes with GPUs need a CUDA build of their own"),
        ("12.9", False, "change", "sees no GPU here; check the driver by nvidia-smi"),
    ],
)
def test_a_torch_that_sees_no_gpu_is_found_where_workers_ask_for_one(
    build: str | None, joins: bool, state: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finding = examine_cuda(Config.model_validate({"learner": {"num_gpus": 1.0}}), joins=joins)
    assert finding is not None
    assert finding.state == state
    assert says in finding.text


def test_torch_is_not_asked_where_nobody_wants_a_gpu() -> None:
    assert examine_cuda(Config(), joins=False) is None


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
    assert examine_authentication(mode, joins=joins).state == state


@pytest.mark.parametrize(
    ("sees", "state", "says"),
    [
        ((None, None, None), None, ""),
        ((True, True, True), "ok", "every node sees runs"),
        ((True, False, True), "note", "b does not see runs: a learner rank that is placed there ends the start"),
        ((True, False, False), "change", "no node with room for a learner rank sees runs; set run.output"),
        ((True, False, None), "note", "b does not see runs"),
    ],
)
def test_nodes_that_do_not_see_the_folder_of_the_runs_are_named(
    sees: Sequence[bool | None], state: str | None, says: str
) -> None:
    # The head, which sees it, has no CPU for a worker.
    cluster = [
        nodes.node_of(name, {"CPU": 8.0 * (name != "a")}, sees=seen) for name, seen in zip("abc", sees, strict=True)
    ]
    found = nodes.examine_sight(Config(), cluster)
    assert (found and found.state) == state
    assert says in (found.text if found else "")


def test_the_doctor_has_each_node_look_for_a_mark_in_the_folder_and_takes_it_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pipeline(tmp_path / "teacher")
    listed = [{"name": "far", "resources": {"CPU": 8.0}, "sees": False}]
    script = f'test "$(cat "$4")" = "$(echo "$5")" || exit 1\necho \'{json.dumps(listed)}\''
    python_that_answers(tmp_path, script, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    found = {finding.subject: finding for finding in doctor.examine(config_in(tmp_path, ray={"address": "auto"}))}
    assert (found["ray"].state, found["sight"].state) == ("ok", "change")
    assert sorted(tmp_path.rglob("*")) == before
