"""Where processes go."""

import logging

import pytest

from advdmd_ray.config import Config
from advdmd_ray.errors import UserError
from advdmd_ray.runs.needs.node_roles import ANY_ROLE, LABEL, UNLABELLED, naming, of_any_role
from advdmd_ray.runtime.places import NODE_ID, Places
from advdmd_ray.runtime.waiting import Node

NODES = [Node({}, {LABEL: "learner", NODE_ID: "a1"}, "host-a"), Node({}, {NODE_ID: "b2"}, "host-b")]


def places(nodes: list[Node], placement: str = "auto") -> Places:
    return Places(Config.model_validate({"ray": {"placement": placement}}), look=lambda: nodes)


def test_each_role_goes_to_its_nodes_for_the_whole_run() -> None:
    nodes = [*NODES]
    chosen = places(nodes)
    assert chosen.selector("learner") == naming("learner").selector
    assert chosen.options("rollout") == {"label_selector": UNLABELLED.selector}
    nodes.append(Node({}, {LABEL: "rollout"}))
    assert chosen.options("rollout") == {"label_selector": UNLABELLED.selector}


def test_what_takes_the_room_of_all_roles_goes_to_their_nodes_and_to_no_others() -> None:
    roles = {role: naming(role) for role in ("learner", "rollout", "reward")}
    assert places(NODES, "labelled").options(ANY_ROLE) == {"label_selector": of_any_role(roles).selector}
    assert places(NODES, "anywhere").options(ANY_ROLE) == {"label_selector": {}}


def test_without_labels_ray_is_told_nothing() -> None:
    assert places(NODES[1:]).options("reward") == {"label_selector": {}}
    assert places(NODES, "anywhere").selector("learner") == {}


def test_a_node_where_processes_end_is_avoided_unless_it_alone_has_room(caplog: pytest.LogCaptureFixture) -> None:
    chosen = places(NODES)
    with caplog.at_level(logging.WARNING):
        for node in ("b2", "a1", "b2"):
            chosen.lost(node)
        assert chosen.options("rollout") == {"label_selector": UNLABELLED.selector}
        assert caplog.records == []
        chosen.lost("b2")
    assert chosen.options("rollout") == {
        "label_selector": {**UNLABELLED.selector, NODE_ID: "!in(b2)"},
        "fallback_strategy": [{"label_selector": UNLABELLED.selector}],
    }
    learner = naming("learner").selector
    assert chosen.choices("learner") == [{**learner, NODE_ID: "!in(b2)"}, learner]
    (line,) = (record.getMessage() for record in caplog.records)
    assert (
        line == "3 workers ended on node host-b within 600 s; where others have room none is started there for 1800 s"
    )


def test_a_label_that_names_no_role_is_refused() -> None:
    with pytest.raises(UserError, match="advdmd-role=x"):
        places([Node({}, {LABEL: "x"})]).selector("learner")
