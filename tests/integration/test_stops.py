"""Ways in which a run ends early: Ctrl-C, SIGKILL, wrong bytes; and how it goes on."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from advdmd_ray.metrics.history import entries_of
from ray_runs import Started, Workplace, workplace, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CYCLES, GROUPS, GROUP_SIZE = 60, 4, 4


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*"))


def newest_facts(folder: Path) -> dict[str, Any]:
    path = folder / "checkpoints" / f"step-{checkpoints(folder)[-1]:08d}" / "manifest.json"
    return json.loads(path.read_text())["body"]["facts"]


def until_checkpoint_after(run: Started, folder: Path, step: int) -> int:
    """Waits for a checkpoint later than `step`, while the run goes on, and returns its step."""
    run.until(f"a checkpoint after {step}", lambda: [s for s in checkpoints(folder) if s > step], 240)
    return checkpoints(folder)[-1]


def cycle_of(folder: Path) -> int:
    """The last cycle that the run has told of."""
    metrics = folder / "metrics.jsonl"
    return max((entry["cycle"] for entry in entries_of(metrics)), default=0) if metrics.exists() else 0


def started(place: Workplace, config: Path, *arguments: str) -> Started:
    return place.run(config, f"run.cycles={CYCLES}", "learner.zero_stage=2", *arguments)


def test_ctrl_c_saves_its_cycle_and_with_a_killed_driver_leaves_nothing_behind_and_the_run_goes_on_to_its_end() -> None:
    with workplace() as place:
        config, folder = write_config(place.folder, "stops"), place.folder / "stops"

        run = started(place, config)
        run.until("a cycle", lambda: cycle_of(folder), 240)
        run.interrupt()
        assert run.ended(30) == 130, run.log()
        (first,) = checkpoints(folder)  # none was due yet
        assert first == cycle_of(folder)
        saved = folder / "checkpoints" / f"step-{first:08d}"
        line = f"stopped by Ctrl-C, at cycle {first} of {CYCLES}; {saved} is saved, and --resume auto goes on from it"
        assert run.log().splitlines()[-1] == f"advdmd: {line}"
        assert "Traceback" not in run.log()
        assert place.left_after(5) == []

        run = started(place, config, "--resume", "auto", "learner.checkpoint_cycles=2")
        second = until_checkpoint_after(run, folder, first)
        run.process.kill()
        run.ended(5)
        assert place.left_after(20) == []
        assert f"resuming {folder} from step-{first:08d}" in run.log()

        # The last part is short: the cycles of the run are fewer now.
        cycles = checkpoints(folder)[-1] + 2
        run = started(place, config, "--resume", "auto", f"run.cycles={cycles}")
        assert run.ended(300) == 0, run.log()
        assert re.search(rf"resuming {folder} from step-0*({second}|{cycles - 2})\b", run.log())
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["cycles"] == cycles
        # What was trained again after the last checkpoint is counted once; nothing is forgotten.
        assert summary["trajectories"]["trained"] == cycles * GROUPS * GROUP_SIZE
        assert summary["weights"]["mismatched"] == {"student": 0, "discriminator": 0}
        facts = newest_facts(folder)["controller"]
        frontier = facts["frontier"]
        assert (facts["updates"]["dmd"], facts["updates"]["fake_score"]) == (cycles, cycles)
        assert (frontier["next_ordinal"], frontier["unsettled"]) == (cycles * GROUPS, [])
        assert place.left_after(15) == []


# A driver that spoils what it hands on. What the patched method does is the test's.
SPOILING = """
import sys
from dataclasses import replace

import numpy as np
import ray

from advdmd_ray.stations.buffer.record_batch import decode_group, encode_group
from advdmd_ray.cli import main
from advdmd_ray.runtime.ray_shell import RayShell

SPOIL
sys.exit(main(["run", *sys.argv[1:]]))
"""

OTHER_BYTES = """
published = RayShell.publication

def publication(shell):
    manifests, student, discriminator = published(shell)
    *others, last = ray.get(discriminator)
    last = np.array(last)
    last[-1] ^= 1
    return manifests, student, ray.put((*others, last))

RayShell.publication = publication
"""

OTHER_MEANS = """
fetch = RayShell.fetch

def spoiled(pair):
    reference, scores = pair
    group = decode_group(ray.get(reference))
    return ray.put(encode_group(replace(group, means=group.means + np.float32(0.1)))), scores

RayShell.fetch = lambda shell, groups: fetch(shell, [(info, spoiled(pair)) for info, pair in groups])
"""


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        pytest.param(
            OTHER_BYTES,
            r"advdmd: failed: reward-0: discriminator version 0: the payload has digest [0-9a-f]{64}, "
            r"published was [0-9a-f]{64}: the bytes of tensor [a-z0-9_.]+ differ; nothing is saved; .*",
            id="weights that differ from the published ones",
        ),
        pytest.param(
            OTHER_MEANS,
            r"advdmd: failed: RatioError: learner rank 0: importance ratio differs from 1 by .*; see .*failure\.log; "
            r"nothing is saved; .*",
            id="actions whose probabilities the learner does not find",
        ),
    ],
)
def test_what_must_never_happen_stops_the_run_with_one_clear_line(spoil: str, line: str) -> None:
    with workplace() as place:
        config = write_config(place.folder, "spoiled")
        script = place.folder / "spoiled.py"
        script.write_text(SPOILING.replace("SPOIL\n", spoil))
        run = place.start([sys.executable, str(script), "--config", str(config), "learner.engine=torch"])
        assert run.ended(240) == 1, run.log()
        assert re.fullmatch(line, run.log().splitlines()[-1]), run.log()
        assert "Traceback" not in run.log()
        assert place.left_after(15) == []
        if "failure" in line:
            trace = (place.folder / "spoiled" / "failure.log").read_text()
            assert 'learner.py", line' in trace
            assert "\x1b" not in trace
