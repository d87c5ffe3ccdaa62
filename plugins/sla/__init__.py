"""When items are due: rules of a site that come before the contracts of its facilities."""

from __future__ import annotations

from plugins.sla.policy import SlaSettings, due_by_rule
from readingroom import Context, Facility, Order, Sla, WorkItem, hookimpl


@hookimpl
def register_settings() -> type[SlaSettings]:
    """``[plugins.sla]``."""
    return SlaSettings


@hookimpl
def sla_for(item: WorkItem, order: Order | None, facility: Facility, ctx: Context) -> Sla | None:
    """Follow the first rule that is about the item; without one the contract says."""
    return due_by_rule(item, order, facility, ctx.settings)
