"""Rules that say when an item is due: the first that is about it counts, a pure function of the item and the rules."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from readingroom import Facility, Order, Sla, WorkItem
from readingroom.model import ItemKind, Priority


class Rule(BaseModel):
    """What it is about, and what it says. An empty list is about all of them; of the others one entry has to fit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = ""
    kinds: tuple[ItemKind, ...] = ("read",)
    facilities: tuple[str, ...] = Field(default=(), description="ids of facilities, or of those that they belong to")
    facility_kinds: tuple[str, ...] = ()
    priorities: tuple[Priority, ...] = ()
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    subspecialties: tuple[str, ...] = ()
    is_flagged: bool | None = Field(
        default=None, description="only what an algorithm has flagged, or only what none has"
    )

    due_minutes: PositiveFloat
    counts_from: Literal["study", "order"] = Field(
        default="study", description="the time that is counted from; without an order it is that of the study"
    )
    warn_share: float = Field(default=0.75, gt=0, lt=1, description="the share of the time after which is warned")
    pause_reasons: tuple[str, ...] = Field(default=(), description="for these the clock may be stopped")


class SlaSettings(BaseModel):
    """``[[plugins.sla.rules]]``, in the order in which they are asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rules: tuple[Rule, ...] = ()


def due_by_rule(item: WorkItem, order: Order | None, facility: Facility, settings: SlaSettings) -> Sla | None:
    """When an item is due by the first rule that is about it; None where no rule is, or its time is not known."""
    for number, rule in enumerate(settings.rules, 1):
        if not is_about(rule, item, facility):
            continue
        is_by_order = rule.counts_from == "order" and order is not None and order.ordered_at is not None
        begins = order.ordered_at if order is not None and is_by_order else item.created_at
        if begins is None:
            return None
        span = timedelta(minutes=rule.due_minutes)
        since = "order" if is_by_order else "study"
        return Sla(
            due_at=begins + span,
            warn_at=begins + rule.warn_share * span,
            pause_reasons=rule.pause_reasons,
            because=f"rule {rule.name or number} of the site: {rule.due_minutes:g} minutes from the {since}",
        )
    return None


def is_about(rule: Rule, item: WorkItem, facility: Facility) -> bool:
    """Whether every condition of a rule holds for an item."""
    return (
        _is_one_of(rule.kinds, item.kind)
        and _is_one_of(rule.facilities, facility.id, facility.parent)
        and _is_one_of(rule.facility_kinds, facility.kind)
        and _is_one_of(rule.priorities, item.priority)
        and _is_one_of(rule.modalities, item.modality)
        and _is_one_of(rule.body_parts, item.body_part)
        and _is_one_of(rule.subspecialties, item.subspecialty)
        and rule.is_flagged in (None, item.is_flagged)
    )


def _is_one_of(wanted: tuple[str, ...], *values: str | None) -> bool:
    return not wanted or any(value in wanted for value in values)
