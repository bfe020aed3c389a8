"""Curves: metrics.jsonl reads back as it was recorded, and every recorded panel is drawn."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from advdmd_ray.evaluation.pictures.curves import alarm_cycles, curves_figure, moving_mean, plot_curves
from advdmd_ray.evaluation.pictures.series import auc_while_rl, by_label, read_series
from advdmd_ray.metrics.catalogue import phase_samples
from advdmd_ray.metrics.hub import MetricsHub
from advdmd_ray.metrics.series import Sample


def record_run(path: Path, cycles: int = 40, levels: int = 4) -> Path:
    with MetricsHub(path) as hub:
        for cycle in range(1, cycles + 1):
            phase = "warm" if cycle < 10 else "ramp" if cycle < 20 else "full"
            samples = [*phase_samples(phase), Sample.of("advdmd_rollout_trajectories_per_second", 100 + cycle)]
            for level in range(1, levels + 1):
                samples += [
                    Sample.of("advdmd_reward_mean", cycle / cycles - level, level=level),
                    Sample.of("advdmd_reward_spread", 0.5, level=level),
                    Sample.of("advdmd_learner_discriminator_auc", 0.5 + cycle / 100, level=level),
                    Sample.of("advdmd_learner_rl_gate_open", cycle % 10 > level, level=level),
                ]
                for side in ("real", "student"):
                    place = {"level": level, "side": side}
                    samples += [
                        Sample.of("advdmd_learner_text_agreement", 0.5 + cycle * level / 400, **place),
                        Sample.of("advdmd_learner_text_agreement_error", 0.5 / cycle**0.5, **place),
                    ]
            for objective in ("dmd", "fake_score", "discriminator", "rl")[: 3 if phase == "warm" else 4]:
                samples += [
                    Sample.of("advdmd_learner_loss", 1 / cycle, objective=objective),
                    Sample.of("advdmd_learner_gradient_norm", 2 / cycle, objective=objective),
                    Sample.of("advdmd_learner_updates_total", 1, objective=objective),
                ]
            samples += [
                Sample.of("advdmd_buffer_policy_age_last", cycle % 3),
                Sample.of("advdmd_buffer_reward_age_last", cycle % 2),
                Sample.of("advdmd_learner_kl_nats", 0.01 * cycle),
            ]
            hub.record(samples, cycle=cycle)
    return path


def test_series_read_back_as_they_were_recorded(tmp_path: Path) -> None:
    series = read_series(record_run(tmp_path / "metrics.jsonl"))
    reward = series["advdmd_reward_mean{level=2}"]
    assert reward.cycles.tolist() == list(range(1, 41))
    np.testing.assert_allclose(reward.values, np.arange(1, 41) / 40 - 2)
    assert (np.diff(reward.times) >= 0).all()


def test_levels_come_in_numeric_order(tmp_path: Path) -> None:
    series = read_series(record_run(tmp_path / "metrics.jsonl", cycles=2, levels=11))
    assert list(by_label(series, "advdmd_reward_mean", "level")) == [str(level) for level in range(1, 12)]


def test_the_last_value_of_a_cycle_stands_and_a_torn_line_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [(1, 0.0), (2, 5.0), (1, 7.0), (3, None), (4, [1.0, 2.0])]
    text = "".join(json.dumps({"time": 1.0, "cycle": c, "values": {"advdmd_run_cycle": v}}) + "\n" for c, v in rows)
    path.write_text(text + '{"time": 2.0, "cy')
    curve = read_series(path)["advdmd_run_cycle"]
    assert curve.cycles.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(curve.values, [7.0, 5.0, np.nan, 1.5])
    assert "line 6 is torn" in caplog.text


def test_auc_while_rl_counts_only_the_cycles_with_rl_updates(tmp_path: Path) -> None:
    found = auc_while_rl(read_series(record_run(tmp_path / "metrics.jsonl")))
    expected = 0.5 + np.arange(10, 41) / 100
    assert list(found) == [1, 2, 3, 4]
    assert found[3] == pytest.approx((expected.mean(), 0.6))
    assert auc_while_rl({}) == {}


@given(st.lists(st.floats(-5, 5) | st.just(float("nan")), max_size=30), st.integers(1, 35))
def test_a_moving_mean_is_the_mean_of_the_last_known_values(values: list[float], window: int) -> None:
    result = moving_mean(np.array(values, dtype=np.float64), window)
    for i in range(len(values)):
        known = [v for v in values[max(0, i + 1 - window) : i + 1] if v == v]  # noqa: PLR0124 - NaN
        assert result[i] == pytest.approx(sum(known) / len(known), abs=1e-9) if known else np.isnan(result[i])


def test_a_whole_run_and_an_empty_one_are_drawn(tmp_path: Path) -> None:
    full = plot_curves(record_run(tmp_path / "metrics.jsonl"), tmp_path / "curves.png", title="a run")
    (tmp_path / "empty.jsonl").write_text("")
    empty = plot_curves(tmp_path / "empty.jsonl", tmp_path / "empty.png")
    with Image.open(full) as one, Image.open(empty) as two:
        assert one.size == two.size == (1320, 2062)
        inked = [int((np.asarray(picture.convert("L")) < 250).sum()) for picture in (one, two)]
    assert inked[0] > 1.3 * inked[1]


def test_the_thresholds_of_the_gate_are_drawn_where_the_config_says(tmp_path: Path) -> None:
    series = read_series(record_run(tmp_path / "metrics.jsonl", cycles=3, levels=1))
    for high, errors in ((0.7, 3.0), (0.98, 2.0), (0.98, None)):
        panels = panels_of(curves_figure(series, auc_high=high, text_errors=errors))
        (above,) = (
            part for part in panels["Held-out AUC per level"].patches if str(part.get_label()).startswith("overpower")
        )
        assert (above.get_y(), above.get_y() + above.get_height()) == pytest.approx((high, 1.0))
        within = [
            float(part.get_paths()[0].vertices[:, 1].max())
            for part in panels["Text agreement per level"].collections
            if str(part.get_label()).startswith("within")
        ]
        # The standard error of the first cycle is 0.5, and falls.
        assert within == ([] if errors is None else [pytest.approx(0.5 + 0.5 * errors)])


def panels_of(figure: Any) -> dict[str, Any]:
    """The panels by their headings."""
    return {axes.get_title(loc="left"): axes for axes in figure.axes}


def record_judgements(path: Path, alarms: dict[int, int], frechet: float = 20.0) -> Path:
    with MetricsHub(path) as hub:
        for cycle, alarm in alarms.items():
            figures = {"seen": 0.1 * cycle, "frechet": frechet}
            samples = [Sample.of("advdmd_run_judge", value, figure=key) for key, value in figures.items()]
            hub.record([*samples, Sample.of("advdmd_run_reward_hack_alarm", alarm)], cycle=cycle)
    return path


def test_the_alarm_is_marked_at_the_judgements_at_which_it_fired(tmp_path: Path) -> None:
    quiet = record_judgements(tmp_path / "quiet.jsonl", {2: 0, 4: 0, 6: 0})
    loud = record_judgements(tmp_path / "loud.jsonl", {2: 0, 4: 1, 6: 1})
    assert alarm_cycles(read_series(quiet)) == []
    assert alarm_cycles(read_series(loud)) == [4, 6]
    assert alarm_cycles({}) == []
    assert marks_in(quiet) == {}
    assert marks_in(loud) == {"Reward per level": [4, 6], "Judge of the student's moving average": [4, 6]}


def marks_in(path: Path) -> dict[str, list[int]]:
    """Where a panel's lines in the colour of the alarm stand, by its heading."""
    panels = panels_of(curves_figure(read_series(path), auc_high=0.98, text_errors=3.0))
    marks = {
        heading: [int(line.get_xdata()[0]) for line in axes.lines if line.get_color() == "#c8102e"]
        for heading, axes in panels.items()
    }
    return {heading: cycles for heading, cycles in marks.items() if cycles}


def test_a_run_that_was_judged_has_one_more_panel_for_it(tmp_path: Path) -> None:
    series = read_series(record_judgements(tmp_path / "metrics.jsonl", {2: 0, 4: 0}))
    figure = curves_figure(series, auc_high=0.98, text_errors=3.0)
    assert tuple(figure.bbox.size) == pytest.approx((1320, 2475))
    assert "Judge of the student's moving average" in panels_of(figure)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_series(tmp_path / "none.jsonl")


def test_panels_share_the_page_and_no_legend_is_wider_than_its_panel(tmp_path: Path) -> None:
    series = read_series(record_run(tmp_path / "metrics.jsonl"))
    figure = curves_figure(series, auc_high=0.98, text_errors=3.0)
    figure.draw_without_rendering()
    page = figure.bbox.width
    for axes in figure.axes:
        panel, legend = axes.get_window_extent(), axes.get_legend()
        assert panel.width > 0.36 * page, axes.get_title(loc="left")
        assert legend is not None
        assert legend.get_window_extent().x1 < panel.x1 + 0.02 * page, axes.get_title(loc="left")
