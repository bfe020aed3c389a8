"""One rank as a worker: groups in, weights and a report out. The same on Ray and in one process."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from advdmd_ray.config import Config
from advdmd_ray.diffusion.seeds import derive_seed
from advdmd_ray.errors import CheckpointError, GroupMismatchError
from advdmd_ray.evaluation.judges.contract import Judgement
from advdmd_ray.evaluation.judges.draws import StudentJudge
from advdmd_ray.evaluation.pictures.frames import framed, room_for
from advdmd_ray.evaluation.pictures.grids import column_labels, comparison_grid, tiles_that_fit, to_pixels
from advdmd_ray.evaluation.validation import StudentValidation, Validated
from advdmd_ray.learner.checkpoint import save_checkpoint
from advdmd_ray.learner.gang import Gang
from advdmd_ray.learner.laps import Laps
from advdmd_ray.learner.learner import Learner
from advdmd_ray.learner.outcome import CheckpointOutcome, CycleOutcome
from advdmd_ray.learner.tensor_file import TensorStream
from advdmd_ray.stations.buffer.record_batch import decode_scored
from advdmd_ray.stations.gpu import gpu_use
from advdmd_ray.stations.prompt_table import PromptTable
from advdmd_ray.stations.records import GroupInfo, ScoredGroup
from advdmd_ray.stations.weights.snapshot import Manifest, Payload

logger = logging.getLogger(__name__)

GRID_ROWS, GRID_COLUMNS = 6, 10
"""Most of a sample grid: fewer of large images."""

GroupAndScores = tuple[pa.RecordBatch, pa.RecordBatch]
Publication = tuple[tuple[Manifest, Manifest], Payload, Payload]
Nothing = tuple[None, None, None]
NOTHING: Nothing = (None, None, None)
CycleResult = tuple[CycleOutcome, Payload, Payload] | Nothing


def _drain(streams: Mapping[str, TensorStream]) -> None:
    for stream in streams.values():
        stream.drain()


def _check_share(share: Sequence[ScoredGroup], infos: Sequence[GroupInfo]) -> None:
    """Raises GroupMismatchError if the groups that are held are not those that a cycle is of."""
    if len(share) != len(infos):
        raise GroupMismatchError(f"a cycle of {len(infos)} groups came to a rank that holds {len(share)}")
    for scored, info in zip(share, infos, strict=True):
        if differences := scored.identity.differences(info.identity):
            raise GroupMismatchError(f"the bytes of ordinal {info.ordinal} are those of another group: {differences}")


class LearnerWorker:
    """A learner rank with its share of every cycle; rank 0 publishes, saves, draws and judges.

    Args:
        config: The configuration.
        gang: Of all ranks.
        learner: This rank's.
        table: The encoded prompts.
        checkpoints: Folder of the checkpoints.
        grid_path: From a version to where its grid goes.
        thin_grids: Removes grids until there are so many.
        pixels: Height and width of each size that images have.
        decode: Turns latents `[b, c, h, w]` into images in [-1, 1]; only rank 0 needs it, for its grids.
        judge: Rank 0's, if the student is judged while it learns.
        validation: Rank 0's, if there are validation prompts.

    Attributes:
        learner: As given.
    """

    def __init__(
        self,
        config: Config,
        gang: Gang,
        learner: Learner,
        table: PromptTable,
        *,
        checkpoints: Path,
        grid_path: Callable[[int], Path],
        thin_grids: Callable[[int], None],
        pixels: Sequence[tuple[int, int]],
        decode: Callable[[Tensor], Tensor] | None,
        judge: StudentJudge | None,
        validation: StudentValidation | None = None,
    ) -> None:
        self._config, self._gang, self.learner, self._table = config, gang, learner, table
        self._checkpoints, self._grid_path, self._thin_grids = checkpoints, grid_path, thin_grids
        self._sizes = tuple(pixels)
        most = GRID_ROWS, min(GRID_COLUMNS, table.rollouts)
        self._rows, self._columns = tiles_that_fit(*room_for(pixels), *most)
        self._decode, self._judge, self._validation = decode, judge, validation
        self._share: Sequence[GroupAndScores] = ()

    def publication(self) -> Publication | Nothing:
        """On rank 0 manifests and payloads of the current student and discriminator, else nothing. Collective."""
        weights = self.learner.published()
        if self._gang.rank != 0:
            return NOTHING
        student, discriminator = self.learner.packed(*weights)
        return (student.manifest, discriminator.manifest), student.payload, discriminator.payload

    def hold(self, share: Sequence[GroupAndScores]) -> None:
        """Keeps groups rank, rank + size, ... of the next cycle until it takes them."""
        self._share = share

    def cycle(self, infos: Sequence[GroupInfo]) -> CycleResult:
        """Trains one cycle on the share that is held.

        Args:
            infos: Metadata of all groups of the cycle, in ordinal order.

        Returns:
            On rank 0 the outcome and the payloads of the new student and discriminator, else nothing.

        Raises:
            GroupMismatchError: if the share that is held is not of these groups.
        """
        share = [decode_scored(group, scores) for group, scores in self._share]
        _check_share(share, infos[self._gang.rank :: self._gang.size])
        self._share = ()
        report = self.learner.cycle(share, infos)
        laps = Laps()
        publication = self.publication()
        laps.ended("publish")
        if publication[0] is None:
            return NOTHING
        manifests, student, discriminator = publication
        report = replace(report, parts={**report.parts, **laps.seconds})
        resident, gpu = psutil.Process().memory_info().rss, gpu_use(self.learner.device)
        return CycleOutcome(report, *manifests, resident, gpu), student, discriminator

    def checkpoint(self, facts: Mapping[str, Any]) -> CheckpointOutcome:
        """Saves the learner and the controller's facts as one checkpoint, if the disk takes it.

        The checkpoint that the facts name as `last_good`, if any, stays beside those that are kept anyway. Collective;
        rank 0 alone has tensors on its disk.
        """
        streams = self.learner.tensors()
        everything = {
            "learner": self.learner.facts(),
            "controller": dict(facts),
            "config": self._config.model_dump(mode="json"),
        }
        outcome = CheckpointOutcome()
        if self._gang.rank == 0:
            keep, spare = self._config.learner.keep_checkpoints, facts.get("last_good")
            try:
                path = save_checkpoint(self._checkpoints, self.learner.version, streams, everything, keep, spare=spare)
                outcome = CheckpointOutcome(str(path))
            except CheckpointError as error:
                outcome = CheckpointOutcome(refused=str(error))
        _drain(streams)  # the other ranks gather all of them, whatever became of it here
        return outcome

    def grid(self) -> str:
        """Samples the student's EMA with fixed seeds, so that grids of different versions compare.

        Where images have several sizes, each column has the next of them.

        Returns:
            Path of the picture; empty if the disk refuses it, which is a warning: the run goes on without it.

        Raises:
            ValueError: on a rank that has no decoder.
        """
        if self._decode is None:
            raise ValueError(f"rank {self._gang.rank} draws no grids; ask rank 0")
        count = self._columns
        ids = torch.arange(count).repeat(self._rows)
        seeds = [derive_seed(self._config.run.seed, "grid", index) for index in range(ids.numel())]
        path = self._grid_path(self.learner.version)
        images = framed(self._sampled(ids, seeds, self._decode)).transpose(0, 3, 1, 2) / np.float32(127.5) - 1
        try:
            drawn = comparison_grid(path, {self._label: images}, column_labels(self._table.texts[:count]))
            self._thin_grids(self._config.evaluation.keep_grids)
        except OSError as error:
            logger.warning("%s: no grid of cycle %d (%s)", path, self.learner.version, error.strerror or error)
            return ""
        return str(drawn)

    def _sampled(
        self, ids: Int64[Tensor, " n"], seeds: Sequence[int], decode: Callable[[Tensor], Tensor]
    ) -> list[UInt8[np.ndarray, "_ _ 3"]]:
        """The EMA's images of prompts and seeds, that of prompt i in size i modulo the number of sizes."""
        tiles: dict[int, np.ndarray] = {}
        for size in range(len(self._sizes)):
            places = (ids % len(self._sizes) == size).nonzero().squeeze(1).tolist()
            if places:
                some = self._table.rows(ids[places]), [seeds[place] for place in places]
                latents = self.learner.sample_ema(*some, size)
                tiles |= zip(places, to_pixels(decode(latents).numpy()), strict=True)
        return [tiles[place] for place in range(len(ids))]

    @property
    def _label(self) -> str:
        """What a picture of the student says."""
        return f"student, {self._config.steps} steps, cycle {self.learner.version}"

    def validate(self) -> Validated:
        """Draws the validation prompts with the student's EMA, at every version from the same noise, and scores them.

        Raises:
            ValueError: on a rank that has none.
            UserError: if a scorer breaks its contract.
        """
        if self._validation is None:
            raise ValueError(f"rank {self._gang.rank} has no validation; set validation.prompts and ask rank 0")
        return self._validation.drawn(self.learner.version, self._label, self.learner.sample_ema)

    def judge(self) -> Judgement:
        """Judges the student's EMA; the same prompts and seeds at every version.

        Raises:
            ValueError: on a rank that has no judge.
        """
        if self._judge is None:
            raise ValueError(f"rank {self._gang.rank} has no judge; set evaluation.judge_cycles and ask rank 0")
        return self._judge.judged(self.learner.sample_ema)
