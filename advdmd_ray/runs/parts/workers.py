"""The workers of every station: the one place that knows which class plays which role."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from advdmd_ray.config import Config, Resources
from advdmd_ray.config.scorers import scorer_word
from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.data.registry import source_of
from advdmd_ray.data.source import Progress, Tools
from advdmd_ray.evaluation.judges.draws import StudentJudge
from advdmd_ray.evaluation.scorers import load_scorer, load_scorers
from advdmd_ray.evaluation.validation import StudentValidation
from advdmd_ray.learner.checkpoint import Checkpoint
from advdmd_ray.learner.gang import Gang
from advdmd_ray.learner.learner import Learner
from advdmd_ray.models.discriminator import Hold
from advdmd_ray.models.families import adapter
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.pipeline import image_decoder, load_pipeline
from advdmd_ray.models.sizes import sized_pipelines
from advdmd_ray.runs.folder import RunFolder
from advdmd_ray.runs.parts.inputs import geometry, prompt_encoder, resolution_of
from advdmd_ray.runs.parts.micro_batch import a_part, forwards, settle
from advdmd_ray.runs.parts.networks import (
    base_digest,
    build_denoiser,
    build_discriminator,
    build_networks,
    device_of,
    loading,
)
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.reward import FinalScorer, RewardWorker
from advdmd_ray.stations.rollout import RolloutWorker


def build_rollout_worker(config: Config, name: str, table: PromptTable) -> RolloutWorker:
    """A rollout worker; its weights come with the first lease."""
    shapes = geometry(config)
    student = loading(config, build_denoiser(config, config.rollout), "student")
    settle(config, "rollout", student, forwards(student, table, shapes.largest.latent_shape))
    if config.rollout.compile:  # in place: names stay, and what is loaded goes into the tensors that it knows
        # One size is compiled for its own shapes, several at once for all.
        student.transformer.compile(dynamic=len(shapes.resolutions) > 1)
    return RolloutWorker(
        name,
        student,
        table,
        kernel=shapes.kernel,
        resolution_of=resolution_of(config, shapes, table),
        group_size_of=config.group_size_of,
        base_digest=base_digest(config),
    )


def build_tools(config: Config, table: PromptTable) -> Tools:
    """What makes the images that the data source leaves to workers, with a rollout actor's resources."""
    family, network = adapter(inspect_pipeline(config.model.path).family), build_denoiser(config, config.rollout)
    teacher = family.guided(network, table.unconditional, config.judged_guidance)
    settle(config, "rollout", network, forwards(teacher, table, geometry(config).largest.latent_shape))
    codec = load_pipeline(config.model.path, parts="codec").to(device_of(config.rollout))
    return Tools(teacher, table.conditioning, image_decoder(codec))


def make_shards_here(config: Config, table: PromptTable, progress: Progress = lambda _done, _of: None) -> None:
    """Makes, in this process, what is missing of the images that the data source leaves to workers.

    Args:
        config: The run's.
        table: Encoded prompts.
        progress: Told how many of all images are there.
    """
    shards = source_of(config).shards()
    missing = [] if shards is None else shards.missing()
    if shards is None or not missing:
        return
    tools = build_tools(config, table)
    done = shards.images - sum(len(shards.rows(shard)) for shard in missing)
    for shard in missing:
        progress(done, shards.images)
        done += shards.make(shard, tools)
    progress(done, shards.images)


def build_reward_worker(config: Config, name: str, table: PromptTable) -> RewardWorker:
    """A reward worker; its heads come with the first group, and its backbone too if that learns."""
    held: dict[str, Hold] = {"teacher": "frozen", "fake_score": "carried", "own": "own"}
    backbone = build_denoiser(config, config.reward)
    if config.discriminator.backbone != "teacher":
        backbone = loading(config, backbone, config.discriminator.backbone)
    # Before an own backbone is cut: the whole network needs a little more than what is read of it.
    settle(config, "reward", backbone, forwards(backbone, table, geometry(config).largest.latent_shape))
    discriminator = build_discriminator(config, backbone, held[config.discriminator.backbone])
    return RewardWorker(
        name,
        discriminator,
        table,
        final_levels=config.reward.final_levels,
        source=config.rewarded_by,
        oracle=build_oracle(config) if config.asks_oracle else None,
        agreement=config.reward.oracle_agreement,
        extra=build_extra_reward(config),
        base_digest=base_digest(config),
    )


def build_oracle(config: Config) -> FinalScorer:
    """The data source's checker, behind the pipeline's image codec."""
    return FinalScorer(build_decoder(config, config.reward), source_of(config).oracle())


def build_extra_reward(config: Config) -> FinalScorer | None:
    """The user's own reward, behind the pipeline's image codec; None where `reward.extra` names none."""
    name = config.reward.extra
    if name is None:
        return None
    scorer = load_scorer("reward.extra", name, config.scorers, device_of(config.reward))
    return FinalScorer(
        build_decoder(config, config.reward), lambda images, prompt: scorer(images, [prompt] * len(images))
    )


def build_learner(config: Config, gang: Gang, table: PromptTable, checkpoint: Checkpoint | None) -> Learner:
    """One rank of the learner. Student and fake score start as the teacher, or as the checkpoint has them."""
    family, teacher = inspect_pipeline(config.model.path).family, build_denoiser(config, config.learner)
    shapes = geometry(config)
    settle(config, "learner", teacher, a_part(config, teacher, table, shapes.largest.latent_shape), gang)
    networks = build_networks(config, teacher, family, device_of(config.learner), base_digest(config))
    real = source_of(config).real_images(table.texts)
    learner = Learner(config, gang, networks, table, real, kernel=shapes.kernel, resolutions=shapes.resolutions)
    if checkpoint is not None:
        learner.restore(checkpoint)
    return learner


class LearnerParts(TypedDict):
    """The arguments of `LearnerWorker`."""

    config: Config
    gang: Gang
    learner: Learner
    table: PromptTable
    checkpoints: Path
    grid_path: Callable[[int], Path]
    thin_grids: Callable[[int], None]
    pixels: Sequence[tuple[int, int]]
    decode: Callable[[Tensor], Tensor] | None
    judge: StudentJudge | None
    validation: StudentValidation | None


def learner_parts(
    config: Config, gang: Gang, table: PromptTable, checkpoint: Checkpoint | None, *, watched: bool = True
) -> LearnerParts:
    """What a rank is made of.

    Args:
        config: The run's.
        gang: Of all ranks.
        table: The encoded prompts.
        checkpoint: Where to go on from; None starts with the teacher.
        watched: Whether rank 0 draws grids, and judges and validates if `evaluation.judge_cycles` and
            `validation.prompts` ask for it.
    """
    folder, eyes = RunFolder(config.folder), watched and gang.rank == 0
    return LearnerParts(
        config=config,
        gang=gang,
        learner=build_learner(config, gang, table, checkpoint),
        table=table,
        checkpoints=folder.checkpoints,
        grid_path=folder.grid,
        thin_grids=folder.thin_grids,
        pixels=[info.pixels for info in sized_pipelines(config)],
        decode=build_decoder(config, config.learner) if eyes else None,
        judge=build_student_judge(config) if eyes and config.evaluation.judge_cycles else None,
        validation=build_validation(config, folder) if eyes else None,
    )


def build_student_judge(config: Config) -> StudentJudge:
    """The judge that looks at the student every `evaluation.judge_cycles`, its prompts encoded.

    Its draws are those of the final judgement, of which it makes the first `evaluation.judge_samples`.
    """
    judge, samples = source_of(config).judge(), config.evaluation.judge_samples
    prompts = prompt_encoder(config)(judge.prompts[:samples])
    watched = None if config.alarm_hears_validation else config.scorers.alarm
    return StudentJudge(
        judge,
        prompts,
        build_decoder(config, config.learner),
        samples,
        config.run.seed,
        len(config.sizes),
        scorers=load_scorers(config.scorers, device_of(config.learner)),
        headline="" if watched is None else scorer_word(watched),
    )


def build_validation(config: Config, folder: RunFolder) -> StudentValidation | None:
    """What draws and scores the validation prompts; None where `validation.prompts` names none."""
    section = config.validation
    if section.prompts is None:
        return None
    texts = load_prompts(section.prompts)
    return StudentValidation(
        texts=texts,
        prompts=prompt_encoder(config)(texts),
        decode=build_decoder(config, config.learner),
        scorers=load_scorers(config.scorers, device_of(config.learner)),
        images=section.images,
        seed=config.run.seed,
        sizes=len(config.sizes),
        path=folder.validation,
        thin=lambda: folder.thin_validations(config.evaluation.keep_grids),
    )


def build_decoder(config: Config, role: Resources) -> Callable[[Tensor], Tensor]:
    """The pipeline's image codec, where a role's worker is, as a function from latents to images in [-1, 1]."""
    return image_decoder(load_pipeline(config.model.path, parts="codec").to(device_of(role)))
