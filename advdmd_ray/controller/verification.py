"""Whether workers run the weights that were published and make the groups that are asked for; if not, the run ends."""

from advdmd_ray.controller.protocols import Reference
from advdmd_ray.controller.telemetry import Telemetry
from advdmd_ray.errors import GroupMismatchError, WeightsMismatchError
from advdmd_ray.stations.records import GroupInfo, Identity, Lease, WorkReport
from advdmd_ray.stations.rollout import sample_seeds
from advdmd_ray.stations.weights.store import WeightStore


class Verification:
    """Checks what workers say they loaded.

    Args:
        store: Knows what was published.
        telemetry: Is told of every check.
    """

    def __init__(self, store: WeightStore[Reference], telemetry: Telemetry) -> None:
        self._store, self._telemetry = store, telemetry

    def __call__(self, report: WorkReport) -> None:
        """Checks the weights that a worker loaded for its work, if it did.

        Raises:
            WeightsMismatchError: if they are others than were published.
        """
        if report.load is None:
            return
        try:
            self._store.verify(report.load)
        except WeightsMismatchError:
            self._telemetry.mismatched(report.load.stream)
            raise
        self._telemetry.verified(report.load)


def check_group(info: GroupInfo, lease: Lease, reward_version: int, worker: str) -> None:
    """Compares what a scored group says of itself, read from its bytes, with what was asked for.

    Args:
        info: It.
        lease: That of the group.
        reward_version: Of the discriminator that was to score it.
        worker: Who says so.

    Raises:
        GroupMismatchError: naming worker, ordinal and what differs.
    """
    seed, *_ = sample_seeds(lease.seed, 1)
    wanted = Identity(lease.ordinal, lease.prompt_id, seed, lease.policy_version, reward_version)
    if differences := info.identity.differences(wanted):
        raise GroupMismatchError(
            f"{worker}: the group of ordinal {lease.ordinal}, attempt {lease.attempt + 1}, is another than was asked "
            f"for: {differences}"
        )
