"""What a transformer thinks of a noisy image: its image tokens after some blocks."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.families.base import TransformerDenoiser


def cut_after(denoiser: TransformerDenoiser, block: int) -> TransformerDenoiser:
    """A denoiser of the same weights without the blocks after `block`, counted from 0 over all lists of blocks.

    Nothing is copied but the lists. It has no output layers either, and its velocity is 0.
    """
    short = copy.copy(denoiser.transformer)
    short._modules = dict(short._modules)  # noqa: SLF001 - a module's public ways all register in the one it shares
    left = block + 1
    for name in denoiser.block_lists:
        kept = list(getattr(denoiser.transformer, name))[:left]
        short._modules[name] = nn.ModuleList(kept)  # noqa: SLF001
        left -= len(kept)
    short._modules.update(denoiser.blank_output())  # noqa: SLF001
    return type(denoiser)(short, denoiser.guidance, denoiser.execution)


class TokenReader:
    """Reads a denoiser's image tokens; the blocks after the last wanted one are not run.

    Args:
        denoiser: The network; it is held, not copied.
        blocks: Wanted blocks, counted from 0 in the order they run, ascending.
        cut: Whether the network ends with the last wanted block, as `cut_after` leaves it.
    """

    def __init__(self, denoiser: TransformerDenoiser, blocks: Sequence[int], *, cut: bool = False) -> None:
        self._denoiser, self._blocks, self._cut = denoiser, tuple(blocks), cut

    def __call__(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> list[Float[Tensor, "b n d"]]:
        """The tokens after each wanted block, where the network is and in the type of x.

        Args:
            x: Noisy latents.
            t: Noise level of each sample, in [0, 1].
            conditioning: One row per sample.
        """
        size = (x.shape[2], x.shape[3])
        # Cut now, as a network that an engine partitions gets the hooks that gather its weights after this reader.
        denoiser = self._denoiser if self._cut else cut_after(self._denoiser, self._blocks[-1])
        wanted = [denoiser.blocks[block] for block in self._blocks]
        tokens: dict[nn.Module, list[Tensor]] = {block: [] for block in wanted}

        def keep(block: nn.Module, _: object, output: Any) -> None:
            tokens[block].append(denoiser.image_tokens(output, size).to(x.dtype))

        handles = [block.register_forward_hook(keep) for block in wanted]
        try:
            denoiser(x, t, conditioning)
        finally:
            for handle in handles:
                handle.remove()
        return [torch.cat(parts) for parts in tokens.values()]
