"""Which nodes take which role's workers."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advdmd_ray.config import Config
from advdmd_ray.config.sections import Placement
from advdmd_ray.errors import UserError
from advdmd_ray.runs.needs.node_roles import (
    ALL,
    LABEL,
    ROLES,
    UNLABELLED,
    VALUES,
    Nodes,
    naming,
    nodes_of_roles,
    of_any_role,
)

LABELS = st.one_of(
    st.just({}), st.sampled_from(VALUES).map(lambda value: {LABEL: value}), st.just({"ray.io/node-id": "a"})
)


def selected(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """As Ray selects: a node without the label is in no list, so not in any matches it."""
    for key, text in selector.items():
        listed = text.removeprefix("!").removeprefix("in(").removesuffix(")").split(",")
        if (labels.get(key) in listed) == text.startswith("!"):
            return False
    return True


@given(st.sampled_from([ALL, UNLABELLED, *map(naming, ROLES)]), LABELS)
def test_what_is_said_of_a_node_here_is_what_ray_selects(nodes: Nodes, labels: dict[str, str]) -> None:
    assert (labels in nodes) == selected(labels, nodes.selector)


@given(st.lists(LABELS), st.sampled_from(["auto", "labelled"]))
def test_no_worker_goes_to_a_node_whose_label_names_other_roles(
    nodes: list[dict[str, str]], placement: Placement
) -> None:
    for role, where in nodes_of_roles(placement, nodes).items():
        for value in VALUES:
            assert ({LABEL: value} in where) <= (role in value.split("-") or where is ALL)


@given(st.lists(LABELS))
def test_auto_takes_the_nodes_that_name_a_role_or_else_those_without_a_label(nodes: list[dict[str, str]]) -> None:
    chosen = nodes_of_roles("auto", nodes)
    labelled = any(LABEL in labels for labels in nodes)
    for role, where in chosen.items():
        here = any(role in labels.get(LABEL, "").split("-") for labels in nodes)
        assert where == (naming(role) if here else UNLABELLED if labelled else ALL)


@given(st.lists(LABELS), st.sampled_from(["auto", "labelled", "anywhere"]), LABELS)
def test_what_takes_the_room_of_all_roles_goes_where_any_of_them_may(
    nodes: list[dict[str, str]], placement: Placement, labels: dict[str, str]
) -> None:
    chosen = nodes_of_roles(placement, nodes)
    assert (labels in of_any_role(chosen)) == any(labels in where for where in chosen.values())


def test_labelled_asks_for_the_label_before_any_node_has_it_so_that_an_autoscaler_brings_the_right_one() -> None:
    assert nodes_of_roles("labelled", []) == {role: naming(role) for role in ROLES}


def test_anywhere_looks_at_no_label() -> None:
    assert set(nodes_of_roles("anywhere", [{LABEL: "anything"}]).values()) == {ALL}


@pytest.mark.parametrize("value", ["leaner", "rollout-rollout", "rollout_reward", "Learner", "learner-", ""])
def test_a_label_that_names_no_role_is_one_line_with_what_is_allowed(value: str) -> None:
    with pytest.raises(UserError, match=rf"label advdmd-role={value}; a value is learner, rollout or reward, or sev"):
        nodes_of_roles("auto", [{}, {LABEL: value}])


def test_roles_are_those_of_the_configuration() -> None:
    assert set(ROLES) == set(Config().roles)
    assert len(VALUES) == 15
