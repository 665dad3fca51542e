"""Names in groups that can be merged (a union-find structure)."""

from __future__ import annotations

from collections.abc import Iterable


class Groups:
    """At first each name is a group of its own; :meth:`join` merges two groups.

    Args:
        names: the names, without duplicates. Their order decides the order of the results.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._parent = {name: name for name in names}

    def __contains__(self, name: str) -> bool:
        return name in self._parent

    def root(self, name: str) -> str:
        """The name that stands for the whole group of ``name``.

        Raises:
            KeyError: the name is in no group.
        """
        while self._parent[name] != name:
            name = self._parent[name]
        return name

    def join(self, name: str, other: str) -> None:
        """Merge the group of ``name`` into the group of ``other``, whose root stays the root.

        Raises:
            KeyError: a name is in no group.
        """
        self._parent[self.root(name)] = self.root(other)

    def members(self) -> dict[str, list[str]]:
        """The names of each group by its root. Groups come in the order of their roots, names in their own order."""
        members: dict[str, list[str]] = {name: [] for name in self._parent if self._parent[name] == name}
        for name in self._parent:
            members[self.root(name)].append(name)
        return members
