"""Means, spreads, tables and the figure, from results whose numbers are known."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Canvas

from advdmd_ray.comparison.actors_figure import draw_actors
from advdmd_ray.comparison.figure import MOST_LINES, compute_text, draw_figure, draw_signals, goal
from advdmd_ray.comparison.job import RESULT, TABLE, Job
from advdmd_ray.comparison.plan import plan_jobs
from advdmd_ray.comparison.results import FINAL, INTERMEDIATE, Results, RivalResult, collect, spread
from advdmd_ray.comparison.tables import (
    ACTORS,
    JSON,
    PAGE,
    PICTURE,
    SIGNALS,
    headline_table,
    skill_table,
    write_outputs,
)
from advdmd_ray.config.comparison import read_comparison
from advdmd_ray.files import write_atomically
from comparison_files import ADVDMD, DMD, write_comparison

FIGURES = [
    {"key": "seen", "label": "seen prompts", "better": "higher", "share": True},
    {"key": "counting", "label": "counting", "better": "higher", "share": True},
    {"key": "diversity", "label": "diversity", "better": "higher", "share": False},
]

MADE = {
    "commit": "abc",
    "machine": {"processor": "a core", "cores": 2, "memory_gib": 24.0, "python": "3.11.7"},
    "versions": {"torch": "2"},
}


def score(seen: float, diversity: float | None = 0.5) -> dict[str, Any]:
    return {"figures": {"seen": seen, "counting": seen / 2, "diversity": diversity}, "images": 20}


def write_result(job: Job, **values: Any) -> None:
    judge = {"headline": "seen", "figures": FIGURES}
    write_atomically(job.folder / RESULT, json.dumps({"judge": judge, "made": MADE, **values}).encode())


UNREWARDED = {"updates": {"dmd": 3}, "auc": [None] * 3}


def rewarded(final: float, agreement: Sequence[float | None] | None) -> dict[str, Any]:
    measured = {} if agreement is None else {"agreement": agreement}
    return {"auc": [0.9, 0.8, 0.7], "reward_mean": [9.0, 9.0, final], **measured}


def point(number: int, learner: float, seen: float, notes: dict[str, Any] = UNREWARDED) -> dict[str, Any]:
    costs = {"learner": learner, "actors": 7.0, "seconds": 61.0, "cpu_seconds": 60.0}
    return {"point": number, **costs, **score(seen), "notes": notes}


@pytest.fixture
def jobs(tmp_path: Path, tiny_pipeline: Path) -> tuple[Job, ...]:
    """The teacher, two seeds of dmd and one of advdmd; the other is not done."""
    comparison = read_comparison(write_comparison(tmp_path, tiny_pipeline, rivals=[DMD, ADVDMD]))
    jobs = plan_jobs(comparison, tmp_path / "out")
    teacher, dmd, advdmd, dmd_1, _ = jobs
    goals = [{"point": 1, "steps": 2, **score(0.9)}, {"point": 2, "steps": 1, **score(0.3, None)}]
    write_result(teacher, points=goals, real=score(1.0), guidance=2.5)
    write_result(dmd, points=[point(1, 100, 0.2), point(2, 210, 0.5)])
    write_result(dmd_1, points=[point(1, 110, 0.4), point(2, 190, 0.7)])
    early, late = rewarded(-2.0, [0.6, 0.7, 0.8]), rewarded(-1.0, [0.6, None, 0.9])
    write_result(advdmd, points=[point(1, 100, 0.9, early), point(2, 200, 0.8, late)])
    return jobs


@pytest.fixture
def results(jobs: tuple[Job, ...]) -> Results:
    found = collect("small", jobs)
    assert found is not None
    return found


def test_a_spread_is_the_mean_and_the_sample_standard_deviation() -> None:
    assert spread([1.0, 3.0]).mean == 2.0
    assert spread([1.0, 3.0]).std == pytest.approx(math.sqrt(2))
    assert math.isnan(spread([1.0]).std)
    unknown = spread([math.nan, 1.0, math.nan])
    assert (math.isnan(unknown.mean), math.isnan(unknown.std), unknown.count) == (True, True, 3)


def test_the_figure_of_a_rival_is_that_of_the_last_judgement_and_not_of_the_best(results: Results) -> None:
    dmd, advdmd = results.rivals
    assert dmd.final("seen").mean == pytest.approx(0.6)
    assert dmd.final("seen").std == pytest.approx(math.sqrt(0.02))
    assert (advdmd.final("seen").mean, advdmd.final("seen").count) == (0.8, 1)
    assert results.missing == ("advdmd seed 1",)
    assert (dmd.cost("learner"), dmd.cost("seconds")) == (200.0, 61.0)


def test_a_curve_has_the_mean_compute_and_score_of_each_judgement(results: Results) -> None:
    spent, seen = results.rivals[0].curve("seen")
    assert spent == [105.0, 200.0]
    assert [value.mean for value in seen] == pytest.approx([0.3, 0.6])


def test_a_signal_is_that_of_the_final_level_or_the_mean_of_the_others(results: Results) -> None:
    dmd, advdmd = results.rivals
    spent, final = advdmd.signal("reward_mean", FINAL)
    assert spent == [100.0, 200.0]
    assert [value.mean for value in final] == [-2.0, -1.0]
    assert [value.mean for value in advdmd.signal("auc", FINAL)[1]] == [0.7, 0.7]
    assert [value.mean for value in advdmd.signal("agreement", FINAL)[1]] == [0.8, 0.9]
    between = [value.mean for value in advdmd.signal("agreement", INTERMEDIATE)[1]]
    assert between == pytest.approx([0.65, 0.6])
    for key in ("reward_mean", "auc", "agreement"):
        assert dmd.signal(key, FINAL) == ([], [])


def test_a_signal_is_a_mean_over_seeds_and_unknown_where_a_seed_has_none() -> None:
    runs = (
        {"points": [point(1, 90, 0.5, rewarded(1.0, [0.5, 0.5, 0.6])), point(2, 200, 0.5, rewarded(1.0, [None] * 3))]},
        {"points": [point(1, 110, 0.5, rewarded(2.0, [0.5, 0.5, 0.8])), point(2, 200, 0.5, rewarded(4.0, [0.5] * 3))]},
    )
    rival = RivalResult("advdmd", "AdvDMD", 3, runs)
    spent, rewards = rival.signal("reward_mean", FINAL)
    assert spent == [100.0, 200.0]
    assert [value.mean for value in rewards] == [1.5, 2.5]
    assert [value.std for value in rewards] == pytest.approx([math.sqrt(0.5), math.sqrt(4.5)])
    first, second = rival.signal("agreement", FINAL)[1]
    assert first.mean == pytest.approx(0.7)
    assert math.isnan(second.mean)
    one_step = RivalResult("one", "one", 1, ({"points": [point(1, 9, 0.5, {"agreement": [0.6]})]},))
    assert one_step.signal("agreement", INTERMEDIATE) == ([], [])


def test_a_comparison_is_drawn_by_the_figure_that_its_file_names(jobs: tuple[Job, ...], tmp_path: Path) -> None:
    found = collect("small", jobs, headline="diversity")
    assert found is not None
    assert goal(found)[1] == found.teacher[2]["diversity"] == 0.5
    write_outputs(found, "advdmd compare small.yaml", tmp_path)
    said = (tmp_path / PAGE).read_text()
    assert "Compared by: diversity (higher is better)" in said
    assert "![diversity at each judgement]" in said


def test_the_page_tells_of_updates_that_were_left_out_and_else_of_none(results: Results, tmp_path: Path) -> None:
    write_outputs(results, "advdmd compare small.yaml", tmp_path)
    assert "left out" not in (tmp_path / PAGE).read_text()
    dmd, advdmd = results.rivals
    runs = tuple(
        {**run, "points": [*run["points"][:-1], {**run["points"][-1], "notes": {**UNREWARDED, "skipped": count}}]}
        for run, count in zip(dmd.runs, (2, 5), strict=True)
    )
    write_outputs(replace(results, rivals=(replace(dmd, runs=runs), advdmd)), "advdmd compare small.yaml", tmp_path)
    said = (tmp_path / PAGE).read_text()
    assert "Updates left out, of all seeds, because their gradient was not finite: dmd 7." in said


def test_what_a_rivals_start_left_out_is_the_starts() -> None:
    notes = [{**UNREWARDED, "skipped": count} for count in (3, 3, 5)]
    branch = tuple(point(number, 100.0, 0.5, own) for number, own in enumerate(notes))
    assert RivalResult("branch", "branch", 3, ({"points": branch},)).skipped == 2
    assert RivalResult("whole", "whole", 3, ({"points": branch[1:]},)).skipped == 5


def test_a_job_that_another_commit_finished_names_both(jobs: tuple[Job, ...], tmp_path: Path) -> None:
    path = jobs[1].folder / RESULT
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "made_before": [{**MADE, "commit": "older"}]}))
    found = collect("small", jobs)
    assert found is not None
    write_outputs(found, "advdmd compare small.yaml", tmp_path)
    place = "on a core (2 cores, 24.0 GiB), Python 3.11.7"
    said = f"3 of 4 jobs at commit abc {place}; 1 of 4 jobs at commit older {place}, then at commit abc {place}."
    assert said in (tmp_path / PAGE).read_text()


def test_there_is_nothing_to_show_before_the_teacher_is_judged(jobs: tuple[Job, ...]) -> None:
    (jobs[0].folder / RESULT).unlink()
    assert collect("small", jobs) is None


def test_the_tables_say_what_the_results_say(results: Results) -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in headline_table(results).splitlines()]
    assert rows[0] == [
        *("", "steps", "seeds", "seen prompts", "diversity"),
        *("learner compute", "actors' compute", "training time"),
    ]
    assert rows[2] == ["teacher, guidance 2.5", "2", "-", "90.0 %", "0.500", "-", "-", "-"]
    assert rows[3][3:5] == ["30.0 %", "-"]
    assert rows[4] == ["dmd", "3", "2", "60.0 ± 14.1 %", "0.500 ± 0", "200", "7", "1 min 01 s"]
    assert rows[5] == ["AdvDMD", "3", "1", "80.0 %", "0.500", "200", "7", "1 min 01 s"]
    assert rows[6][:4] == ["real, held out", "-", "-", "100.0 %"]
    assert "| dmd | 3 | 30.0 ± 7.1 % |" in skill_table(results)


def test_the_outputs_hold_tables_figure_machine_commit_and_command(results: Results, tmp_path: Path) -> None:
    for _ in range(2):  # a rerun writes them again
        write_outputs(results, "advdmd compare small.yaml", tmp_path)
    page = (tmp_path / PAGE).read_text()
    assert (tmp_path / TABLE).read_text().strip() in page
    for expected in ("advdmd compare small.yaml", "at commit abc on a core (2 cores", "### By skill", PICTURE):
        assert expected in page
    assert "Without a result yet: advdmd seed 1." in page
    facts = json.loads((tmp_path / JSON).read_text())
    assert facts["summary"]["dmd"]["seen"] == {
        "mean": pytest.approx(0.6),
        "std": pytest.approx(0.1414, 1e-3),
        "count": 2,
    }
    assert facts["summary"]["advdmd"]["seen"]["std"] is None
    assert facts["rivals"][0]["runs"][1]["points"][1]["learner"] == 190
    assert facts["made"] == [[MADE]] * 4
    assert f"]({SIGNALS})" in page
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in (PICTURE, SIGNALS))


def test_results_of_two_commits_name_both(results: Results, tmp_path: Path) -> None:
    made = ((MADE,), ({**MADE, "commit": "def"},), (MADE,))
    write_outputs(replace(results, made=made), "advdmd compare small.yaml", tmp_path)
    page = (tmp_path / PAGE).read_text()
    assert "2 of 3 jobs at commit abc on a core" in page
    assert "1 of 3 jobs at commit def on a core" in page


def axes_of(
    results: Results,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    draw: Callable[[Results, Path], Path | None] = draw_signals,
) -> dict[str, Axes]:
    """Draws the signals, or another figure, and returns what was drawn, by title."""
    canvases: list[Canvas] = []
    save = Canvas.savefig

    def kept(canvas: Canvas, *args: Any, **options: Any) -> None:
        canvases.append(canvas)
        save(canvas, *args, **options)

    monkeypatch.setattr(Canvas, "savefig", kept)
    assert draw(results, path) == path
    return {axes.get_title(loc="left"): axes for axes in canvases[-1].axes}


def test_rivals_of_other_numbers_of_steps_have_panels_of_their_own_beside_the_same_goal(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = axes_of(results, tmp_path / PICTURE, monkeypatch, draw_figure)
    assert list(alike) == [""]
    assert len(alike[""].lines) == 3
    dmd, advdmd = results.rivals
    fewer = replace(results, rivals=(replace(dmd, steps=1), advdmd))
    three, one = axes_of(fewer, tmp_path / PICTURE, monkeypatch, draw_figure).items()
    assert (three[0], one[0]) == ("3 steps", "1 step")
    for axes, scores in ((three[1], [0.9, 0.8]), (one[1], [pytest.approx(0.3), pytest.approx(0.6)])):
        curve, goal = axes.lines
        assert np.asarray(curve.get_ydata()).tolist() == scores
        assert np.asarray(goal.get_ydata()).tolist() == [0.9, 0.9]
        assert axes.texts[0].get_text() == "teacher, 2 steps"
    assert three[1].get_xlim() == one[1].get_xlim()


def test_long_names_take_no_room_from_the_curves_and_cover_nothing(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    title = "AdvDMD: the discriminator as reward alone, of the final image, in the last sixth"
    long = replace(results, rivals=tuple(replace(rival, title=f"{title} {rival.name}") for rival in results.rivals))
    (axes,) = axes_of(long, tmp_path / PICTURE, monkeypatch, draw_figure).values()
    canvas = axes.get_figure()
    assert isinstance(canvas, Canvas)
    assert axes.get_position().width > 0.85
    (legend,) = canvas.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"{rival.title}, 3 steps" for rival in long.rivals]
    names, curves, heading = legend.get_window_extent(), axes.get_tightbbox(), canvas.texts[0].get_window_extent()
    assert curves is not None
    assert names.x0 >= 0
    assert names.x1 <= canvas.bbox.width
    assert names.y1 < curves.y0 < curves.y1 < heading.y0


def test_more_rivals_than_lines_can_show_have_one_row_each_with_every_judgement(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dmd, advdmd = results.rivals
    rivals = (advdmd, *(replace(dmd, title=f"change {number}") for number in range(MOST_LINES)))
    many = replace(results, rivals=rivals)
    (axes,) = axes_of(many, tmp_path / PICTURE, monkeypatch, draw_figure).values()
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["AdvDMD", "change 0"]
    assert axes.yaxis_inverted()
    assert "seen prompts (higher is better" in axes.get_xlabel()
    drawn = [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.lines]
    for row, scores in enumerate([[0.9, 0.8], *[[pytest.approx(0.3), pytest.approx(0.6)]] * MOST_LINES]):
        assert (scores, [row, row]) in drawn
        assert (scores[1:], [row]) in drawn
    assert ([0.8, 0.8], [0, 1]) in drawn  # the first row's score, beside all others
    assert ([0.9, 0.9], [0, 1]) in drawn  # the teacher's
    # A spread of 0.14 about the mean of 0.6 of the two seeds, and none of one seed.
    bars = [bar for bar in axes.collections if isinstance(bar, LineCollection)]
    spans = [np.asarray(bar.get_segments()[0])[:, 0].tolist() for bar in bars]
    assert spans[0] == [0.8, 0.8]
    assert spans[1] == pytest.approx([0.6 - math.sqrt(0.02), 0.6 + math.sqrt(0.02)])
    fewer = replace(many, rivals=(replace(advdmd, steps=1), *rivals[1:]))
    (axes,) = axes_of(fewer, tmp_path / PICTURE, monkeypatch, draw_figure).values()
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["AdvDMD, 1 step", "change 0, 3 steps"]


def test_signals_of_many_rivals_have_rows_too_and_none_of_those_without_rewards(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dmd, advdmd = results.rivals
    unmeasured = replace(advdmd, title="unmeasured", runs=({"points": [point(1, 9, 0.5, rewarded(3.0, None))]},))
    many = replace(results, rivals=(dmd, *[advdmd] * MOST_LINES, unmeasured))
    panels = axes_of(many, tmp_path / SIGNALS, monkeypatch)
    reward, agreement = panels["reward, final image"], panels["agreement, final image"]
    assert [label.get_text() for label in reward.get_yticklabels()] == ["AdvDMD"] * MOST_LINES + ["unmeasured"]
    rewards = [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in reward.lines]
    assert ([-2.0, -1.0], [0, 0]) in rewards
    assert ([3.0], [MOST_LINES]) in rewards
    agreed = [line for line in agreement.lines if np.asarray(line.get_ydata()).tolist() == [MOST_LINES]]
    assert np.isnan(np.asarray(agreed[0].get_xdata(), float)).all()
    chance = [line for line in agreement.lines if line.get_label() == "chance"]
    assert np.asarray(chance[0].get_xdata()).tolist() == [0.5, 0.5]
    assert agreement.get_ylim() == reward.get_ylim() == (MOST_LINES + 0.5, -0.5)


def test_the_signals_are_drawn_beside_each_other_in_the_rivals_colours(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes = axes_of(results, tmp_path / SIGNALS, monkeypatch)
    assert list(axes) == [
        *("reward, final image", "AUC, final image"),
        *("agreement, final image", "agreement, intermediate levels"),
    ]
    reward, auc, final, between = axes.values()
    curve = reward.lines[0]
    assert np.asarray(curve.get_ydata()).tolist() == [-2.0, -1.0]
    assert np.asarray(curve.get_xdata()).tolist() == [100.0, 200.0]
    assert "own scale" in reward.get_ylabel()
    assert (len(reward.lines), len(auc.lines)) == (1, 1)  # DMD has no rewards
    assert curve.get_color() == "#D55E00"  # of the second rival, as in the main figure
    for agreement in (final, between):
        assert [0.5, 0.5] in [np.asarray(line.get_ydata()).tolist() for line in agreement.lines]
    assert final.get_ylim() == between.get_ylim()
    assert len({one.get_xlim() for one in axes.values()}) == 1


def test_signals_that_nobody_measured_have_no_panel(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [point(1, 1, 0.9, rewarded(1.0, None)), point(2, 200, 0.8, rewarded(2.0, None))]
    unmeasured = replace(results, rivals=(replace(results.rivals[1], runs=({"points": points},)),))
    axes = axes_of(unmeasured, tmp_path / SIGNALS, monkeypatch)
    assert list(axes) == ["reward, final image", "AUC, final image"]
    assert {one.get_xscale() for one in axes.values()} == {"log"}


def test_without_any_reward_there_is_no_figure_of_the_rewards(results: Results, tmp_path: Path) -> None:
    alone = replace(results, rivals=results.rivals[:1])
    write_outputs(alone, "advdmd compare small.yaml", tmp_path)
    assert draw_signals(alone, tmp_path / SIGNALS) is None
    assert not (tmp_path / SIGNALS).exists()
    assert SIGNALS not in (tmp_path / PAGE).read_text()


def with_actors(results: Results) -> Results:
    """DMD's two seeds, whose actors made 2 and 4 for one, and AdvDMD's, which began elsewhere and made 6 for one."""
    dmd, advdmd = results.rivals
    two, four = (
        {**run["points"][-1], "actors": count * run["points"][-1]["learner"]}
        for run, count in zip(dmd.runs, (2, 4), strict=True)
    )
    start, end = (
        {**point(number, learner, 0.8), "actors": actors}
        for number, learner, actors in ((0, 100, 9000), (1, 200, 9600))
    )
    few = replace(dmd, runs=({"points": [two]}, {"points": [four]}))
    many = replace(advdmd, runs=({"points": [start, end]},))
    return replace(results, rivals=(many, few), actors_curve=(many, few))


def test_the_actors_curve_has_every_seed_and_the_mean_over_what_the_jobs_own_actors_made(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (axes,) = axes_of(with_actors(results), tmp_path / ACTORS, monkeypatch, draw_actors).values()
    drawn = [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.lines]
    assert ([3.0, 6.0], [pytest.approx(0.6), 0.8]) in drawn
    assert ([3.0, 3.0], [0.5, 0.7]) in drawn
    assert ([6.0], [0.8]) in drawn
    assert {text.get_text() for text in axes.texts} == {"dmd", "advdmd", "teacher, 2 steps"}
    assert axes.get_xscale() == "log"


def test_the_actors_curve_is_shown_where_it_is_asked_for_and_two_rivals_have_results(
    results: Results, jobs: tuple[Job, ...], tmp_path: Path
) -> None:
    curve = with_actors(results)
    write_outputs(curve, "advdmd compare small.yaml", tmp_path)
    assert (tmp_path / ACTORS).exists()
    assert f"({ACTORS})" in (tmp_path / PAGE).read_text()
    assert "actors_curve" not in json.loads((tmp_path / JSON).read_text())
    many, few = curve.actors_curve
    (end,) = many.runs[0]["points"][1:]
    idle = replace(many, runs=({"points": [{**end, "actors": 0.0}]},))
    for alone in ((many,), (few, idle)):
        write_outputs(replace(curve, actors_curve=alone), "advdmd compare small.yaml", tmp_path)
        assert ACTORS not in (tmp_path / PAGE).read_text()
    asked = collect("small", jobs, ("advdmd",))
    assert asked is not None
    assert [rival.name for rival in asked.actors_curve] == ["advdmd"]


@pytest.mark.parametrize(("value", "text"), [(950, "950"), (12_500, "12.5k"), (600_000, "600k"), (3e6, "3M")])
def test_compute_is_read_at_a_glance(value: float, text: str) -> None:
    assert compute_text(value) == text
