"""Where a work item can go, and who may send it there: one table, which every command asks first.

It is the state machine of PS3.4 CC.1.1 with the states that a reading room needs between: SCHEDULED is waiting, ready
and assigned; IN PROGRESS is claimed, and held where it was claimed before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from readingroom.errors import Conflict, Refused
from readingroom.model import Actor, ItemState
from storage.catalog.work_items import StoredItem

Command = Literal[
    "await",
    "make ready",
    "offer",
    "decline",
    "claim",
    "release",
    "expire",
    "hold",
    "resume",
    "reassign",
    "reprioritise",
    "schedule",
    "update",
    "complete",
    "cancel",
]
Who = Literal["anybody", "claimant", "reader", "supervisor", "server"]


@dataclass(frozen=True, slots=True)
class Step:
    """What a command may be given in, where it leads (None: the item stays where it is), and who may give it.

    ``claimant`` is whoever has the claim token, once there is one; ``reader`` the one whom it was offered to;
    ``supervisor`` needs the permission `supervise`; ``server`` is no person and no client.
    """

    sources: tuple[ItemState, ...]
    target: ItemState | None
    who: Who
    done: str


_OPEN: tuple[ItemState, ...] = ("waiting", "assigned", "ready", "claimed", "held")
_SCHEDULED: tuple[ItemState, ...] = ("waiting", "assigned", "ready")

STEPS: Mapping[Command, Step] = {
    "await": Step(("ready", "assigned"), "waiting", "anybody", "awaited"),
    "make ready": Step(("waiting",), "ready", "anybody", "ready"),
    "offer": Step(("ready",), "assigned", "anybody", "offered"),
    "decline": Step(("assigned",), "ready", "reader", "declined"),
    "claim": Step(_SCHEDULED, "claimed", "reader", "claimed"),
    "release": Step(("claimed",), "ready", "claimant", "released"),
    "expire": Step(("claimed",), "ready", "server", "expired"),
    "hold": Step(("waiting", "assigned", "ready", "claimed"), "held", "claimant", "held"),
    "resume": Step(("held",), None, "claimant", "resumed"),
    "reassign": Step(("assigned", "claimed", "held"), "assigned", "supervisor", "reassigned"),
    "reprioritise": Step(_OPEN, None, "anybody", "reprioritised"),
    "schedule": Step(_OPEN, None, "anybody", "scheduled"),
    "update": Step(_OPEN, None, "claimant", "updated"),
    "complete": Step(("claimed",), "completed", "claimant", "completed"),
    "cancel": Step(_OPEN, "cancelled", "claimant", "cancelled"),
}


def check(command: Command, item: StoredItem, actor: Actor, *, token: str | None = None, reader: str = "") -> Step:
    """The step of a command, if it may be taken.

    Parameters
    ----------
    token
        The claim token that came with the command.
    reader
        For whom it is given.

    Raises
    ------
    Conflict
        Not in this state, not with this token, or not for this reader; says what would be right.
    Refused
        The actor needs a permission for it.
    """
    step = STEPS[command]
    if item.state not in step.sources:
        legal = " or ".join(step.sources)
        raise Conflict(f"Work item {item.workitem_uid} is {item.state}; to {command} it, it has to be {legal}.")
    if step.who == "claimant" and item.is_claimed and token != item.claim_token:
        what = "The Transaction UID is incorrect" if token else "The Transaction UID is missing"
        raise WrongToken(f"{what}: work item {item.workitem_uid} is claimed, and this is not its claim.")
    if step.who == "reader" and item.offered_to and reader and reader != item.offered_to:
        raise Conflict(f"Work item {item.workitem_uid} is offered to {item.offered_to}, not to {reader}.")
    if step.who == "supervisor" and "supervise" not in actor.may:
        raise Refused(f"{actor.id} may not {command} a work item; the permission 'supervise' is needed.")
    if step.who == "server" and actor.kind != "server":
        raise Refused(f"{actor.id} may not {command} a work item; this server does.")
    return step


class WrongToken(Conflict):
    """The claim token is missing or not that of the claim."""
