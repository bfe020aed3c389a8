"""Whether workers run the weights that were published; a difference ends the run."""

from advdmd_ray.controller.protocols import Reference
from advdmd_ray.controller.telemetry import Telemetry
from advdmd_ray.errors import WeightsMismatchError
from advdmd_ray.stations.records import WorkReport
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
