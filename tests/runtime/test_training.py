"""A run whose gang is lost goes on from its newest intact checkpoint, and ends when that is in vain."""

import gc
import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.errors import CheckpointError, DeadlineError, GangLostError, WorkerLostError
from advdmd_ray.learner.checkpoint import Checkpoint, save_checkpoint, saved_steps
from advdmd_ray.metrics.series import Sample
from advdmd_ray.runtime.training import Training

CYCLES = 10


@dataclass
class Part:
    """What one gang is to do: save these versions, then be lost at the last of them, or bring the run to its end."""

    saves: Sequence[int]
    lost_at: int | None


@dataclass
class World:
    """Stands for controller, shell and hub, and notes what is asked of them, in order."""

    folder: Path
    parts: list[Part]
    refused: list[Exception] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)

    def loops(self, checkpoint: Checkpoint | None) -> "FakeLoops":
        self.events.append(("loops", 0 if checkpoint is None else checkpoint.step))
        return FakeLoops(self, self.parts.pop(0), 0 if checkpoint is None else checkpoint.step)

    def restart(self, checkpoint: Path | None) -> None:
        self.events.append(("restart", None if checkpoint is None else checkpoint.name))
        assert checkpoint is None or checkpoint.is_absolute()
        if self.refused:
            raise self.refused.pop(0)

    def record(self, samples: Sequence[Sample], cycle: int | None = None) -> None:
        assert cycle is None
        self.events += [("record", sample.name, sample.value) for sample in samples]

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        self.events.append(("rewind", 0 if checkpoint is None else checkpoint.step))

    def training(self, restarts: int, checkpoint: Checkpoint | None = None, *, stopping: bool = False) -> Training:
        config = Config.model_validate({"learner": {"restarts": restarts}})
        shell: Any = self
        return Training(
            config, shell, self, checkpoint, loops=self.loops, rewind=self.rewind, stopping=lambda: stopping
        )

    def done(self, what: str) -> list[Any]:
        return [event[1] for event in self.events if event[0] == what]


class FakeLoops:
    """A controller that does its part."""

    def __init__(self, world: World, part: Part, version: int) -> None:
        self._world, self._part, self.version = world, part, version
        self.me = self  # its parts name each other

    @property
    def saved(self) -> list[Path]:
        return [path for step, path in reversed(saved_steps(self._world.folder).items()) if step <= self.version]

    def run(self) -> int:
        for step in self._part.saves:
            assert step > self.version
            facts = {"learner": {"version": step}, "controller": {}}
            save_checkpoint(self._world.folder, step, {"w": {"w": torch.tensor(float(step))}}, facts, 2)
            self.version = step
        if self._part.lost_at is not None:
            self.version = self._part.lost_at
            raise GangLostError("learner: a rank died")
        self.version = CYCLES
        return CYCLES


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def test_the_loops_begin_anew_where_the_newest_checkpoint_left_them(tmp_path: Path) -> None:
    world = World(tmp_path, [Part((2, 4), 5), Part((), None)])
    training = world.training(1)
    assert training.run() == training.version == CYCLES
    assert world.events == [
        ("loops", 0),
        ("restart", step_name(4)),
        ("rewind", 4),
        ("loops", 4),
        ("record", "advdmd_learner_restarts", 1),
    ]


def test_a_gang_that_is_lost_before_the_first_checkpoint_begins_with_the_teacher(tmp_path: Path) -> None:
    world = World(tmp_path, [Part((), 3), Part((), None)])
    assert world.training(1).run() == CYCLES
    assert world.events[1:4] == [("restart", None), ("rewind", 0), ("loops", 0)]


def damaging(training: Training, folder: Path, *steps: int) -> None:
    """Turns a bit of these checkpoints when the present loops are over; their size stays."""
    loops: Any = training._present
    run = loops.run

    def damaged() -> int:
        try:
            return run()
        finally:
            for step in steps:
                file = folder / step_name(step) / "w.safetensors"
                data = file.read_bytes()
                file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    loops.run = damaged


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path, [Part((2, 4), 5), Part((), None)])
    training = world.training(1)
    damaging(training, tmp_path, 4)
    with caplog.at_level(logging.WARNING):
        assert training.run() == CYCLES
    assert world.done("restart") == [step_name(2)]
    assert "damaged checkpoint passed over" in caplog.text


def test_it_may_be_one_from_before_the_loops_and_does_not_count_as_newer(tmp_path: Path) -> None:
    world = World(tmp_path, [Part((2, 4), 5), Part((), 5), Part((), None)])
    training = world.training(1)
    loops = training._loops

    def damaging_4(checkpoint: Checkpoint | None) -> FakeLoops:
        training._present = loops(checkpoint)
        damaging(training, tmp_path, 4)
        return training._present  # pyright: ignore[reportReturnType]

    training._loops = damaging_4
    with pytest.raises(GangLostError, match="1 times in a row without a newer checkpoint"):
        training.run()
    assert world.done("restart") == [step_name(4)]
    assert training._from is not None
    assert training._from.step == 2


def test_a_run_whose_checkpoints_are_all_damaged_ends_and_does_not_begin_anew(tmp_path: Path) -> None:
    world = World(tmp_path, [Part((2, 4), 5), Part((), None)])
    training = world.training(1)
    damaging(training, tmp_path, 2, 4)
    with pytest.raises(CheckpointError, match=f"no checkpoint is whole: .*{step_name(4)}.*{step_name(2)}"):
        training.run()
    assert world.done("restart") == []


def test_loops_that_are_over_are_gone_before_the_next_run(tmp_path: Path) -> None:
    world = World(tmp_path, [Part((2,), 3), Part((), None)])
    training = world.training(1)
    before = weakref.ref(training._present)
    gc.disable()  # or the collector may come by chance
    logging.disable(logging.WARNING)  # or pytest keeps the error that ended them, to show it
    try:
        training.run()
        assert before() is None
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


@given(progress=st.lists(st.booleans(), max_size=8), restarts=st.integers(0, 3))
def test_only_losses_in_a_row_without_a_newer_checkpoint_end_the_run(
    progress: list[bool], restarts: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parts, version, in_vain, ends = list[Part](), 0, 0, False
    for saves in progress:
        version += saves
        parts.append(Part((version,) if saves else (), version))
        in_vain = 1 if saves else in_vain + 1
        ends = ends or in_vain > restarts
    world = World(tmp_path_factory.mktemp("run"), [*parts, Part((), None)])
    training = world.training(restarts)
    if ends:
        with pytest.raises(GangLostError, match=f"a rank died.*learner.restarts={restarts} allows no other"):
            training.run()
    else:
        assert training.run() == CYCLES
        assert len(world.done("restart")) == len(progress)


@pytest.mark.parametrize("refusal", [WorkerLostError("learner-1 died"), DeadlineError("learner-0 not up")])
def test_a_gang_that_does_not_come_up_counts_as_one_that_was_lost(tmp_path: Path, refusal: Exception) -> None:
    lucky = World(tmp_path / "lucky", [Part((), 3), Part((), None)], [refusal])
    assert lucky.training(2).run() == CYCLES
    assert lucky.done("restart") == [None, None]
    unlucky = World(tmp_path / "unlucky", [Part((), 3)], [refusal, refusal])
    with pytest.raises(GangLostError, match=f"^{refusal}, 2 times in a row without a newer checkpoint; learner.res"):
        unlucky.training(2).run()
    assert unlucky.done("loops") == [0]


def test_a_run_that_is_asked_to_stop_starts_nothing_again(tmp_path: Path) -> None:
    world = World(tmp_path, [Part((2,), 3)])
    with pytest.raises(GangLostError, match=r"^learner: a rank died$"):
        world.training(3, stopping=True).run()
    assert world.done("restart") == []
