"""A group that is not finite costs an attempt, its prompt at last its place, and a broken student ends the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray.config import Config
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.prompt_order import work_of
from advdmd_ray.errors import BytesLostError, DivergedError
from advdmd_ray.stations.buffer.quarantined import Quarantined
from advdmd_ray.stations.records import Lease
from fake_shell import FakeShell, Stage

SICK = work_of(0, 10, 2).prompt_id  # the prompt of ordinal 2


def config(cycles: int = 4, **quarantine: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"cycles": cycles},
            "rollout": {"actors": 3, "group_size": 4, "groups_per_cycle": 2, "max_policy_age": 1, "lease_s": 1e6},
            "reward": {"workers": 2},
            "buffer": {"take_timeout_s": 1e6},
            "learner": {"engine": "torch", "checkpoint_cycles": 1},
            "evaluation": {"grid_cycles": 0},
            "quarantine": quarantine,
        }
    )


def issued(stage: Stage, ordinal: int) -> list[Lease]:
    return [lease for lease in stage.shell.leases if lease.ordinal == ordinal]


def of_prompt(prompt: int, finder: str = "rollout") -> Callable[[Lease, str], bool]:
    return lambda lease, worker: lease.prompt_id == prompt and worker.startswith(finder)


@pytest.mark.parametrize("hand_over_s", [None, 1.0])
def test_a_group_that_is_not_finite_is_made_again_with_the_same_prompt_and_seed_and_the_run_goes_on(
    hand_over_s: float | None,
) -> None:
    stage = Stage(config(), faulty=lambda lease, _: lease.ordinal == 2 and not lease.attempt, hand_over_s=hand_over_s)
    assert stage.run() == 4
    first, second = issued(stage, 2)
    assert (first.prompt_id, first.seed, second.attempt) == (second.prompt_id, second.seed, 1)
    assert stage.kept.files == [Quarantined(first, "latents: contains NaN", stage.kept.files[0].worker)]
    assert stage.shell.brought == [first], "its values are fetched once, to be written"
    assert stage.shell.cycles == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert stage.hub.total("advdmd_rollout_quarantined_total", reason="not_finite") == 1
    assert stage.hub.total("advdmd_rollout_leases_reissued_total", reason="not_finite") == 1
    assert stage.hub.total("advdmd_rollout_prompts_substituted_total") == 0


@pytest.mark.parametrize("finder", ["rollout", "reward"])
def test_a_prompt_whose_groups_are_never_finite_loses_its_place_after_its_attempts(finder: str) -> None:
    stage = Stage(config(attempts=3), faulty=of_prompt(SICK, finder))
    assert stage.run() == 4
    works = [work_of(0, 10, 2)] * 3 + [work_of(0, 10, 2, 1)]
    assert [(lease.prompt_id, lease.seed) for lease in issued(stage, 2)] == [(w.prompt_id, w.seed) for w in works]
    assert stage.shell.cycles == [(0, 1), (2, 3), (4, 5), (6, 7)], "the learner's order is what it was"
    assert [kept.lease.attempt for kept in stage.kept.files] == [0, 1, 2]
    assert {kept.worker.partition("-")[0] for kept in stage.kept.files} == {finder}
    assert stage.hub.total("advdmd_rollout_prompts_substituted_total") == 1
    assert stage.hub.total("advdmd_buffer_commits_total") == 8


def test_a_prompt_that_always_ends_its_process_loses_its_place_and_leaves_its_lease() -> None:
    stage = Stage(config(processes=3), deadly=lambda lease: lease.prompt_id == SICK)
    assert stage.run() == 4
    assert [lease.prompt_id == SICK for lease in issued(stage, 2)] == [True, True, True, False]
    (kept,) = stage.kept.files
    assert kept.lease == issued(stage, 2)[2]
    assert "3 processes ended at it" in kept.fault
    assert (kept.batches, stage.shell.brought) == ((), [])
    assert stage.hub.total("advdmd_rollout_quarantined_total", reason="process_ended") == 1
    assert stage.hub.total("advdmd_run_workers_lost_total") == 3


def test_bytes_that_are_gone_are_not_a_death_of_the_prompts_making() -> None:
    class Gone(FakeShell):
        """The group of ordinal 2 is gone when the reward worker wants it, seven times."""

        times = 0

        def outcome(self, task: Any) -> Any:
            payload = task.payload
            outcome = super().outcome(task)
            if payload and payload[0] == "scored" and payload[1].ordinal == 2 and self.times < 7:
                self.times += 1
                raise BytesLostError("gone with the node")
            return outcome

    stage = Stage(config(processes=2))
    stage.over(Gone(stage.config, stage.clock)).run()
    assert len({lease.prompt_id for lease in issued(stage, 2)}) == 1
    assert stage.kept.files == []


def test_a_broken_student_stops_the_run_and_the_checkpoint_before_it_is_named() -> None:
    stage = Stage(config(cycles=20, recent=8, share=0.5), faulty=lambda lease, _: lease.policy_version >= 5)
    with pytest.raises(DivergedError) as error:
        stage.run()
    line = str(error.value)
    assert line.startswith(
        "5 of the last 8 groups are not finite (latents: contains NaN): the student itself is broken"
    )
    assert "since version 5 or before" in line
    assert "advdmd replay" in line
    assert "the last good checkpoint is step-4" in line
    assert "\n" not in line


def test_with_a_share_of_0_the_first_group_that_is_not_finite_ends_the_run() -> None:
    stage = Stage(config(share=0.0), faulty=lambda lease, _: lease.ordinal == 3)
    with pytest.raises(DivergedError, match="1 of the last"):
        stage.run()


def test_a_disk_that_refuses_costs_the_file_and_not_the_run(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(config(), faulty=lambda lease, _: lease.ordinal == 2 and not lease.attempt)

    def refuses(kept: Quarantined) -> Path | None:
        raise OSError(28, "No space left on device")

    stage.kept.keep = refuses
    assert stage.run() == 4
    assert "no file of it could be written: [Errno 28] No space left on device" in caplog.text


def test_a_resumed_run_makes_the_substitute_of_an_ordinal_that_has_not_settled() -> None:
    stage = Stage(config(attempts=1), faulty=of_prompt(work_of(0, 10, 3).prompt_id))
    seen: list[dict[str, Any]] = []
    stage.shell.before_lease = lambda _: seen.append(stage.frontier.state())
    stage.run()
    state = next(state for state in seen if state["substitutions"])
    restored = PromptFrontier.from_state(state, run_seed=0, prompts=10, lease_s=1.0)
    leases = [restored.lease(0.0, "a", 0, 0) for _ in state["unsettled"]]
    (again,) = [lease for lease in leases if lease is not None and lease.ordinal == 3]
    assert again.prompt_id == work_of(0, 10, 3, 1).prompt_id
