"""What must never happen: weights or groups that differ from what was handed on end a run."""

import re
import sys

import pytest

from ray_runs import workplace, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# A driver that spoils what it hands on. What the patched method does is the test's.
SPOILING = """
import sys

import numpy as np

from advdmd_ray.cli import main

SPOIL
sys.exit(main(["run", *sys.argv[1:]]))
"""

# Over Ray what the worker says is the same: test_node_death.
OTHER_BYTES = """
from advdmd_ray.runtime.local import LocalShell

published = LocalShell.publication

def publication(shell):
    manifests, student, (*others, last) = published(shell)
    last = np.array(last)
    last[-1] ^= 1
    return manifests, student, (*others, last)

LocalShell.publication = publication
"""

OTHER_MEANS = """
from dataclasses import replace

import ray

from advdmd_ray.runtime.ray_shell import RayShell
from advdmd_ray.stations.buffer.record_batch import decode_group, encode_group

fetch = RayShell.fetch

def spoiled(pair):
    reference, scores = pair
    group = decode_group(ray.get(reference))
    return ray.put(encode_group(replace(group, means=group.means + np.float32(0.1)))), scores

RayShell.fetch = lambda shell, groups: fetch(shell, [(info, spoiled(pair)) for info, pair in groups])
"""


@pytest.mark.parametrize(
    ("spoil", "where", "line"),
    [
        pytest.param(
            OTHER_BYTES,
            ["--local"],
            r"advdmd: failed: reward-0: discriminator version 0: the payload has digest [0-9a-f]{64}, "
            r"published was [0-9a-f]{64}: the bytes of tensor [a-z0-9_.]+ differ; nothing is saved; .*",
            id="weights that differ from the published ones",
        ),
        pytest.param(
            OTHER_MEANS,
            [],
            r"advdmd: failed: RatioError: learner rank 0: importance ratio differs from 1 by .*; see .*failure\.log; "
            r"nothing is saved; .*",
            id="actions whose probabilities the learner does not find",
        ),
    ],
)
def test_what_must_never_happen_stops_the_run_with_one_clear_line(spoil: str, where: list[str], line: str) -> None:
    with workplace() as place:
        config = write_config(place.folder, "spoiled")
        script = place.folder / "spoiled.py"
        script.write_text(SPOILING.replace("SPOIL\n", spoil))
        run = place.start([sys.executable, str(script), *where, "--config", str(config), "learner.engine=torch"])
        assert run.ended(240) == 1, run.log()
        assert re.fullmatch(line, run.log().splitlines()[-1]), run.log()
        assert "Traceback" not in run.log()
        assert place.left_after(15) == []
        if "failure" in line:
            trace = (place.folder / "spoiled" / "failure.log").read_text()
            assert 'learner.py", line' in trace
            assert "\x1b" not in trace
