"""What must never happen, over Ray: groups that differ from what was handed on end a run.

The same in one process, and weights that differ: tests/runtime/test_spoiled.py.
"""

import re
import sys

import pytest

from ray_runs import workplace, write_config

pytestmark = [pytest.mark.slow, pytest.mark.wide, pytest.mark.timeout(600)]

# A driver that spoils what it hands on.
SPOILING = """
import sys
from dataclasses import replace

import numpy as np
import ray

from advdmd_ray.cli import main
from advdmd_ray.runtime.ray_shell import RayShell
from advdmd_ray.stations.buffer.record_batch import decode_group, encode_group

fetch = RayShell.fetch

def spoiled(pair):
    reference, scores = pair
    group = decode_group(ray.get(reference))
    return ray.put(encode_group(replace(group, means=group.means + np.float32(0.1)))), scores

RayShell.fetch = lambda shell, groups: fetch(shell, [(info, spoiled(pair)) for info, pair in groups])
sys.exit(main(["run", *sys.argv[1:]]))
"""
LINE = (
    r"advdmd: failed: RatioError: learner rank 0: importance ratio differs from 1 by .*; see .*failure\.log; "
    r"nothing is saved; .*"
)


def test_actions_whose_probabilities_the_learner_does_not_find_stop_a_run_with_one_clear_line() -> None:
    with workplace() as place:
        config = write_config(place.folder, "spoiled")
        script = place.folder / "spoiled.py"
        script.write_text(SPOILING)
        run = place.start([sys.executable, str(script), "--config", str(config), "learner.engine=torch"])
        assert run.ended(240) == 1, run.log()
        assert re.fullmatch(LINE, run.log().splitlines()[-1]), run.log()
        assert "Traceback" not in run.log()
        assert place.left_after(15) == []
        trace = (place.folder / "spoiled" / "failure.log").read_text()
        assert 'learner.py", line' in trace
        assert "\x1b" not in trace
