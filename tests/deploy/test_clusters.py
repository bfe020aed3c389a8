"""The Slurm script does what it says, with stand-ins for Slurm and Ray; the launcher's file is one that Ray takes."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from advdmd_ray.cli import parse_arguments
from advdmd_ray.config.sections import RunSection
from advdmd_ray.runs.needs.node_roles import LABEL, ROLES
from manifests import DEPLOY, groups

JOB, CPUS, WAIT_S = 1234567, 16, 60.0
PORTS = range(20000 + 567 * 10, 20000 + 568 * 10)
FAKES = {
    "scontrol": 'if [ "$1" = show ]; then printf "node-a\\nnode-b\\n"; fi',
    "srun": 'while case "$1" in --*) true ;; *) false ;; esac; do shift; done; exec "$@"',
    "hostname": 'echo "10.0.0.7 fe80::1"',
    "ray": """case "$1 $2" in
  start*) echo $$ >> "$LOG.nodes"; exec sleep 60 ;;
  "job submit") touch "$LOG.submitted"; until [ -e "$LOG.ended" ]; do sleep 0.02; done; exit "$(cat "$LOG.ended")" ;;
  "job stop") echo 1 > "$LOG.new"; mv "$LOG.new" "$LOG.ended" ;;
esac""",
}


class Rehearsal:
    """A job of Slurm on two nodes, of which every command is written down."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self.log.touch()
        for name, does in FAKES.items():
            fake = folder / name
            fake.write_text(f'#!/bin/sh\necho "{name} $* $RAY_AUTH_TOKEN" >> "$LOG"\n{does}\n')
            fake.chmod(0o755)
        slurm = {"JOB_ID": JOB, "JOB_NODELIST": "node-[a-b]", "JOB_NUM_NODES": 2, "CPUS_ON_NODE": CPUS}
        self.job = subprocess.Popen(
            [DEPLOY / "slurm.sh", "--config", "digits", "run.output=/shared/runs"],
            env={
                "PATH": f"{folder}:{os.environ['PATH']}",
                "LOG": str(self.log),
                **{f"SLURM_{name}": f"{value}" for name, value in slurm.items()},
            },
        )
        self.wait_for(self.log.with_name("log.submitted"))

    def wait_for(self, file: Path) -> None:
        until = time.monotonic() + WAIT_S
        while not file.exists():
            assert time.monotonic() < until, f"{file} is not there; {self.commands()}"
            time.sleep(0.02)

    def end_run(self, code: int) -> None:
        (new := self.log.with_name("log.new")).write_text(f"{code}")
        new.rename(self.log.with_name("log.ended"))

    def commands(self, start: str = "") -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith(start)]


def test_a_job_starts_ray_on_all_nodes_and_submits_the_run_with_ports_and_a_token_of_its_own(tmp_path: Path) -> None:
    rehearsal = Rehearsal(tmp_path)
    rehearsal.end_run(3)
    assert rehearsal.job.wait(WAIT_S) == 3, "the job fails as the run does"
    head, other = sorted(rehearsal.commands("ray start"), key=lambda line: "--head" not in line)
    assert f"--port={PORTS[0]} " in head
    assert f"--address=10.0.0.7:{PORTS[0]} " in other
    steps = [line for line in rehearsal.commands("srun") if " ray start " in line]
    assert [f"--cpus-per-task={CPUS} " in line for line in steps] == [True, True], "else Slurm gives a step one core"
    assert all(f"--num-cpus={CPUS} " in line for line in (head, other))
    (submit,) = rehearsal.commands("ray job submit")
    token = submit.split()[-1]
    assert re.fullmatch(r"[0-9a-f]{64}", token)
    assert {line.split()[-1] for line in (head, other)} == {token}
    ports = [int(port) for line in (head, submit) for port in re.findall(r"port=(\d+)", line)]
    assert sorted(ports) == [*PORTS]
    assert f"--address=http://10.0.0.7:{re.findall('dashboard-port=([0-9]+)', head)[0]} " in submit
    words = submit.rsplit(" ", 1)[0].split(" -- ")[1].split()
    assert words[:3] == ["python", "-m", "advdmd_ray.run"]
    args = parse_arguments(["run", *words[3:]])
    assert (args.config, args.resume, args.overrides[0]) == ("digits", "auto", "run.output=/shared/runs")
    stop_wait = json.loads(re.findall(r"--runtime-env-json=(\{.*\}) --", submit)[0])["env_vars"]
    assert float(stop_wait["RAY_JOB_STOP_WAIT_TIME_S"]) >= RunSection().drain_s + 60
    for process in map(int, (tmp_path / "log.nodes").read_text().split()):
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_has_the_run_save_and_the_end_of_its_time_queues_it_again(number: int, tmp_path: Path) -> None:
    rehearsal = Rehearsal(tmp_path)
    rehearsal.job.send_signal(number)
    assert rehearsal.job.wait(WAIT_S) == 1
    (stop,) = rehearsal.commands("ray job stop")
    assert f"advdmd-{JOB}-0" in stop
    again = [line for line in rehearsal.commands("scontrol requeue") if f" {JOB} " in line]
    assert len(again) == (number == signal.SIGUSR1)
    if again:
        assert rehearsal.commands().index(stop) < rehearsal.commands().index(again[0])


def test_slurm_warns_long_enough_before_the_end() -> None:
    text = (DEPLOY / "slurm.sh").read_text()
    ((name, seconds),) = re.findall(r"^#SBATCH --signal=B:(\w+)@(\d+)$", text, flags=re.MULTILINE)
    assert f"trap 'save time' {name}" in text
    assert int(seconds) >= RunSection().drain_s + 60
    assert "#SBATCH --requeue" in text


def launcher() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "cluster.yaml").read_text())


def test_the_launchers_file_fits_rays_schema() -> None:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    schema = json.loads((Path(spec.submodule_search_locations[0]) / "autoscaler" / "ray-schema.json").read_text())
    file = launcher()
    jsonschema.validate(file, schema)
    with pytest.raises(jsonschema.ValidationError, match="lables"):
        jsonschema.validate(file | {"lables": {}}, schema)


def test_the_launchers_nodes_are_labelled_by_role_and_its_head_takes_no_worker() -> None:
    file = launcher()
    types = file["available_node_types"]
    assert {name: kind["labels"] for name, kind in types.items() if "labels" in kind} == {
        role: {LABEL: role} for role in ROLES
    }
    head = types[file["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "--num-cpus=0 " in file["head_start_ray_commands"][1]
    workers = [types[role] for role in ROLES]
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers)
    assert file["max_workers"] == sum(kind["max_workers"] for kind in workers)
    # As many as the RayJob on GPUs has at most.
    for role, group in groups("rayjob-gpu.yaml").items():
        assert role == "head" or types[role]["max_workers"] == group["maxReplicas"]


def test_the_launchers_cluster_asks_for_a_token_and_its_job_server_is_on_loopback() -> None:
    file = launcher()
    for command in (file["head_start_ray_commands"][1], file["worker_start_ray_commands"][1]):
        assert "export RAY_AUTH_MODE=token " in command
    assert "--dashboard-host=127.0.0.1" in file["head_start_ray_commands"][1]
    there = "~/.ray/auth_token"
    assert file["file_mounts"][there] == there
