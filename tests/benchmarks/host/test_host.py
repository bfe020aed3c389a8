"""The benchmark of the host: turns, figures, goals and regressions; with fake clocks, nothing here is timed."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.host.command import main
from benchmarks.host.contest import OURS, Field, Figures, Row, always, hold
from benchmarks.host.document import header, machine_kind, regressions, report, row_figures, table

Turns = Mapping[str, Callable[[], float]]


def _clocks(**seconds: list[float]) -> tuple[Turns, list[str]]:
    """Turns that take these seconds one after the other, and the order in which they were taken."""
    order: list[str] = []

    def turn(name: str, left: Iterator[float]) -> float:
        order.append(name)
        return next(left)

    return {name: partial(turn, name, iter(each)) for name, each in seconds.items()}, order


def _row(opened: list[str] | None = None, **seconds: list[float]) -> Row:
    @contextmanager
    def field() -> Iterator[Field]:
        turns, _ = _clocks(**seconds)
        yield Field(turns, {"absentee": "not installed"})
        if opened is not None:
            opened.append("closed")

    return Row("fake", "work of a fake", field, goals={"rival": 2.0})


def _document(ratio: float) -> dict[str, Any]:
    figures = {OURS: Figures((1.0,)), "rival": Figures((ratio,))}
    return header() | {"rows": {"fake": row_figures(_row(), figures, Field({}))}}


def test_contestants_take_turns_and_the_rounds_that_warm_up_do_not_count() -> None:
    turns, order = _clocks(ours=[9.0, 1.0, 2.0, 3.0], rival=[9.0, 4.0, 6.0, 5.0])
    figures = hold(Field(turns), warm_up=1, repeats=3)
    assert order == [OURS, "rival"] * 4
    assert figures[OURS].seconds == (1.0, 2.0, 3.0)
    assert figures["rival"].median == 5.0
    assert figures["rival"].quartiles == (4.5, 5.5)


def test_a_bound_takes_its_seconds_in_every_turn() -> None:
    turns, _ = _clocks(ours=[1.0, 3.0])
    figures = hold(Field({**turns, "bound": always(0.5)}), warm_up=0, repeats=2)
    assert figures["bound"].seconds == (0.5, 0.5)


def test_a_row_of_long_turns_has_few_rounds_and_none_that_warms_up() -> None:
    turns, order = _clocks(ours=[1.0, 2.0, 3.0])
    row = _row()
    few = Row(row.name, row.work, row.opened, rounds=2)
    assert few.held(Field(turns), warm_up=3, repeats=15)[OURS].seconds == (1.0, 2.0)
    assert few.held(Field(turns), warm_up=3, repeats=1)[OURS].seconds == (3.0,)
    assert order == [OURS] * 3


def test_facts_are_the_medians_of_what_the_counted_turns_saw() -> None:
    field, seen = Field({OURS: lambda: field.facts["calls"].append(next(seen)) or 1.0}), iter([50.0, 1.0, 9.0, 2.0])
    figures = hold(field, warm_up=1, repeats=3)
    row = row_figures(_row(), figures, field)
    assert row["facts"] == {"calls": 2.0}
    assert "    calls: 2\n" in table(header() | {"rows": {"fake": row}})


def test_what_is_shorter_than_a_millisecond_has_more_digits() -> None:
    said = table(header() | {"rows": {"fake": row_figures(_row(), {OURS: Figures((6.21e-5,))}, Field({}))}})
    assert "0.0621 ms" in said


@pytest.mark.parametrize(("names", "warm_up", "repeats"), [(("rival",), 0, 1), ((OURS,), -1, 1), ((OURS,), 0, 0)])
def test_a_contest_without_us_or_without_rounds_is_refused(names: tuple[str, ...], warm_up: int, repeats: int) -> None:
    turns, order = _clocks(**{name: [1.0] for name in names})
    with pytest.raises(ValueError, match="contestants"):
        hold(Field(turns), warm_up=warm_up, repeats=repeats)
    assert not order


def test_a_ratio_above_one_says_that_ours_is_faster_and_a_goal_is_met_from_its_ratio_on() -> None:
    figures = {OURS: Figures((2.0, 1.0, 3.0)), "rival": Figures((4.0,))}
    row = row_figures(_row(), figures, Field({}, {"absentee": "not installed"}))
    assert row["contestants"]["rival"]["ratio"] == 2.0
    said = table(header() | {"rows": {"fake": row}})
    assert "goal 2: met" in said
    assert "absentee" in said
    assert "not measured: not installed" in said
    slower = row_figures(_row(), figures | {"rival": Figures((3.9,))}, Field({}))
    assert "goal 2: missed" in table(header() | {"rows": {"fake": slower}})


def test_a_document_says_commit_machine_and_versions() -> None:
    document = header()
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["memory_bytes"] > 2**30
    assert {"torch", "ray", "pyarrow"} <= document["versions"].keys()
    assert document["commit"]
    assert json.loads(json.dumps(document)) == document


def test_machines_are_named_by_processor_and_cores() -> None:
    assert machine_kind({"machine": {"processor": "AMD EPYC(TM) 9R14", "cores": 2}}) == "amd-epyc-tm-9r14-2"


@pytest.mark.parametrize(("ratio", "worse"), [(10.0, False), (8.1, False), (7.9, True), (12.0, False)])
def test_a_ratio_that_falls_by_more_than_a_fifth_is_a_regression(ratio: float, worse: bool) -> None:
    lines = regressions(_document(ratio), _document(10.0))
    assert bool(lines) == worse
    if worse:
        assert lines == ["fake: 7.90 x ours for rival, 10.00 before"]
    assert report(_document(ratio), _document(10.0)).startswith("regression: " if worse else "no regression")


def test_rows_that_the_baseline_does_not_have_are_no_regression_and_another_machine_is_no_baseline() -> None:
    assert not regressions(_document(1.0), _document(10.0) | {"rows": {}})
    other = _document(10.0)
    other["machine"] = other["machine"] | {"cores": 12345}
    with pytest.raises(ValueError, match="12345"):
        regressions(_document(10.0), other)


def test_the_command_writes_the_document_closes_the_row_and_keeps_a_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed: list[str] = []
    arguments = ["--warm-up", "1", "--repeats", "2", "--out"]
    row = _row(closed, ours=[9.0, 1.0, 1.0], rival=[9.0, 4.0, 4.0])
    assert main([*arguments, str(tmp_path / "a.json"), "--keep"], [row], tmp_path / "kept") == 0
    said = capsys.readouterr().out
    assert closed == ["closed"]
    assert "4.00 x ours" in said
    assert "no baseline of" in said
    document = json.loads((tmp_path / "a.json").read_text())
    assert document["rows"]["fake"]["contestants"]["rival"]["seconds"] == [4.0, 4.0]
    kept = tmp_path / "kept" / f"{machine_kind(document)}.json"
    assert json.loads(kept.read_text()) == document
    slower = _row(ours=[9.0, 2.0, 2.0], rival=[9.0, 4.0, 4.0])
    assert main([*arguments, str(tmp_path / "b.json")], [slower], tmp_path / "kept") == 0
    assert "regression: fake: 2.00 x ours for rival, 4.00 before" in capsys.readouterr().out
    assert json.loads(kept.read_text()) == document


@pytest.mark.parametrize("arguments", [["other"], ["--repeats", "0"], ["--warm-up", "-1"], ["--out", "{there}"]])
def test_bad_input_is_one_line_and_nothing_is_measured(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "there.json"
    there.write_text("mine")
    row = Row("fake", "never opened", lambda: pytest.fail("was opened"))
    assert main([each.format(there=there) for each in arguments], [row], tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert there.read_text() == "mine"
