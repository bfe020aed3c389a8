"""`advdmd doctor` asks a cluster that is there, and leaves it as it was."""

import sys

import pytest

from ports import free_ports
from ray_runs import workplace, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
DOCTOR = [sys.executable, "-c", "import sys; from advdmd_ray.cli import main; sys.exit(main(sys.argv[1:]))", "doctor"]


def test_the_doctor_compares_a_run_with_what_a_cluster_offers() -> None:
    with workplace() as place:
        config = write_config(place.folder, "asked")
        port, client, agent = free_ports(3)
        disabled = {"RAY_AUTH_MODE": "disabled"}
        head = place.start(
            [
                *("ray", "start", "--head", "--num-cpus=3", "--num-gpus=2", "--disable-usage-stats"),
                *(f"--port={port}", f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
                *("--include-dashboard=false", "--memory=8000000000", "--object-store-memory=200000000"),
                '--resources={"accelerator_type:H100": 1}',
            ],
            **disabled,
        )
        assert head.ended(120) == 0, head.log()
        joined = {**disabled, "RAY_ADDRESS": f"127.0.0.1:{port}"}

        sound = place.start([*DOCTOR, "--config", str(config)], **joined)
        assert sound.ended(120) == 0, sound.log()
        offer = "1 node with 3 CPUs, 2 GPUs (H100), 7.5 GiB of memory and 191 MiB of object store"
        assert f"127.0.0.1:{port} answers: {offer}" in sound.log()
        assert f"every node sees {place.folder}" in sound.log()
        assert sound.log().splitlines()[-1].startswith("Ready")

        wide = place.start([*DOCTOR, "--config", str(config), "learner.num_cpus=4"], **joined)
        assert wide.ended(120) == 1, wide.log()
        assert "has 3 CPUs, a worker asks for 4; lower learner.num_cpus" in wide.log()
        assert place.processes("advdmd_ray.runtime.offer") == []


def test_the_doctor_quotes_a_cluster_that_is_not_there() -> None:
    with workplace() as place:
        (port,) = free_ports(1)
        config = write_config(place.folder, "lost")
        asked = place.start([*DOCTOR, "--config", str(config)], RAY_ADDRESS=f"127.0.0.1:{port}")
        assert asked.ended(120) == 1, asked.log()
        assert f"no Ray cluster answers at 127.0.0.1:{port} (connection refused)" in asked.log()
        assert "Traceback" not in asked.log()
        assert place.left_after(5) == []
