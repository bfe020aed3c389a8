"""Builds the stations' parts from a configuration: the one place that knows which class plays which role.

Both shells use it, in one process and on Ray, so a part is the same wherever it runs.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from advdmd_ray.config import Config, Resources
from advdmd_ray.data.files.dataset import files_data
from advdmd_ray.data.prompt_file import load_prompts
from advdmd_ray.data.real import RealImages
from advdmd_ray.data.shapes.oracle import ShapesOracle
from advdmd_ray.data.sources import build_judge, build_source
from advdmd_ray.data.teacher_samples import SampleMaker, open_samples, plan_samples, sampled_prompts
from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.diffusion.kernels import Kernel, kernel_of
from advdmd_ray.diffusion.schedule import student_sigmas, teacher_sigmas
from advdmd_ray.diffusion.seeds import derive_seed
from advdmd_ray.errors import UserError
from advdmd_ray.evaluation.judges.draws import StudentJudge
from advdmd_ray.files import files_digest
from advdmd_ray.learner.checkpoint import Checkpoint
from advdmd_ray.learner.gang import Gang
from advdmd_ray.learner.learner import Learner
from advdmd_ray.learner.networks import Networks
from advdmd_ray.learner.worker import LearnerWorker
from advdmd_ray.models.attention import choose_attention
from advdmd_ray.models.discriminator import Discriminator, Hold
from advdmd_ray.models.embeddings import EmbeddingStore, Encode, encoder_identity
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import Execution, Pipeline, TransformerDenoiser
from advdmd_ray.models.families.registry import Family
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.lora import add_lora, sharing_copy
from advdmd_ray.models.pipeline import image_decoder, image_encoder, load_denoiser, load_pipeline
from advdmd_ray.models.text import encode_prompts
from advdmd_ray.stations.buffer.record_batch import encoded_bytes
from advdmd_ray.stations.buffer.schema import GroupShape
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.reward import ImageOracle, RewardWorker
from advdmd_ray.stations.rollout import RolloutWorker

ENCODED_AT_ONCE = 1024
"""Images that go through the codec in one call."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shapes and levels that follow from the configuration and the pipeline folder's headers.

    Attributes:
        latent_shape: (C, H, W).
        sigmas: `[K+1]` student levels after the shift, the last 0.
        kernel: The student's kernel.
        group_bytes: Size of one scored group's record batch.
    """

    latent_shape: tuple[int, int, int]
    sigmas: Float[Tensor, " k1"]
    kernel: Kernel
    group_bytes: int


def geometry(config: Config) -> Geometry:
    """Reads the pipeline folder's headers; loads no weights."""
    info = inspect_pipeline(config.model.path, config.model.pixels)
    latent_shape = info.latent.shape
    sigmas = student_sigmas(config.diffusion.sigmas, info.scheduler_shift)
    kernel = kernel_of(config.diffusion)
    shape = GroupShape(config.steps, *latent_shape, stochastic=kernel.is_stochastic)
    return Geometry(latent_shape, sigmas, kernel, encoded_bytes(shape, config.last_group_size))


def prompts_of(config: Config) -> tuple[str, ...]:
    """The prompts that rollouts draw from, by prompt_id.

    Raises:
        UserError: if built-in data has no real image for a prompt, or no two texts differ where the discriminator
            needs another for its mismatched texts; of `data.source=files` only `encode_table` knows them all.
    """
    if config.data.source == "teacher_samples":
        return _mismatchable(sampled_prompts(config), config)
    if config.data.source == "files":
        given = config.data.prompts
        return tuple(dict.fromkeys(files_data(config).captions)) if given is None else load_prompts(given)
    source = build_source(config.data)
    if config.data.prompts is None:
        return source.prompts
    prompts = load_prompts(config.data.prompts)
    unknown = [text for text in prompts if text not in source.known]
    if unknown:
        raise UserError(
            f"{config.data.prompts}: no real image has the prompt {unknown[0]!r}; data.source={source.name} has "
            f"{source.known[0]!r} to {source.known[-1]!r}"
        )
    return _mismatchable(prompts, config)


def _mismatchable(texts: tuple[str, ...], config: Config) -> tuple[str, ...]:
    """The same texts, once two of them differ or the discriminator needs no other.

    Raises:
        UserError: if it does.
    """
    if config.discriminator.mismatched_text > 0 and len(set(texts)) == 1:
        raise UserError(
            f"{config.data.prompts or config.data.path}: has one prompt only, and discriminator.mismatched_text needs "
            "another; add one or set it to 0"
        )
    return texts


def encode_table(config: Config) -> PromptTable:
    """Encodes every prompt once, and behind them the captions of real images; the text encoders are released.

    Raises:
        UserError: as `prompts_of`.
    """
    prompts = prompts_of(config)
    captions = files_data(config).captions if config.data.source == "files" else ()
    known = set(prompts)
    texts = (*prompts, *(caption for caption in dict.fromkeys(captions) if caption not in known))
    texts = _mismatchable(texts, config)
    empty = adapter(inspect_pipeline(config.model.path).family).empty_prompt
    encode = prompt_encoder(config)
    return PromptTable(texts, encode(texts), encode([empty]), len(prompts))


def prompt_encoder(config: Config) -> Encode:
    """From prompts to embeddings, on the CPU, out of the store where there is one."""
    length, half = config.model.max_sequence_length, config.model.precision == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32

    @functools.cache
    def encoders() -> Pipeline:  # loaded only if a prompt is not encoded yet
        return load_pipeline(config.model.path, dtype, "text").to(device_of(config.rollout))

    def encode(texts: Sequence[str]) -> Conditioning:
        return encode_prompts(encoders(), texts, length)

    if config.model.embeddings is None:
        return encode
    identity = encoder_identity(inspect_pipeline(config.model.path), length, dtype)
    return functools.partial(EmbeddingStore(Path(config.model.embeddings), identity).conditioning, encode=encode)


@torch.no_grad()
def real_images(config: Config, texts: tuple[str, ...]) -> RealImages:
    """Real latents of every row of this run's prompt table; a prompt that stands there twice has its images twice."""
    if config.data.is_captioned:
        latents = files_data(config) if config.data.source == "files" else open_samples(plan_samples(config))
        row_of = {text: row for row, text in reversed(list(enumerate(texts)))}
        return RealImages(latents, torch.tensor([row_of[caption] for caption in latents.captions]))
    part = build_source(config.data).images(texts)
    encode = image_encoder(load_pipeline(config.model.path, parts="codec"))
    encoded = torch.cat([encode(pixels) for pixels in part.pixels.split(ENCODED_AT_ONCE)])
    return RealImages(encoded, part.rows, part.images)


def device_of(role: Resources) -> torch.device:
    """Where the networks of a worker are.

    Raises:
        UserError: if it reserves a GPU and torch sees none.
    """
    if not role.num_gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"a worker reserves num_gpus={role.num_gpus:g}, but torch {torch.__version__} sees no CUDA device here; "
            "install a CUDA build of torch, or set num_gpus=0"
        )
    return torch.device("cuda")


def build_denoiser(config: Config, role: Resources | None = None) -> TransformerDenoiser:
    """The teacher's network where a role's worker has it, unguided but for what its family takes as an input."""
    half = config.model.precision == "bfloat16"
    execution = Execution(autocast=half, micro_batch=None if role is None else role.micro_batch)
    # Adapters learn in float32 on a frozen base; a network that learns as a whole is float32 itself.
    dtype = torch.bfloat16 if half and config.lora.rank else torch.float32
    denoiser = load_denoiser(config.model.path, config.model.guidance, execution, dtype)
    if config.model.attention is not None:
        choose_attention(denoiser.transformer, config.model.attention)
    return denoiser if role is None else denoiser.to(device_of(role))


def learning(config: Config, network: TransformerDenoiser, role: str) -> TransformerDenoiser:
    """Makes a network learn, in place: its adapters where `lora.rank` asks for them, else all of it."""
    lora = config.lora
    if not lora.rank:
        return network.requires_grad_(requires_grad=True)
    seed = derive_seed(config.run.seed, "lora", role)
    return add_lora(network, rank=lora.rank, alpha=lora.scale_alpha, targets=lora.targets, seed=seed)


def learning_copy(config: Config, teacher: TransformerDenoiser, role: str) -> TransformerDenoiser:
    """A network that starts as the teacher and learns; with adapters it shares the teacher's very weights."""
    copied = sharing_copy(teacher) if config.lora.rank else copy.deepcopy(teacher)
    if config.learner.gradient_checkpointing:
        copied.transformer.enable_gradient_checkpointing()
    return learning(config, copied, role)


def base_digest(config: Config) -> str:
    """Digest of the frozen teacher, which every process reads from its own disk: all must have the same.

    It is the base of adapters, the source of a discriminator's features and the real score.
    """
    return files_digest(inspect_pipeline(config.model.path).component("transformer").weight_files)


def build_rollout_worker(config: Config, name: str, table: PromptTable) -> RolloutWorker:
    """A rollout worker; its weights come with the first lease."""
    shapes = geometry(config)
    return RolloutWorker(
        name,
        learning(config, build_denoiser(config, config.rollout), "student"),
        table,
        kernel=shapes.kernel,
        sigmas=shapes.sigmas,
        latent_shape=shapes.latent_shape,
        group_size_of=config.group_size_of,
        base_digest=base_digest(config),
    )


def build_sample_maker(config: Config, table: PromptTable) -> SampleMaker:
    """Who draws the teacher's samples, with a rollout actor's resources."""
    info = inspect_pipeline(config.model.path, config.model.pixels)
    teacher = build_denoiser(config, config.rollout)
    codec = load_pipeline(config.model.path, parts="codec").to(device_of(config.rollout))
    return SampleMaker(
        adapter(info.family).guided(teacher, table.unconditional, config.judged_guidance),
        table.conditioning,
        image_decoder(codec),
        teacher_sigmas(config.data.teacher_steps, info.scheduler_shift),
    )


def draw_samples_here(config: Config, table: PromptTable) -> None:
    """Draws what is missing of the teacher's samples in this process, if the configuration asks for any."""
    if config.data.source != "teacher_samples":
        return
    plan = plan_samples(config)
    missing = plan.missing()
    if missing:
        maker = build_sample_maker(config, table)
        for shard in missing:
            maker.make(plan, shard)


def build_discriminator(config: Config, backbone: TransformerDenoiser, hold: Hold = "frozen") -> Discriminator:
    """The discriminator over a network's features; its heads are seeded by the run."""
    return Discriminator(
        backbone,
        blocks=config.discriminator.blocks,
        width=config.discriminator.width,
        seed=derive_seed(config.run.seed, "discriminator"),
        hold=hold,
    )


def build_reward_worker(config: Config, name: str, table: PromptTable) -> RewardWorker:
    """A reward worker; its heads come with the first group, and its backbone too if that learns."""
    held: dict[str, Hold] = {"teacher": "frozen", "fake_score": "carried", "own": "own"}
    backbone = build_denoiser(config, config.reward)
    if config.discriminator.backbone != "teacher":
        backbone = learning(config, backbone, config.discriminator.backbone)
    discriminator = build_discriminator(config, backbone, held[config.discriminator.backbone])
    return RewardWorker(
        name,
        discriminator,
        table,
        final_levels=config.reward.final_levels,
        source=config.rewarded_by,
        oracle=build_oracle(config) if config.reward.kind == "oracle" or config.reward.oracle_agreement else None,
        agreement=config.reward.oracle_agreement,
        base_digest=base_digest(config),
    )


def build_oracle(config: Config) -> ImageOracle:
    """The checker of the shapes, behind the pipeline's image codec."""
    return ImageOracle(build_decoder(config), ShapesOracle())


def build_networks(
    config: Config, teacher: TransformerDenoiser, family: Family, device: torch.device, digest: str | None = None
) -> Networks:
    """The learner's networks around a teacher; those that learn start as the teacher.

    Args:
        config: What learns, and whose features the discriminator reads.
        teacher: Frozen, where the networks are to be.
        family: Of the teacher.
        device: Where the networks are.
        digest: See `base_digest`.
    """
    student, fake_score = (learning_copy(config, teacher, role) for role in ("student", "fake_score"))
    backbone = None
    match config.discriminator.backbone:
        case "teacher":
            discriminator = build_discriminator(config, teacher)
        case "own":
            discriminator = build_discriminator(config, learning_copy(config, teacher, "own"), hold="own")
        case "fake_score":
            discriminator = build_discriminator(config, fake_score, hold="borrowed")
            backbone = fake_score.transformer
    return Networks(teacher, student, fake_score, discriminator, backbone, adapter(family).guided, digest, device)


def build_learner_worker(
    config: Config, gang: Gang, table: PromptTable, checkpoint: Checkpoint | None
) -> LearnerWorker:
    """One rank of the learner. Student and fake score start as the teacher, or as the checkpoint has them."""
    family, teacher = inspect_pipeline(config.model.path).family, build_denoiser(config, config.learner)
    networks = build_networks(config, teacher, family, device_of(config.learner), base_digest(config))
    shapes = geometry(config)
    real = real_images(config, table.texts)
    learner = Learner(config, gang, networks, table, real, kernel=shapes.kernel, sigmas=shapes.sigmas)
    worker = LearnerWorker(config, gang, learner, table)
    if checkpoint is not None:
        worker.restore(checkpoint)
    return worker


def build_student_judge(config: Config) -> StudentJudge:
    """The judge that looks at the student every `evaluation.judge_cycles`, its prompts encoded.

    Its draws are those of the final judgement, of which it makes the first `evaluation.judge_samples`.
    """
    judge, samples = build_judge(config), config.evaluation.judge_samples
    prompts = prompt_encoder(config)(judge.prompts[:samples])
    return StudentJudge(judge, prompts, build_decoder(config), samples, config.run.seed)


def build_decoder(config: Config) -> Callable[[Tensor], Tensor]:
    """The pipeline's image codec, where the learner is, as a function from latents to images in [-1, 1]."""
    return image_decoder(load_pipeline(config.model.path, parts="codec").to(device_of(config.learner)))
