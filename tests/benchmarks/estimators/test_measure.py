"""The figures: the cosine of turns with its error, the checker before and after, and the command that writes them."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.learner.checkpoint import Checkpoint
from benchmarks.estimators import command
from benchmarks.estimators.document import Row, table
from benchmarks.estimators.estimators import ESTIMATORS, FINAL, ExactGradient, PolicyGradient
from benchmarks.estimators.field import Field, Forwards
from benchmarks.estimators.measure import Change, Estimate, changes, mean_cosine, paired
from estimator_field import Linear, field
from small_parts import SHAPE, Brightness, Constant, Judge, Mixer, config, normal


@given(turns=st.integers(3, 12), seed=st.integers(0, 1000))
def test_the_cosine_is_the_mean_over_all_pairs_of_gradients_divided_by_their_rms(turns: int, seed: int) -> None:
    gradients = normal(turns, 7, seed=seed) * torch.logspace(-6, 6, 7)
    scaled = gradients / gradients.square().mean(dim=0).sqrt()
    pairs = [
        float(torch.nn.functional.cosine_similarity(scaled[a], scaled[b], dim=0))
        for a, b in itertools.combinations(range(turns), 2)
    ]
    assert mean_cosine(gradients).mean == pytest.approx(sum(pairs) / len(pairs), abs=1e-5)


def test_gradients_without_noise_have_cosine_1_and_no_error() -> None:
    same = mean_cosine(normal(1, 50, seed=1).expand(8, -1))
    assert same.mean == pytest.approx(1, abs=1e-6)
    assert same.error == pytest.approx(0, abs=1e-6)


def test_the_error_tells_noise_from_a_signal_and_errs_on_the_safe_side() -> None:
    signal = normal(2000, seed=0)

    def of(strength: float, seed: int) -> Estimate:
        return mean_cosine(strength * signal + normal(12, 2000, seed=seed))

    noise = [of(0.0, seed) for seed in range(1, 41)]
    spread = float(torch.tensor([each.mean for each in noise]).std())
    assert sum(each.error for each in noise) / len(noise) == pytest.approx(math.sqrt(2) * spread, rel=0.35)
    assert sum(abs(each.mean) > 3 * each.error for each in noise) <= 3
    some = of(0.3, 99)
    squares = (0.3 * signal).square()
    assert some.mean == pytest.approx(float((squares / (1 + squares)).mean()), abs=2 * some.error)
    assert some.mean > 5 * some.error


def test_fewer_than_three_turns_have_no_error() -> None:
    with pytest.raises(ValueError, match="at least 3 turns"):
        mean_cosine(normal(2, 5, seed=1))


def test_turns_without_a_gradient_count_as_0() -> None:
    assert mean_cosine(torch.zeros(4, 5)) == Estimate(0.0, 0.0)


def test_the_change_is_that_of_the_same_images() -> None:
    before = normal(400, seed=1)
    change = paired(before, before + 0.1 + normal(400, seed=2, scale=0.01))
    assert change.mean == pytest.approx(0.1, abs=3 * change.error)
    assert change.error == pytest.approx(0.01 / 20, rel=0.1)


@pytest.mark.parametrize("kind", [PolicyGradient, ExactGradient])
@pytest.mark.parametrize("gain", [1.0, -1.0])
def test_updates_raise_what_the_discriminator_likes_and_put_the_student_back(
    kind: type[PolicyGradient] | type[ExactGradient], gain: float
) -> None:
    settings = config(rollout={"group_size": 32}, policy_gradient={"learning_rate": 0.05})
    student = Linear(torch.zeros(SHAPE))
    place = field(student, Brightness(gain), settings).under(FINAL, "final")
    told: list[int] = []
    found = changes(place, kind("", FINAL), [2, 5], first_turn=3, before=place.checked(16), told=lambda: told.append(1))
    assert [change.updates for change in found] == [2, 5]
    assert [gain * change.score.mean > 3 * change.score.error for change in found] == [True, True]
    assert abs(found[1].score.mean) > abs(found[0].score.mean)
    assert len(told) == 5
    assert float(student.picture.detach().abs().max()) == 0


def test_a_blind_discriminator_changes_nothing_and_ends() -> None:
    place = field(Mixer(1), Constant(0.3))
    found = changes(place, ESTIMATORS["configured"], [3], first_turn=0, before=place.checked(8), told=lambda: None)
    assert found == [Change(3, Estimate(0.0, 0.0), Estimate(0.0, 0.0))]


def test_the_table_has_two_standard_errors_and_percentage_points() -> None:
    row = Row(
        title="mine",
        overrides={},
        updates=3,
        cosine=Estimate(0.021, 0.0011),
        learner=Forwards(144),
        actors=Forwards(768, 960),
        changes=[Change(12, Estimate(-0.051, 0.004), Estimate(0.0, 0.0))],
    )
    assert table({"mine": row}, [12, 24]).splitlines()[-1] == (
        "| mine | 3 | +0.021 ± 0.002 | -5.1 ± 0.8 points | - | 144 + 0 of D | 768 + 960 of D |"
    )


# The command --------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def open_field(checkpoint: Checkpoint, overrides: list[str], seed: int) -> Field:
        assert (checkpoint.step, overrides) == (7, ["policy_gradient.learning_rate=0.01"])
        settings = config(policy_gradient={"learning_rate": 0.01, "group_rows": 2})
        return field(Mixer(1), Judge(2), settings, seed=seed)

    monkeypatch.setattr(command, "checkpoint_at", lambda path: Checkpoint(path, 7, {}, ()))
    monkeypatch.setattr(command, "open_field", open_field)
    return tmp_path


def run(folder: Path, out: str, *more: str) -> int:
    words = [str(folder), "configured", "exact", "--turns", "3", "--updates", "1", "2", "--images", "4"]
    return command.main([*words, "--set", "policy_gradient.learning_rate=0.01", "--out", str(folder / out), *more])


def test_one_command_writes_the_document_and_prints_its_table(opened: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(opened, "a") == 0
    said = capsys.readouterr()
    document = json.loads((opened / "a" / "estimators.json").read_text())
    assert document["checkpoint"]["cycle"] == 7
    assert {name: [change["updates"] for change in row["changes"]] for name, row in document["rows"].items()} == {
        "configured": [1, 2],
        "exact": [1, 2],
    }
    assert "as the checkpoint's run is configured" in said.out
    assert "turns and updates: 10 of 10" in said.err


def test_the_seed_decides_every_figure(opened: Path) -> None:
    for out, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert run(opened, out, "--seed", seed) == 0
    rows = [json.loads((opened / out / "estimators.json").read_text())["rows"] for out in "abc"]
    assert rows[0] == rows[1] != rows[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "there is no estimator 'nonsense'; there are configured, "),
        (["--turns", "2"], "--turns must be 0, or at least 3"),
        (["--updates", "12", "3"], "--updates must ascend"),
        (["--images", "1"], "--images must lie in"),
        ([], "there is no folder /nowhere"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["/nowhere", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("estimators: ")
    assert said in line
