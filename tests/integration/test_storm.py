"""A run on a cluster of three nodes that loses its learner and a node, and is stopped by its owner.

That a run goes on after such a stop is in test_cluster_demo.py; what else a storm does is in docs/RELIABILITY.md.
"""

import json
import sys
from typing import Any

import pytest

from ray_runs import workplace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEED = 12354
"""Whose first faults are these, the first while a checkpoint is being written."""
FAULTS = ["learner rank SIGKILL", "node loss"]


def test_a_run_that_loses_its_learner_and_a_node_does_everything_once_and_leaves_nothing() -> None:
    with workplace() as place:
        out = place.folder / "storm"
        storm = place.start(
            [
                *(sys.executable, "-m", "benchmarks.endurance.storm", "--seed", str(SEED), "--out", str(out)),
                # Other files' tests have the cores too: what is asked is that it comes back, not how soon.
                *("--faults", str(len(FAULTS)), "--actors", "1", "--stop", "--bound", "150"),
            ]
        )
        assert storm.ended(500) == 0, storm.log()
        document: dict[str, Any] = json.loads((out / "storm.json").read_text())
        strikes = document["strikes"]
        assert [strike["kind"] for strike in strikes] == FAULTS
        assert all(strike["recovered_s"] is not None for strike in strikes), storm.log()
        assert [line["says"] for line in document["verdict"] if not line["holds"]] == []
        (stopped,) = document["ends"]
        assert stopped["code"] == 143
        assert "stopped by SIGTERM, at cycle" in stopped["said"]
        assert "is saved, and --resume auto goes on from it" in stopped["said"]
        assert "Traceback" not in "".join(log.read_text() for log in out.glob("log-*.txt"))
        assert place.left_after(5) == []
