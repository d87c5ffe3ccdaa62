"""Routing: the index policy as a plugin of the hook `assign`."""

from __future__ import annotations

from plugins.routing.policy import propose
from plugins.routing.settings import RoutingSettings
from readingroom import Context, Proposal, Snapshot, hookimpl


@hookimpl
def register_settings() -> type[RoutingSettings]:
    """``[plugins.routing]``."""
    return RoutingSettings


@hookimpl
def assign(snapshot: Snapshot, ctx: Context) -> tuple[Proposal, ...]:
    """Propose an item to each reader who is free."""
    return propose(snapshot, ctx.settings)
