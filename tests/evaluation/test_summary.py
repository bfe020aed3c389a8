"""summary.json, and what it is made of: whole, in a fixed shape, from this machine."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from advdmd_ray.evaluation.summary import Summary, write_summary
from advdmd_ray.evaluation.words import duration, figure, figure_text, size_text
from advdmd_ray.files import write_atomically
from advdmd_ray.provenance import git_commit, machine_facts, package_versions
from page_runs import SHARES
from summaries import scored, summary_with


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"headline": "accuracy"}, "headline must be"),
        ({"teacher": {4: scored(seen=1.0)}}, "every score must have"),
        ({"real": scored(diversity=1.0)}, "real images must have the headline"),
        ({"real": scored(seen=1.0, diversity=1.0, other=1.0)}, "real images must have the headline"),
    ],
)
def test_a_summary_whose_figures_do_not_fit_its_labels_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        summary_with(judge={**SHARES, **change})


def test_summary_json_has_the_promised_keys_and_reads_back(tmp_path: Path) -> None:
    path = write_summary(tmp_path / "run" / "summary.json", summary_with())
    raw = json.loads(path.read_text())
    assert Summary.model_validate(raw) == summary_with()
    assert set(raw["judge"]["teacher"]) == {"40", "8", "4", "2"}
    assert all(set(score["figures"]) == {"accuracy", "frechet"} for score in raw["judge"]["teacher"].values())
    assert set(raw["judge"]["student"]) == {"figures", "images", "steps"}
    assert raw["judge"]["real"] == {"figures": {"accuracy": 0.989, "frechet": 1.2}, "images": 1000}
    assert set(raw["updates"]) == {"dmd", "rl", "fake_score", "discriminator"}
    assert raw["discriminator"]["auc"] == {"1": 0.61, "2": 0.66, "3": 0.71, "4": 0.83}
    assert raw["trajectories"] == {"trained": 38400, "dropped": {"age": 0, "stale_kl": 3}}
    for count in ("published", "verified", "mismatched"):
        assert set(raw["weights"][count]) == {"student", "discriminator"}
    assert set(raw["seconds"]) == {"setup", "train", "judge"}
    assert {"machine", "versions", "commit"} <= set(raw)


@pytest.mark.parametrize("change", [{"judge": None}, {"not_judged": "no room"}, {"judge": None, "not_judged": None}])
def test_a_summary_has_verdicts_or_says_why_not(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="either verdicts or the reason"):
        summary_with(**change)


@pytest.mark.parametrize("change", [{"surprise": 1}, {"updates": {"dmd": -1}}, {"cycles": "many"}])
def test_a_summary_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        summary_with(**change)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "file", b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_facts_of_the_machine_and_versions_are_there_and_fit_the_summary() -> None:
    facts, versions = machine_facts(), package_versions()
    assert isinstance(facts["cores"], int)
    assert facts["cores"] >= 1
    assert versions["ray"][0].isdigit()
    assert summary_with(machine=facts, versions=versions).machine == facts


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == "unknown"
    assert git_commit(tmp_path / "none") == "unknown"


def test_the_commit_of_a_checkout_is_that_of_what_it_tracks(tmp_path: Path) -> None:
    tracked, installed = tmp_path / "package", tmp_path / "environment"
    for folder in (tracked, installed):
        folder.mkdir()
        (folder / "module.py").write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "package"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    assert re.fullmatch("[0-9a-f]{40}", git_commit(tracked))
    assert git_commit(installed) == "unknown"
    (tracked / "module.py").write_text("changed")
    assert git_commit(tracked).endswith("-dirty")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.234, "1.23"), (0.0123, "0.0123"), (123.4, "123"), (12345.0, "12,345"), (1e-7, "1.00e-07")],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("value", "share", "text"),
    [
        *((1.0, False, "1.00"), (0.9999, False, "1.00"), (18.3, False, "18.3"), (20.0, False, "20.0")),
        *((99.94, False, "99.9"), (99.96, False, "100"), (130.2, False, "130"), (0.0, False, "0")),
        *((0.933, True, "93.3 %"), (1.0, True, "100.0 %")),
    ],
)
def test_figures_of_the_judge_stand_under_each_other_with_all_their_digits(
    value: float, share: bool, text: str
) -> None:
    assert figure_text(value, share=share) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (59.9, "59.9 s"), (59.96, "1 min 00 s"), (247.0, "4 min 07 s"), (3725.0, "1 h 02 min")],
)
def test_durations_read_as_said(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (233_000, "233 kB"), (5.17e6, "5.17 MB"), (2e15, "2,000 TB")],
)
def test_sizes_have_three_digits_and_a_unit(size: float, text: str) -> None:
    assert size_text(size) == text
