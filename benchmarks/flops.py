"""Model FLOPs of a transformer and of the learner's updates, told from headers.

Products alone are counted. What else a network computes, the discriminator's heads and the optimizers are small beside
them. Activations that are made again in a backward pass are no work of the model and are not counted (PaLM, arXiv
2204.02311, appendix B).
"""

from collections.abc import Mapping

from advdmd_ray.models.families import adapter
from advdmd_ray.models.families.flops import Flops, Streams, count_flops
from advdmd_ray.models.targets import linear_layers, maps, targeted
from advdmd_ray.runs.needs.compute import guided_forward, learnt_actions
from benchmarks.parts import Subject

BEHIND = ("norm_out.", "proj_out", "all_final_layer.")
"""What the families call the layers behind their last block."""


def forward_flops(subject: Subject, *, adapted: bool = False, blocks: int | None = None) -> Flops:
    """Counts one forward for one image.

    Args:
        subject: The model.
        adapted: Whether it has the recipe's adapters, beside its layers.
        blocks: The first blocks alone, without the output layers; None: all.
    """
    info, lora = subject.info, subject.config.lora
    layers, linear = dict(maps(info)), linear_layers(info)
    if blocks is not None:
        later = tuple(_blocks(subject)[blocks:])
        layers = {name: shape for name, shape in layers.items() if not name.startswith((*later, *BEHIND))}
    has = targeted([name for name in linear if name in layers], lora.targets) if adapted and lora.rank else ()
    tokens = info.image_tokens, subject.text_tokens
    return count_flops(layers, *tokens, rank=lora.rank, adapted=has, streams=Streams.of(info))


def _blocks(subject: Subject) -> list[str]:
    """Beginnings of the names of every block's layers, in the order they run."""
    lists, transformer = adapter(subject.info.family).denoiser.block_lists, subject.info.transformer
    counts = (transformer[key] for key in subject.info.family.block_counts)
    return [f"{name}.{block}." for name, count in zip(lists, counts, strict=True) for block in range(count)]


def rollout_flops(subject: Subject) -> int:
    """A group's trajectories on an actor; merged adapters cost nothing."""
    forward = forward_flops(subject, adapted=not subject.config.merges_adapters).forward
    return subject.group_size * subject.config.steps * forward


def update_flops(subject: Subject) -> Mapping[str, int]:
    """Counts one update of each objective, over all that it asks of any network."""
    config = subject.config
    learning, teacher = forward_flops(subject, adapted=True), forward_flops(subject)
    own, read = config.discriminator.backbone == "own", max(config.discriminator.blocks) + 1
    features = forward_flops(subject, adapted=own, blocks=read)
    halves = 2 + (config.discriminator.mismatched_text > 0)
    matching = learning.learnt + learning.forward
    matching += guided_forward(config.model.guidance, subject.sizes.network) * teacher.forward
    matching += (config.dmd.gan_weight > 0) * features.to_input
    return {
        "fake_score": config.fake_score.batch_size * learning.learnt,
        "discriminator": halves * config.discriminator.batch_size * (features.learnt if own else features.forward),
        "dmd": config.dmd.batch_size * matching,
        "rl": actions_of_update(subject) * learning.learnt,
    }


def actions_of_update(subject: Subject) -> int:
    """Actions that one RL update learns from: of each step, its minibatch's share of the chosen rows of every group."""
    config = subject.config
    rows = config.rl_rows // config.policy_gradient.minibatches
    return config.rollout.groups_per_cycle * rows * learnt_actions(config)
