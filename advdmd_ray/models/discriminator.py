"""The discriminator: small trained heads on another transformer's features of noisy images."""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from advdmd_ray.diffusion.denoiser import Conditioning
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.models.features import TokenReader, cut_after

TIME_FREQUENCIES = 16
Hold: TypeAlias = Literal["frozen", "borrowed", "carried", "own"]


def time_features(t: Float[Tensor, " b"]) -> Float[Tensor, "b f"]:
    """Describe noise levels smoothly: `sin(2 pi f t), cos(2 pi f t)`, f from 1/4 to 8 in 16 geometric steps."""
    frequencies = torch.logspace(-2, 3, TIME_FREQUENCIES, base=2.0, device=t.device, dtype=t.dtype)
    angles = 2 * math.pi * t.unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TokenHead(nn.Module):
    """One logit from the image tokens of one block.

    Tokens are normalised, mapped to `width` channels, shifted and scaled by the condition, passed through two
    nonlinear layers and averaged. The logit is linear in the average plus its inner product with an embedding of the
    condition (projection discriminator, Miyato and Koyama 2018).

    Args:
        token_width: Channels of a token.
        condition_width: Channels of the condition.
        width: Channels inside.
    """

    def __init__(self, token_width: int, condition_width: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(token_width), nn.Linear(token_width, width))
        self.modulation = nn.Linear(condition_width, 2 * width)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.logit = nn.Linear(width, 1)
        self.projection = nn.Linear(condition_width, width, bias=False)

    def forward(self, tokens: Float[Tensor, "b n d"], condition: Float[Tensor, "b m"]) -> Float[Tensor, " b"]:
        """Return one logit per sample."""
        scale, shift = self.modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        pooled = self.mix(self.inner(tokens) * (1 + scale) + shift).mean(dim=1)
        matched = (pooled * self.projection(condition)).sum(dim=1) / math.sqrt(pooled.shape[1])
        return self.logit(pooled).squeeze(1) + matched


class Discriminator(nn.Module):
    """Real or generated, from the state of a noisy image at a noise level, for a prompt.

    How the backbone is held; only an own one learns from this module's losses:

    * `frozen` (the teacher) and `borrowed` (a network that somebody else trains): held but not registered. It is in
      neither `parameters()` nor `state_dict()` and is not moved by `to()`, so an optimizer, a snapshot or a checkpoint
      of this module has the heads alone. Whoever owns the backbone puts it on the device.
    * `carried`: registered as `backbone`, so that a snapshot can bring its weights beside the heads'.
    * `own`: registered as `backbone` and trained with the heads, without what comes after the last block that is read:
      no gradient would ever reach it.

    Of a carried or own backbone those parameters come with snapshots, or learn, that require a gradient here, as
    adapters do; if none does, all.

    Args:
        backbone: The network whose features are read. Held as `own` it is trained: give a copy.
        blocks: Blocks whose tokens are read, from 0.
        width: Channels of each head.
        seed: Seeds the heads.
        hold: See above; `frozen` freezes the backbone here.

    Raises:
        ValueError: `blocks` is empty or names a block that the backbone has not.
    """

    def __init__(
        self,
        backbone: TransformerDenoiser,
        *,
        blocks: Sequence[int] = (1, 3),
        width: int = 64,
        seed: int = 0,
        hold: Hold = "frozen",
    ) -> None:
        super().__init__()
        self.blocks = tuple(sorted(set(blocks)))
        layers = len(backbone.blocks)
        if not self.blocks or self.blocks[0] < 0 or self.blocks[-1] >= layers:
            raise ValueError(f"blocks must be among 0..{layers - 1}, got {list(blocks)}")
        if hold == "frozen":
            backbone.eval().requires_grad_(False)
        if hold == "own":
            backbone = cut_after(backbone, self.blocks[-1])
        if hold in {"carried", "own"}:
            if not any(parameter.requires_grad for parameter in backbone.parameters()):
                backbone.requires_grad_(True)
            self.backbone = backbone.transformer
        self._learns = hold == "own"
        # A tuple hides the module from torch's registration.
        self._reader = (TokenReader(backbone, self.blocks, cut=hold == "own"),)
        condition_width = backbone.summary_width + 2 * TIME_FREQUENCIES
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(TokenHead(backbone.token_width, condition_width, width) for _ in self.blocks)

    def forward(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], conditioning: Conditioning
    ) -> Float[Tensor, " b"]:
        """Return logits: high for real, low for generated.

        The backbone keeps no graph unless it is the module's own or `x` needs a gradient.

        Args:
            x: States at noise level `t`, `(1 - t) x0 + t eps`.
            t: Noise levels in [0, 1].
            conditioning: The prompt of each sample.
        """
        where = next(self.heads.parameters()).device
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self._learns or x.requires_grad)):
            features = self._reader[0](x, t, conditioning)
        condition = torch.cat([conditioning.summary().to(t.dtype), time_features(t)], dim=1).to(where)
        logits = [head(tokens.to(where), condition) for head, tokens in zip(self.heads, features, strict=True)]
        return torch.stack(logits).sum(dim=0).to(x.device)
