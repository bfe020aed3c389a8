"""Which nodes of a cluster take which role's workers, by their labels."""

from collections.abc import Sequence

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.runs.doctor.finding import Finding
from advdmd_ray.runs.doctor.nodes import Node
from advdmd_ray.runs.needs.node_roles import LABEL, nodes_of_roles


def homes_of(config: Config, nodes: Sequence[Node]) -> dict[str, list[Node]]:
    """The nodes that take each role's workers; all of them where labels keep a role from every node.

    `examine_labels` says so then, and the other findings are about what the nodes have.
    """
    try:
        allowed = nodes_of_roles(config.ray.placement, [node.labels for node in nodes])
    except UserError:
        return {role: list(nodes) for role in config.roles}
    return {role: [node for node in nodes if node.labels in where] or list(nodes) for role, where in allowed.items()}


def examine_labels(config: Config, nodes: Sequence[Node]) -> Finding | None:
    """Whether each role has a node that takes its workers; None where no label says anything."""
    labels = [node.labels for node in nodes]
    try:
        allowed = nodes_of_roles(config.ray.placement, labels)
    except UserError as error:
        return Finding("labels", "change", str(error))
    if not any(where.values for where in allowed.values()):
        return None
    homes = {role: [node.name for node in nodes if node.labels in where] for role, where in allowed.items()}
    homeless = [role for role, names in homes.items() if not names]
    if homeless:
        text = (
            f"no node takes the workers of {' and '.join(homeless)}: start one with the label {LABEL}={homeless[0]}, "
            "have an autoscaler bring it, or set ray.placement=anywhere"
        )
        return Finding("labels", "change", text)
    return Finding("labels", "ok", "; ".join(f"{role} on {', '.join(sorted(names))}" for role, names in homes.items()))
