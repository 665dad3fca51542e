"""Groups of names: joined ones share a root, whatever the order in which they were joined."""

from __future__ import annotations

import itertools

import pytest

from ffnet_deploy.graph.groups import Groups


def test_each_name_is_alone_at_first() -> None:
    groups = Groups("abc")
    assert groups.members() == {"a": ["a"], "b": ["b"], "c": ["c"]}
    assert [name in groups for name in "ad"] == [True, False]


def test_the_second_root_stands_for_both() -> None:
    groups = Groups("abcd")
    groups.join("a", "c")
    groups.join("a", "d")
    assert [groups.root(name) for name in "abcd"] == ["d", "b", "d", "d"]
    # Groups in the order of their roots, names in the order in which they were given.
    assert list(groups.members().items()) == [("b", ["b"]), ("d", ["a", "c", "d"])]


def test_names_of_one_group_can_be_joined_again() -> None:
    groups = Groups("ab")
    groups.join("a", "b")
    groups.join("b", "a")
    groups.join("a", "a")
    assert groups.members() == {"b": ["a", "b"]}


@pytest.mark.parametrize("pairs", list(itertools.permutations(["ab", "bc", "de", "ea"])))
def test_any_order_of_joins_gives_the_same_groups(pairs: tuple[str, ...]) -> None:
    groups = Groups("abcdef")
    for pair in pairs:
        groups.join(pair[0], pair[1])
    assert sorted(groups.members().values()) == [["a", "b", "c", "d", "e"], ["f"]]


def test_an_unknown_name_has_no_group() -> None:
    groups = Groups("ab")
    with pytest.raises(KeyError):
        groups.root("z")
    with pytest.raises(KeyError):
        groups.join("a", "z")
