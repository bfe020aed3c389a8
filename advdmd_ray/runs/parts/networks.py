"""The networks of every role around one frozen teacher."""

import copy

import torch

from advdmd_ray.config import Config, Resources
from advdmd_ray.diffusion.seeds import derive_seed
from advdmd_ray.errors import UserError
from advdmd_ray.files import files_digest
from advdmd_ray.learner.networks import Networks
from advdmd_ray.models.attention import choose_attention
from advdmd_ray.models.diffusers_classes import hidden, transformer_class
from advdmd_ray.models.discriminator import Discriminator, Hold
from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.base import Execution, TransformerDenoiser
from advdmd_ray.models.families.registry import Family
from advdmd_ray.models.folder import inspect_pipeline
from advdmd_ray.models.lora import add_lora, sharing_copy
from advdmd_ray.models.merging import merge_adapters
from advdmd_ray.models.pipeline import load_denoiser


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


def gpus_here() -> int:
    """GPUs that torch sees on this machine."""
    return torch.cuda.device_count()


def import_networks(config: Config, *, whole: bool) -> None:
    """Imports what the networks of a run are made with, in a process that belongs to it.

    Who makes a network would do it then, and wait for seconds. diffusers imports peft, scipy and transformers where
    they are installed, which takes half of them. Of these peft runs adapters, transformers text encoders and adapters;
    scipy is for levels that no pipeline may ask for (`OTHER_LEVELS`).

    Args:
        config: The run's.
        whole: Whether the process loads more of the pipeline than its transformer, now or later.
    """
    unused = () if config.lora.rank else ("peft", "scipy") if whole else ("peft", "scipy", "transformers")
    with hidden(*unused):
        transformer_class(inspect_pipeline(config.model.path).family)


def build_denoiser(config: Config, role: Resources | None = None) -> TransformerDenoiser:
    """The teacher's network where a role's worker has it, unguided but for what its family takes as an input."""
    # Where it is auto, `parts/micro_batch.py` settles it with this network.
    most = None if role is None or role.micro_batch == "auto" else role.micro_batch
    # Adapters learn in float32 on a frozen base; a network that learns as a whole is float32 itself.
    half = config.model.precision == "bfloat16" and config.lora.rank
    denoiser = denoiser_at(config, config.model.path, torch.bfloat16 if half else torch.float32, most)
    return denoiser if role is None else denoiser.to(device_of(role))


def denoiser_at(config: Config, path: str, dtype: torch.dtype, micro_batch: int | None) -> TransformerDenoiser:
    """The network of a pipeline folder on the CPU, which computes as the configuration says.

    Args:
        config: Names precision, quantization, attention and the guidance that some families take as an input.
        path: The teacher's folder, or that of a student of it.
        dtype: Of the weights.
        micro_batch: Most rows of a call; None: all.
    """
    model = config.model
    execution = Execution(autocast=model.precision == "bfloat16", micro_batch=micro_batch)
    denoiser = load_denoiser(path, model.guidance, execution, dtype, model.quantization)
    if model.attention is not None:
        choose_attention(denoiser.transformer, model.attention)
    return denoiser


def learning(config: Config, network: TransformerDenoiser, role: str) -> TransformerDenoiser:
    """Makes a network learn, in place: its adapters where `lora.rank` asks for them, else all of it."""
    lora = config.lora
    if not lora.rank:
        return network.requires_grad_(requires_grad=True)
    seed = derive_seed(config.run.seed, "lora", role)
    return add_lora(network, rank=lora.rank, alpha=lora.scale_alpha, targets=lora.targets, seed=seed)


def loading(config: Config, network: TransformerDenoiser, role: str) -> TransformerDenoiser:
    """Makes a worker's network that loads what the learner publishes, in place."""
    loads = learning(config, network, role)
    return merge_adapters(loads) if config.merges_adapters else loads


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


def build_discriminator(config: Config, backbone: TransformerDenoiser, hold: Hold = "frozen") -> Discriminator:
    """The discriminator over a network's features; its heads are seeded by the run."""
    return Discriminator(
        backbone,
        blocks=config.discriminator.blocks,
        width=config.discriminator.width,
        seed=derive_seed(config.run.seed, "discriminator"),
        hold=hold,
    )


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
    return Networks(
        teacher,
        student,
        fake_score,
        discriminator,
        backbone,
        guide=adapter(family).guided,
        base_digest=digest,
        device=device,
        micro_batch=teacher.execution.micro_batch,
    )
