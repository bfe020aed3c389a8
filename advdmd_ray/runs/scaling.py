"""How a running run is told how many workers it is to have: two small files in its folder, and no open port.

`advdmd scale` writes a request, which names the start of the run that it is for by the text of its run.lock, so that
no later one takes it up. The driver looks for it twice a second, and answers with what it has.
"""

import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from advdmd_ray.controller.staff import ELASTIC, Staff
from advdmd_ray.errors import DeadlineError, UserError, WorkerLostError
from advdmd_ray.files import write_atomically
from advdmd_ray.runs.folder import RunFolder, is_live

logger = logging.getLogger(__name__)

MOST_WORKERS = 10_000
"""Of a role: more is a slip of the finger."""
MOST_BYTES = 4096
"""Of a request or an answer."""
LOOK_S = 0.2

Auto = Literal["auto"]
AUTO: Auto = "auto"
"""In place of a count: as the run itself decides, or as its configuration says."""
Asked = Annotated[int, Field(strict=True, ge=1, le=MOST_WORKERS)] | Auto


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str = Field(max_length=400)


NoteT = TypeVar("NoteT", bound=_Note)


class Request(_Note):
    """What is asked of a run: counts of the roles that are to change.

    Attributes:
        run: Text of its run.lock.
        id: What no other request has.
        rollout: Rollout actors.
        reward: Reward workers.
    """

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    rollout: Asked | None = None
    reward: Asked | None = None

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if not self.counts:
            raise ValueError("asks for nothing")
        return self

    @property
    def counts(self) -> dict[str, Asked]:
        """By role."""
        asked: dict[str, Asked | None] = {"rollout": self.rollout, "reward": self.reward}
        return {role: count for role, count in asked.items() if count is not None}


class Answer(_Note):
    """What a run has.

    Attributes:
        run: Text of its run.lock.
        request: The last request that it has taken up; None: none.
        staff: By role.
    """

    request: str | None
    staff: dict[str, Staff]


class FolderWishes:
    """`Wishes`, in the run folder. A disk that refuses an answer is no reason to end the run.

    Args:
        folder: The run folder, which this process holds.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._asked, self._told = folder.scale, folder.staff
        self._run = folder.mark().text
        self._seen = b""
        self._counts: dict[str, int] = {}
        self._request: str | None = None
        self._said: Answer | None = None

    def wanted(self) -> Mapping[str, int]:
        """See `Wishes`."""
        data = _read(self._asked)
        if data is not None and data != self._seen:
            self._seen = data
            self._take_up(data)
        return self._counts

    def _take_up(self, data: bytes) -> None:
        try:
            request = _parsed(Request, data)
        except ValueError as error:
            logger.warning("%s is passed over, as it is no request of `advdmd scale`: %s", self._asked, error)
            return
        if request.run != self._run:
            return  # it was for a run that has ended
        for role, asked in request.counts.items():
            if asked == AUTO:
                self._counts.pop(role, None)
            else:
                self._counts[role] = asked
        self._request = request.id
        logger.info("scaling to %s", texts_of(request.counts))

    def tell(self, staff: Mapping[str, Staff]) -> None:
        """See `Wishes`."""
        answer = Answer(run=self._run, request=self._request, staff=dict(staff))
        if answer == self._said:
            return
        self._said = answer
        try:
            write_atomically(self._told, answer.model_dump_json().encode())
        except OSError as error:
            logger.warning("%s could not be written, the run goes on: %s", self._told, error)


def ask(
    folder: Path, counts: Mapping[str, Asked], within_s: float, sleep: Callable[[float], None] = time.sleep
) -> Answer:
    """Asks a running run for other numbers of workers, and waits until it has taken them up.

    Args:
        folder: The run folder.
        counts: By role; each a count or `AUTO`.
        within_s: Seconds to wait.
        sleep: Waits.

    Returns:
        What the run has then: workers may still be coming or leaving.

    Raises:
        UserError: if no process writes the run, or the request cannot be written.
        WorkerLostError: if the run ends meanwhile.
        DeadlineError: if it is not taken up in time, or another request comes after it.
    """
    asked, told = RunFolder(folder).scale, RunFolder(folder).staff
    if not is_live(folder):
        raise UserError(
            f"--run {folder}: no process is writing this run now; give the folder of one that trains, or resume it "
            "with rollout.actors and reward.workers as you want them"
        )
    request = Request(run=RunFolder(folder).mark().text, id=uuid.uuid4().hex, **counts)
    note = request.model_dump_json().encode()
    try:
        write_atomically(asked, note)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"--run {folder}: cannot be written ({reason}); ask as the user whose run it is") from None
    for _ in range(max(1, round(within_s / LOOK_S))):
        if (answer := _answer(told)) is not None and (answer.run, answer.request) == (request.run, request.id):
            return answer
        if not is_live(folder):
            raise WorkerLostError(f"{folder}: the run ended before it took up {texts_of(counts)}")
        if _read(asked) != note:
            raise DeadlineError(f"{folder}: another request came after this one, and holds")
        sleep(LOOK_S)
    raise DeadlineError(
        f"{folder}: not taken up within {within_s:g} s; a run that starts takes up {texts_of(counts)} once it trains, "
        "and one whose training is over never does"
    )


def texts_of(counts: Mapping[str, Asked]) -> str:
    """Counts as they are asked for on a command line."""
    return " ".join(f"{role}={counts[role]}" for role in ELASTIC if role in counts)


def _answer(told: Path) -> Answer | None:
    data = _read(told)
    try:
        return None if data is None else _parsed(Answer, data)
    except ValueError:
        return None  # of another version of this package


def _parsed(kind: type[NoteT], data: bytes) -> NoteT:
    """Raises ValueError, of one line, for what is not of the kind."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ValueError(" ".join(f"{'.'.join(map(str, first['loc']))} {first['msg']}".split())) from None


def _read(file: Path) -> bytes | None:
    """A file of at most `MOST_BYTES` and a byte; None if there is none. A pipe without a writer is not waited for."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:
            return stream.read(MOST_BYTES + 1)
    except OSError:
        return None
