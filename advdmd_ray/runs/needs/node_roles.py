"""Which nodes take the workers of which role, by the label `advdmd-role` that their owner started them with.

Ray's label selectors say in, not in and equal, so a node with several roles has a value that joins them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from advdmd_ray.config.sections import Placement
from advdmd_ray.errors import UserError

LABEL = "advdmd-role"
ROLES = ("learner", "rollout", "reward")
ANY_ROLE = "any role"
"""Of workers that take the room which those of all roles had, or will have."""
JOINED_BY = "-"
VALUES = tuple(JOINED_BY.join(chosen) for count in range(1, len(ROLES) + 1) for chosen in permutations(ROLES, count))
"""Every value that names roles: one, or several in any order."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """Some of a cluster's nodes, by their label.

    Attributes:
        values: Values of the label; empty for all nodes.
        have: Whether it is the nodes with one of these, or all others.
    """

    values: tuple[str, ...] = ()
    have: bool = True

    def __contains__(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels is one of them."""
        return not self.values or (labels.get(LABEL) in self.values) == self.have

    @property
    def selector(self) -> dict[str, str]:
        """The same for Ray: a `label_selector`."""
        return {LABEL: f"{'' if self.have else '!'}in({','.join(self.values)})"} if self.values else {}

    @property
    def text(self) -> str:
        """How a message calls them."""
        if not self.values:
            return "the cluster"
        return f"the nodes with label {LABEL}={self.values[0]}" if self.have else f"the nodes without label {LABEL}"


ALL = Nodes()
UNLABELLED = Nodes(VALUES, have=False)


def naming(role: str) -> Nodes:
    """The nodes whose label names a role."""
    return Nodes(tuple(value for value in VALUES if role in value.split(JOINED_BY)))


def nodes_of_roles(placement: Placement, nodes: Iterable[Mapping[str, str]]) -> dict[str, Nodes]:
    """The nodes that take each role's workers.

    Args:
        placement: `ray.placement`.
        nodes: Labels of the living nodes.

    Raises:
        UserError: if a node's label names something else than roles.
    """
    if placement == "anywhere":
        return dict.fromkeys(ROLES, ALL)
    values = [labels[LABEL] for labels in nodes if LABEL in labels]
    _check(values)
    if placement == "labelled":
        return {role: naming(role) for role in ROLES}
    named = {role for value in values for role in value.split(JOINED_BY)}
    elsewhere = UNLABELLED if named else ALL
    return {role: naming(role) if role in named else elsewhere for role in ROLES}


def of_any_role(nodes: Mapping[str, Nodes]) -> Nodes:
    """The nodes that take workers of at least one role.

    Args:
        nodes: Of each role, from `nodes_of_roles`.
    """
    if not all(where.values for where in nodes.values()):
        return ALL
    named = {value for where in nodes.values() if where.have for value in where.values}
    others = [set(where.values) for where in nodes.values() if not where.have]
    if not others:
        return Nodes(tuple(value for value in VALUES if value in named))
    # Without one of these labels: that is what none of the roles takes.
    refused = set.intersection(*others) - named
    return Nodes(tuple(value for value in VALUES if value in refused), have=False)


def _check(values: Sequence[str]) -> None:
    unknown = next((value for value in values if value not in VALUES), None)
    if unknown is not None:
        raise UserError(
            f"a node has the label {LABEL}={unknown}; a value is {', '.join(ROLES[:-1])} or {ROLES[-1]}, or several of "
            f"them as in {JOINED_BY.join(ROLES[1:])}: start the node with one, or set ray.placement=anywhere"
        )
