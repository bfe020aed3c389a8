"""The main job on a local Ray with two DeepSpeed ranks, while workers hang and are killed and /metrics is read."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from psutil import Process

from advdmd_ray.runs.folder import RunFolder
from ray_runs import Started, Workplace, workplace, write_config
from tensorboard_files import file_says, read_back, scalars

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Enough cycles for the replaced workers to work again before the end. While nobody scores the run stands still, so who
# is lost beside the reward worker takes no cycles to start again.
CYCLES, GROUPS, GROUP_SIZE, LEVELS, AGE_CAP = 12, 4, 4, 4, 2
ENDED = ("RolloutActor", "RewardActor", "HubActor")


@dataclass
class Run:
    """What is left to look at when the run has ended."""

    folder: Path
    log: str
    exit_code: int
    scrape: dict[str, Metric]
    reborn: set[str] = field(default_factory=set)
    leftovers: Sequence[str] = ()

    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    def last(self, name: str) -> dict[str, Any]:
        """The last value in metrics.jsonl of every series of this name, by its labels as text."""
        found = {}
        for line in self.lines():
            for key, value in line["values"].items():
                if key.partition("{")[0] == name:
                    found[key.partition("{")[2].rstrip("}")] = value
        return found

    def controller_facts(self) -> dict[str, Any]:
        newest = max((self.folder / "checkpoints").glob("step-*"))
        return json.loads((newest / "manifest.json").read_text())["body"]["facts"]["controller"]


def scraped(run: Started) -> dict[str, Metric]:
    """One scrape of the endpoint that the run printed, parsed; empty before there is one."""
    printed = re.search(r"metrics at (http://\S+)", run.log())
    if printed is None:
        return {}
    try:
        with urllib.request.urlopen(printed[1], timeout=10) as page:  # noqa: S310 - our own http address
            text = page.read().decode()
    except urllib.error.URLError:
        return {}
    return {family.name: family for family in text_string_to_metric_families(text)}


def cycle_of(families: dict[str, Metric]) -> float:
    family = families.get("advdmd_run_cycle")  # not there before it has a value
    return 0.0 if family is None else family.samples[0].value


def scraped_at_cycle(run: Started, cycle: int) -> dict[str, Metric]:
    def page() -> dict[str, Metric]:
        families = scraped(run)
        return families if cycle_of(families) >= cycle else {}

    return run.until(f"cycle {cycle}", page, 240)


def end_workers(place: Workplace) -> set[int]:
    """SIGSTOP to the reward worker, SIGKILL to one rollout actor and the hub; what is alive of their kinds before."""
    before = {kind: place.processes(f"ray::{kind}") for kind in ENDED}
    before["RewardActor"][0].suspend()
    before["RolloutActor"][0].kill()
    before["HubActor"][0].kill()
    return {process.pid for processes in before.values() for process in processes}


def two(processes: list[Process]) -> list[Process]:
    return processes if len(processes) == 2 else []


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with workplace() as place:
        config = write_config(place.folder, "two")
        started = place.run(
            config,
            f"run.cycles={CYCLES}",
            "rollout.actors=2",
            "learner.ranks=2",
            "learner.zero_stage=1",
            "learner.checkpoint_cycles=4",
            "evaluation.grid_cycles=5",
            "ray.hang_s=6",
            "metrics.sinks=[tensorboard]",
            # Two CPUs in all, for which two workers judge.
            "rollout.num_cpus=0.5",
            "learner.num_cpus=0.375",
        )
        scraped_at_cycle(started, 2)
        before = end_workers(place)
        reborn: set[str] = set()

        def replaced() -> bool:
            reborn.update(k for k in ENDED for p in place.processes(f"ray::{k}") if p.pid not in before)
            return reborn == set(ENDED)

        started.until("new workers in place of the one that hangs and the one that is dead", replaced, 120)
        families = scraped_at_cycle(started, 4)
        judges = started.until("two workers that judge", lambda: two(place.processes("ray::JudgeActor")), 300)
        judges[0].kill()
        exit_code = started.ended(300)
        leftovers = place.left_after(15)
        yield Run(place.folder / "two", started.log(), exit_code, families, reborn, leftovers)


def test_a_run_whose_workers_hang_and_are_killed_ends_with_exit_code_0_and_its_report(run: Run) -> None:
    assert run.exit_code == 0, run.log
    assert run.reborn == set(ENDED)
    assert (run.folder / "report.html").stat().st_size > 10_000
    assert run.log.rstrip().endswith("report.html")
    assert (run.folder / "student" / "model_index.json").is_file()
    assert list((run.folder / "grids").glob("*.png"))


def test_the_start_of_a_run_is_told_by_its_stages(run: Run) -> None:
    said = re.search(r"^first update after ([\d.]+) s: (.*)$", run.log, re.MULTILINE)
    assert said is not None, run.log
    stages = run.last("advdmd_run_start_seconds")
    assert sum(stages.values()) == pytest.approx(float(said[1]), abs=0.06)
    for stage in ("imports", "ray", "texts", "workers", "first_groups", "first_cycle"):
        assert stages[f"stage={stage}"] > 0.01
    assert all(name in said[2] for name in ("imports and checks", "Ray", "workers", "first cycle"))


def test_a_run_that_loses_one_of_the_workers_that_judge_is_judged_by_the_other(run: Run) -> None:
    judge = run.summary()["judge"]
    assert judge["student"]["images"] == judge["teacher"]["40"]["images"] == 20
    assert 'href="comparison.png"' in (run.folder / "report.html").read_text()


def test_nothing_of_a_finished_run_is_left_running(run: Run) -> None:
    assert run.leftovers == []


def test_both_objectives_and_both_critics_made_updates_on_two_ranks(run: Run) -> None:
    summary = run.summary()
    assert summary["cycles"] == CYCLES
    assert min(summary["updates"].values()) > 0, summary["updates"]
    assert summary["ratio_deviation"] <= 1e-6


def test_every_load_is_verified_and_every_worker_follows_the_versions(run: Run) -> None:
    weights = run.summary()["weights"]
    assert weights["mismatched"] == {"student": 0, "discriminator": 0}
    assert min(weights["verified"].values()) > 0
    assert weights["published"] == {"student": CYCLES + 1, "discriminator": CYCLES + 1}
    assert weights["workers"].keys() == {"rollout-0", "rollout-1", "reward-0"}
    last_used = CYCLES - 1  # version CYCLES is published when there is nothing left to generate
    for worker, versions in weights["workers"].items():
        assert min(versions.values()) >= last_used - AGE_CAP, (worker, versions)


def test_the_figures_of_a_run_whose_hub_is_killed_are_whole_and_counted_once(run: Run) -> None:
    lines = run.lines()
    assert [line["record"] for line in lines] == list(range(1, len(lines) + 1))
    assert [line["cycle"] for line in lines] == sorted(line["cycle"] for line in lines)
    seen = sum(len(line["values"].get("advdmd_rollout_seconds", [])) for line in lines)
    assert run.last("advdmd_rollout_groups_total")[""] == seen >= CYCLES * GROUPS
    # It was killed before this scrape, which is of another process at the same place.
    assert cycle_of(run.scrape) >= 4


def test_tensorboard_has_each_cycle_of_a_run_whose_hub_is_killed_once_and_the_pictures(run: Run) -> None:
    read = read_back(run.folder / "tensorboard")
    assert scalars(read) == file_says(run.folder / "metrics.jsonl")
    assert [each.step for each in read.Images("samples/grid")] == [
        version for version, _ in RunFolder(run.folder).grids()
    ]
    assert len(read.Images("samples/comparison")) == 1


def test_no_group_is_dropped_for_age(run: Run) -> None:
    assert sum(run.last("advdmd_buffer_dropped_groups_total").values()) == 0
    assert run.summary()["trajectories"]["dropped"]["groups_too_old"] == 0


def test_workers_that_end_are_counted_once_and_their_leases_are_issued_again(run: Run) -> None:
    assert run.last("advdmd_run_workers_lost_total") == {"role=rollout": 1, "role=reward": 1}
    assert sum(run.last("advdmd_rollout_leases_reissued_total").values()) >= 1
    assert run.last("advdmd_rollout_leases_issued_total")[""] > CYCLES * GROUPS


def test_every_ordinal_settles_exactly_once(run: Run) -> None:
    frontier = run.controller_facts()["frontier"]
    assert (frontier["next_ordinal"], frontier["unsettled"]) == (CYCLES * GROUPS, [])
    assert run.last("advdmd_buffer_commits_total")[""] == CYCLES * GROUPS
    assert run.summary()["trajectories"]["trained"] == CYCLES * GROUPS * GROUP_SIZE


def test_a_scrape_during_the_run_shows_rewards_per_level_the_buffer_and_the_weights(run: Run) -> None:
    families = run.scrape
    rewards = {sample.labels["level"] for sample in families["advdmd_reward_mean"].samples}
    assert rewards == {str(level) for level in range(1, LEVELS + 1)}
    assert families["advdmd_buffer_capacity_bytes"].samples[0].value > 0
    held = families["advdmd_buffer_bytes"].samples[0].value
    assert 0 <= held <= families["advdmd_buffer_capacity_bytes"].samples[0].value
    published = {s.labels["stream"]: s.value for s in families["advdmd_weights_published_version"].samples}
    assert published.keys() == {"student", "discriminator"}
    assert min(published.values()) >= 4
    loaded = {s.labels["stream"]: s.value for s in families["advdmd_weights_verified"].samples if "total" in s.name}
    assert min(loaded[stream] for stream in published) > 0


def test_the_log_of_a_run_is_free_of_traces_and_of_noise(run: Run) -> None:
    expected = re.compile(
        r"new run in |started a local Ray|metrics at http|see it live: |2 rollout actors, |two: (cycle |\d+:\d\d \w)"
        r"|first update after |the learner's ranks reduce over cpu:gloo$|images for the judge: \d+ of 100"
        r"|workers that are up: \d of 5$|two: \d+ of \d+ cycles in |.* is better\): student \d"
        r"|student: |to train on: advdmd run |look at "
        # Four were ended: Ray says that processes died, and who gave them work what becomes of it.
        r"|\(raylet\) A worker died or was killed|\(raylet\) .* Failed to send wait complete"
        r"|WARNING advdmd_ray\.controller\.(loop|lost_work): (rollout|reward)-\d[: ]"
        r"|WARNING advdmd_ray\.runtime\.dealing: .* another worker (does it again|takes its place)$"
        r"|WARNING advdmd_ray\.runtime\.remote_hub: (the metrics hub: .*; another takes its place$|another metrics hub)"
    )
    assert [line for line in run.log.splitlines() if line.strip() and not expected.match(line)] == []
