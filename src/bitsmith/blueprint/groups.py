"""Union-find: which of some names belong together."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar, final

Name = TypeVar("Name", bound=Hashable)


@final
class Groups(Generic[Name]):
    """Groups of names that grow together; the representative of a group is the first name joined."""

    def __init__(self) -> None:
        self._parent: dict[Name, Name] = {}

    def find(self, name: Name) -> Name:
        """The representative of a name's group."""
        path = []
        while (parent := self._parent.get(name, name)) != name:
            path.append(name)
            name = parent
        for passed in path:  # the next search is one step
            self._parent[passed] = name
        return name

    def join(self, a: Name, b: Name) -> None:
        """Make two groups one."""
        a, b = self.find(a), self.find(b)
        if a != b:
            self._parent[b] = a
