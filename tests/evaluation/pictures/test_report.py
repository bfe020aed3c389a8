"""The report and summary.json: whole, self-contained, and never more flattering than the figures."""

import base64
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from advdmd_ray.config import Config, dump_config
from advdmd_ray.evaluation.pictures.grids import comparison_grid, save_grid
from advdmd_ray.evaluation.pictures.report import SHOWN_GRIDS, duration, figure, score_rows, verdict, write_report
from advdmd_ray.evaluation.summary import Summary, write_summary
from advdmd_ray.files import write_atomically
from advdmd_ray.provenance import git_commit, machine_facts, package_versions
from summaries import RAW, scored, summary_with


class Page(HTMLParser):
    """What a browser would fetch, whether every tag is closed, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched, self.linked, self.open, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        links = [value for name, value in attrs if tag == "a" and name == "href"]
        self.linked += links
        named = [value for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.fetched += [value for value in named if value not in links]
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def write_page(tmp_path: Path, summary: Summary | None = None, **options: Any) -> str:
    options = {"config_text": dump_config(Config()), **options}
    return write_report(tmp_path / "report.html", summary or summary_with(), **options).read_text(encoding="utf-8")


def picture(path: Path) -> Path:
    return save_grid(path, np.zeros((2, 1, 8, 8), dtype=np.float32))


def test_the_page_needs_no_other_file_and_no_network(tmp_path: Path) -> None:
    shown = picture(tmp_path / "p.png")
    text = write_page(tmp_path, comparison=shown, curves=shown, grids=[(50, shown), (100, shown)])
    page = Page(text)
    assert len([uri for uri in page.fetched if uri.startswith("data:image/png;base64,")]) == 4
    assert all(uri.startswith("data:") for uri in page.fetched)
    assert not re.search(r"@import|url\(|<script|https?://", text)
    assert page.open == []


def test_a_small_picture_is_shown_as_it_is_and_every_picture_is_a_link_to_its_file(tmp_path: Path) -> None:
    shown, grid = picture(tmp_path / "a b.png"), picture(tmp_path / "grids" / "version-000050.png")
    page = Page(write_page(tmp_path, comparison=shown, curves=shown, grids=[(50, grid)]))
    assert page.linked == ["a%20b.png", "a%20b.png", "grids/version-000050.png"]
    assert embedded_bytes(page) == [b"", shown.read_bytes(), shown.read_bytes(), grid.read_bytes()]


def embedded_bytes(page: Page) -> list[bytes]:
    return [base64.b64decode(uri.partition("base64,")[2]) for uri in page.fetched]


def photograph(side: int) -> np.ndarray:
    """An image with detail at every scale and a little noise, as photographs have, in [-1, 1]."""
    draw = np.random.default_rng(3)
    image = 0.05 * draw.standard_normal((1, 3, side, side), dtype=np.float32)
    for cells in (4, 16, 64, 256):
        coarse = 0.2 * draw.standard_normal((1, 3, cells, cells), dtype=np.float32)
        image += coarse.repeat(side // cells, axis=2).repeat(side // cells, axis=3)
    return image


def test_the_page_of_a_model_of_1024_pixels_is_a_few_megabytes_large(tmp_path: Path) -> None:
    images = np.broadcast_to(photograph(1024), (7, 3, 1024, 1024))
    names = ("teacher, 40 steps", "teacher, 4 steps", "student, 4 steps")
    comparison = comparison_grid(tmp_path / "comparison.png", dict.fromkeys(names, images), ["a red bicycle"] * 7)
    assert comparison.suffix == ".jpg"
    assert comparison.stat().st_size < 16e6
    curves, grid = picture(tmp_path / "curves.png"), save_grid(tmp_path / "grid.png", images[:1, :, :512], scale=1)
    assert grid.stat().st_size > 2**19
    text = write_page(tmp_path, comparison=comparison, curves=curves, grids=[(n, grid) for n in range(50, 2001, 50)])
    assert len(text) < 12e6
    _, *shown = (len(data) for data in embedded_bytes(Page(text)))
    assert 2**16 < shown[0] <= 2**20
    assert shown[1] == curves.stat().st_size
    assert min(shown[2:]) > 2**14
    assert max(shown[2:]) <= 2**18


def test_of_many_grids_the_first_the_last_and_evenly_spaced_others_are_shown(tmp_path: Path) -> None:
    shown = picture(tmp_path / "p.png")
    few, many = ([(cycle, shown) for cycle in range(count)] for count in (SHOWN_GRIDS, 10 * SHOWN_GRIDS))
    assert "sample grids; all" not in write_page(tmp_path, grids=few)
    text = write_page(tmp_path, grids=many)
    cycles = [int(cycle) for cycle in re.findall(r"<figcaption>cycle (\d+)<", text)]
    assert len(cycles) == SHOWN_GRIDS
    assert (cycles[0], cycles[-1]) == (0, 10 * SHOWN_GRIDS - 1)
    gaps = np.diff(cycles)
    assert gaps.max() - gaps.min() <= 1
    assert f"{SHOWN_GRIDS} of {10 * SHOWN_GRIDS} sample grids" in text


def test_the_page_shows_the_figures_of_the_summary(tmp_path: Path) -> None:
    text = Page(write_page(tmp_path)).text
    for shown in ("98.1 %", "97.2 %", "9.7", "3.9", "38,400", "0.790", "4 min 07 s", "rollout-0", "stale_kl", "-dirty"):
        assert shown in text
    assert "groups_per_cycle: 8" in text
    assert "No comparison picture was made." in text


def test_what_a_user_wrote_cannot_become_markup(tmp_path: Path) -> None:
    text = write_page(tmp_path, summary_with(run="<script>alert(1)</script>"), config_text="<b>bold</b>")
    assert "<script" not in text
    assert "<b>" not in text


def test_a_missing_picture_is_an_error_and_leaves_no_page(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path, curves=tmp_path / "none.png")
    assert not (tmp_path / "report.html").exists()


def test_a_mismatch_of_weights_is_shown_as_bad(tmp_path: Path) -> None:
    clean = write_page(tmp_path)
    bad = {**RAW["weights"], "mismatched": {"student": 1, "discriminator": 0}}
    assert 'class="n bad"' not in clean
    assert 'class="n bad"' in write_page(tmp_path, summary_with(weights=bad))


@pytest.mark.parametrize(("distance", "words"), [(4.85, "2.0 times closer"), (19.4, "2.0 times farther")])
def test_the_headline_compares_with_the_teacher_at_as_many_steps(distance: float, words: str) -> None:
    judge = {**RAW["judge"], "student": {**scored(accuracy=0.9, frechet=distance), "steps": 4}}
    assert words in verdict(summary_with(judge=judge))


def test_without_a_teacher_at_as_many_steps_the_headline_makes_no_comparison() -> None:
    judge = {**RAW["judge"], "student": {**scored(accuracy=0.9, frechet=1.0), "steps": 3}}
    assert (
        verdict(summary_with(judge=judge))
        == "The student at 3 steps: 90.0% of its images are read as their prompt says."
    )


def test_bars_are_as_long_as_the_distances() -> None:
    rows = score_rows(summary_with())
    assert [(sampler, steps) for sampler, steps, _, _ in rows] == [
        ("teacher", "40"),
        ("teacher", "8"),
        ("teacher", "4"),
        ("teacher", "2"),
        ("student", "4"),
        ("real, held out", ""),
    ]
    assert [share for *_, share in rows] == pytest.approx([value / 21.5 for value in (2.1, 4.4, 9.7, 21.5, 3.9, 1.2)])
    assert [figures for _, _, figures, _ in rows][2] == ["9.7", "97.2 %"]


SHARES = {
    "headline": "seen",
    "labels": (
        {"key": "seen", "label": "seen prompts", "better": "higher", "share": True},
        {"key": "diversity", "label": "diversity", "better": "higher", "share": False},
    ),
    "teacher": {40: scored(seen=0.63, diversity=0.9), 4: scored(seen=0.201, diversity=0.8)},
    "student": {**scored(seen=0.7123, diversity=0.7), "steps": 4},
    "real": scored(seen=1.0, diversity=1.0),
}


def test_where_higher_is_better_the_headline_gives_the_shares_of_prompts() -> None:
    assert (
        verdict(summary_with(judge=SHARES))
        == "At 4 steps the student follows 71.2 % of prompts; the teacher 63.0 % at 40 and 20.1 % at 4 steps."
    )
    three = {**SHARES, "student": {**scored(seen=0.5, diversity=0.7), "steps": 3}}
    assert (
        verdict(summary_with(judge=three))
        == "At 3 steps the student follows 50.0 % of prompts; the teacher 63.0 % at 40 steps."
    )


def test_the_page_has_a_column_for_every_figure_of_the_judge(tmp_path: Path) -> None:
    text = Page(write_page(tmp_path, summary_with(judge=SHARES))).text
    for shown in ("seen prompts", "71.2 %", "diversity", "0.7", "exact checker"):
        assert shown in text
    assert "Fréchet" not in text


@pytest.mark.parametrize(
    ("change", "words"),
    [({"headline": "accuracy"}, "headline must be"), ({"real": scored(seen=1.0)}, "every score must have")],
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


def test_a_run_that_is_not_judged_has_a_page_that_says_so(tmp_path: Path) -> None:
    reason = "the judge failed: <no room>; `advdmd evaluate --config c --student s` judges it"
    summary = summary_with(judge=None, not_judged=reason)
    assert verdict(summary) == "The student is trained and exported, and not judged."
    assert score_rows(summary) == []
    page = Page(write_page(tmp_path, summary))
    assert page.open == []
    assert reason in page.text
    assert "images from" not in page.text
    assert "38,400" in page.text


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
    ("seconds", "text"),
    [(0.0, "0.0 s"), (59.9, "59.9 s"), (59.96, "1 min 00 s"), (247.0, "4 min 07 s"), (3725.0, "1 h 02 min")],
)
def test_durations_read_as_said(seconds: float, text: str) -> None:
    assert duration(seconds) == text
