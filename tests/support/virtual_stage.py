"""The real controller over virtual workers, with the real frontier, buffer and store."""

from advdmd_ray.config import Config
from advdmd_ray.controller.frontier import PromptFrontier
from advdmd_ray.controller.loop import Controller
from advdmd_ray.controller.protocols import Reference
from advdmd_ray.planning.virtual import Costs, VirtualClock, VirtualShell
from advdmd_ray.stations.buffer.index import BufferIndex
from advdmd_ray.stations.weights.store import WeightStore
from fake_shell import RecordingHub

GROUP_BYTES = 2**14


class VirtualStage:
    """A controller over virtual workers."""

    def __init__(
        self, costs: Costs, *, actors: int, groups: int, cycles: int, age: int = 1, reward: int = 1, leases: int = 2
    ) -> None:
        self.config = Config.model_validate(
            {
                "run": {"cycles": cycles},
                "rollout": {
                    "actors": actors,
                    "leases": leases,
                    "group_size": 4,
                    "groups_per_cycle": groups,
                    "max_policy_age": age,
                },
                "reward": {"workers": reward},
                "buffer": {"max_bytes": 2**40, "take_timeout_s": 1e6},
                "learner": {"engine": "torch", "cycle_timeout_s": 1e6, "checkpoint_cycles": 10**6},
                "evaluation": {"grid_cycles": 0},
                **{name: {"batch_size": groups} for name in ("dmd", "fake_score", "discriminator")},
            }
        )
        self.clock, self.hub = VirtualClock(), RecordingHub()
        self.frontier = PromptFrontier(0, 100, 1e6)
        self.buffer: BufferIndex[Reference] = BufferIndex(max_bytes=2**40, max_policy_age=age)
        self.controller = Controller(
            self.config,
            frontier=self.frontier,
            buffer=self.buffer,
            store=WeightStore(),
            hub=self.hub,
            shell=VirtualShell(self.config, costs, self.clock, group_bytes=GROUP_BYTES),
            group_bytes=GROUP_BYTES,
            clock=self.clock,
        )

    def run(self) -> float:
        """Virtual seconds of the whole run."""
        assert self.controller.run() == self.config.run.cycles
        return self.clock.now
