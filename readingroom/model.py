"""The nouns that travel: frozen, keyword-only, without live handles."""

from __future__ import annotations

from dataclasses import dataclass


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


LOCAL_OPERATOR = Actor(id="local-operator", name="Local operator")
"""The one actor of an installation without authentication, which therefore serves loopback only."""
