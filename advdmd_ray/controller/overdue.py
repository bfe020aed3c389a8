"""When the holder of an overdue lease is given up: its process may answer while its device hangs."""

from advdmd_ray.controller.under_way import Begun

UNUSUAL = 3
"""Times the longest that work of its role ever took."""


class Overdue:
    """The work of overdue leases that is not over.

    Its result is taken if it is the first. It may only be slow, so its holder is given up when it takes longer than a
    lease and than `UNUSUAL`. Where no work of its role was ever done, it has the time of two leases, and of twice as
    many each time that a holder was given up in vain.

    Args:
        lease_s: See `rollout.lease_s`.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._longest: dict[str, float] = {}
        self._patience: dict[str, float] = {}
        self._late: dict[int, tuple[Begun, str]] = {}

    def done(self, begun: Begun, role: str, now: float) -> None:
        """Work is done, late or not."""
        self._longest[role] = max(now - begun.at, self._longest.get(role, 0.0))
        self.gone(begun)

    def late(self, begun: Begun, role: str) -> None:
        """The lease of this work is overdue."""
        self._late[id(begun)] = begun, role

    def gone(self, begun: Begun) -> None:
        """Work came to nothing, or its process is given up."""
        self._late.pop(id(begun), None)

    def hanging(self, now: float) -> list[Begun]:
        """Takes out the work whose holders are to be given up now."""
        hanging = [(begun, role) for begun, role in self._late.values() if now - begun.at >= self._limit(role)]
        for begun, role in hanging:
            self.gone(begun)
            self._patience[role] = 2 * self._patience.get(role, 2 * self._lease_s)
        return [begun for begun, _ in hanging]

    def _limit(self, role: str) -> float:
        if role in self._longest:
            return max(self._lease_s, UNUSUAL * self._longest[role])
        return self._patience.get(role, 2 * self._lease_s)
