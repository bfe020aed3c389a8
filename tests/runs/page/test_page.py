"""The page: whole, self-contained, of bounded size, and its figures are those of the files."""

import base64
import dataclasses
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advdmd_ray.evaluation.pictures.grids import comparison_grid
from advdmd_ray.metrics.catalogue import CATALOGUE, LABEL_VALUES
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.page import page
from advdmd_ray.runs.page.page import PAGE_BYTES, RUN_BYTES, charts, sections, write_page
from advdmd_ray.runs.page.panels import PANELS, SHOWN
from advdmd_ray.runs.page.record import read_record
from advdmd_ray.runs.page.samples import COMPARISON_BYTES, GRID_BYTES, SHOWN_GRIDS, InPage, samples
from page_runs import line_of, write_lines, write_run
from summaries import RAW

ASSETS = Path(page.__file__).parents[2] / "assets" / "page"
CHARTS = re.compile(r'<script type="application/json" id="facts">(.*?)</script>', re.DOTALL)


class Parsed(HTMLParser):
    """What a browser would fetch, whether every tag is closed, ids, alternatives and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched, self.linked, self.open, self.ids = list[str](), list[str](), list[str](), list[str]()
        self.nameless, self.text = list[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        (self.linked if tag == "a" else self.fetched).extend(
            given[name] for name in ("src", "href", "srcset", "data") if name in given
        )
        self.ids += [given["id"]] if "id" in given else []
        if tag == "img" and not given.get("alt"):
            self.nameless.append(str(given))
        if tag not in ("meta", "link", "img", "br", "input", "path", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("path", "circle"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(*runs: RunFolder) -> str:
    path = write_page(runs[0].report, [read_record(run.path, run.path.name) for run in runs])
    return path.read_text(encoding="utf-8")


def drawn(text: str) -> dict[str, Any]:
    (found,) = CHARTS.findall(text)
    return json.loads(found)


def test_the_page_needs_no_other_file_and_no_network_and_runs_no_script_but_its_own(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "demo"))
    parsed = Parsed(text)
    assert parsed.open == []
    assert parsed.nameless == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert all(address.startswith("data:") for address in parsed.fetched)
    assert len([address for address in parsed.fetched if address.startswith("data:image/png;base64,")]) == 12 + 6
    assert {link for link in parsed.linked if link[0] != "#"} == {
        "comparison.png",
        "grids/version-000020.png",
        "grids/version-000040.png",
    }
    assert {link[1:] for link in parsed.linked if link[0] == "#"} <= set(parsed.ids)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert html.unescape(policy) == (
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; img-src data:"
    )
    assert not re.search(r"@import|url\(|<script [^t]", text)


def test_the_curves_are_those_of_metrics_jsonl(tmp_path: Path) -> None:
    facts = drawn(page_of(write_run(tmp_path / "demo")))
    panels = {panel["key"]: panel for panel in facts["panels"]}
    (reward,) = panels["reward"]["runs"]
    assert reward["cycles"] == list(range(1, 41))
    assert [line["label"] for line in reward["lines"]] == ["level 1", "level 2", "level 3", "level 4, final image"]
    for level, line in enumerate(reward["lines"], start=1):
        assert line["values"] == pytest.approx([level + cycle / 7 for cycle in range(1, 41)], rel=1e-4)
    assert panels["cycle-seconds"]["runs"][0]["lines"][0]["values"] == [2.0] * 40
    assert panels["judge-distance"]["runs"][0]["cycles"] == [10, 20, 30, 40]
    assert panels["judge-distance"]["runs"][0]["lines"][0]["values"] == [40.0, 30.0, 20.0, 10.0]
    assert "200 images" in panels["judge-distance"]["what"]
    assert panels["gates"]["runs"][0]["lines"][1]["values"][:3] == [None, None, 2.0]
    hues = {line["label"]: line["hue"] for line in panels["losses"]["runs"][0]["lines"]}
    assert hues == {"student, distribution matching": 0, "fake score": 2, "discriminator": 3}, "as beside RL's"
    assert facts["phases"] == [
        {"name": "warm", "from": 1, "to": 10},
        {"name": "ramp", "from": 10, "to": 20},
        {"name": "full", "from": 20, "to": 40},
    ]
    assert (facts["last"], facts["runs"], facts["faults"]) == (40, ["demo"], [])


def test_the_page_shows_the_figures_of_the_summary(tmp_path: Path) -> None:
    text = Parsed(page_of(write_run(tmp_path / "demo"))).text
    for shown in ("98.1 %", "97.2 %", "9.7", "3.9", "2,560", "0.790", "4 min 07 s", "rollout actor 0", "torch"):
        assert shown in text
    assert "0123456789ab, with changes" in text
    assert "groups_per_cycle: 8" in text
    assert "Nothing went wrong" in text


def test_no_identifier_stands_where_a_reader_reads(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    record = dataclasses.replace(read_record(run.path, "demo"), config=None)
    text = "".join(Parsed(html).text for html in sections([record], InPage(run.report)).values())
    text += json.dumps(charts([record])["panels"])
    assert "student, distribution matching" in text
    for identifier in ("fake_score", "rollout-0", "stale_actions", "ceiling", "advdmd_", "memory_gib"):
        assert identifier not in text, identifier


def test_what_a_user_wrote_cannot_become_markup(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo", judge=None, not_judged="<script>alert(1)</script>")
    images = np.zeros((1, 1, 8, 8), np.float32)
    comparison_grid(run.comparison, {"student": images}, ['"><script>alert(2)</script>'])
    record = read_record(run.path, "</script><script>alert(3)</script>")
    text = write_page(run.report, [record]).read_text()
    assert "<script>alert" not in text
    assert drawn(text)["runs"] == ["</script><script>alert(3)</script>"]
    assert Parsed(text).open == []


def test_a_command_in_a_sentence_stands_as_code_and_nothing_of_it_is_html(tmp_path: Path) -> None:
    text = page_of(
        write_run(tmp_path / "demo", judge=None, not_judged="it failed: <b>; `advdmd evaluate --out <i>` does it")
    )
    assert text.count("it failed: &lt;b&gt;; <code>advdmd evaluate --out &lt;i&gt;</code> does it.") == 2


def test_a_run_that_has_just_begun_has_its_page_too(tmp_path: Path) -> None:
    for name, run in (
        ("nothing", RunFolder(tmp_path / "nothing")),
        ("a line", write_lines(tmp_path / "line", [line_of(1)])),
    ):
        run.path.mkdir(exist_ok=True)
        parsed = Parsed(page_of(run))
        assert parsed.open == [], name
        assert "No sample grids were made" in parsed.text


def test_faults_stand_on_the_time_line(tmp_path: Path) -> None:
    lines = [line_of(cycle) for cycle in range(1, 41)]
    for line in lines[9:]:
        line["values"]["advdmd_run_workers_lost_total{role=reward}"] = 1
    text = page_of(write_lines(tmp_path / "demo", lines))
    assert drawn(text)["faults"] == [10]
    assert 'style="left:25.00%" title="cycle 10: lost: one of the reward workers' in text
    assert "Nothing went wrong" not in text


def test_a_mismatch_of_weights_is_shown_as_bad(tmp_path: Path) -> None:
    lines = [line_of(1)]
    lines[0]["values"]["advdmd_weights_published_total{stream=student}"] = 1
    assert 'class="n bad' not in page_of(write_lines(tmp_path / "good", lines))
    lines[0]["values"]["advdmd_weights_mismatched_total{stream=student}"] = 1
    assert page_of(write_lines(tmp_path / "bad", lines)).count('class="n bad') == 1


def test_a_number_with_an_exponent_is_one_word_that_no_line_ends_in(tmp_path: Path) -> None:
    assert '<td class="n word">1.55e-07</td>' in page_of(write_run(tmp_path / "demo", ratio_deviation=1.55e-7))


def test_several_runs_are_drawn_over_each_other_and_the_chosen_one_comes_first(tmp_path: Path) -> None:
    records = [read_record(write_run(tmp_path / name, cycles).path, name) for name, cycles in (("a", 20), ("b", 40))]
    facts = charts(records, chosen=1)
    assert facts["runs"] == ["b", "a"]
    reward = next(panel for panel in facts["panels"] if panel["key"] == "reward")
    assert [run["cycles"][-1] for run in reward["runs"]] == [40, 20]
    assert facts["last"] == 40
    shown = sections(records, InPage(tmp_path / "page.html"), chosen=1, live=True)
    assert '<a href="?run=0">a</a>' in shown["runs"]
    assert "?run=" not in sections(records, InPage(tmp_path / "page.html"))["runs"]
    assert sections(records[:1], InPage(tmp_path / "page.html"))["runs"] == ""


def test_of_many_grids_the_first_the_last_and_others_between_are_shown(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    images = np.zeros((1, 1, 8, 8), np.float32)
    first = comparison_grid(run.grid(0), {"student": images}, ["one"]).read_bytes()
    for cycle in range(1, 3 * SHOWN_GRIDS):
        run.grid(cycle).write_bytes(first)
    found = samples(run, InPage(run.report))
    cycles = [cycle for cycle, _ in found.through_time]
    assert (len(cycles), cycles[0], cycles[-1], found.grids) == (SHOWN_GRIDS, 0, 3 * SHOWN_GRIDS - 1, 3 * SHOWN_GRIDS)
    assert f"{SHOWN_GRIDS} of {3 * SHOWN_GRIDS} sample grids" in page_of(run)
    run.validation(0, 0).parent.mkdir()
    for cycle in range(SHOWN_GRIDS):
        for number in (0, 1):
            run.validation(cycle, number).write_bytes(first)
    both = samples(run, InPage(run.report))
    assert len(both.through_time) == len(both.validation) == SHOWN_GRIDS // 2, "the page is no larger"
    assert [len(galleries) for _, galleries in both.validation] == [2] * (SHOWN_GRIDS // 2)
    assert f"{SHOWN_GRIDS // 2} of {SHOWN_GRIDS} validations" in page_of(run)


def worst_line(cycle: int) -> dict[str, Any]:
    """Every series that a curve shows, for as many levels as a panel draws and more, with long values."""
    values: dict[str, float] = {}
    for name in SHOWN:
        rows = [()]
        for label in CATALOGUE[name].labels:
            options = LABEL_VALUES.get(label, tuple(map(str, range(1, 21))))
            rows = [(*row, f"{label}={option}") for row in rows for option in options]
        values |= {f"{name}{{{','.join(row)}}}" if row else name: -1.23456e-5 * cycle for row in rows}
    values["advdmd_run_phase"] = 2
    return {"time": 1e9 + cycle, "cycle": 1_000_000 + cycle, "record": cycle, "values": values}


def test_the_page_is_bounded_whatever_the_run(tmp_path: Path) -> None:
    worst = drawn(page_of(write_lines(tmp_path / "worst", [worst_line(cycle) for cycle in range(1, 403)])))
    assert {panel["key"] for panel in worst["panels"]} >= {panel.key for panel in PANELS} - {"judge-distance"}
    size = len(json.dumps(worst))
    assert 200_000 < size <= RUN_BYTES
    pictures = (SHOWN_GRIDS * GRID_BYTES + COMPARISON_BYTES) * 4 / 3
    rest = len(page_of(write_run(tmp_path / "demo")))
    assert pictures + size + rest + 1_000_000 < PAGE_BYTES + RUN_BYTES


def test_the_page_of_a_model_of_1024_pixels_is_a_few_megabytes_large(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    image = 0.1 * draw.standard_normal((1, 3, 1024, 1024), dtype=np.float32)
    images = np.broadcast_to(image, (2, 3, 1024, 1024))
    run = write_run(tmp_path / "demo")
    run.comparison.unlink()
    names = ("teacher, 40 steps", "teacher, 4 steps", "student, 4 steps")
    assert comparison_grid(run.comparison, dict.fromkeys(names, images), ["a red bicycle"] * 2).suffix == ".jpg"
    text = page_of(run)
    tiles = [address for address in Parsed(text).fetched if address.startswith("data:image/jpeg")]
    assert len(tiles) == 6
    assert COMPARISON_BYTES / 10 < sum(map(len, tiles)) * 3 / 4 <= COMPARISON_BYTES
    assert not any(b"prompts" in base64.b64decode(tile.partition(",")[2]) for tile in tiles)
    assert len(text) < PAGE_BYTES / 4
    assert 'width="1024" height="1024"' in text


def test_the_library_of_the_curves_is_the_one_whose_digest_is_noted() -> None:
    noted = dict(re.findall(r"`(uPlot[\w.]+)` \| `([0-9a-f]{64})`", (ASSETS / "README.md").read_text()))
    assert set(noted) == {"uPlot.iife.min.js", "uPlot.min.css"}
    for name, digest in noted.items():
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == digest
    assert "MIT License" in (ASSETS / "uPlot.LICENSE").read_text()


def test_scripts_and_style_of_ours_stay_short() -> None:
    own = [path for path in ASSETS.iterdir() if path.suffix in {".js", ".css", ".j2"} and "uPlot" not in path.name]
    assert len(own) > 12
    assert [path.name for path in own if len(path.read_text().splitlines()) > 350] == []


def test_every_panel_says_what_it_is_and_what_is_healthy_in_a_line() -> None:
    assert len({panel.key for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel.what.endswith(".")
        assert panel.healthy.endswith(".")
        assert len(panel.what) + len(panel.healthy) < 300
        assert set(panel.names) <= set(CATALOGUE)


def test_a_summary_with_more_figures_has_a_column_for_each(tmp_path: Path) -> None:
    labels = (*RAW["judge"]["labels"], {"key": "coverage", "label": "coverage", "better": "higher", "share": True})
    more = {"figures": {"frechet": 1.0, "accuracy": 1.0, "coverage": 0.321}, "images": 20}
    judge = {**RAW["judge"], "labels": labels, "teacher": {4: more}, "student": {**more, "steps": 4}, "real": more}
    text = page_of(write_run(tmp_path / "demo", judge=judge))
    assert text.count("32.1 %") == 3
    assert text.count('data-head="coverage"') == 3
