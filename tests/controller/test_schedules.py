"""The controller under random schedules of faults: its laws hold in each turn, and a controller that breaks one fails.

`make schedules` looks through ten thousand of them.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from advdmd_ray.controller.deadlines import Deadlines
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.learner_station import LearnerStation
from advdmd_ray.controller.lost_work import LostWork
from advdmd_ray.controller.overdue import Overdue
from advdmd_ray.controller.reward_station import RewardStation
from advdmd_ray.controller.rollout_station import RolloutStation
from advdmd_ray.controller.roster import Roster
from advdmd_ray.controller.telemetry import Telemetry
from advdmd_ray.errors import GangLostError, WeightsMismatchError
from advdmd_ray.runtime.training import Training
from advdmd_ray.stations.buffer.index import BufferIndex, CommitResult, Take
from advdmd_ray.stations.records import GroupInfo
from advdmd_ray.stations.weights.snapshot import Manifest
from advdmd_ray.stations.weights.store import WeightStore
from schedules import command
from schedules.command import Tally, look_through, main
from schedules.drawn import End, Schedule
from schedules.lives import lived
from schedules.processes import Node, Process

SCHEDULES, SEED = 240, 5
FAULTS = """bytes gone when fetched, bytes gone when scored, checkpoint refused, deadly (generate), dies (bring),
dies (generate), dies (hand over), dies (idle), dies (score), driver dies, driver stands still, hangs (bring),
hangs (generate), hangs (hand over), hangs (idle), hangs (score), late at the start, no room (bring),
node dies (bring), node dies (generate), node dies (hand over), node dies (idle), node dies (score), slow (generate),
slow (hand over), slow (score), stop, stuck (generate), stuck (hand over), stuck (score), values that are not finite,
worker added, worker removed,
checkpoint damaged, learner dies (idle), learner dies (join), learner dies (learn), learner dies (publish),
learner hangs (idle), learner hangs (join), learner hangs (learn), learner hangs (publish), learner slow (learn),
learner stuck (idle), learner stuck (learn), learner goes on from a checkpoint, learner goes on from the teacher,
ends with GangLostError, ends with GroupMismatchError, ends with WeightsMismatchError,
wrong: loads others, wrong: says others, wrong: ordinal, wrong: prompt id, wrong: seed, wrong: policy version,
wrong: reward version"""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """A controller to which all of this happens has much to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_every_ordinal_settles_once_and_every_law_holds_whatever_happens_whenever() -> None:
    tally = Tally()
    look_through(SCHEDULES, SEED, tally.run)
    assert tally.runs >= SCHEDULES
    never = {name.strip() for name in FAULTS.replace("\n", " ").split(",")} - set(+tally.times)
    assert never == set(), "each fault happens"


def test_a_life_may_end_before_its_first_cycle_at_a_checkpoint_behind_which_a_damaged_one_stands() -> None:
    nothing: frozenset[Any] = frozenset()
    schedule = Schedule(
        actors=1, workers=1, leases=1, groups=2, cycles=3, age=0, room=0, warm=0, at_once=False, lease_s=60.0,
        hang_s=10.0, checkpoints=1, keep=2, restarts=2, cycle_timeout_s=150.0, paces=(1.0,) * 5, spread=(1.0,),
        order=(0,), faults=(), gang=(), ends=(End("stop", 12), End("stop", 0)), refused=nothing, damaged=frozenset({1}),
        alike=False, gone=(), unread=nothing, not_finite=(), deadly=nothing, deaths=1, still=(), late=nothing,
        wishes=(), wrong=(),
    )  # fmt: skip
    met: Counter[str] = Counter()
    world = lived(schedule, met)
    assert (met["stop"], met["checkpoint damaged"], world.lives) == (2, 1, 3)


# Controllers that are wrong -----------------------------------------------------------------------------------------


def accepts_duplicates(patch: pytest.MonkeyPatch) -> None:
    def commit(self: BufferIndex[Any], info: GroupInfo, reference: Any) -> CommitResult:
        before = self._rows.get(info.ordinal)
        self._rows[info.ordinal] = info, reference
        self._bytes += info.size_bytes - (0 if before is None else before[0].size_bytes)
        if info.ordinal in self._missing:
            self._missing.remove(info.ordinal)
            self._arrived.append(info.ordinal)
        return CommitResult.ACCEPTED

    patch.setattr(BufferIndex, "commit", commit)


def forgets_lost_leases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(PromptFrontier, "lost", lambda *_: False)


def trains_on_stale_groups(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("advdmd_ray.controller.rollout_station.lease_limit", lambda *_: 10**6)
    patch.setattr(BufferIndex, "_unfit", lambda *_: False)


def counts_no_reserves(patch: pytest.MonkeyPatch) -> None:
    room = BufferIndex.room
    patch.setattr(BufferIndex, "room", lambda self, size_bytes, _: room(self, size_bytes, 0))


def gives_work_to_who_is_down(patch: pytest.MonkeyPatch) -> None:
    bring = Roster._bring

    def at_once(self: Roster, worker: str) -> None:
        bring(self, worker)
        self.station(worker).came(worker)

    patch.setattr(Roster, "_bring", at_once)


def does_not_wait_for_the_hung(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Overdue, "hanging", lambda *_: [])


def believes_any_weights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(WeightStore, "verify", lambda *_: None)


def takes_wrong_weights_for_a_loss(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("advdmd_ray.controller.loop.DeadlineError", WeightsMismatchError)


def takes_any_group(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("advdmd_ray.controller.reward_station.check_group", lambda *_: None)


def settles_before_it_has_trained(patch: pytest.MonkeyPatch) -> None:
    got = LearnerStation._got

    def early(self: LearnerStation, infos: Any, lost: Any) -> None:
        got(self, infos, lost)
        if not lost:
            self._frontier.settle([info.ordinal for info in infos])

    patch.setattr(LearnerStation, "_got", early)


def forgets_what_was_not_settled(patch: pytest.MonkeyPatch) -> None:
    state = PromptFrontier.state
    patch.setattr(PromptFrontier, "state", lambda self: state(self) | {"unsettled": [], "substitutions": []})


def forgets_an_actor_whose_hands_were_full(patch: pytest.MonkeyPatch) -> None:
    free = RolloutStation.free

    def forgets(self: RolloutStation, task: Any) -> None:
        if task in self._handing_over[task.worker]:
            self._handing_over[task.worker].remove(task)
        else:
            free(self, task)

    patch.setattr(RolloutStation, "free", forgets)


def loses_a_group_that_is_not_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RewardStation, "free", lambda *_: None)


def takes_what_is_there(patch: pytest.MonkeyPatch) -> None:
    def take(self: BufferIndex[Any], count: int, current_version: int) -> Take[Any]:
        ordinals = sorted(ordinal for ordinal in self._rows if ordinal not in self._taken)[:count]
        if len(ordinals) < count:
            return Take(None, ())
        self._taken.update(ordinals)
        return Take(tuple(self._rows[ordinal] for ordinal in ordinals), ())

    patch.setattr(BufferIndex, "take", take)


def counts_deaths_twice(patch: pytest.MonkeyPatch) -> None:
    lost = Telemetry.lost

    def twice(self: Telemetry, role: str, reissued: int, *, died: bool) -> None:
        lost(self, role, reissued, died=died)
        lost(self, role, 0, died=died)

    patch.setattr(Telemetry, "lost", twice)


def asks_nobody(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LostWork, "_give_up_who_hangs", lambda _: None)


def waits_for_a_gang_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Deadlines, "check", lambda *_: None)


def places_gangs_for_ever(patch: pytest.MonkeyPatch) -> None:
    init = Training.__init__

    def patient(self: Training, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self._most = 10**6

    patch.setattr(Training, "__init__", patient)


def goes_back_to_the_teacher(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Training, "_newest", lambda _: None)


def goes_back_to_what_it_began_with(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Training, "_newest", lambda self: self._from)


def goes_on_with_the_controller_of_the_gang_that_is_lost(patch: pytest.MonkeyPatch) -> None:
    go_back = Training._go_back

    def keeping(self: Training, lost: GangLostError) -> None:
        present = self._present
        go_back(self, lost)
        self._present = present

    patch.setattr(Training, "_go_back", keeping)


def counts_twice_what_is_done_again(patch: pytest.MonkeyPatch) -> None:
    init = Training.__init__

    def without_rewind(self: Training, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **(kwargs | {"rewind": lambda _: None}))

    patch.setattr(Training, "__init__", without_rewind)


def keeps_the_bytes_of_the_course_before(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("advdmd_ray.runtime.training.gc.collect", lambda: 0)


def knows_versions_by_their_number(patch: pytest.MonkeyPatch) -> None:
    publish, known = WeightStore.publish, dict[tuple[str, int], Manifest]()

    def the_first(self: WeightStore[Any], manifest: Manifest, payload: Any) -> None:
        publish(self, known.setdefault((manifest.stream, manifest.version), manifest), payload)

    patch.setattr(WeightStore, "publish", the_first)


# Of each, the seed of the draws: those of SEED come to some of them late, and the first that breaks a law is enough.
@pytest.mark.parametrize(
    ("wrong", "seed"),
    [
        (accepts_duplicates, 8),
        (forgets_lost_leases, SEED),
        (trains_on_stale_groups, SEED),
        (counts_no_reserves, SEED),
        (gives_work_to_who_is_down, SEED),
        (does_not_wait_for_the_hung, 21),
        (believes_any_weights, 21),
        (settles_before_it_has_trained, SEED),
        (forgets_what_was_not_settled, SEED),
        (forgets_an_actor_whose_hands_were_full, SEED),
        (loses_a_group_that_is_not_read, SEED),
        (takes_what_is_there, SEED),
        (counts_deaths_twice, SEED),
        (asks_nobody, 38),
        (takes_wrong_weights_for_a_loss, 11),
        (takes_any_group, 1),
        (waits_for_a_gang_for_ever, 26),
        (places_gangs_for_ever, 1),
        (goes_back_to_the_teacher, SEED),
        (goes_back_to_what_it_began_with, SEED),
        (goes_on_with_the_controller_of_the_gang_that_is_lost, SEED),
        (counts_twice_what_is_done_again, SEED),
        (keeps_the_bytes_of_the_course_before, SEED),
        (knows_versions_by_their_number, 1),
    ],
)
def test_a_controller_that_is_wrong_is_found_out(
    wrong: Callable[[pytest.MonkeyPatch], None], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong(monkeypatch)
    with pytest.raises((AssertionError, LookupError, ValueError)):
        look_through(SCHEDULES, seed, Tally().run, shrink=False)


# The command --------------------------------------------------------------------------------------------------------


def test_a_process_that_is_stopped_again_has_been_silent_since_the_first_time() -> None:
    process = Process("learner", Node())
    process.hangs(10.0, 5.0)
    process.hangs(12.0, 20.0)
    assert (process.hushed, process.silent) == (10.0, 35.0)
    process.hangs(40.0, 1.0)
    assert (process.hushed, process.silent) == (40.0, 41.0)


def test_the_command_says_how_many_runs_met_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schedules", "40", "--seed", "3"]) == 0
    first, head, *rows = capsys.readouterr().out.splitlines()
    assert "seed 3: 40 schedules" in first
    assert head.split() == ["times", "runs"]
    assert any(row.startswith("dies (generate)") and row.endswith("%") for row in rows)


def test_the_command_fails_with_the_smallest_schedule_that_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken_with_several_actors(schedule: Schedule, _: Counter[str]) -> SimpleNamespace:
        assert schedule.actors == 1, "gets work and is not up"
        return SimpleNamespace(lives=1, courses=1, trained=[], clock=SimpleNamespace(now=0.0))

    monkeypatch.setattr(command, "lived", broken_with_several_actors)
    assert main(["--schedules", "40"]) == 1
    said = capsys.readouterr().err
    assert "gets work and is not up" in said
    assert "actors=2," in said


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--schedules", "0"]) == 2
    assert capsys.readouterr().err == "schedules: --schedules must be at least 1, got 0\n"
