"""`ray job submit` to a cluster that `ray start --head` started, with token authentication on both sides."""

import json
import re

import pytest

from ports import free_ports
from ray_runs import ROOT, workplace, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_submitted_job_succeeds_on_the_cluster_it_joins_and_starts_no_second_ray() -> None:
    with workplace() as place:
        config = write_config(place.folder, "job")
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
            *("python", "-m", "advdmd_ray.run", "--config", str(config), "run.cycles=3", "learner.ranks=1"),
        ]
        job = place.start(submit, **tokens)
        exit_code, log = job.ended(400), job.log()
        assert exit_code == 0, log
        assert re.search(r"Job '.*' succeeded", log), log
        assert "joined the Ray cluster" in log
        assert "started a local Ray" not in log
        assert "Traceback" not in log
        assert len(place.processes("raylet/raylet ")) == 1, "a second Ray was started"
        summary = json.loads((place.folder / "job" / "summary.json").read_text())
        assert summary["cycles"] == 3
        assert (place.folder / "job" / "report.html").is_file()
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
