"""Whom to reach in which order: the ladders of a site."""

from __future__ import annotations

from datetime import timedelta

from plugins.escalation.settings import EscalationSettings
from readingroom import Escalation, Facility, Rung


def ladder_of(escalation: Escalation, facility: Facility, settings: EscalationSettings) -> tuple[Rung, ...] | None:
    """The first ladder that is about an escalation; None where none is, so that the built-in one holds."""
    for ladder in settings.ladders:
        if ladder.categories and escalation.category not in ladder.categories:
            continue
        if ladder.facilities and not {facility.id, facility.parent}.intersection(ladder.facilities):
            continue
        return tuple(
            Rung(number=number, role=rung.role, after=timedelta(minutes=rung.after_minutes))
            for number, rung in enumerate(ladder.rungs, 1)
        )
    return None
