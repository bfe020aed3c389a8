"""The frozen heap: whose it is, and for how long."""

import gc

import pytest

from advdmd_ray.runtime.heap import frozen_heap

pytestmark = pytest.mark.usefixtures("thawed")


class Node:
    """May refer to itself."""

    def __init__(self) -> None:
        self.me = self


def alive(kept: list[int]) -> bool:
    """Whether the collector knows of an object with this identity."""
    return any(id(each) == kept[0] and isinstance(each, Node) for each in gc.get_objects())


def test_what_was_there_before_is_not_looked_at_and_what_comes_after_is_collected() -> None:
    before = Node()
    with frozen_heap():
        assert gc.get_freeze_count() > 0
        assert not alive([id(before)])
        after = [id(Node())]
        assert alive(after)
        gc.collect()
        assert not alive(after)
    assert gc.get_freeze_count() == 0
    assert alive([id(before)])


def test_the_heap_is_thawed_when_the_run_fails() -> None:
    with pytest.raises(RuntimeError, match="mine"), frozen_heap():
        raise RuntimeError("mine")
    assert gc.get_freeze_count() == 0


def test_a_heap_that_the_caller_froze_stays_frozen() -> None:
    theirs = Node()
    gc.freeze()
    with frozen_heap():
        ours = Node()
        assert alive([id(ours)]), "what came after they froze it is collected as always"
        assert not alive([id(theirs)])
    assert not alive([id(theirs)])
