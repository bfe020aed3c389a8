"""The plan beside runs: who sets the pace in each case, which cycles count, and that every case can run."""

import json
from pathlib import Path

import pytest

from advdmd_ray.planning.forecast import forecast
from benchmarks import plan_check
from benchmarks.host.rows.loop import LAST, WARM, Loop
from benchmarks.plan_check import CASES, DIGITS, LARGE_GROUPS, SLEEPERS, Sleepers, compared, main


@pytest.mark.parametrize("name", DIGITS)
def test_a_case_of_the_digits_is_a_run_that_a_user_could_start(name: str, tmp_path: Path) -> None:
    config = Loop("digits", 3, tuple(DIGITS[name])).config(tmp_path)
    assert name.startswith(f"{config.rollout.actors} actor")
    assert (config.rollout.group_size > 8) == (LARGE_GROUPS[-1] in DIGITS[name])


@pytest.mark.parametrize("name", [name for name, size in SLEEPERS.items() if size.actors < 100])
def test_actors_that_sleep_set_the_pace(name: str, tmp_path: Path) -> None:
    size = SLEEPERS[name]
    planned = forecast(size.config(3, tmp_path), size.costs, group_bytes=1)
    waits = {role: 1 - shares["busy"] for role, shares in planned.shares.items()}
    assert min(waits, key=lambda role: waits[role]) == "rollout"
    assert ("age cap" in name) == (planned.shares["rollout"]["blocked"] > 0.1)


def test_the_first_and_last_cycles_do_not_count_and_a_plan_like_the_run_has_a_ratio_of_one(tmp_path: Path) -> None:
    size = Sleepers(1, generate=0.5, cycle=0.1)  # 8 groups of one actor: 4 s a cycle
    config = size.config(10, tmp_path)
    assert config.run.cycles == WARM + 10 + LAST
    ends = [100.0 * cycle for cycle in range(1, WARM)]
    ends += [1000.0 + 4.0 * cycle for cycle in range(11)]
    config.folder.mkdir(parents=True)
    lines = []
    for cycle, end in enumerate([*ends, 9e9, 9e9], start=1):
        # Before the cycles that count all wait, and then the actor is busy for 9 seconds of 10.
        busy = 0.9 * max(0.0, end - ends[WARM - 1])
        states = {"busy": busy, "waiting": end - busy}
        seconds = {
            f"advdmd_run_role_seconds_total{{role={role},state={state}}}": total
            for role in ("rollout", "reward", "learner")
            for state, total in states.items()
        }
        values = {"advdmd_run_elapsed_seconds": end, **seconds}
        lines.append(json.dumps({"time": 0.0, "cycle": cycle, "values": values}) + "\n")
    (config.folder / "metrics.jsonl").write_text("".join(lines))
    seen = compared(config, size.costs, 10)
    assert seen["run_s"] == pytest.approx(4.0)
    assert seen["plan_over_run"] == pytest.approx(1.0, abs=0.05)
    assert seen["rollout_busy_run"] == pytest.approx(0.9)
    assert seen["rollout_busy_plan"] > 0.95


def test_the_cases_that_are_named_are_run_and_an_unknown_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    fakes = {name: lambda cycles, name=name: {"cycles_run": ran.append(name) or cycles} for name in CASES}
    monkeypatch.setattr(plan_check, "CASES", fakes)
    main(["--cycles", "7", "2 actors", "1 sleeping actor"])
    assert ran == ["2 actors", "1 sleeping actor"]
    assert '"cycles_run": 7' in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["3 actors"])
    assert "no case '3 actors'" in capsys.readouterr().err
