"""Where the processes of crew and gang go, with stand-ins for Ray."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from ray.exceptions import ActorDiedError

from advdmd_ray.config import Config
from advdmd_ray.errors import DeadlineError
from advdmd_ray.runs.needs.node_roles import LABEL, naming
from advdmd_ray.runtime import crew, ray_gang
from advdmd_ray.runtime.crew import Crew
from advdmd_ray.runtime.node_losses import MOST_LOSSES
from advdmd_ray.runtime.places import NODE_ID, Places
from advdmd_ray.runtime.ray_gang import ELSEWHERE_S, RayGang
from advdmd_ray.runtime.waiting import Node

CONFIG = Config.model_validate({"rollout": {"actors": 2}, "learner": {"ranks": 2, "num_cpus": 2}})
NODES = [
    Node({}, {LABEL: "learner", NODE_ID: "a"}, "host-a"),
    Node({}, {LABEL: "rollout-reward", NODE_ID: "b"}, "host-b"),
    Node({}, {LABEL: "rollout-reward", NODE_ID: "c"}, "host-c"),
]


class Process:
    """A process on a node, which says where it is once it is up."""

    def __init__(self, node: object) -> None:
        self._node = node

    def __getattr__(self, name: str) -> "Call":
        return Call(self._node if name == "where" else "done")


class Call:
    """A method of a process."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def remote(self, *_: object, **__: object) -> object:
        return self._answer


class Kind:
    """A class of actors, which Ray places on the first node that the options allow and that has room."""

    def __init__(self, up: list[object]) -> None:
        self.given: list[dict[str, Any]] = []
        self._up = up

    def options(self, **given: Any) -> "Kind":
        self.given.append(given)
        return self

    def remote(self, *_: object) -> Process:
        return Process(self._up.pop(0))


class FakeRay:
    """References are their values: None of what is not there yet, an error of what was lost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *up: object) -> None:
        self.rollout, self.reward = Kind(list(up)), Kind(list(up))
        monkeypatch.setattr(crew, "ray", self)
        monkeypatch.setattr(crew, "RolloutActor", self.rollout)
        monkeypatch.setattr(crew, "RewardActor", self.reward)

    @staticmethod
    def kill(process: Process) -> None:
        assert isinstance(process, Process)

    @staticmethod
    def wait(references: list[object], timeout: float) -> tuple[list[object], list[object]]:
        assert timeout == 0, "nobody waits for the dead"
        return [each for each in references if each is not None], [each for each in references if each is None]

    @staticmethod
    def get(reference: object) -> object:
        if isinstance(reference, Exception):
            raise reference
        return reference


def places() -> Places:
    return Places(CONFIG, look=lambda: NODES)


def test_actors_go_to_the_nodes_of_their_role(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(monkeypatch, "b", "c")
    Crew(CONFIG, places=places()).hire()
    assert [given["label_selector"] for given in ray.rollout.given] == [naming("rollout").selector] * 2
    assert [given["label_selector"] for given in ray.reward.given] == [naming("reward").selector]
    assert all("fallback_strategy" not in given for given in ray.rollout.given)


class Ranks:
    """Stands for Ray under a gang of two: room on nodes, and ranks that live or do not answer.

    Args:
        monkeypatch: Puts it in Ray's place.
        room: Whether there is some for a selector.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: Callable[[Mapping[str, str]], bool]) -> None:
        self.asked: list[tuple[dict[str, str], float]] = []
        self.removed = 0
        self._room = room
        self.pings: list[object] = ["lives", "lives"]
        monkeypatch.setattr(ray_gang, "ray", self)
        monkeypatch.setattr(ray_gang, "LearnerRank", self)
        monkeypatch.setattr(ray_gang, "placement_group", self._group)
        monkeypatch.setattr(ray_gang, "placement_group_table", lambda _: {"bundles_to_node_id": {0: "a", 1: "d"}})
        monkeypatch.setattr(ray_gang, "remove_placement_group", self._remove)
        monkeypatch.setattr(ray_gang, "PlacementGroupSchedulingStrategy", lambda *_, **__: None)

    def _group(
        self, bundles: list[dict[str, float]], *, strategy: str, bundle_label_selector: list[dict[str, str]]
    ) -> "Room":
        assert bundles == [{"CPU": 2.0}] * 2
        assert strategy == "PACK"
        first, second = bundle_label_selector
        assert first == second
        return Room(lambda seconds: self.asked.append((first, seconds)) or self._room(first))

    def _remove(self, _: "Room") -> None:
        self.removed += 1

    # As the class of the ranks, a rank, and `ray`.
    def options(self, **_: object) -> "Ranks":
        return self

    def remote(self, _: Config, index: int) -> Any:
        return SimpleNamespace(ping=SimpleNamespace(remote=lambda: (index, self.pings[index])))

    @staticmethod
    def wait(pings: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert num_returns == len(pings)
        assert timeout > 0
        return [ping for ping in pings if ping[1] is not None], []

    @staticmethod
    def kill(rank: object) -> None:
        assert isinstance(rank, SimpleNamespace)

    @staticmethod
    def get(ping: tuple[int, object]) -> object:
        if isinstance(ping[1], Exception):
            raise ping[1]
        return ping[1]


class Room(NamedTuple):
    """A placement group."""

    wait: Callable[[float], bool]


def test_ranks_go_to_the_nodes_of_the_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(monkeypatch, lambda _: False)
    with pytest.raises(DeadlineError, match="room for the learner's gang"):
        RayGang(CONFIG, places()).place()
    assert ranks.asked == [(naming("learner").selector, 300.0)]
    assert ranks.removed == 1, "nothing is asked for any more"


@pytest.mark.parametrize("elsewhere", [True, False])
@pytest.mark.parametrize("lost", [None, ActorDiedError()])
def test_a_gang_goes_away_from_a_node_that_ends_its_ranks_if_there_is_room(
    lost: object, *, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = Ranks(monkeypatch, lambda selector: elsewhere or NODE_ID not in selector)
    gang = RayGang(CONFIG, places())
    gang.place()
    ranks.pings[1] = lost
    for _ in range(MOST_LOSSES):
        gang.note_losses()
    gang.end()
    gang.note_losses()
    gang.place()
    learner = naming("learner").selector
    tried = [({**learner, NODE_ID: "!in(d)"}, ELSEWHERE_S), (learner, 300.0)]
    assert ranks.asked == [(learner, 300.0), *tried[: 1 if elsewhere else 2]]
    assert len(gang.ranks) == 2


@pytest.mark.parametrize(
    ("up", "avoids"),
    [
        (("b", "c", "b", "b", "b"), True),
        (("b", "c", "b", "b", None), True),
        (("b", "c", None, None, None), False),
        (("b", "c", ActorDiedError(), ActorDiedError(), "b"), False),
        (("b", "c", "c", "b", "c"), False),
    ],
)
def test_a_node_where_processes_end_again_and_again_gets_no_new_one_if_others_have_room(
    up: tuple[object, ...], *, avoids: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = FakeRay(monkeypatch, *up)
    team = Crew(CONFIG, places=places())
    team.hire()
    for _ in range(MOST_LOSSES):
        team.bring("rollout-0")
    last = ray.rollout.given[-1]
    if avoids:
        assert last["label_selector"] == {**naming("rollout").selector, NODE_ID: "!in(b)"}
        assert last["fallback_strategy"] == [{"label_selector": naming("rollout").selector}]
    else:
        assert last["label_selector"] == naming("rollout").selector


def test_a_worker_that_is_added_or_dismissed_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = FakeRay(monkeypatch, *["b"] * 9)
    team = Crew(CONFIG, places=places())
    team.hire()
    for number in range(2, 6):
        team.bring(f"rollout-{number}")
        team.dismiss(f"rollout-{number}")
    team.bring("rollout-9")
    assert ray.rollout.given[-1]["label_selector"] == naming("rollout").selector
