"""The pods of Kubernetes that a run needs: one for Ray's head with the driver, and a group of equal ones for each role.

Computed from the plan that `advdmd run --dry-run` and `advdmd doctor` show (`memory.py`); nothing is loaded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from advdmd_ray.config import Config
from advdmd_ray.models.families.kept import FLOAT32
from advdmd_ray.runs.needs.memory import (
    GIB,
    PROCESS_BYTES,
    Role,
    RoleMemory,
    Sizes,
    memory,
    object_store_demand,
    placement,
)
from advdmd_ray.runs.needs.node_roles import ROLES
from advdmd_ray.runs.needs.texts import text_need

GPUS_OF_A_MACHINE = 8
"""Most GPUs of one pod: those that machines have and that are connected with one another."""
RAY_BYTES = GIB
"""Assumed for Ray's own processes on a node: raylet, agents, log monitor."""
HEAD_BYTES, HEAD_CPUS = 2 * GIB, 2
"""Assumed for those of the head, with its tables, dashboard and job server; and its CPUs, with the driver's."""
SHARED_BYTES = GIB
"""Of /dev/shm, beside the object store: NCCL and torch pass tensors between processes there."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What one pod asks for.

    Attributes:
        cpus: CPUs of its container.
        logical_cpus: CPUs that Ray may give to workers there.
        gpus: GPUs.
        store: Bytes of its object store.
        shared: Bytes of its /dev/shm, which has the object store.
        memory: Bytes of all, /dev/shm among them.
    """

    cpus: int
    logical_cpus: int
    gpus: int
    store: int
    shared: int
    memory: int


@dataclass(frozen=True, slots=True)
class PodGroup:
    """Equal pods for the workers of one role.

    Attributes:
        role: The role.
        workers: Workers of a pod.
        pod: One of them.
        first: Pods that are there before the run asks.
        most: Pods that it asks for at most.
    """

    role: str
    workers: int
    pod: Pod
    first: int
    most: int


def head_pod(sizes: Sizes) -> Pod:
    """The head: the driver, the metrics hub, and at the end the export, which has the student and its merged copy.

    Ray gives it no worker and no judge: it offers no CPU, no GPU and no role's label.

    Args:
        sizes: Of the teacher's folder.
    """
    processes = 3 * PROCESS_BYTES + 2 * sizes.transformer * FLOAT32
    return _pod(HEAD_CPUS, 0, 0, GIB, HEAD_BYTES + processes)


def pod_groups(config: Config, sizes: Sizes) -> tuple[PodGroup, ...]:
    """A group of pods for learner, rollout and reward.

    The ranks of a gang are in one pod, or in as few equal ones as `GPUS_OF_A_MACHINE` allows. Of the other roles a pod
    has one worker, or as many as share its GPU or its CPU. With `ray.placement=labelled` a run asks for all of them,
    and none need be there before.

    Args:
        config: The configuration.
        sizes: Of the teacher's folder.
    """
    rows = {row.role: row for row in memory(config, sizes)}
    roles = {role.name: role for role in placement(config)}
    on_gpus = any(role.num_gpus for role in roles.values())
    store = math.ceil((object_store_demand(config, sizes) + text_need(config).in_store) / GIB) * GIB
    scale, most = config.autoscale, {name: role.workers for name, role in roles.items()}
    if scale.enabled:
        most |= {"rollout": scale.rollout_max, "reward": scale.reward_max}
    groups = []
    for name in ROLES:
        role = roles[name]
        workers = _workers_of_a_pod(role, most[name])
        logical = max(1, math.ceil(workers * role.num_cpus))
        gpus = workers * math.ceil(role.num_gpus) if role.num_gpus >= 1 else math.ceil(workers * role.num_gpus)
        judges = gpus if on_gpus else logical
        need = max(_host(rows, name, workers), judges * rows["rollout"].host)
        pod = _pod(max(logical, workers * config.roles[name].threads), logical, gpus, store, RAY_BYTES + need)
        there = 0 if config.ray.placement == "labelled" else math.ceil(role.workers / workers)
        groups.append(PodGroup(name, workers, pod, there, math.ceil(most[name] / workers)))
    return tuple(groups)


def _workers_of_a_pod(role: Role, most: int) -> int:
    """So many as Ray puts there of itself, given the pod's GPUs and logical CPUs."""
    if role.name == "learner":
        return max(
            ranks
            for ranks in range(1, role.workers + 1)
            if role.workers % ranks == 0 and (ranks == 1 or ranks * role.num_gpus <= GPUS_OF_A_MACHINE)
        )
    if role.num_gpus:
        return min(most, max(1, math.floor(1 / role.num_gpus + 1e-9)))
    if role.num_cpus:
        return min(most, max(1, math.floor(math.ceil(role.num_cpus) / role.num_cpus + 1e-9)))
    return most


def _host(rows: Mapping[str, RoleMemory], role: str, workers: int) -> int:
    """Host memory of the workers of a pod; the first actor has the text encoders, before it has its network."""
    row = rows[role]
    first = max(row.host, rows["prompts"].host) if role == "rollout" else row.host
    return first + (workers - 1) * row.host_of_another


def _pod(cpus: int, logical_cpus: int, gpus: int, store: int, processes: int) -> Pod:
    shared = store + SHARED_BYTES
    whole = math.ceil((processes + shared) / GIB) * GIB
    return Pod(cpus, logical_cpus, gpus, store, shared, whole)
