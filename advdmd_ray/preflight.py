"""Pre-flight: whatever would make a run fail is found before the first Ray process starts.

Each check raises `UserError` with one line: what came, what is allowed, what to do. Checks leave nothing behind;
only `claim` changes the run folder.
"""

import fcntl
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from advdmd_ray.config import Config
from advdmd_ray.errors import CheckpointError, UserError
from advdmd_ray.estimate import group_bytes, placement, ray_address, reserved
from advdmd_ray.models.folder import SAMPLING, PipelineInfo, inspect_pipeline

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints inside a run folder."""
FIXED = (
    "run.seed",
    "model",
    "lora",
    "data",
    "diffusion",
    "rollout.group_size",
    "rollout.warm_group_size",
    "rollout.groups_per_cycle",
    "discriminator.blocks",
    "discriminator.width",
    "discriminator.backbone",
    "discriminator.heldout_fraction",
    "cadence.dmd_updates",
)
"""Settings that a resumed run must keep: the prompt stream, the pace, the groups and the networks hang on them."""
PLACES = {"model": {"embeddings"}, "data": {"cache"}}
"""Settings of where things are kept, section by section; no result hangs on them."""
FREE = {"model": PLACES["model"] | {"attention"}, "data": PLACES["data"] | {"most_skipped"}}
"""What may change in sections that are fixed otherwise: places, and what differs by rounding or not at all."""
LOCK = "run.lock"
"""File that a running run holds locked; the kernel lets go of it when the process ends, however it ends."""


@dataclass(frozen=True, slots=True)
class Start:
    """How a run begins.

    Attributes:
        folder: The run folder.
        checkpoint: The intact checkpoint to go on from, or None to begin at cycle 0.
        aside: Where an earlier run in `folder` is moved first, or None.
        note: One line that tells the user.
    """

    folder: Path
    checkpoint: Path | None
    aside: Path | None
    note: str


def check(config: Config, resume: str | None = None, *, fresh: bool = False) -> Start:
    """Make sure that a run can begin.

    Args:
        config: The resolved configuration.
        resume: None, "auto", or the path of a run folder, a checkpoint folder or one checkpoint.
        fresh: Move an earlier run of this name aside instead of refusing to start.

    Raises:
        UserError: for the first obstacle found.
    """
    from advdmd_ray.metrics import check_port_free  # noqa: PLC0415 - prometheus_client is no part of --help

    check_model(config)
    check_prompts(config)
    check_files(config)
    check_writable(config.folder)
    check_cores(config)
    start = plan_start(config.folder, resume, fresh=fresh)
    if start.checkpoint is not None:
        check_same_run(config, start.checkpoint)
    check_port_free(config.metrics.host, config.metrics.port)
    return start


def check_cores(config: Config) -> None:
    """Make sure that a local Ray has the CPUs that the workers reserve; a cluster is asked when it is joined.

    Raises:
        UserError: if it has not.
    """
    if ray_address(config) is not None:
        return
    (demanded, _), cores = reserved(placement(config)), os.cpu_count() or 1
    if demanded > cores:
        raise UserError(
            f"the workers reserve {demanded:g} CPUs, this machine has {cores}; lower rollout.actors, reward.workers, "
            "learner.ranks or their num_cpus, or join a cluster"
        )


def check_same_run(config: Config, checkpoint: Path) -> None:
    """Compare what a resumed run may not change with the configuration that its checkpoint was made with.

    Raises:
        UserError: naming the first setting that differs.
    """
    from advdmd_ray.learner.checkpoint import open_checkpoint  # noqa: PLC0415 - imports torch

    why = "a resumed run cannot change it; set it back, or start anew by --fresh"
    check_made_with(config, checkpoint, open_checkpoint(checkpoint).facts, FIXED, why)


def check_made_with(config: Config, checkpoint: Path, facts: Mapping[str, Any], fixed: Sequence[str], why: str) -> None:
    """Compare settings with those that a checkpoint was made with.

    Args:
        config: The configuration.
        checkpoint: Where the checkpoint is.
        facts: Its facts.
        fixed: Sections and settings that must be the same.
        why: Says why to the user, and what to do.

    Raises:
        UserError: naming the first setting that differs.
    """
    if "config" not in facts:
        raise UserError(f"{checkpoint} was not made by a run; name another by --resume, or start anew by --fresh")
    # Read as a configuration, so that a setting younger than the checkpoint has the default it was made with.
    try:
        then = Config.model_validate(facts["config"]).model_dump(mode="json")
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise UserError(
            f"{checkpoint.name} was made with a setting that this version does not take: {key}; start anew by --fresh"
        ) from None
    now = config.model_dump(mode="json")
    for key in fixed:
        section, _, name = key.partition(".")
        before, after = then[section], now[section]
        if name:
            before, after = before[name], after[name]
        else:
            free = FREE.get(section, set())
            before, after = ({k: v for k, v in tree.items() if k not in free} for tree in (before, after))
        if before != after:
            raise UserError(f"{key} is {after!r}, but {checkpoint.name} was made with {before!r}: {why}")


def check_model(config: Config) -> None:
    """Read the headers of the teacher's pipeline folder and compare it with the configuration.

    Raises:
        UserError: if the folder or a component is missing, a weight file is truncated, the pipeline was trained with
            another text length, the discriminator asks for a block that the transformer has not, or the buffer cannot
            hold the groups of one learner cycle: the actors would wait for room and the learner for groups, for ever.
    """
    from advdmd_ray.stations.buffer.index import check_capacity  # noqa: PLC0415 - imports numpy

    info = inspect_pipeline(config.model.path, config.model.pixels)
    check_max_sequence_length(config, info)
    if max(config.discriminator.blocks) >= info.layers:
        raise UserError(
            f"discriminator.blocks = {list(config.discriminator.blocks)}: the transformer in {info.folder} has blocks "
            f"0 to {info.layers - 1}; name some of these"
        )
    check_capacity(config.buffer.max_bytes, group_bytes(config, info.latent), config.rollout.groups_per_cycle)


def check_max_sequence_length(config: Config, info: PipelineInfo) -> None:
    """Compare the configured text length with that of a pipeline folder; one that does not say fits any.

    Raises:
        UserError: if they differ, or the family's pipeline does not take so many tokens.
    """
    length, most = config.model.max_sequence_length, info.family.max_tokens
    if length > most:
        raise UserError(
            f"model.max_sequence_length is {length}, but a {info.family.pipeline} takes at most {most} tokens; set it "
            f"to {most} or less"
        )
    if info.sampling is not None and info.sampling.max_sequence_length != length:
        trained = info.sampling.max_sequence_length
        raise UserError(
            f"model.max_sequence_length is {length}, but {info.folder / SAMPLING} says {trained}, which the pipeline "
            f"was trained with; set model.max_sequence_length={trained}"
        )


def check_prompts(config: Config) -> None:
    """Read the prompt file and match it with the real images.

    Raises:
        UserError: for a bad line, which is named with its number, a prompt without real images, one prompt alone where
            the discriminator needs another for its mismatched texts, or too few images for the judge.
    """
    from advdmd_ray.data.prompt_file import load_prompts  # noqa: PLC0415

    if config.data.prompts is None:
        return
    load_prompts(config.data.prompts)
    if config.data.source == "files":
        return  # any prompt will do: real images come with their own captions
    from advdmd_ray.assembly import prompts_of  # noqa: PLC0415 - imports torch: only once the file itself is sound

    prompts = prompts_of(config)
    if config.data.source == "teacher_samples":
        from advdmd_ray.evaluation.judges.thumbnails import check_count  # noqa: PLC0415

        check_count(len(prompts) * config.data.teacher_samples)


def check_files(config: Config) -> None:
    """Look for the images of data.source=files without reading them.

    Raises:
        UserError: if there are none.
    """
    if config.data.path is None:
        return
    from advdmd_ray.data.files.shards import find_shards  # noqa: PLC0415 - imports pyarrow

    data = config.data
    find_shards(config.data.path, image_column=data.image_column, caption_column=data.caption_column)


def check_writable(folder: Path) -> None:
    """Make sure that the run folder can be created and written, by a probe file where its first parent stands.

    Asking for permission bits would not do: they do not bind root, and a read-only file system ignores them.

    Raises:
        UserError: if it cannot.
    """
    hint = "choose another run.output"
    try:
        standing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not standing.is_dir():
            raise UserError(f"run folder {folder}: {standing} is a file, not a folder; {hint}")
        with tempfile.TemporaryFile(dir=standing):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"run folder {folder} cannot be written: {reason}; {hint}") from None


def plan_start(folder: Path, resume: str | None, *, fresh: bool) -> Start:
    """Decide between a new run, a resumed one and a refusal. Nothing an earlier run wrote is ever overwritten.

    | run folder | no option | `--fresh` | `--resume auto` |
    |---|---|---|---|
    | empty or absent | new | new | new, and says that there was nothing to resume |
    | files, no checkpoint | refused | moved aside, new | moved aside, new |
    | files and checkpoints | refused | moved aside, new | goes on from the newest intact one |
    | in use by a process | refused | refused | refused |

    `--resume PATH` goes on from that checkpoint in this folder, which must be its own or empty.

    Raises:
        UserError: if the start is refused, or `resume` names no checkpoint.
    """
    if resume is not None and fresh:
        raise UserError("--resume and --fresh contradict each other; give one of them")
    if is_live(folder):
        raise UserError(f"{folder}: a process is writing this run now; wait for it, or set another run.name")
    used = folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())
    aside = free_name(folder) if used else None
    if resume == "auto":
        checkpoint = newest_checkpoint(folder / CHECKPOINTS) if (folder / CHECKPOINTS).is_dir() else None
        if checkpoint is not None:
            return Start(folder, checkpoint, None, f"resuming {folder} from {checkpoint.name}")
        moved = f"; moving what is there to {aside}" if aside else ""
        return Start(folder, None, aside, f"nothing to resume in {folder}: no checkpoint{moved}; starting fresh")
    if resume is not None:
        return _start_from(folder, Path(resume), used=used)
    if not used:
        return Start(folder, None, None, f"new run in {folder}")
    if fresh:
        return Start(folder, None, aside, f"new run in {folder}; the earlier one is moved to {aside}")
    raise UserError(
        f"{folder} has a run already; go on with it by --resume auto, keep it aside by --fresh, or set another run.name"
    )


def _start_from(folder: Path, source: Path, *, used: bool) -> Start:
    inner = source / CHECKPOINTS
    checkpoint = newest_checkpoint(inner if inner.is_dir() else source)
    if checkpoint is None:
        raise UserError(
            f"--resume {source}: no checkpoint there; give a run folder, its {CHECKPOINTS} folder or one checkpoint "
            "in it, or --resume auto"
        )
    own = checkpoint.resolve().is_relative_to(folder.resolve())
    if used and not own:
        raise UserError(f"{folder} has a run already, and {checkpoint} is not its own; set another run.name")
    return Start(folder, checkpoint, None, f"resuming from {checkpoint} in {folder}")


def newest_checkpoint(path: Path) -> Path | None:
    """The checkpoint at `path`, or the newest intact one in it; None if there is none at all.

    Raises:
        UserError: if there are checkpoints and every one is damaged.
    """
    single = path.name.startswith("step-")
    if not path.is_dir() or not (single or [*path.glob("step-*"), *path.glob(".replaced-step-*")]):
        return None
    from advdmd_ray.learner.checkpoint import latest_checkpoint, open_checkpoint  # noqa: PLC0415 - imports torch

    try:
        return (open_checkpoint(path) if single else latest_checkpoint(path)).path
    except CheckpointError as error:
        raise UserError(f"{error}; resume from another checkpoint, or start anew by --fresh") from None


def is_live(folder: Path) -> bool:
    """Whether a process holds the run folder."""
    try:
        with (folder / LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # No such file, or a file system without locks, which cannot tell.
        return False
    return False


def free_name(folder: Path) -> Path:
    """The first of `NAME.1`, `NAME.2`, ... that does not exist."""
    number = 1
    while (candidate := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return candidate


@contextmanager
def claim(start: Start) -> Iterator[Path]:
    """Hold the run folder as this process's own: move an earlier run aside, create the folder, lock it.

    Yields:
        The run folder.

    Raises:
        UserError: if another process was faster.
    """
    if start.aside is not None:
        try:
            start.folder.rename(start.aside)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UserError(
                f"{start.folder}: could not be moved to {start.aside} ({reason}); is another process at work there?"
            ) from None
    start.folder.mkdir(parents=True, exist_ok=True)
    with (start.folder / LOCK).open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{start.folder}: another process has just started here; set another run.name") from None
        except OSError as error:
            logger.warning("%s: no locks on this file system (%s); do not start this run twice", start.folder, error)
        yield start.folder
