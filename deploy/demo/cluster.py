"""A Ray cluster of `ray start` on this machine, and jobs that are submitted to it as docs/guides/cluster.md says."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from advdmd_ray.runs.needs.node_roles import LABEL
from deploy.demo.place import ROOT, Place, Started, free_ports

HOST = "127.0.0.1"
START_S, ANSWER_S, STOP_S = 300.0, 60.0, 240.0
STOP_WAIT_S = "180"
"""A job that is to be stopped without loss is given so long; Ray's own 3 seconds are less than a cycle may take."""
WORKERS: Mapping[str, int] = {"learner": 1, "rollout-reward": 2}
"""CPUs of each worker node, by its label. The head has none, so that only the driver is there."""
REFUSED = (401, 403)
"""HTTP: no token, and another one."""


class Cluster:
    """A head and two workers.

    Args:
        place: Holds their processes.

    Attributes:
        address: Of Ray.
        server: Of its job server.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        port, dashboard = free_ports(2)
        self.address, self.server = f"{HOST}:{port}", f"http://{HOST}:{dashboard}"

    def start(self) -> None:
        """Starts the nodes; the job server answers."""
        port, dashboard = self.address.rpartition(":")[2], self.server.rpartition(":")[2]
        (client,) = free_ports(1)
        head = ["--head", "--num-cpus=0", f"--port={port}", f"--dashboard-host={HOST}", f"--dashboard-port={dashboard}"]
        self._node("head", [*head, f"--ray-client-server-port={client}"]).ended(START_S)
        nodes = [
            self._node(name, [f"--address={self.address}", f"--num-cpus={cpus}", f"--labels={LABEL}={name}"])
            for name, cpus in WORKERS.items()
        ]
        for node in nodes:
            node.ended(START_S)

    def _node(self, name: str, options: Sequence[str]) -> Started:
        # On one machine: else nodes that start at once take the same sockets, and the agent of one removes the working
        # directory of a job from under the others.
        (agent,) = free_ports(1)
        own = [f"--temp-dir={self._place.ray_folder / name}", f"--dashboard-agent-listen-port={agent}"]
        own += ["--min-worker-port=0", "--max-worker-port=0"]
        size = ["--object-store-memory=100000000", "--disable-usage-stats"]
        return self._place.start(f"node-{name}", ["ray", "start", *options, *own, *size])

    def status_of(self, job: str, token: str) -> str | None:
        """What the job server says of a job to a client with this token; None if it refuses the client.

        Raises:
            OSError: if it does not answer.
        """
        ask = urllib.request.Request(f"{self.server}/api/jobs/{job}", headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - it is http
        try:
            with urllib.request.urlopen(ask, timeout=ANSWER_S) as answer:  # noqa: S310 - it is http
                return json.load(answer)["status"]
        except urllib.error.HTTPError as error:
            if error.code not in REFUSED:
                raise
            return None

    def submit(self, name: str, arguments: Sequence[str]) -> Started:
        """Submits a run as a job; the process that is returned follows it to its end."""
        env: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT_S}}
        submit = ["ray", "job", "submit", "--address", self.server, "--submission-id", name, "--working-dir", str(ROOT)]
        run = ["python", "-m", "advdmd_ray.run", *arguments]
        return self._place.start(name, [*submit, "--runtime-env-json", json.dumps(env), "--", *run])

    def stop(self, job: str) -> None:
        """Stops a job as its owner does."""
        self._place.start(f"stop-{job}", ["ray", "job", "stop", "--address", self.server, job]).ended(STOP_S)

    def advdmd(self, command: str, *arguments: str) -> Started:
        """Starts a command of the product beside the cluster, with the cluster's token."""
        return self._place.start(command, ["advdmd", command, *arguments])
