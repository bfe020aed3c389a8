"""How `micro_batch=auto` is settled in a worker: by the estimate of memory, then by a trial on the GPU itself."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.diffusion.denoiser import Conditioning, Denoiser
from advdmd_ray.errors import UserError
from advdmd_ray.learner.gang import Gang, SoloGang
from advdmd_ray.models.families.base import TransformerDenoiser
from advdmd_ray.runs.needs.memory import sizes_of
from advdmd_ray.runs.needs.micro_batch import fitting_rows, held_without_activations, rows_at_once
from advdmd_ray.runs.parts.networks import learning_copy
from advdmd_ray.stations.prompt_table import PromptTable

Trial = Callable[[int], object]
"""A piece of work with so many rows; raises `torch.cuda.OutOfMemoryError` if they are too many."""
MOST_ROWS: Final = 4096
_LOG: Final = logging.getLogger(__name__)


def settle(config: Config, role: str, network: TransformerDenoiser, trial: Trial, gang: Gang | None = None) -> None:
    """Tells a network how many rows a call takes, if `micro_batch` of its role is auto; copies of it will know too.

    All rows on a CPU. On a GPU as many as the estimate has room for, halved until a trial of one part fits. All ranks
    of a gang make the same parts, those that fit everywhere.

    Args:
        config: The run's.
        role: rollout, reward or learner.
        network: On its device.
        trial: One part; it runs on this rank alone.
        gang: Of the learner; collective where `micro_batch` is auto.
    """
    section = config.roles[role]
    if section.micro_batch != "auto":
        return
    gang = SoloGang() if gang is None else gang
    available = available_memory(network.transformer.device, section.num_gpus)
    if available is None:
        return
    sizes = sizes_of(config)
    estimated = agreed(fitting_rows(config, sizes, role, available), gang)
    rows = agreed(tried(estimated, trial, rows_at_once(config, sizes, role)), gang)
    network.execution = replace(network.execution, micro_batch=rows)
    # A warning, as no other level is shown: whoever compares runs must know it.
    _LOG.warning(
        "%s.micro_batch=auto: %s rows at a time in %.1f GiB of GPU memory, %s estimated",
        *(role, _words(rows), available / 2**30, _words(estimated)),
    )


def _words(rows: int | None) -> str:
    return "all" if rows is None else str(rows)


def available_memory(device: torch.device, num_gpus: float) -> int | None:
    """GPU memory that a worker can come to hold, bytes; None on a CPU. Workers that share a GPU share its memory."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return int(min(free + torch.cuda.memory_reserved(device), min(1.0, num_gpus) * total))


def memory_taken(device: torch.device) -> int:
    """GPU memory that tensors of this process take, bytes."""
    return torch.cuda.memory_allocated(device)


def tried(rows: int | None, trial: Trial, whole: int) -> int | None:
    """As many rows, or half of those that were tried, and so on, with which the trial fits.

    Args:
        rows: None: all at once.
        trial: See `Trial`.
        whole: How many are all; no more are tried.

    Raises:
        UserError: if a single row does not fit.
    """
    attempt = whole if rows is None else min(rows, whole)
    while True:
        try:
            trial(attempt)
        except torch.cuda.OutOfMemoryError as error:
            if attempt == 1:
                raise UserError(
                    "micro_batch=auto: not even one row fits the GPU memory of this worker; use larger GPUs, or set "
                    "lora.rank, learner.gradient_checkpointing or a smaller model.height and model.width"
                ) from error
            attempt //= 2
            rows = attempt
        else:
            return rows
        finally:
            torch.cuda.empty_cache()


def agreed(rows: int | None, gang: Gang) -> int | None:
    """The fewest rows of any rank; None if all ranks have room for all."""
    mine = MOST_ROWS if rows is None else min(rows, MOST_ROWS - 1)
    everywhere = gang.mean((torch.arange(MOST_ROWS) < mine).float()) == 1
    fewest = int(everywhere.sum())
    return None if fewest == MOST_ROWS else fewest


def forwards(network: Denoiser, table: PromptTable, shape: Sequence[int]) -> Trial:
    """A call without a graph."""

    @torch.no_grad()
    def trial(rows: int) -> Tensor:
        return network(*_inputs(rows, table, shape))

    return trial


def a_part(config: Config, teacher: TransformerDenoiser, table: PromptTable, shape: Sequence[int]) -> Trial:
    """Forward and backward pass of a student, beside as much memory as the learner's networks and moments will take."""

    def trial(rows: int) -> None:
        student = learning_copy(config, teacher, "student")
        weights = [weight for weight in student.parameters() if weight.requires_grad]
        gradients = sum(weight.numel() * weight.element_size() for weight in weights)
        device = teacher.transformer.device
        there = memory_taken(device) + gradients
        rest = max(0, held_without_activations(config, sizes_of(config), "learner") - there)
        ballast = torch.empty(rest, dtype=torch.uint8, device=device)
        loss = student(*_inputs(rows, table, shape)).square().mean()
        torch.autograd.grad(loss, weights, allow_unused=True)
        del ballast

    return trial


def _inputs(rows: int, table: PromptTable, shape: Sequence[int]) -> tuple[Tensor, Tensor, Conditioning]:
    ids = torch.arange(rows) % len(table.texts)
    return torch.zeros(rows, *shape), torch.full((rows,), 0.5), table.rows(ids)


def rows_without_trial(config: Config, device: torch.device) -> int | None:
    """Most images in a call of a sampler of whole pipelines, whose guidance may take two rows of each."""
    if config.rollout.micro_batch != "auto":
        return config.rollout.micro_batch
    available = available_memory(device, 1.0)
    rows = None if available is None else fitting_rows(config, sizes_of(config), "rollout", available)
    return None if rows is None else max(1, rows // 2)
