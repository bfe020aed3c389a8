"""A group that is another than was asked for ends the run, with what differs, and is not trained on."""

from dataclasses import replace

import pytest

from advdmd_ray.config import Config
from advdmd_ray.controller.protocols import Reference, Task
from advdmd_ray.errors import FAILURES, GroupMismatchError
from advdmd_ray.stations.weights.store import Published
from fake_shell import FakeShell, Stage

CONFIG = Config.model_validate(
    {
        "run": {"cycles": 4},
        "rollout": {"group_size": 4, "groups_per_cycle": 2},
        "learner": {"engine": "torch"},
        "evaluation": {"grid_cycles": 0},
    }
)


class MixesUp(FakeShell):
    """The third group that is scored is another."""

    name = ""

    def score(self, worker: str, group: Reference, discriminator: Published) -> Task:
        task = super().score(worker, group, discriminator)
        report, info = self._outcomes[task]
        if self.scored == 3:
            self._outcomes[task] = report, replace(info, **{self.name: getattr(info, self.name) + 1})
        return task


@pytest.mark.parametrize("name", ["ordinal", "prompt_id", "seed", "policy_version", "reward_version"])
def test_a_group_that_is_another_than_its_lease_ends_the_run(name: str) -> None:
    stage = Stage(CONFIG)
    shell = MixesUp(stage.config, stage.clock)
    shell.name = name
    line = rf"^reward-\d: the group of ordinal 2, attempt 1, is another than was asked for: {name} (\d+), not \d+$"
    with pytest.raises(GroupMismatchError, match=line):
        stage.over(shell).run()
    assert not any(2 in ordinals for ordinals in shell.cycles)
    assert GroupMismatchError in FAILURES, "so the command ends with one line and exit code 1"
