"""An actor that answers beside its work, so that one that hangs is found."""

import ray

from advdmd_ray.runtime.calls import PULSE


class Pulsed:
    """What an actor with the concurrency group `PULSE` of one thread inherits."""

    @ray.method(concurrency_group=PULSE)
    def ping(self) -> None:
        """Answers beside whatever else it does."""
