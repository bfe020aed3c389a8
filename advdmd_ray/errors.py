"""Errors that a user or an operator meets, each one clear line."""

import time


class UserError(ValueError):
    """Bad input: says what came, what is allowed and what to do. The command line exits with code 2."""


class WeightsMismatchError(RuntimeError):
    """A worker's loaded weights differ from the published manifest. The run stops at once."""


class GroupMismatchError(RuntimeError):
    """A scored group is not what its lease asked for, or not the one that it is taken for. The run stops at once."""


class DeadlineError(TimeoutError):
    """A wait passed its deadline. The message says what was waited for: ordinal, worker, node and age."""


class WorkerLostError(RuntimeError):
    """A worker died or became unreachable while it held work."""


class GangLostError(WorkerLostError):
    """The learner's gang lost a rank, or hangs. What is left of it is of no use: another goes on from a checkpoint."""


class WorkerFailedError(RuntimeError):
    """A worker met an error that it did not expect; its traceback is in the run folder's failure.log."""


class Interrupted(KeyboardInterrupt):
    """A signal stops the process: SIGTERM, or Ctrl-C. The command line exits with code 128 and the signal's number.

    Args:
        number: The signal's.
        text: One line: what stopped, and what there is of it.
        since: When the process was first told to, by the monotonic clock; None: now.
        at_once: Whether it was told again, and so no wait is left.
    """

    def __init__(self, number: int, text: str, *, since: float | None = None, at_once: bool = False) -> None:
        super().__init__(text)
        self.number, self.at_once = number, at_once
        self.since = time.monotonic() if since is None else since


class BytesLostError(WorkerLostError):
    """Bytes that a worker was to read ended with the node that held them. The worker itself lives."""


class NotFiniteError(ValueError):
    """Values of a group that should be finite are not."""


class CheckpointError(RuntimeError):
    """A checkpoint is damaged or does not fit the run that wants to resume from it."""


class DiskError(RuntimeError):
    """A disk refuses what is to be written: it is full, say. Nothing is half-written."""


class HubError(RuntimeError):
    """The Hugging Face hub refuses an upload, or is not reached. What was to be uploaded is whole, and stays."""


class RatioError(RuntimeError):
    """Rollout and learner disagree about the probability of an action under the same weights."""


class DivergedError(RuntimeError):
    """The training broke what it trains: a series left the range of the run's own past and did not come back."""


FAILURES = (
    WeightsMismatchError,
    GroupMismatchError,
    DeadlineError,
    WorkerLostError,
    WorkerFailedError,
    CheckpointError,
    DiskError,
    HubError,
    RatioError,
    DivergedError,
)
"""What ends a run with one line of its own. The command line exits with code 1."""
