"""The nouns that travel: frozen, keyword-only, without live handles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Permission = Literal["remove", "correct", "original"]
"""What not everybody may do: delete and restore, change what was received, see what a correction hides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which facilities' studies a caller may see; compiled into the SQL of every query.

    `facilities` is ``None`` for all of them, else the facility ids; an empty set sees nothing.
    """

    facilities: frozenset[str] | None = None

    def narrowed(self, facility: str) -> Scope:
        """The part of this scope that lies in one facility."""
        if self.facilities is None or facility in self.facilities:
            return Scope(facilities=frozenset((facility,)))
        return Scope(facilities=frozenset())


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who asks: a person, a service client, an AE, a plugin. Every request carries one."""

    id: str
    name: str
    kind: str = "person"
    scope: Scope = Scope()
    facility: str | None = None
    may: frozenset[Permission] = frozenset()


LOCAL_OPERATOR = Actor(id="local-operator", name="Local operator", may=frozenset(get_args(Permission)))
"""The one actor of an installation without authentication, which therefore serves loopback only."""
