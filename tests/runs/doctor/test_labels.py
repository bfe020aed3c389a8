"""What the doctor says of a cluster whose nodes are kept for roles."""

from dataclasses import replace

import pytest

from advdmd_ray.config import Config
from advdmd_ray.runs.doctor.labels import examine_labels, homes_of
from advdmd_ray.runs.doctor.nodes import Node, examine_sight
from advdmd_ray.runs.doctor.roles import examine_placement, examine_roles
from advdmd_ray.runs.needs.memory import GIB
from advdmd_ray.runs.needs.node_roles import LABEL
from large_model import SIZES


def node(name: str, value: str | None, cpus: float = 8.0, *, sees: bool = True) -> Node:
    labels = {} if value is None else {LABEL: value}
    return Node(name, cpus, gpus=0, memory=900 * GIB, object_store=100 * GIB, sees=sees, labels=labels)


CLUSTER = [node("a", "learner"), node("b", "rollout-reward"), node("c", None)]


def config(placement: str = "auto", **learner: float) -> Config:
    return Config.model_validate({"ray": {"placement": placement}, "learner": learner})


def test_each_role_is_told_with_its_nodes() -> None:
    finding = examine_labels(config(), CLUSTER)
    assert finding is not None
    assert (finding.state, finding.text) == ("ok", "learner on a; rollout on b; reward on b")


@pytest.mark.parametrize(
    ("placement", "nodes"), [("auto", [node("a", None)]), ("anywhere", CLUSTER), ("anywhere", [node("a", "typo")])]
)
def test_where_no_label_says_anything_nothing_is_said(placement: str, nodes: list[Node]) -> None:
    assert examine_labels(config(placement), nodes) is None
    assert homes_of(config(placement), nodes)["learner"] == nodes


@pytest.mark.parametrize(
    ("placement", "nodes", "says"),
    [
        ("auto", CLUSTER[1:2], "no node takes the workers of learner: start one with the label advdmd-role=learner"),
        ("labelled", [CLUSTER[2]], "no node takes the workers of learner and rollout and reward"),
        ("auto", [node("a", "typo")], "a node has the label advdmd-role=typo"),
    ],
)
def test_a_role_without_a_node_is_a_change(placement: str, nodes: list[Node], says: str) -> None:
    finding = examine_labels(config(placement), nodes)
    assert finding is not None
    assert finding.state == "change"
    assert finding.text.startswith(says)
    assert examine_roles(config(placement), SIZES, nodes), "what the nodes have is told all the same"


def test_a_node_that_no_learner_goes_to_need_not_see_the_folder_of_the_runs() -> None:
    nodes = [CLUSTER[0], replace(CLUSTER[1], sees=False), replace(CLUSTER[2], sees=False)]
    homes = homes_of(config(), nodes)["learner"]
    finding = examine_sight(config(), homes, everywhere=False)
    assert finding is not None
    assert (finding.state, finding.text) == ("ok", "every node that takes learner ranks sees runs")
    assert examine_sight(config(), nodes) != finding


def test_room_on_nodes_of_other_roles_is_no_room() -> None:
    wanted = config(num_cpus=9.0)
    nodes = [node("a", "learner"), node("b", "rollout-reward", cpus=64.0)]
    found = {finding.subject: finding for finding in examine_roles(wanted, SIZES, nodes)}
    assert found["learner"].state == "change"
    assert found["learner"].text.endswith("a has 8 CPUs, a worker asks for 9; lower learner.num_cpus")
    assert examine_placement(wanted, nodes).text.endswith("a learner worker may find no node with all it needs left")
    assert examine_placement(config("anywhere", num_cpus=9.0), nodes).state == "ok"
