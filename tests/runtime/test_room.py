"""What is asked of a cluster for workers that are not there yet."""

import pytest

from advdmd_ray.config import Config
from advdmd_ray.runs.needs.node_roles import naming, nodes_of_roles
from advdmd_ray.runtime.room import Bundle, ClusterRequest, asking, bundles_of
from fake_cluster import FakeCluster

ONE = Bundle("rollout", 1.0)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    """Two CPUs, and nobody who brings more."""
    fake = FakeCluster([({"CPU": 2.0}, {})])
    fake.install(monkeypatch)
    return fake


def test_a_bundle_a_worker_with_what_it_reserves_and_where_it_may_be() -> None:
    config = Config.model_validate(
        {
            "learner": {"ranks": 2, "num_cpus": 2, "num_gpus": 1},
            "rollout": {"actors": 3, "num_cpus": 0, "num_gpus": 0.5},
            "reward": {"workers": 1, "num_cpus": 0.25},
        }
    )
    bundles = bundles_of(config, nodes_of_roles("labelled", []))
    assert [(each.role, each.resources) for each in bundles] == [
        *[("learner", {"CPU": 2.0, "GPU": 1.0})] * 2,
        *[("rollout", {"GPU": 0.5})] * 3,
        ("reward", {"CPU": 0.25}),
    ]
    assert [each.nodes for each in bundles] == [naming(role) for role in ("learner",) * 2 + ("rollout",) * 3] + [
        naming("reward")
    ]


def test_what_is_asked_is_all_or_nothing_and_held_until_it_is_released(cluster: FakeCluster) -> None:
    request = ClusterRequest()
    request.ask([ONE] * 3)
    assert not request.placed(1.0)
    assert cluster.available_resources() == {"CPU": 2.0}, "part of what is asked would keep others out"
    request.ask([ONE] * 2)
    assert request.placed()
    assert cluster.available_resources() == {"CPU": 0.0}
    request.release()
    assert cluster.groups == []
    assert cluster.available_resources() == {"CPU": 2.0}


def test_another_set_takes_the_place_of_the_one_before_and_the_same_set_leaves_it(cluster: FakeCluster) -> None:
    request = ClusterRequest()
    request.ask([ONE])
    (first,) = cluster.groups
    request.ask([ONE])
    assert cluster.groups == [first]
    request.ask([ONE, ONE])
    assert cluster.groups != [first]
    assert len(cluster.groups) == 1
    request.ask([])
    assert cluster.groups == []
    assert request.placed(), "nothing is asked"


def test_a_worker_that_reserves_nothing_needs_no_room(cluster: FakeCluster) -> None:
    request = ClusterRequest()
    request.ask([Bundle("reward", 0.0)])
    assert request.placed()
    assert cluster.asked == []


def test_a_look_does_not_wait(cluster: FakeCluster) -> None:
    request = ClusterRequest()
    request.ask([ONE] * 3)
    assert not request.placed()
    assert cluster.now == 0.0


def test_an_error_takes_the_request_along(cluster: FakeCluster) -> None:
    def interrupted() -> None:
        with asking() as request:
            request.ask([ONE] * 3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert cluster.groups == []
