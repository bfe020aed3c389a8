"""Where the processes of a run's workers go: to the nodes of their role, and not where they end again and again."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.node_roles import ANY_ROLE, Nodes, nodes_of_roles, of_any_role
from advdmd_ray.runtime.node_losses import AVOIDED_S, MOST_LOSSES, WITHIN_S, NodeLosses
from advdmd_ray.runtime.waiting import Node, living_nodes

logger = logging.getLogger(__name__)

NODE_ID = "ray.io/node-id"
"""Ray's own label of every node."""


class Places:
    """Chooses nodes. What the labels of the nodes say is looked up once, when the first worker is placed.

    Args:
        config: `ray.placement`.
        losses: Says which nodes are avoided.
        look: What nodes there are.
    """

    def __init__(
        self, config: Config, losses: NodeLosses | None = None, look: Callable[[], list[Node]] = living_nodes
    ) -> None:
        self._config, self._look = config, look
        self._losses = NodeLosses() if losses is None else losses
        self._nodes: Mapping[str, Nodes] | None = None

    def selector(self, role: str) -> dict[str, str]:
        """Ray's label selector of the nodes that take the workers of a role, or of `ANY_ROLE`; empty for all.

        Raises:
            UserError: at its first call, if a node's label names no role.
        """
        if self._nodes is None:
            nodes = nodes_of_roles(self._config.ray.placement, [node.labels for node in self._look()])
            self._nodes = {**nodes, ANY_ROLE: of_any_role(nodes)}
        return self._nodes[role].selector

    def choices(self, role: str) -> list[dict[str, str]]:
        """The selectors to try, one after the other: of a node that is avoided only for want of another."""
        selector, avoided = self.selector(role), self._losses.avoided()
        return [{**selector, NODE_ID: f"!in({','.join(avoided)})"}, selector] if avoided else [selector]

    def options(self, role: str) -> dict[str, Any]:
        """Ray's options of an actor or a task of this role."""
        first, *others = self.choices(role)
        fallback = {"fallback_strategy": [{"label_selector": other} for other in others]} if others else {}
        return {"label_selector": first, **fallback}

    def lost(self, node: str) -> None:
        """A process of ours ended on a node, or was given up there."""
        if not self._losses.lost(node):
            return
        name = next((each.name for each in self._look() if each.labels.get(NODE_ID) == node), None)
        if name is not None:  # or the node itself is gone
            logger.warning(
                "%d workers ended on node %s within %.0f s; where others have room none is started there for %.0f s",
                *(MOST_LOSSES, name, WITHIN_S, AVOIDED_S),
            )
