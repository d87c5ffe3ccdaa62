"""What a message says: that something is to be read, where, and that reading it back ends the duty.

Of the case it says nothing by itself. Mail lies in boxes that many open, a text lights up on a table: who is meant to
know follows the link, and is asked there who they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from plugins.escalation.settings import EscalationSettings
from readingroom import Contact, Escalation, Rung
from readingroom.model import Category

_URGENCY: Mapping[Category | None, str] = {
    1: "within minutes",
    2: "within hours",
    3: "within days",
    None: "as soon as possible",
}
_LONGEST_VALUE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to one contact; `key` is the same however often it is made, and of no other message."""

    key: str
    escalation: str
    facility: str
    category: Category | None
    rung: int
    role: str
    url: str
    shown: Mapping[str, str]

    @classmethod
    def about(cls, escalation: Escalation, rung: Rung, contact: Contact, settings: EscalationSettings) -> Message:
        """The message of a rung to a contact."""
        parts = (escalation.id, str(rung.number), contact.channel, contact.address)
        values = {
            **escalation.details,
            "reason": escalation.reason,
            "item": escalation.item,
            "study_uid": escalation.study_uid,
        }
        return cls(
            key=hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32],
            escalation=escalation.id,
            facility=escalation.facility,
            category=escalation.category,
            rung=rung.number,
            role=rung.role,
            url=f"{settings.base_url}/escalations/{escalation.id}",
            shown={name: _line(values[name]) for name in settings.show if values.get(name)},
        )

    @property
    def urgency(self) -> str:
        """How soon, in the words of the ACR categories."""
        return _URGENCY[self.category]

    @property
    def subject(self) -> str:
        """One line."""
        return f"Critical result at {self.facility}: please read it {self.urgency}"

    @property
    def text(self) -> str:
        """All of it."""
        told = "".join(f"{name.replace('_', ' ').capitalize()}: {value}\n" for name, value in self.shown.items())
        return (
            f"A critical result of {self.facility} waits to be read {self.urgency}.\n\n"
            f"You are asked as {self.role}, step {self.rung} of escalation {self.escalation}.\n{told}\n"
            f"Open {self.url}\n"
            "read the result there, and acknowledge it by writing back in your own words what it says.\n"
            "Until somebody has done so, the next person is asked.\n"
        )


def _line(value: object) -> str:
    """A value on one line, without what is not printed."""
    return " ".join("".join(char if char.isprintable() else " " for char in str(value)).split())[:_LONGEST_VALUE]
