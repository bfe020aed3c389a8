"""`ray job submit` to a cluster that `ray start --head` started, with token authentication on both sides.

The job is a run of a real model's family.
"""

import json
import re
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from ports import free_ports
from ray_runs import ROOT, SMALL, workplace, write_config
from tiny_families import write_family

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _written(folder: Path) -> Path:
    """A run whose adapters of a tiny Qwen-Image learn beside images of their own teacher, in `folder/run.yaml`."""
    prompts = folder / "prompts.txt"
    prompts.write_text("a red fox above the boat\na fox\n")
    settings = {
        **SMALL,
        "run": {"name": "qwen", "output": str(folder), "cycles": 2},
        "model": {
            "path": str(write_family("qwen_image", folder / "teacher")),
            "height": 32,
            "width": 48,
            "guidance": 2.0,
            "max_sequence_length": 300,
        },
        "lora": {"rank": 2},
        "data": {
            "source": "teacher_samples",
            "prompts": str(prompts),
            "teacher_samples": 20,
            "teacher_steps": 2,
        },
        "diffusion": {"sigmas": [1.0, 0.6]},
        "rollout": {"actors": 1, "group_size": 4, "groups_per_cycle": 2},
        "dmd": {"batch_size": 2},
        "fake_score": {"batch_size": 2},
        "discriminator": {"backbone": "own", "batch_size": 2, "blocks": [0, 1], "text_errors": None, "auc_high": 1.0},
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def test_a_submitted_job_learns_a_familys_adapters_on_the_cluster_it_joins_and_starts_no_second_ray() -> None:
    with workplace() as place:
        config, folder = _written(place.folder), place.folder / "qwen"
        port, dashboard, client, agent = free_ports(4)
        tokens = {"RAY_AUTH_MODE": "token"}
        made = place.start(["ray", "get-auth-token", "--generate"], **tokens)
        assert made.ended(60) == 0, made.log()
        head = place.start(
            [
                *("ray", "start", "--head", "--num-cpus=2", "--disable-usage-stats", f"--port={port}"),
                *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
                # Jobs are started by the node's agent, whose usual port another Ray on this machine may have.
                f"--dashboard-agent-listen-port={agent}",
                "--object-store-memory=200000000",
            ],
            **tokens,
        )
        assert head.ended(120) == 0, head.log()
        address = f"http://127.0.0.1:{dashboard}"

        stranger = place.start(["ray", "job", "list", "--address", address], RAY_AUTH_MODE="disabled")
        assert stranger.ended(60) != 0, "the cluster answers without a token"

        submit = [
            *("ray", "job", "submit", "--address", address, "--working-dir", str(ROOT), "--"),
            *("python", "-m", "advdmd_ray.run", "--config", str(config)),
        ]
        job = place.start(submit, **tokens)
        exit_code, log = job.ended(400), job.log()
        assert exit_code == 0, log
        assert re.search(r"Job '.*' succeeded", log), log
        assert "joined the Ray cluster" in log
        assert "started a local Ray" not in log
        assert "Traceback" not in log
        assert len(place.processes("raylet/raylet ")) == 1, "a second Ray was started"
        assert re.search(r"images of the teacher: 40 of 40", log), log
        shards = [file.name for file in sorted((place.folder / "latents").rglob("*.arrow"))]
        assert shards == ["00000000-00000032.arrow", "00000032-00000040.arrow"]
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["cycles"] == 2
        assert summary["updates"] == {"dmd": 2, "rl": 1, "fake_score": 2, "discriminator": 2}
        newest = max((folder / "checkpoints").glob("step-*"))
        with safe_open(newest / "student.safetensors", "pt") as student:
            assert all(".lora_" in name for name in student.keys()), "a LoRA run keeps adapters alone"  # noqa: SIM118 - no mapping
        # Its student is a whole folder of the family, the adapters merged.
        assert json.loads((folder / "student" / "model_index.json").read_text())["_class_name"] == "QwenImagePipeline"
        assert (folder / "report.html").is_file()
        # The cluster is free again for the next job.
        assert place.processes("ray::RolloutActor") == []


def test_a_cluster_that_does_not_answer_is_one_line_and_exit_code_2() -> None:
    with workplace() as place:
        (port,) = free_ports(1)
        run = place.run(write_config(place.folder, "lost"), RAY_ADDRESS=f"127.0.0.1:{port}")
        assert run.ended(60) == 2, run.log()
        line = run.log().splitlines()[-1]
        assert line.startswith(f"advdmd: error: no Ray cluster answers at 127.0.0.1:{port} (connection refused)")
        assert "Traceback" not in run.log()
        assert place.left_after(5) == []
