"""With age cap 0 the bytes of the student depend on the seed and on nothing that Ray decides."""

import sys
from hashlib import sha256
from pathlib import Path

import pytest

from ray_runs import workplace, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ACTORS = (1, 2, 4)
CYCLES = 3

# One Ray, the training part of a run for each number of actors; the judge is left out.
TRAIN = """
import sys
from advdmd_ray.config import read_config
from advdmd_ray.controller.start_clock import StartClock
from advdmd_ray.runs.folder import Start, claim
from advdmd_ray.runs.parts.controller import build_controller
from advdmd_ray.runtime.cluster import connected
from advdmd_ray.runtime.remote_hub import metrics_hub
from advdmd_ray.runtime.on_ray import RayPlace

path, *counts = sys.argv[1:]
configs = [
    read_config(path, [f"run.name=actors-{count}", f"rollout.actors={count}", *OVERRIDES]) for count in counts
]
with connected(configs[-1]):
    for config in configs:
        with claim(Start(config.folder, None, None, "")), metrics_hub(config) as hub:
            with RayPlace(config, hub, "").workers(None, StartClock()) as shell:
                build_controller(config, shell, hub).run()
"""
OVERRIDES = ["rollout.max_policy_age=0", f"run.cycles={CYCLES}", "run.seed=11", "learner.engine=torch"]


def student_digest(run_folder: Path) -> str:
    newest = max((run_folder / "checkpoints").glob("step-*"))
    assert newest.name == f"step-{CYCLES:08d}"
    return sha256((newest / "student.safetensors").read_bytes()).hexdigest()


def test_one_two_and_four_actors_train_the_same_student_bytes_at_age_cap_0() -> None:
    with workplace() as place:
        config = write_config(place.folder, "base")
        script = place.folder / "train.py"
        script.write_text(TRAIN.replace("*OVERRIDES", ", ".join(repr(text) for text in OVERRIDES)))
        run = place.start([sys.executable, str(script), str(config), *map(str, ACTORS)])
        assert run.ended(500) == 0, run.log()
        digests = {actors: student_digest(place.folder / f"actors-{actors}") for actors in ACTORS}
        assert len(set(digests.values())) == 1, digests
        for actors in ACTORS:
            lines = (place.folder / f"actors-{actors}" / "metrics.jsonl").read_text()
            used = {name for name in ("rollout-0", "rollout-1", "rollout-2", "rollout-3") if f"worker={name}" in lines}
            assert len(used) == actors, f"{used} generated groups; the comparison needs {actors}"
            assert "advdmd_learner_updates_total{objective=rl}" in lines
