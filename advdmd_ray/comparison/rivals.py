"""The trainers of a comparison by name, and what each offers; docs/ADD_A_RIVAL.md shows how to add one.

A trainer's module is imported when a comparison is planned. The networks' libraries take seconds more: it imports them
when it is made, in its job's own process.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from advdmd_ray.config import Section
from advdmd_ray.config.named import named_class
from advdmd_ray.runs.needs.compute import Cost

if TYPE_CHECKING:
    from torch import Tensor

    from advdmd_ray.comparison.job import Job
    from advdmd_ray.learner.checkpoint import Checkpoint

TRAINERS: Mapping[str, str] = {
    "advdmd": "advdmd_ray.comparison.advdmd:AdvDmdTrainer",
    "twinflow": "advdmd_ray.comparison.twinflow:TwinFlowTrainer",
}
"""Name in a rival's `trainer` -> module:Class; one from outside the package is named that way itself."""

SKIPPED = "skipped"
"""In a trainer's notes: updates so far whose gradient was not finite, so that they were left out."""


class NoSettings(Section):
    """Of a trainer whose settings are those of the run."""


class Trainer(ABC):
    """One learner at work on one job.

    Args:
        job: What to do.
        checkpoint: Where to go on from, as `save` left it; None starts with the teacher.

    Attributes:
        settings: What may stand under `settings` of its rivals.
        revision: Counted up whenever it learns otherwise from the same settings, so that results of two never mix.
        unread: Sections of the configuration that it does not read: they may change without a new run of its jobs.
    """

    settings: ClassVar[type[Section]] = NoSettings
    revision: ClassVar[int] = 1
    unread: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def __init__(self, job: "Job", checkpoint: "Checkpoint | None") -> None: ...

    @property
    @abstractmethod
    def spent(self) -> Cost:
        """Forward-equivalents since the job's beginning."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Steps of work made."""

    @abstractmethod
    def advance(self) -> None:
        """Makes the next step of work, the smallest that leaves a whole state."""

    @abstractmethod
    def student(self) -> "Mapping[str, Tensor]":
        """The weights to judge, by the names of a `TransformerDenoiser`."""

    @abstractmethod
    def notes(self) -> dict[str, Any]:
        """Figures of the work since the judgement before that explain the next one, as JSON has them.

        The page of the results tells of `SKIPPED` among them.
        A resumed job has those of the job that was left.
        """

    @abstractmethod
    def save(self, facts: Mapping[str, Any]) -> None:
        """Writes a checkpoint that also holds the runner's facts."""


def trainer_class(name: str) -> type[Trainer]:
    """The class that a rival's `trainer` names.

    Raises:
        UserError: if there is none of that name.
    """
    return named_class("trainer", name, TRAINERS, Trainer)
