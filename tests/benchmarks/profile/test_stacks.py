"""What a process was busy with, from its sampled stacks."""

import pytest

from benchmarks.profile.stacks import ELSEWHERE, RATE, busy, table

OUTER = "<module> (ray/default_worker.py:1);Worker.main_loop (ray/_private/worker.py:1059)"
FORWARD = f"{OUTER};Rank.cycle (advdmd_ray/learner/worker.py:9);Net.forward (/x/advdmd_ray/models/base.py:2)"


def test_time_goes_to_the_innermost_function_of_ours_and_the_libraries_below_it() -> None:
    lines = [f"{FORWARD};linear (torch/nn/modules/linear.py:130) 30", f"{FORWARD} 10", "gc (json/x.py:1) 5"]
    seen = busy("learner rank", lines, seconds=2)
    assert seen.shares == {"models/base.py: Net.forward": 40 / (2 * RATE), ELSEWHERE: 5 / (2 * RATE)}
    assert seen.total == pytest.approx(45 / (2 * RATE))
    assert [*seen.shares] == sorted(seen.shares, key=lambda name: -seen.shares[name])


def test_an_actor_that_waits_for_work_is_not_busy_and_stacks_that_could_not_be_read_are_libraries() -> None:
    assert busy("hub", [f"{OUTER} 70", " 3"], seconds=1).shares == {ELSEWHERE: 3 / RATE}


def test_what_is_no_stack_is_refused() -> None:
    with pytest.raises(ValueError, match="required, got 'nonsense'"):
        busy("hub", ["nonsense"], seconds=1)


def test_the_table_names_the_most_of_each_process() -> None:
    lines = [f"f{index} (advdmd_ray/a.py:1) {10 * (index + 1)}" for index in range(4)]
    text = table([busy("driver", lines, seconds=4)], rows=2)
    assert text.splitlines() == ["driver: 0.50 cores", "   20.0%  a.py: f3", "   15.0%  a.py: f2"]
