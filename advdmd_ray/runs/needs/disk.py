"""Room on the disk of the run folder: checkpoints, and the student that is exported at the end."""

from dataclasses import dataclass
from pathlib import Path

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.files import disk_of
from advdmd_ray.models.families.kept import FLOAT32
from advdmd_ray.models.folder import PipelineInfo, inspect_pipeline
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.needs.amounts import amount
from advdmd_ray.runs.needs.memory import adapter_weights


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """What a run writes at most.

    Attributes:
        checkpoint: Bytes of one checkpoint, without discriminator heads.
        checkpoints: Most that are there at a time: those that are kept, and the one being written.
        student: Bytes of the exported student, a whole pipeline.
    """

    checkpoint: int
    checkpoints: int
    student: int

    @property
    def total(self) -> int:
        """Bytes of all."""
        return self.checkpoints * self.checkpoint + self.student


def disk_need(config: Config, info: PipelineInfo) -> DiskNeed:
    """What a run with this configuration writes into its folder, without grids, metrics and latents.

    A checkpoint has, in float32, weights and moments of every network that learns (the student has two sets: of DMD and
    RL), the student's average, and that of an own backbone.

    Args:
        config: The configuration.
        info: The teacher's folder.
    """
    whole = info.component("transformer").parameters
    learnt = (adapter_weights(info, config.lora) or whole) * FLOAT32
    own = config.discriminator.backbone == "own"
    networks, averages = 2 + own, 1 + own
    sets = networks + config.policy_gradient.enabled
    return DiskNeed(
        checkpoint=(networks + 2 * sets + averages) * learnt,
        checkpoints=config.learner.keep_checkpoints + 1,
        student=sum(part.size_bytes for part in info.components),  # which has the teacher's kinds of numbers
    )


def free_for(folder: Path) -> int:
    """Bytes that a run in a folder may take: what is free, and what an earlier part of it has there already."""
    run = RunFolder(folder)
    there = [file for part in (run.checkpoints, run.student) for file in part.rglob("*") if file.is_file()]
    return disk_of(folder)[1] + sum(file.stat().st_size for file in there)


def check_disk(config: Config) -> str:
    """Make sure that there is room for checkpoints and student, and say how much.

    Raises:
        UserError: if there is not, or the teacher's folder is not whole.
    """
    need = disk_need(config, inspect_pipeline(config.model.path, config.model.pixels))
    free = free_for(config.folder)
    text = (
        f"{need.checkpoints} checkpoints of {amount(need.checkpoint)} and a student of {amount(need.student)} need "
        f"{amount(need.total)}, {amount(free)} are free"
    )
    if need.total > free:
        raise UserError(f"folder {config.folder}: {text}; lower learner.keep_checkpoints, or choose another run.output")
    return text
