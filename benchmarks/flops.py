"""Model FLOPs of a transformer of SD3's kind and of the learner's updates, counted from the configuration.

Products alone are counted. What else a network computes, the discriminator's heads and the optimizers are small beside
them. Activations that are
made again in a backward pass are no work of the model and are not counted (PaLM, arXiv 2204.02311, appendix B).
"""

from collections.abc import Mapping

from advdmd_ray.config import Config
from advdmd_ray.models.families.flops import MULTIPLY_ADD, Flops
from advdmd_ray.runs.needs.compute import Network, guided_forward, stochastic_actions
from benchmarks.sizes import Size

TIME_CHANNELS = 256
"""Channels of diffusers' sinusoidal time embedding."""
ADAPTED = 4
"""Linear layers of one attention that `lora.targets` names by default: to_q, to_k, to_v and to_out.0."""


def forward_flops(size: Size, *, rank: int = 0, blocks: int | None = None) -> Flops:
    """Counts one forward for one image.

    Args:
        size: Transformer, latents and text.
        rank: Of the adapters in every attention's projections of the image; 0: none.
        blocks: The first blocks alone, without the output layers; None: all.
    """
    shape = size.transformer
    width = shape["num_attention_heads"] * shape["attention_head_dim"]
    last = shape["num_layers"] - 1
    patch = shape["patch_size"] ** 2
    image, text = size.side**2 // patch, size.text_tokens
    weights = image * shape["in_channels"] * patch * width
    weights += text * shape["joint_attention_dim"] * width
    weights += (TIME_CHANNELS + shape["pooled_projection_dim"] + 2 * width) * width
    attention = adapters = 0
    for block in range(last + 1 if blocks is None else blocks):
        dual = block in shape["dual_attention_layers"]
        weights += _block_weights(image, text, width, dual=dual, last=block == last)
        # Scores and mixtures; the second attention of a dual block is among image tokens.
        attention += 2 * ((image + text) ** 2 + dual * image**2) * width
        adapters += (1 + dual) * ADAPTED * image * 2 * width * rank
    if blocks is None:
        weights += 2 * width**2 + image * width * patch * shape["out_channels"]
    return Flops(MULTIPLY_ADD * weights, MULTIPLY_ADD * attention, MULTIPLY_ADD * adapters)


def _block_weights(image: int, text: int, width: int, *, dual: bool, last: bool) -> int:
    """Multiplications with one block's weights.

    Each stream has 4 matrices of attention and 8 of the feed-forward layers; the last block takes of the text no more
    than 3 of attention. Modulation is one vector an image: 6 parts a stream, 3 more with dual attention, 2 of the last
    block's text.
    """
    per_image = (12 + 4 * dual) * image
    per_text = (3 if last else 12) * text
    modulation = 6 + 3 * dual + (2 if last else 6)
    return (per_image + per_text + modulation) * width**2


def update_flops(config: Config, size: Size) -> Mapping[str, int]:
    """Counts one update of each objective, over all that it asks of any network.

    Args:
        config: The learner's configuration: batches, guidance, adapters, the discriminator's backbone.
        size: The networks.
    """
    learning, teacher = forward_flops(size, rank=config.lora.rank), forward_flops(size)
    own, read = config.discriminator.backbone == "own", max(config.discriminator.blocks) + 1
    features = forward_flops(size, rank=config.lora.rank * own, blocks=read)
    halves = 2 + (config.discriminator.mismatched_text > 0)
    network = Network(size.transformer["num_layers"])
    matching = learning.learnt + learning.forward + guided_forward(config.model.guidance, network) * teacher.forward
    matching += (config.dmd.gan_weight > 0) * features.to_input
    actions = config.rollout.groups_per_cycle * config.rl_rows * stochastic_actions(config)
    return {
        "fake_score": config.fake_score.batch_size * learning.learnt,
        "discriminator": halves * config.discriminator.batch_size * (features.learnt if own else features.forward),
        "dmd": config.dmd.batch_size * matching,
        "rl": actions * learning.learnt,
    }
