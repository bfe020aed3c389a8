"""When a worker is given up whose work takes too long: its process may answer while its device hangs."""

from collections import Counter

from advdmd_ray.controller.under_way import Begun

UNUSUAL = 3
"""Times the longest that work of its kind ever took."""


class Overdue:
    """The work on groups that is under way, the first begun first.

    It may only be slow, and its result is taken if it is the first. So a worker is given up when its work takes longer
    than a lease and than `UNUSUAL`; where no work of its kind was ever done, it has the time of two leases. Each time
    that workers were given up in vain, as no work of the kind was done since, the next have twice as long: groups may
    have grown, and work that always takes too long must come to an end at last.

    Who holds the lease does not matter: it may have been given to another meanwhile, or its group be made.

    Args:
        lease_s: See `rollout.lease_s`.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._longest: dict[str, float] = {}
        self._in_vain: Counter[str] = Counter()
        self._begun: dict[int, Begun] = {}

    def began(self, begun: Begun) -> None:
        """Work begins now, after all that began before."""
        self._begun[id(begun)] = begun

    def done(self, begun: Begun, now: float) -> None:
        """Work is done, late or not."""
        self._longest[begun.kind] = max(now - begun.at, self._longest.get(begun.kind, 0.0))
        self._in_vain.pop(begun.kind, None)
        self.gone(begun)

    def gone(self, begun: Begun) -> None:
        """Work came to nothing, or its process is given up."""
        self._begun.pop(id(begun), None)

    def hanging(self, now: float) -> list[Begun]:
        """Takes out the work whose workers are to be given up now; looks only at what takes longer than a lease."""
        hanging: list[Begun] = []
        for begun in self._begun.values():
            if now - begun.at < self._lease_s:
                break
            if now - begun.at >= self._limit(begun.kind):
                hanging.append(begun)
        for begun in hanging:
            self.gone(begun)
        self._in_vain.update({begun.kind for begun in hanging})  # once, however many hang at a time
        return hanging

    def _limit(self, kind: str) -> float:
        longest = self._longest.get(kind)
        usual = 2 * self._lease_s if longest is None else max(self._lease_s, UNUSUAL * longest)
        return usual * 2 ** self._in_vain[kind]
