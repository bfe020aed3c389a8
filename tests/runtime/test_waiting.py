"""Waiting for a cluster's room, with a stand-in for Ray and its autoscaler."""

import pytest

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.runs.needs.node_roles import LABEL, UNLABELLED, naming
from advdmd_ray.runtime.room import Bundle, asking
from advdmd_ray.runtime.waiting import Node, shortage, wait_for_room
from fake_cluster import FakeCluster

HEAD: tuple[dict[str, float], dict[str, str]] = ({"CPU": 1.0}, {})


def config(placement: str = "auto", **reward: float) -> Config:
    return Config.model_validate(
        {
            "rollout": {"actors": 4, "num_cpus": 1},
            "reward": {"workers": 1, "num_cpus": 0.5, **reward},
            "learner": {"num_cpus": 1},
            "ray": {"placement": placement},
        }
    )


def waited(config: Config, seconds: float) -> None:
    """Waits, and lets go of what it has got."""
    with asking() as request:
        wait_for_room(config, seconds, request)


def test_a_cluster_with_room_is_not_waited_for_and_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = FakeCluster([({"CPU": 8.0}, {})])
    cluster.install(monkeypatch)
    with asking() as request:
        wait_for_room(config(), 300.0, request)
        assert cluster.available_resources() == {"CPU": 2.5}, "nobody else gets the room"
    assert cluster.now == 0.0
    assert cluster.groups == []
    assert capsys.readouterr().err == ""


def test_nodes_come_because_the_run_asked_and_what_is_asked_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = FakeCluster([HEAD], [({"CPU": 6.0}, {})])
    cluster.install(monkeypatch)
    waited(config(), 300.0)
    assert 6.0 <= cluster.now <= 8.0
    assert cluster.groups == []
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == (
        "the workers reserve 5.5 CPUs, the cluster has 1; asked the cluster for 1 x learner of 1 CPU, "
        "4 x rollout of 1 CPU, 1 x reward of 0.5 CPU; waiting 0 of 300 s"
    )


def test_each_role_is_asked_for_with_its_label_so_that_the_right_nodes_come(monkeypatch: pytest.MonkeyPatch) -> None:
    both, learner, other = (
        ({"CPU": 5.0}, {LABEL: "reward-rollout"}),
        ({"CPU": 1.0}, {LABEL: "learner"}),
        ({"CPU": 9.0}, {}),
    )
    cluster = FakeCluster([HEAD], [other, both, learner])
    cluster.install(monkeypatch)
    waited(config("labelled"), 300.0)
    assert both in cluster.nodes
    assert learner in cluster.nodes
    assert other not in cluster.nodes


def test_a_node_whose_label_is_seen_while_waiting_changes_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With auto the labels of nodes that come are not known before."""
    cluster = FakeCluster([HEAD], [({"CPU": 2.0}, {LABEL: "learner"}), ({"CPU": 4.5}, {})])
    cluster.install(monkeypatch)
    waited(config(), 300.0)
    assert len(cluster.nodes) == 3


def test_without_an_autoscaler_it_ends_with_one_line_that_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster([HEAD])
    cluster.install(monkeypatch)
    line = (
        r"^waited 30 s for room: the workers reserve 5\.5 CPUs, the cluster has 1; lower rollout\.actors, .* add nodes$"
    )
    with pytest.raises(UserError, match=line):
        waited(config(), 30.0)
    assert cluster.now == pytest.approx(30.0)
    assert cluster.groups == []


def test_a_role_that_no_node_takes_is_one_line_that_names_the_label(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster([({"CPU": 9.0}, {LABEL: "rollout"}), ({"CPU": 9.0}, {LABEL: "reward"})])
    cluster.install(monkeypatch)
    with pytest.raises(UserError, match=r"the learner workers reserve 1 CPUs, the nodes with label advdmd-role=lea"):
        waited(config("labelled"), 5.0)


def test_whatever_ends_the_wait_takes_the_request_along(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster([HEAD], dies_at=4.0)
    cluster.install(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        waited(config(), 300.0)
    assert cluster.groups == []


@pytest.mark.parametrize(
    ("bundles", "nodes", "free", "line"),
    [
        ([Bundle("rollout", 1.0)] * 3, [Node({"CPU": 2.0}, {})], 2.0, "the workers reserve 3 CPUs, the cluster has 2"),
        (
            [Bundle("learner", 1.0, 2.0)],
            [Node({"CPU": 2.0}, {})],
            2.0,
            "the workers reserve 2 GPUs, the cluster has 0",
        ),
        (
            [Bundle("learner", 4.0, 1.0)],
            [Node({"CPU": 3.0, "GPU": 1.0}, {})] * 2,
            6.0,
            "one learner worker reserves 4 CPU and 1 GPU, more than any node of the cluster has",
        ),
        (
            [Bundle("rollout", 1.0)] * 3,
            [Node({"CPU": 8.0}, {})],
            1.5,
            "the workers reserve 3 CPUs, of the cluster's 8 are 1.5 free",
        ),
        (
            [Bundle("rollout", 2.0)] * 2,
            [Node({"CPU": 4.0}, {})] * 2,
            4.0,
            "the free room is in pieces, of which none takes the next worker",
        ),
        (
            [Bundle("learner", 1.0, 0.0, naming("learner")), Bundle("rollout", 1.0, 0.0, UNLABELLED)],
            [Node({"CPU": 4.0}, {LABEL: "learner-reward"})],
            4.0,
            "the rollout workers reserve 1 CPUs, the nodes without label advdmd-role have 0",
        ),
    ],
)
def test_what_is_missing_is_said(bundles: list[Bundle], nodes: list[Node], free: float, line: str) -> None:
    why, remedy = shortage(bundles, nodes, {"CPU": free})
    assert why == line
    assert "or add nodes" in remedy
