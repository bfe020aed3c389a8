"""What a storm does, and how it is told."""

from itertools import islice

import pytest

from benchmarks.endurance.storm.command import main
from benchmarks.endurance.storm.faults import INSTANTS, KINDS, drawn
from benchmarks.endurance.storm.storm import Strike
from benchmarks.endurance.storm.table import table


def test_a_seed_draws_the_same_faults_again_and_another_others() -> None:
    first = list(islice(drawn(7), 40))
    assert first == list(islice(drawn(7), 40))
    assert first != list(islice(drawn(8), 40))


def test_all_kinds_come_once_before_any_comes_again_at_every_instant() -> None:
    faults = list(islice(drawn(1), 4 * len(KINDS)))
    for start in range(0, len(faults), len(KINDS)):
        assert {(each.target, each.way) for each in faults[start : start + len(KINDS)]} == set(KINDS)
    assert {each.instant for each in faults} == set(INSTANTS)


def test_a_target_that_is_spared_is_not_hit() -> None:
    assert {each.target for each in islice(drawn(1, ("hub", "node")), 50)} == {each[0] for each in KINDS} - {
        "hub",
        "node",
    }
    with pytest.raises(ValueError, match="needs a target"):
        next(drawn(1, tuple(target for target, _ in KINDS)))


def test_the_table_counts_by_kind_and_tells_which_were_not_back() -> None:
    strikes = [Strike("hub SIGKILL", "any", 1.0, 4.0, 3.0, took) for took in (1.0, 2.0, 6.0, None)]
    lines = table([*strikes, Strike("node loss", "saving", 9.0, 9.0, 3.0, 8.0)]).splitlines()
    assert lines[1].split() == ["hub", "SIGKILL", "4", "2.0", "5.9", "6.0", "1"]
    assert lines[-2].split() == ["all", "5", "4.0", "7.9", "8.0", "1"]
    assert lines[-1] == "at any 4, saving 1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--minutes", "nan"], "--minutes must be above 0"),
        (["--bound", "0"], "--bound must be above 0"),
        (["--faults", "0"], "--faults must be at least 1"),
        (["--actors", "3"], "--actors must be 1 to 2"),
        (["--without", "moon"], "invalid choice"),
        (["--out", "."], "exists"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
