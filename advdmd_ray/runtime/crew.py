"""The crew: rollout actors and reward workers on Ray, by name; processes come and go under a name."""

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress

import ray
from ray.exceptions import RayError

from advdmd_ray.config import Config
from advdmd_ray.controller.staff import number_of, role_of, worker_names
from advdmd_ray.runs.needs.sharing import by_turns
from advdmd_ray.runtime.calls import Handle
from advdmd_ray.runtime.places import Places
from advdmd_ray.runtime.worker_actors import RewardActor, RolloutActor


class Crew:
    """Knows the process that each worker has now, and whether it is up.

    Args:
        config: The run's, which says how many there are at first.
        processes: By name those that are up already; others are hired.
        places: Where processes go; None: wherever `ray.placement` has it.

    Attributes:
        table: The prompt table, once there is one; whoever is brought gets it.
    """

    def __init__(
        self, config: Config, processes: Mapping[str, Handle] | None = None, places: Places | None = None
    ) -> None:
        self._config, self._places = config, Places(config) if places is None else places
        self._processes = dict(processes or {})
        self._where: dict[str, ray.ObjectRef] = {}
        self._opening: dict[str, ray.ObjectRef] = {}
        self.table: tuple[ray.ObjectRef, ...] = ()
        self._first = {
            "rollout": worker_names("rollout", config.rollout.actors),
            "reward": worker_names("reward", config.reward.workers),
        }

    def __getitem__(self, worker: str) -> Handle:
        return self._processes[worker]

    def of(self, role: str) -> tuple[str, ...]:
        """The workers of a role that there are now, by their number; before they are hired, those that will be."""
        names = self._processes or [*self._first["rollout"], *self._first["reward"]]
        return tuple(sorted((name for name in names if role_of(name) == role), key=number_of))

    def hire(self) -> None:
        """Starts all of them; they have no prompts yet, and import what they need meanwhile.

        Those that the run cannot start without are first, as Ray gives room in this order where there is too little.
        """
        rollout, reward = self._first["rollout"], self._first["reward"]
        least = self._config.at_start
        actors, workers = least.rollout.actors, least.reward.workers
        for name in (*by_turns(rollout[:actors], reward[:workers]), *by_turns(rollout[actors:], reward[workers:])):
            self._processes[name] = self._started(name)
        for name in self._processes:
            self._prepare(name)

    def _prepare(self, name: str) -> None:
        whole = self._config.rewards_images if role_of(name) == "reward" else name == self.encoder
        self._processes[name].prepare.remote(whole=whole)

    @property
    def encoder(self) -> str:
        """One of the actors, which imports the same for its network: it encodes the prompts."""
        return self._first["rollout"][0]

    def hire_again(self, name: str) -> Handle:
        """Ends the process of a name, for which there are no prompts yet, and starts another."""
        self._note_loss(name)
        ray.kill(self._processes[name])
        self._processes[name] = process = self._started(name)
        self._prepare(name)
        return process

    def open(self, table: tuple[ray.ObjectRef, ...]) -> dict[str, ray.ObjectRef]:
        """Gives all of them the prompts; returns by name what tells that each is up."""
        self.table = table
        self._opening = {name: process.open.remote(*table) for name, process in self._processes.items()}
        return dict(self._opening)

    def bring(self, worker: str) -> tuple[Handle, ray.ObjectRef]:
        """Ends the process that a name has, if any, and starts another; that, and what tells that it is up.

        Ray ends a process that hangs some seconds after it was told to, as it does not listen.
        """
        if worker in self._processes:
            self._note_loss(worker)
            ray.kill(self._processes[worker])  # unreachable is not dead
        self._processes[worker] = process = self._started(worker)
        self._opening[worker] = process.open.remote(*self.table)
        return process, self._opening[worker]

    def coming(self) -> dict[str, ray.ObjectRef]:
        """By name of each worker that is not up, what tells that it is."""
        if not self._opening:
            return {}
        opening = list(self._opening.values())
        ready, _ = ray.wait(opening, num_returns=len(opening), timeout=0)
        return {name: reference for name, reference in self._opening.items() if reference not in ready}

    def forget(self) -> None:
        """Has the actors let go of the groups that they have at hand, once they are done with what they are at."""
        for worker in self.of("rollout"):
            self._processes[worker].forget.remote()

    def dismiss(self, worker: str) -> None:
        """Ends the process that a name has, and forgets the name."""
        ray.kill(self._processes.pop(worker))
        self._opening.pop(worker, None)
        self._where.pop(worker, None)

    def end(self) -> None:
        """Ends all of them."""
        for process in self._processes.values():
            ray.kill(process)

    def _started(self, worker: str) -> Handle:
        role = role_of(worker)
        kind: Handle = RolloutActor if role == "rollout" else RewardActor
        section = self._config.roles[role]
        placed = kind.options(num_cpus=section.num_cpus, num_gpus=section.num_gpus, **self._places.options(role))
        process = placed.remote(self._config, worker)
        self._where[worker] = process.where.remote()
        return process

    def _note_loss(self, worker: str) -> None:
        """Has the node of a process that ended counted, if the process ever said where it was."""
        where = self._where.pop(worker, None)
        if where is not None and ray.wait([where], timeout=0)[0]:
            with suppress(RayError):
                self._places.lost(ray.get(where))


def may_start(config: Config, missing: Collection[str]) -> bool:
    """Whether a run may start while these workers and ranks are not up; see `rollout.actors_min`."""
    least, short = config.at_start, Counter(role_of(name) for name in missing)
    return (
        not short["learner"]
        and short["rollout"] <= config.rollout.actors - least.rollout.actors
        and short["reward"] <= config.reward.workers - least.reward.workers
    )
