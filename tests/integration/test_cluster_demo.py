"""`make cluster-demo`, in a short form: a head and two workers, jobs that are submitted with a token, and Prometheus.

The run is of a real model's family. Prometheus is Debian's package `prometheus`. Without it this is skipped, but not
where CI is true.
"""

import json
import os
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from safetensors import safe_open

from family_jobs import GROUPS, family_settings
from ray_runs import Workplace, workplace

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        shutil.which("prometheus") is None and os.environ.get("CI") != "true",
        reason="prometheus is not installed: apt-get install prometheus",
    ),
]
MORE, LEVELS = 2, 2


def written(folder: Path) -> Path:
    """A run whose adapters of a tiny Qwen-Image learn beside images of their own teacher, in `folder/run.yaml`.

    Its workers fill the cluster: a second job finds room once the first one's are gone. One draws for the judge.
    """
    settings = family_settings("qwen_image", folder, rank=2) | {
        "run": {"cycles": 10_000},
        "reward": {"num_cpus": 0.8},
        "learner": {"num_cpus": 0.6},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def played(place: Workplace, out: Path) -> str:
    """What the demo said, to its end; the cluster is looked at while it goes on."""
    options = ["--config", str(written(place.folder)), "--out", str(out), "--cycles", "2", "--more", str(MORE)]
    demo = place.start([sys.executable, "-m", "deploy.demo", *options])
    demo.until("a second actor", lambda: "2 actors are up" in demo.log(), 900)
    assert len(place.processes("ray::RolloutActor")) == 2
    assert len(place.processes("raylet/raylet ")) == 3, "the job started a Ray of its own"
    assert place.processes("advdmd_ray.runtime.offer") == [], "the doctor is still there"
    demo.until("the stop", lambda: "saved at cycle" in demo.log(), 300)
    demo.until("the first job's workers to be gone", lambda: not place.processes("ray::RolloutActor"), 15)
    assert demo.ended(900) == 0, demo.log()
    assert place.left_after(0) == []
    return demo.log()


def test_a_submitted_job_learns_a_familys_adapters_while_it_is_scaled_stopped_resumed_and_looked_at() -> None:
    with workplace() as place:
        out = place.folder / "demo"
        said = played(place, out)
        logs = {name: (out / f"{name}.log").read_text() for name in ("doctor", "first-job", "second-job")}
        told, folder = json.loads((out / "demo.json").read_text()), out / "cluster-demo"
        assert [line["says"] for line in told["verdict"] if not line["holds"]] == []
        assert said.count("yes  ") == len(told["verdict"]) == 5, said
        assert "the job server refuses whoever has not the token" in said

        assert "3 nodes with 3 CPUs" in logs["doctor"]
        assert re.search(rf"^ok +sight +every node .*sees {out}$", logs["doctor"], re.MULTILINE), logs["doctor"]
        assert logs["doctor"].splitlines()[-1].startswith("Ready")
        saved = told["events"]["cycle"]
        for log in (logs["first-job"], logs["second-job"]):
            assert "joined the Ray cluster" in log
            assert "started a local Ray" not in log
            assert "Traceback" not in log
        assert re.search(r"images of the teacher: 40 of 40", logs["first-job"]), logs["first-job"]
        assert re.search(rf"stopped by SIGTERM, at cycle {saved} of .* is saved, and --resume auto", logs["first-job"])
        assert f"from step-{saved:08d}" in logs["second-job"]
        assert re.search(r"Job '.*' succeeded", logs["second-job"])

        shards = [file.name for file in sorted((out / "latents").rglob("*.arrow"))]
        assert shards == ["00000000-00000032.arrow", "00000032-00000040.arrow"]
        learnt_once(folder, saved + MORE)
        adapters_alone(folder)
        figures_are_prometheus_s(out, folder, told["seen"])


def learnt_once(folder: Path, cycles: int) -> None:
    """Every cycle of both jobs, and every group of it, counts once."""
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["cycles"] == cycles
    updates = summary["updates"]
    assert updates["dmd"] == updates["fake_score"] == updates["discriminator"] == cycles
    assert 0 < updates["rl"] < cycles
    newest = max((folder / "checkpoints").glob("step-*"))
    frontier = json.loads((newest / "manifest.json").read_text())["body"]["facts"]["controller"]["frontier"]
    assert (frontier["next_ordinal"], frontier["unsettled"]) == (cycles * GROUPS, [])
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = Counter(line["cycle"] for line in lines if "advdmd_learner_loss{objective=dmd}" in line["values"])
    assert losses == dict.fromkeys(range(1, cycles + 1), 1)
    assert (folder / "report.html").is_file()


def adapters_alone(folder: Path) -> None:
    """A LoRA run keeps adapters alone; its student is a whole folder of the family, the adapters merged."""
    newest = max((folder / "checkpoints").glob("step-*"))
    with safe_open(newest / "student.safetensors", "pt") as student:
        assert all(".lora_" in name for name in student.keys())  # noqa: SIM118 - no mapping
    assert json.loads((folder / "student" / "model_index.json").read_text())["_class_name"] == "QwenImagePipeline"


def figures_are_prometheus_s(out: Path, folder: Path, seen: dict[str, Any]) -> None:
    """The curve that is drawn is the run's own, of both jobs."""
    lines = [json.loads(line)["values"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for level in range(1, LEVELS + 1):
        measured = [line[key] for line in lines if (key := f"advdmd_reward_mean{{level={level}}}") in line]
        jobs = seen["reward"][str(level)]
        assert [len(job["points"]) > 0 for job in jobs] == [True, True]
        assert {value for job in jobs for _, value in job["points"]} <= {*measured}
        assert jobs[-1]["points"][-1][1] == measured[-1]
    with Image.open(out / "curve.png") as picture:
        assert picture.size == (990, 616)
        assert len(picture.getcolors(1 << 20) or []) > 20
