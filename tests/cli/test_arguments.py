"""A value on the command line is within its bounds or one line says what is allowed, before anything is imported."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray import cli
from advdmd_ray.cli.arguments import number, whole, words

SAMPLE = ["sample", "--pipeline", "absent", "--out", "a.png"]
SUITE = ["evaluate", "--suite", "geneval", "--metadata", "m", "--pipeline", "absent", "--out", "o"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*SAMPLE, "--prompt", ""], "argument --prompt: expected some words, got an empty text"),
        ([*SAMPLE, "--prompt", " \t"], "argument --prompt: expected some words"),
        ([*SAMPLE, "--prompt", "a\udcff"], "argument --prompt: expected UTF-8 text, got other bytes at character 1"),
        ([*SAMPLE, "--prompt", "a", "--guidance", "nan"], "--guidance: expected a number from 1 to 20, got 'nan'"),
        ([*SAMPLE, "--prompt", "a", "--guidance", "inf"], "--guidance: expected a number from 1 to 20"),
        ([*SAMPLE, "--prompt", "a", "--guidance=-5"], "--guidance: expected a number from 1 to 20, got '-5'"),
        ([*SAMPLE, "--prompt", "a", "--seed=-1"], "--seed: expected a whole number from 0 to 9223372036854775807"),
        ([*SAMPLE, "--prompt", "a", "--seed", "9223372036854775808"], "--seed: expected a whole number from 0 to"),
        ([*SAMPLE, "--prompt", "a", "--seed", "1.5"], "--seed: expected a whole number from 0 to"),
        ([*SAMPLE, "--prompt", "a", "--steps", "0"], "--steps: expected a whole number from 1 to 1000, got '0'"),
        ([*SAMPLE, "--prompt", "a", "--steps", "1000000000"], "--steps: expected a whole number from 1 to 1000"),
        ([*SAMPLE, "--prompt", "a", "--images", "9" * 5000], "--images: expected a whole number from 1 to 10000, got"),
        ([*SUITE, "--guidance", "nan"], "--guidance: expected a number from 1 to 20, got 'nan'"),
        ([*SUITE, "--seed=-1"], "--seed: expected a whole number from 0 to"),
        ([*SUITE, "--gpus-each", "nan"], "--gpus-each: expected a number from 0 to 16, got 'nan'"),
        ([*SUITE, "--gpus-each=-1"], "--gpus-each: expected a number from 0 to 16, got '-1'"),
        ([*SUITE, "--size", "4", "64"], "--size: expected a whole number from 8 to 8192, got '4'"),
        (["compare", "digits", "--jobs", "0"], "--jobs: expected a whole number from 1 to 10000, got '0'"),
        (["plan", "--config", "digits", "--gpus", "-1"], "--gpus: expected a whole number from 1 to 10000, got '-1'"),
    ],
)
def test_a_value_out_of_bounds_is_one_line(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == cli.BAD_INPUT
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert says in said.err
    assert len(said.err) < 300


@given(least=st.integers(-99, 99), span=st.integers(0, 99), value=st.integers(-300, 300))
def test_bounds_are_inclusive_and_nothing_else_passes(least: int, span: int, value: int) -> None:
    most = least + span
    for kind in (whole(least, most), number(least, most)):
        if least <= value <= most:
            assert kind(str(value)) == value
        else:
            with pytest.raises(argparse.ArgumentTypeError, match=f"from {least} to {most}, got '{value}'"):
                kind(str(value))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t")))
def test_words_stay_as_they_are(text: str) -> None:
    if text.strip():
        assert words(text) == text
