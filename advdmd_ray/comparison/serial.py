"""The whole method on one page: load, roll out, score, learn, and again. No Ray, no buffer, no waiting.

The place to begin reading. `SerialRun.cycle` makes one learner cycle, with the parts that also run as Ray actors:

1. **Load.** The rollout worker takes the newest student, the reward worker the newest discriminator
   (`stations/weights/`).
2. **Roll out.** The student samples groups of SDE trajectories, several of one prompt (`stations/rollout.py`).
3. **Score.** The discriminator gives a reward to every state of every trajectory (`stations/reward.py`).
4. **Learn.** The trajectories train the fake score and the discriminator; then the student, by RL on the rewards and by
   distribution matching (`learner/learner.py`). The next cycle begins with the new weights.

The asynchronous run does the same with many workers and a buffer between them (`controller/loop.py`). Here all groups
have age 0 and the order of work is fixed, so a run is a function of its configuration and the number of threads, as
comparisons at equal compute need it.
"""

from advdmd_ray.config import Config
from advdmd_ray.controller.prompt_order import work_of
from advdmd_ray.learner.checkpoint import Checkpoint
from advdmd_ray.learner.gang import SoloGang
from advdmd_ray.learner.learner import Learner
from advdmd_ray.learner.outcome import CycleReport
from advdmd_ray.learner.worker import LearnerWorker
from advdmd_ray.runs.parts.inputs import encode_table
from advdmd_ray.runs.parts.workers import (
    build_reward_worker,
    build_rollout_worker,
    learner_parts,
    make_shards_here,
)
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import Lease
from advdmd_ray.stations.reward import group_info


class SerialRun:
    """A run whose next cycle happens when it is asked for.

    Args:
        config: `learner.ranks` must be 1.
        checkpoint: Where to go on from; None starts with the teacher.
        table: The encoded prompts, if the caller has them already.

    Attributes:
        worker: The learner with its checkpoints.
        table: The encoded prompts.
    """

    def __init__(self, config: Config, checkpoint: Checkpoint | None = None, table: PromptTable | None = None) -> None:
        self._config = config
        self.table = encode_table(config) if table is None else table
        make_shards_here(config, self.table)
        self.worker = LearnerWorker(**learner_parts(config, SoloGang(), self.table, checkpoint, watched=False))
        self._rollout = build_rollout_worker(config, "rollout", self.table)
        self._reward = build_reward_worker(config, "reward", self.table)

    @property
    def learner(self) -> Learner:
        """The one rank."""
        return self.worker.learner

    @property
    def version(self) -> int:
        """Cycles made."""
        return self.learner.version

    def cycle(self) -> CycleReport:
        """One cycle: the newest weights make its groups and score them, and the learner learns from them."""
        student, discriminator = self.learner.snapshots()
        self._rollout.load(student)
        self._reward.load(discriminator)
        groups = self._rollout.generate_together(self._leases())
        scored = [self._reward.score(group) for group in groups]
        return self.learner.cycle(scored, [group_info(group, size_bytes=0) for group in scored])

    def _leases(self) -> list[Lease]:
        """The work of this cycle: the next prompts of the stream, one group each, with their seeds."""
        count, leases = self._config.rollout.groups_per_cycle, []
        for ordinal in range(self.version * count, (self.version + 1) * count):
            work = work_of(self._config.run.seed, self.table.rollouts, ordinal)
            leases.append(Lease(ordinal, 0, work.prompt_id, work.seed, self.version))
        return leases
