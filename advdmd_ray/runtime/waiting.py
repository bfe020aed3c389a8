"""Waiting until a cluster has room for a run's workers: for nodes that still come up, or that an autoscaler brings."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from advdmd_ray.config import Config
from advdmd_ray.console import say
from advdmd_ray.errors import UserError
from advdmd_ray.runs.needs.node_roles import Nodes, nodes_of_roles
from advdmd_ray.runtime.room import Bundle, ClusterRequest, bundles_of

LOOK_S, SAY_S = 1.0, 10.0
"""Seconds between looks, and the least between lines."""
KINDS = ("CPU", "GPU")
_DUST = 1e-9


@dataclass(frozen=True, slots=True)
class Node:
    """A living node of the cluster.

    Attributes:
        resources: All that it has, by Ray's names.
        labels: Those that it was started with, and Ray's own.
        name: Of its host.
    """

    resources: Mapping[str, float]
    labels: Mapping[str, str]
    name: str = ""


def wait_for_room(config: Config, timeout_s: float, request: ClusterRequest) -> None:
    """Asks the cluster for room for all workers of a run, and waits until it is there.

    Args:
        config: The run's.
        timeout_s: Seconds to wait.
        request: Asks, and holds the room when this returns.

    Raises:
        UserError: if it is not there in time, or a node's label names no role.
    """
    began, told, said = time.monotonic(), "", float("-inf")
    while True:
        nodes = living_nodes()
        bundles = bundles_of(config, nodes_of_roles(config.ray.placement, [node.labels for node in nodes]))
        request.ask(bundles)
        waited = time.monotonic() - began
        if request.placed(min(LOOK_S, max(0.0, timeout_s - waited))):
            return
        why, remedy = shortage(bundles, nodes, ray.available_resources())
        if waited >= timeout_s:
            raise UserError(f"waited {timeout_s:.0f} s for room: {why}; {remedy}")
        if why != told and waited >= said + SAY_S:
            say(_line(bundles, why, waited, timeout_s))
            told, said = why, waited


def _line(bundles: Sequence[Bundle], why: str, waited: float, timeout_s: float) -> str:
    asked = ", ".join(
        f"{sum(bundle.role == role for bundle in bundles)} x {role} of {resources_text(each)}"
        for role, each in {bundle.role: bundle for bundle in bundles}.items()
    )
    return f"{why}; asked the cluster for {asked}; waiting {waited:.0f} of {timeout_s:.0f} s"


def living_nodes() -> list[Node]:
    """The nodes that Ray has now."""
    return [
        Node(node["Resources"], node["Labels"], node["NodeManagerHostname"]) for node in ray.nodes() if node["Alive"]
    ]


def shortage(bundles: Sequence[Bundle], nodes: Sequence[Node], free: Mapping[str, float]) -> tuple[str, str]:
    """Why there is no room for all bundles, and what helps.

    Args:
        bundles: What is asked.
        nodes: The cluster's.
        free: What nobody holds, in the whole cluster.
    """
    for where in dict.fromkeys(bundle.nodes for bundle in bundles):
        asked = [bundle for bundle in bundles if bundle.nodes == where]
        there = [node.resources for node in nodes if node.labels in where]
        if (short := _short(asked, where, there)) is not None:
            return short
    need = _total([bundle.resources for bundle in bundles])
    kind = next((kind for kind in KINDS if need[kind] > free.get(kind, 0.0) + _DUST), None)
    if kind is None:
        return "the free room is in pieces, of which none takes the next worker", less("CPU")
    had = _total([node.resources for node in nodes])[kind]
    return (
        f"the workers reserve {need[kind]:g} {kind}s, of the cluster's {had:g} are {free.get(kind, 0.0):g} free",
        f"{less(kind)}, or wait until others are done",
    )


def _short(bundles: Sequence[Bundle], where: Nodes, there: Sequence[Mapping[str, float]]) -> tuple[str, str] | None:
    """The same for bundles that go to the same nodes, if these would not do even if nobody else were there."""
    roles = dict.fromkeys(bundle.role for bundle in bundles)
    who = f"the {' and '.join(roles)} workers" if where.values else "the workers"
    need, have = _total([bundle.resources for bundle in bundles]), _total(there)
    for kind in KINDS:
        if need[kind] > have[kind] + _DUST:
            has = "have" if where.values else "has"
            return f"{who} reserve {need[kind]:g} {kind}s, {where.text} {has} {have[kind]:g}", less(kind)
    for bundle in bundles:
        wanted = bundle.resources
        if wanted and not any(all(node.get(kind, 0.0) >= wanted[kind] for kind in wanted) for node in there):
            one = f"one {bundle.role} worker reserves {resources_text(bundle)}"
            return f"{one}, more than any node of {where.text} has", less(next(iter(wanted)))
    return None


def _total(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {kind: sum(share.get(kind, 0.0) for share in shares) for kind in KINDS}


def resources_text(bundle: Bundle) -> str:
    """What a bundle reserves, for a message."""
    return " and ".join(f"{count:g} {kind}" for kind, count in bundle.resources.items()) or "no CPU"


def less(kind: str) -> str:
    """What helps where there is too little of a kind of resource."""
    return f"lower rollout.actors, reward.workers, learner.ranks or their num_{kind.lower()}s, or add nodes"
