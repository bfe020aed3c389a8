"""An event costs the controller no more with many workers than with few, and a long run keeps no more than a short one.

Costs are counted in lines of the controller's code that run, which a walk over workers, leases or groups multiplies;
they are no times.
"""

import sys
from collections.abc import Sized
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from advdmd_ray import controller
from advdmd_ray.planning.virtual import Costs
from advdmd_ray.stations.buffer import index
from virtual_stage import VirtualStage

COUNTED = (str(Path(controller.__file__).parent), str(Path(index.__file__)))


def lines_per_group(actors: int, groups: int, *, cycle: float, reward: int) -> float:
    """Lines of the controller and the buffer's index that run for each settled group."""
    # The rollout of a cycle's groups takes one second a round; the learner may be faster or slower.
    costs = Costs(generate=1.0, score=0.05, cycle=cycle * groups / actors, spread=0.3)
    cycles = max(3, 400 // groups)
    stage = VirtualStage(costs, actors=actors, groups=groups, cycles=cycles, reward=reward)
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if event == "call":
            return trace if frame.f_code.co_filename.startswith(COUNTED) else None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        stage.run()
    finally:
        sys.settrace(before)
    return lines / (cycles * groups)


@pytest.mark.parametrize(
    ("cycle", "reward"),
    [
        pytest.param(0.3, 8, id="the learner waits for groups"),
        pytest.param(3.0, 8, id="actors wait for the learner"),
        pytest.param(0.3, 1, id="groups wait to be scored"),
    ],
)
def test_an_event_costs_the_same_with_many_workers_as_with_few(cycle: float, reward: int) -> None:
    few = lines_per_group(8, 8, cycle=cycle, reward=reward)
    many = lines_per_group(200, 400, cycle=cycle, reward=reward)
    assert many <= 1.3 * few


def sizes(*owners: object) -> dict[str, int]:
    """How much each container of these objects holds."""
    return {
        f"{type(owner).__name__}.{name}": len(value)
        for owner in owners
        for name, value in vars(owner).items()
        if isinstance(value, Sized) and not isinstance(value, str)
    }


def test_nothing_that_the_controller_keeps_grows_with_the_length_of_a_run() -> None:
    def after(cycles: int) -> dict[str, int]:
        stage = VirtualStage(
            Costs(generate=1.0, score=0.1, cycle=0.7, spread=0.3), actors=8, groups=8, cycles=cycles, age=2, reward=2
        )
        stage.run()
        loop, telemetry = stage.controller, stage.controller._telemetry
        owners = (loop, loop._under_way, loop._learner, telemetry, telemetry.stations, telemetry._batch)
        return sizes(*owners, stage.frontier, stage.buffer)

    long, short = after(120), after(20)
    assert {name: size for name, size in long.items() if size > short[name] + 2} == {}
