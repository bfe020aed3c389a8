"""Work away from the driver, with a stand-in for Ray whose actors are objects in this process."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from advdmd_ray.errors import UserError, WorkerLostError
from advdmd_ray.runtime import aside as module
from advdmd_ray.runtime import dealing
from advdmd_ray.runtime.aside import Aside, AsideActor

REMOTE: Any = AsideActor
ACTOR = REMOTE.__ray_metadata__.modified_class


class FakeRay:
    """Loses so many actors at their work."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lost: int = 0) -> None:
        self.lost, self.given, self.killed, self.hired = lost, dict[str, Any](), 0, 0
        monkeypatch.setattr(module, "AsideActor", self)
        monkeypatch.setattr(dealing, "ray", self)
        monkeypatch.setattr(dealing, "answer", self.answer)

    def options(self, **given: Any) -> "FakeRay":
        self.given = given
        return self

    def remote(self) -> "Process":
        self.hired += 1
        return Process(self)

    def wait(self, tickets: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return tickets[:1], tickets[1:]

    def kill(self, _: "Process") -> None:
        self.killed += 1

    @staticmethod
    def answer(ticket: Any, what: str) -> Any:
        if isinstance(ticket, Exception):
            raise ticket
        assert what in {"a worker's start", "the sum"}
        return ticket[0]


class Call:
    """A method of an actor; its answer is a tuple of one, so that it can be told from others."""

    def __init__(self, method: Callable[..., Any], returns: int = 1) -> None:
        self._method, self._returns = method, returns

    def options(self, num_returns: int) -> "Call":
        return Call(self._method, num_returns)

    def remote(self, *given: Any) -> Any:
        try:
            value = self._method(*given)
        except (UserError, WorkerLostError) as error:
            return error if self._returns == 1 else [error] * self._returns
        return (value,) if self._returns == 1 else [(part,) for part in value]


class Process:
    """An actor in this process."""

    def __init__(self, ray: FakeRay) -> None:
        self._ray, self._actor = ray, ACTOR()
        self.ready, self.do = Call(self._actor.ready), Call(self._do)

    def _do(self, work: Callable[..., Any], *given: Any) -> Any:
        if self._ray.lost:
            self._ray.lost -= 1
            raise WorkerLostError("the sum: its process died")
        return self._actor.do(work, *given)


def added(a: int, b: int) -> int:
    return a + b


def both(a: int, b: int) -> tuple[int, int]:
    return a + b, a - b


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_it_is_done_once_more_for_each_process_that_is_lost_and_no_process_stays(
    lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay(monkeypatch, lost)
    with closing(Aside(lambda: {"num_gpus": 0.5})) as aside:
        assert aside.do(added, 1, 2, what="the sum", limit_s=9.0) == (3, [])
        assert ray.given == {"num_cpus": 0, "num_gpus": 0.5}
        assert (ray.hired, ray.killed) == (lost + 1, lost)
    assert ray.hired == ray.killed


def test_the_next_piece_is_done_by_the_same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(monkeypatch)
    aside = Aside()
    assert ray.hired == 0, "there is nothing to do yet"
    for number in range(3):
        assert aside.do(added, number, 2, what="the sum", limit_s=9.0) == (number + 2, [])
    assert (ray.hired, ray.killed) == (1, 0)
    aside.close()
    assert ray.killed == 1


def test_three_that_are_lost_are_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(monkeypatch, 99)
    with pytest.raises(WorkerLostError, match="the sum: its process died"):
        Aside().do(added, 1, 2, what="the sum", limit_s=9.0)
    assert ray.hired == ray.killed == 3


def test_other_values_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeRay(monkeypatch, 1)
    assert Aside().do(both, 5, 2, what="the sum", limit_s=9.0, returns=2) == (7, [(3,)])


def test_after_what_the_work_finds_wrong_another_process_does_the_next_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UserError("no such folder")

    ray, aside = FakeRay(monkeypatch), Aside()
    with pytest.raises(UserError, match="no such folder"):
        aside.do(refuse, what="the sum", limit_s=9.0)
    assert ray.hired == ray.killed == 1
    assert aside.do(added, 1, 2, what="the sum", limit_s=9.0) == (3, [])
    assert (ray.hired, ray.killed) == (2, 1)
