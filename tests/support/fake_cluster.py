"""A cluster with an autoscaler, in virtual time: it takes placement groups as Ray does, and brings nodes for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from advdmd_ray.runs.needs.node_roles import LABEL
from advdmd_ray.runtime import room, waiting


@dataclass(eq=False)
class FakeGroup:
    """A placement group."""

    cluster: "FakeCluster"
    bundles: Sequence[Mapping[str, float]]
    selectors: Sequence[Mapping[str, str]]
    placed: bool = False
    waits: int = 0

    def wait(self, seconds: float) -> bool:
        self.waits += 1
        self.cluster.pass_time(seconds)
        return self.placed


@dataclass
class FakeCluster:
    """Its nodes, and those that it may bring.

    Attributes:
        nodes: Resources and labels of each.
        offers: The same of each node that it may bring.
        takes_s: How long a node takes to come.
        dies_at: When the wait is interrupted, as by a signal; None: never.
    """

    nodes: list[tuple[dict[str, float], dict[str, str]]]
    offers: list[tuple[dict[str, float], dict[str, str]]] = field(default_factory=list)
    takes_s: float = 6.0
    dies_at: float = float("inf")
    now: float = 0.0
    groups: list[FakeGroup] = field(default_factory=list)
    asked: list[list[dict[str, float]]] = field(default_factory=list)
    coming: dict[int, float] = field(default_factory=dict)

    def placement_group(
        self, bundles: list[dict[str, float]], *, strategy: str, bundle_label_selector: list[dict[str, str]]
    ) -> FakeGroup:
        assert bundles
        assert all(bundle and all(count > 0 for count in bundle.values()) for bundle in bundles), "Ray refuses these"
        assert len(bundle_label_selector) == len(bundles)
        assert strategy == "PACK"
        group = FakeGroup(self, bundles, bundle_label_selector)
        self.groups.append(group)
        self.asked.append(bundles)
        self.schedule()
        return group

    def placement_group_table(self, group: FakeGroup) -> dict[str, Any]:
        assert group in self.groups, "a group that was removed is asked for"
        return {"state": "CREATED" if group.placed else "PENDING"}

    def remove_placement_group(self, group: FakeGroup) -> None:
        self.groups.remove(group)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.dies_at:
            raise KeyboardInterrupt
        for index, at in list(self.coming.items()):
            if self.now >= at:
                self.nodes.append(self.offers[index])
                del self.coming[index]
        self.schedule()

    def schedule(self) -> None:
        """Places groups first fit, all of one or none, and orders nodes that would take what is not placed."""
        room_left = [dict(resources) for resources, _ in self.nodes]
        for group in self.groups:
            trial = [dict(each) for each in room_left]
            fits = all(
                self._take(trial, bundle, selector)
                for bundle, selector in zip(group.bundles, group.selectors, strict=True)
            )
            if fits:
                group.placed, room_left = True, trial
                continue
            for index, (resources, labels) in enumerate(self.offers):
                wanted = any(
                    self._matches(labels, selector) and self._holds(resources, bundle)
                    for bundle, selector in zip(group.bundles, group.selectors, strict=True)
                )
                if wanted and index not in self.coming and self.offers[index] not in self.nodes:
                    self.coming[index] = self.now + self.takes_s

    def _take(self, free: list[dict[str, float]], bundle: Mapping[str, float], selector: Mapping[str, str]) -> bool:
        for left, (_, labels) in zip(free, self.nodes, strict=True):
            if self._matches(labels, selector) and self._holds(left, bundle):
                for kind, count in bundle.items():
                    left[kind] -= count
                return True
        return False

    @staticmethod
    def _holds(resources: Mapping[str, float], bundle: Mapping[str, float]) -> bool:
        return all(resources.get(kind, 0.0) >= count for kind, count in bundle.items())

    @staticmethod
    def _matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
        for key, text in selector.items():
            assert key == LABEL
            names, _, rest = text.partition("(")
            assert names in ("in", "!in")
            assert rest.endswith(")")
            if (labels.get(key) in rest[:-1].split(",")) != (names == "in"):
                return False
        return True

    # As the module `ray`.
    def available_resources(self) -> dict[str, float]:
        """What nobody holds: groups that are placed do."""
        total: dict[str, float] = {}
        for resources, _ in self.nodes:
            for kind, count in resources.items():
                total[kind] = total.get(kind, 0.0) + count
        for group in self.groups:
            for bundle in group.bundles if group.placed else ():
                for kind, count in bundle.items():
                    total[kind] -= count
        return total

    def look(self) -> list[dict[str, Any]]:
        alive = [(True, resources, labels) for resources, labels in self.nodes]
        return [
            {"Alive": here, "Resources": resources, "Labels": labels, "NodeManagerHostname": f"host-{index}"}
            for index, (here, resources, labels) in enumerate([*alive, (False, {"CPU": 99.0}, {})])
        ]

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Puts itself in Ray's place."""
        for name in ("placement_group", "placement_group_table", "remove_placement_group"):
            monkeypatch.setattr(room, name, getattr(self, name))
        monkeypatch.setattr(waiting, "ray", _AsRay(self))
        monkeypatch.setattr(waiting.time, "monotonic", lambda: self.now)


class _AsRay:
    def __init__(self, cluster: FakeCluster) -> None:
        self.nodes, self.available_resources = cluster.look, cluster.available_resources
