"""Work dealt out to actors that are slow, lost or never come, with a stand-in for Ray that keeps time."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.errors import BytesLostError, DeadlineError, UserError, WorkerLostError
from advdmd_ray.runtime import dealing


@dataclass(eq=False)
class Ticket:
    """An answer that comes at a time: a value, an error, or never."""

    at: float
    value: Any


@dataclass(eq=False)
class Actor:
    """Takes so long for a piece, is up at a time, refuses, or is lost at its n-th piece or at pieces of some names.

    At its n-th piece it may also stop for ever: then it answers nobody. Others answer at once, whatever they are at.
    """

    takes: float = 1.0
    up: float = 0.0
    dies_at: int | None = None
    stops_at: int | None = None
    refuses: bool = False
    poison: frozenset[int] = frozenset()
    begun: list[int] = field(default_factory=list)
    free: float = 0.0
    killed: bool = False
    world: "FakeRay | None" = None

    @property
    def ping(self) -> "Actor":
        return self

    @property
    def stopped(self) -> bool:
        return self.stops_at is not None and len(self.begun) > self.stops_at

    def remote(self) -> Ticket:
        assert self.world is not None
        assert not self.killed, "nobody asks the dead"
        return Ticket(float("inf") if self.stopped else self.world.now, None)


class FakeRay:
    """Hands out answers in the order that they come, and starts actors: those that it is told first, then good ones."""

    def __init__(self) -> None:
        self.now = 0.0
        self.hired: list[Actor] = []

    def hire(self, team: list[Actor]) -> Actor:
        self.hired.append(team.pop(0) if team else Actor(up=self.now))
        return self.hired[-1]

    def kill(self, actor: Actor) -> None:
        actor.killed = True

    def wait(self, tickets: list[Ticket], timeout: float) -> tuple[list[Ticket], list[Ticket]]:
        assert tickets, "Ray refuses to wait for nothing"
        first = min(tickets, key=lambda ticket: ticket.at)
        if first.at > self.now + timeout:
            self.now += timeout
            return [], tickets
        self.now = max(self.now, first.at)
        return [first], [ticket for ticket in tickets if ticket is not first]

    def answer(self, ticket: Ticket, _: str) -> Any:
        assert ticket.at <= self.now
        if isinstance(ticket.value, Exception):
            raise ticket.value
        return ticket.value

    def begin(self, actor: Actor, piece: int) -> Ticket:
        actor.begun.append(piece)
        actor.world = self
        assert not actor.killed
        assert actor.free <= self.now, "an actor has one piece at a time"
        if actor.stopped:
            return Ticket(float("inf"), None)
        actor.free = max(self.now, actor.up) + actor.takes
        lost = (actor.dies_at is not None and len(actor.begun) > actor.dies_at) or piece in actor.poison
        return Ticket(actor.free, WorkerLostError(f"piece {piece}: dead") if lost else -piece)

    def ready(self, actor: Actor) -> Ticket:
        if actor.refuses:
            return Ticket(actor.up, UserError("a worker on node b does not see runs/a"))
        return Ticket(actor.up, None if actor.dies_at != -1 else WorkerLostError("never up"))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(dealing, "ray", fake)
    monkeypatch.setattr(dealing, "answer", fake.answer)
    return fake


def dealt(ray: FakeRay, team: list[Actor], pieces: int, *, deadline_s: float = 10.0, spare: int = 0) -> list[int]:
    """What is done, in its order, by a team that is hired from a list; the last so many are hired where one is lost."""
    crew = list(team)
    with dealing.hired(lambda: ray.hire(crew), len(team) - spare) as hired:
        dealing_out = dealing.deal(
            hired,
            list(range(pieces)),
            ray.begin,  # pyright: ignore[reportArgumentType] - a ticket stands for a reference
            "piece {}".format,
            deadline_s,
            ray.ready,  # pyright: ignore[reportArgumentType]
            lambda: ray.now,
        )
        done = list(dealing_out)
    assert all(actor.killed for actor in ray.hired)
    assert all(answer == -piece for piece, answer in done)
    return [piece for piece, _ in done]


@given(takes=st.lists(st.floats(0.1, 5.0), min_size=1, max_size=6), pieces=st.integers(0, 20))
def test_every_piece_is_done_once_whatever_the_team(takes: list[float], pieces: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        fake = FakeRay()
        patch.setattr(dealing, "ray", fake)
        patch.setattr(dealing, "answer", fake.answer)
        team = [Actor(seconds) for seconds in takes]
        assert sorted(dealt(fake, team, pieces)) == list(range(pieces))
        assert sorted(piece for actor in team for piece in actor.begun) == list(range(pieces))
        # Nobody idles while there is work: the last one ends at most one piece after all could have.
        assert fake.now <= pieces / sum(1 / seconds for seconds in takes) + 2 * max(takes)


def test_an_actor_for_which_there_is_no_room_is_given_nothing_and_is_not_waited_for(ray: FakeRay) -> None:
    held_by_others, late = Actor(up=float("inf")), Actor(up=2.5)
    assert sorted(dealt(ray, [held_by_others, Actor(), late], 8)) == list(range(8))
    assert held_by_others.begun == []
    assert len(late.begun) >= 2
    assert ray.now <= 6


def test_an_actor_that_refuses_is_left_out_and_a_line_says_so(ray: FakeRay, caplog: pytest.LogCaptureFixture) -> None:
    refuses = Actor(refuses=True)
    assert sorted(dealt(ray, [refuses, Actor(up=1.0)], 4)) == list(range(4))
    assert refuses.begun == []
    assert [record.message for record in caplog.records] == ["a worker on node b does not see runs/a; the others go on"]
    with pytest.raises(UserError, match="does not see"):
        dealt(ray, [refuses, Actor(refuses=True, up=1.0)], 4)


def test_the_piece_of_a_lost_actor_is_done_next_and_another_takes_its_place(
    ray: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    lost, other, spare = Actor(dies_at=1), Actor(takes=0.5), Actor(up=3.0)
    assert sorted(dealt(ray, [lost, other, spare], 20, spare=1)) == list(range(20))
    assert len(lost.begun) == 2
    assert other.begun.index(lost.begun[1]) == 4, "after what it was at when the first was lost"
    assert spare.begun, "who was hired in its place works too"
    assert caplog.messages == [f"piece {lost.begun[1]}: dead; another worker takes its place"]


def test_the_only_actor_is_replaced_however_often_as_long_as_it_gets_on(ray: FakeRay) -> None:
    assert dealt(ray, [Actor(dies_at=1) for _ in range(9)], 9, spare=8) == list(range(9))
    assert [actor.begun for actor in ray.hired[:2]] == [[0, 1], [1, 2]]


def test_an_actor_that_is_lost_before_it_is_up_is_replaced(ray: FakeRay) -> None:
    assert sorted(dealt(ray, [Actor(dies_at=-1), Actor()], 3)) == [0, 1, 2]
    assert dealt(ray, [Actor(dies_at=-1)], 3) == [0, 1, 2]


def test_actors_none_of_which_comes_up_are_an_error(ray: FakeRay) -> None:
    with pytest.raises(WorkerLostError, match="never up"):
        dealt(ray, [Actor(dies_at=-1) for _ in range(99)], 3, spare=98)
    assert len(ray.hired) == dealing.MOST_LOSSES


def test_a_place_where_none_comes_up_is_done_without_where_others_work(ray: FakeRay) -> None:
    never = [Actor(dies_at=-1, up=0.1) for _ in range(99)]
    assert sorted(dealt(ray, [Actor(takes=5.0), *never], 3, spare=98)) == [0, 1, 2]
    assert len(ray.hired) == 1 + dealing.MOST_LOSSES


@pytest.mark.parametrize("kind", [{"poison": frozenset({2})}, {"stops_at": 0}])
def test_a_piece_that_ends_every_actor_does_not_end_all_of_them(ray: FakeRay, kind: dict[str, Any]) -> None:
    team = [Actor(**kind) for _ in range(99)]
    with pytest.raises(WorkerLostError, match=r"piece \d: (dead|the worker has not answered for 60 s)"):
        dealt(ray, team, 20, deadline_s=1000.0, spare=97)
    assert max(sum(piece in actor.begun for actor in team) for piece in range(20)) == dealing.MOST_LOSSES


def test_an_actor_that_hangs_is_replaced_long_before_anybody_loses_patience(
    ray: FakeRay, caplog: pytest.LogCaptureFixture
) -> None:
    assert dealt(ray, [Actor(stops_at=1)], 4, deadline_s=1800.0) == [0, 1, 2, 3]
    assert caplog.messages == ["piece 1: the worker has not answered for 60 s; another worker takes its place"]
    assert 60 <= ray.now < 70


def test_an_actor_that_answers_is_left_to_its_work_however_long_that_takes(ray: FakeRay) -> None:
    assert dealt(ray, [Actor(takes=500.0)], 3, deadline_s=600.0) == [0, 1, 2]
    assert len(ray.hired) == 1


def test_bytes_that_are_lost_are_no_lost_actor(ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: Ticket, what: str) -> None:
        if what.startswith("piece"):
            raise BytesLostError(f"{what}: gone")

    monkeypatch.setattr(dealing, "answer", gone)
    with pytest.raises(BytesLostError, match="piece 0: gone"):
        dealt(ray, [Actor(), Actor(takes=2.0)], 3)


def test_long_work_has_no_limit_as_long_as_pieces_are_done(ray: FakeRay) -> None:
    assert len(dealt(ray, [Actor(takes=9.0)], 1000)) == 1000
    assert ray.now > 2 * 3600


@pytest.mark.parametrize(("up", "words"), [(0.0, "at work on piece 0"), (float("inf"), "no worker is up")])
def test_what_hangs_is_named(ray: FakeRay, up: float, words: str) -> None:
    with pytest.raises(DeadlineError, match=f"nothing done in 10 s; .*{words}"):
        dealt(ray, [Actor(takes=11.0, up=up)], 3)
