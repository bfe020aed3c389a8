"""One job of a comparison, and what is in its folder.

A job's folder:

    settings.json        what its results hang on; results of other settings are never mixed with them
    checkpoints/         where an interrupted job goes on; removed when it is done, unless others start from it
    makings.json         where and by which code it was worked on so far
    points.json          the judgements so far
    result.json          all judgements: the job is done
    student.safetensors  the judged student's weights
    job.log              what the process said; its last line is why it failed, if it did
"""

from dataclasses import dataclass
from pathlib import Path

from advdmd_ray.config import Config, Section
from advdmd_ray.runs.needs.compute import Network

SETTINGS, MAKINGS, POINTS = "settings.json", "makings.json", "points.json"
RESULT, LOG = "result.json", "job.log"
JUDGE_SEED = 20260428
"""Of the noise that every judged sampler starts from: the same in all jobs, so that seeds differ by training alone."""
STUDENT = "student.safetensors"
TABLE = "table.md"
"""The headline table, in the comparison's own folder."""
NONE = "none"
"""Trainer of the teacher's job."""


@dataclass(frozen=True, slots=True)
class Job:
    """One rival with one seed, or the teacher.

    Attributes:
        rival: Its name; `teacher` for the teacher.
        title: Its name for a reader.
        trainer: What trains the student; `none` for the teacher, who is only judged.
        settings: The trainer's own.
        config: The resolved configuration; `config.folder` is the job's folder.
        budget: Learner forward-equivalents to spend, its start's included; for the teacher the number of samplers to
            judge.
        points: Judgements along what it spends itself.
        judge_samples: Images per judgement.
        network: What the count of compute must know of the transformer.
        teacher_steps: Steps at which the teacher is judged; empty for rivals.
        start: The job whose end it begins with; None begins with the teacher.
        is_start: Whether others start from it, which then keeps its last checkpoint.
    """

    rival: str
    title: str
    trainer: str
    settings: Section
    config: Config
    budget: float
    points: int
    judge_samples: int
    network: Network
    teacher_steps: tuple[int, ...] = ()
    start: "Job | None" = None
    is_start: bool = False

    @property
    def folder(self) -> Path:
        """Where its results are."""
        return self.config.folder

    @property
    def name(self) -> str:
        """Its name among the jobs."""
        return self.rival if self.trainer == NONE else f"{self.rival} seed {self.config.run.seed}"

    @property
    def done(self) -> bool:
        """Whether its result is there."""
        return (self.folder / RESULT).is_file()

    @property
    def on_gpu(self) -> bool:
        """Whether any of its networks is on a GPU."""
        return any(role.num_gpus for role in self.config.roles.values())

    @property
    def starts(self) -> "tuple[Job, ...]":
        """The jobs that must be done before it, the first one first."""
        return () if self.start is None else (*self.start.starts, self.start)

    @property
    def begins_at(self) -> float:
        """What was spent before its own first step."""
        return 0.0 if self.start is None else self.start.budget

    @property
    def own_budget(self) -> float:
        """What it spends itself."""
        return self.budget - self.begins_at

    def spent_itself(self, spent: float) -> float:
        """Of what is spent in all, what it spent itself, at most its own budget."""
        return min(max(spent - self.begins_at, 0.0), self.own_budget)

    def points_due(self, spent: float) -> int:
        """Judgements to show once so much is spent: one for each full share of what the job spends itself."""
        return self.points if spent >= self.budget else int(self.points * self.spent_itself(spent) / self.own_budget)
