"""What a write to a Task asks of its work item, as commands of `server.worklist.items`.

The current version is the lock: who claims names it by If-Match, and of all who try at once one finds it unchanged.
The claim token, which is the Transaction UID of the UPS, is never shown; with what is claimed goes on who owns it, or
who supervises.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import orjson
import sqlalchemy as sa

from readingroom.errors import Conflict, Invalid, Refused, Unconditional
from readingroom.model import PRIORITIES, ItemState, Priority
from server.fhir.outcome import BrokenRule, Issue
from server.fhir.parsing import dump_json, read_json
from server.fhir.session import Session
from server.fhir.stored import meta_of
from server.fhir.types import Resource
from server.worklist import items
from storage.catalog import schema as t
from storage.catalog.fhir_studies import studies_by_fhir_id
from storage.catalog.ups import element, moment
from storage.catalog.work_items import StoredItem
from storage.fhirvalues import Element, code_system, designator, issuer_of, name_of, profile, text
from storage.objects import MetadataJson

HOLDERS = code_system("holder")
"""The system of those who hold an item and are no readers of the directory."""
PROFILE = profile("reading-task")
"""What each item of our own conforms to."""
REFERENCE = re.compile(
    r"(Practitioner|PractitionerRole|Organization|CareTeam|HealthcareService|Patient|Device"
    r"|RelatedPerson)/[A-Za-z0-9.-]{1,64}"
)

STATUS: Mapping[ItemState, str] = {
    "waiting": "requested",
    "assigned": "accepted",
    "ready": "ready",
    "claimed": "in-progress",
    "held": "on-hold",
    "completed": "completed",
    "cancelled": "cancelled",
}

STATE: Mapping[str, ItemState] = {
    **{status: state for state, status in STATUS.items()},
    "draft": "waiting",
    "received": "waiting",
    "rejected": "cancelled",
    "failed": "cancelled",
    "entered-in-error": "cancelled",
}
"""What an item is whose Task a client has made with that status."""

_MADE_HERE = re.compile(r"[0-9a-f]{12}7[0-9a-f]{19}")
_ALWAYS = ("resourceType", "id", "meta")
_COMPUTED = ("lastModified", "executionPeriod")
_COMMANDED = ("status", "statusReason", "priority", "owner")
_MODELLED = frozenset(
    (
        *("identifier", "basedOn", "groupIdentifier", "businessStatus", "intent", "code", "description", "focus"),
        *("for", "authoredOn", "requester", "restriction", "instantiatesCanonical", "instantiatesUri", "partOf"),
        "implicitRules",
    )
)
"""Elements that say what is to be done and for whom; of our own items that is not a client's to say."""

_LEGAL: Mapping[ItemState, tuple[str, ...]] = {
    "waiting": ("ready", "accepted", "in-progress", "on-hold", "cancelled"),
    "ready": ("requested", "accepted", "in-progress", "on-hold", "cancelled"),
    "assigned": ("ready", "rejected", "requested", "in-progress", "on-hold", "cancelled"),
    "claimed": ("ready", "requested", "accepted", "on-hold", "completed", "cancelled"),
    "held": ("ready", "accepted", "in-progress", "completed", "cancelled"),
    "completed": (),
    "cancelled": (),
}
"""The statuses that an item may be given, by its state."""

_NOT_BACK = frozenset(("ready", "requested", "accepted"))
"""Where what others put on the worklist does not go from IN PROGRESS (PS3.4 CC.1.1)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What clients have said of an item that no column has: all of a Task that one made, or what was added to ours."""

    sent: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


def extras_of(item: StoredItem) -> Extras:
    """What the row keeps of them."""
    return Extras(**read_json(item.extras)) if item.extras else Extras()


def is_made_here(id: str) -> bool:
    """Whether an id is one that `schema.new_id` gives."""
    return _MADE_HERE.fullmatch(id) is not None


# -- what others have made ---------------------------------------------------------------------------------------------


def create(session: Session, resource: Resource, rest: bytes, id: str) -> StoredItem:
    """Put what a client sent on the worklist."""
    state = STATE[resource["status"]]
    holder = holder_of(resource)
    columns: dict[str, Any] = {}
    if state == "claimed" or (state == "held" and holder):
        columns |= {"owner": holder, "claim_token": items.new_token(), "claimed_at": session.now}
    elif state in ("assigned", "completed"):
        columns["offered_to" if state == "assigned" else "owner"] = holder
    if state == "held":
        columns["held_from"] = "claimed" if holder else "ready"
    if state in ("held", "cancelled"):
        columns["reason"] = reason_of(resource)
    return items.create_item(
        session.work,
        id=id,
        kind="external",
        facility=session.facility,
        state=state,
        priority=priority_of(resource) or "routine",
        due_at=due_of(resource),
        attributes=_attributes(session, resource),
        extras=_kept(resource, rest),
        **_columns(session, resource),
        **columns,
    )


def rewrite(session: Session, item: StoredItem, resource: Resource, rest: bytes) -> StoredItem:
    """Let a client's Task say something else; `item` itself where that is what it says already."""
    state = STATE[resource["status"]]
    kept = _kept(resource, rest)
    if kept == item.extras:
        return item
    work, began = session.work, item
    attributes, columns = _attributes(session, resource), _columns(session, resource)
    told = {**orjson.loads(item.attributes), **attributes}
    item = replace(item, extras=kept)
    if told != orjson.loads(item.attributes) or any(getattr(item, name) != value for name, value in columns.items()):
        item = items.update_attributes(work, item, attributes, token=_token(session, item), **columns)
    if (due_at := due_of(resource)) != item.due_at:
        item = items.schedule_item(work, item, due_at=due_at, warn_at=item.warn_at)
    item = _reprioritised(session, item, resource)
    holder, held_by = holder_of(resource), item.owner or item.offered_to
    is_another = holder is not None and holder != held_by and item.state in ("assigned", "claimed")
    if state != item.state or is_another:
        item = _moved(session, item, STATUS[state], holder, reason_of(resource))
    if item.version == began.version:
        item = items.annotate_item(work, item, kept, token=_token(session, item))
    return item


def _kept(resource: Resource, rest: bytes) -> bytes:
    return dump_json({"sent": rest.decode(), "meta": meta_of(resource)})


def _columns(session: Session, resource: Resource) -> dict[str, Any]:
    """The columns that follow from what a Task is about."""
    number = text((resource.get("groupIdentifier") or {}).get("value"))
    return {"accession_number": number, "study_uid": _study_uid(session, resource)}


def _study_uid(session: Session, resource: Resource) -> str | None:
    """The study that a Task is about, where it names one of ours by reference."""
    found = re.fullmatch(r"ImagingStudy/([0-9a-f]{32})", local_reference(session, resource.get("focus")))
    studies = studies_by_fhir_id(session.connection, session.scope, [found[1]]) if found else []
    return next((str(one.row.study_uid) for one in studies), None)


def _attributes(session: Session, resource: Resource) -> MetadataJson:
    """A Task as the attributes of a UPS (PS3.3 C.30): so much of it as these can say."""
    code = resource.get("code") or {}
    said = text(resource.get("description")) or text(code.get("text"))
    coded = next((one for one in code.get("coding") or () if text(one.get("code"))), None)
    period, restricted = resource.get("executionPeriod") or {}, resource.get("restriction") or {}
    begins = period.get("start") or (restricted.get("period") or {}).get("start") or resource.get("authoredOn")
    due_at = due_of(resource)
    label = said or text((coded or {}).get("display")) or "Task"
    return {
        **_patient(session, resource),
        "00404005": element("DT", moment(moment_of(begins) or session.now)),
        "00404011": element("DT", *([moment(due_at)] if due_at else [])),
        "00404018": element("SQ", *([_coded(coded)] if coded else [])),
        "00741202": element("LO", session.facility),
        "00741204": element("LO", label[:64].strip()),
    }


def _coded(coding: Element) -> MetadataJson:
    code, meaning = text(coding.get("code")) or "", text(coding.get("display"))
    long = len(code) > 16
    scheme = designator(coding.get("system"))
    return {
        ("00080119" if long else "00080100"): element("UC" if long else "SH", code),
        "00080102": element("SH", scheme),
        "00080104": element("LO", (meaning or code)[:64]),
    }


def _patient(session: Session, resource: Resource) -> MetadataJson:
    """Whom a Task is for: a patient of ours, one that an identifier names, or only a name."""
    subject = resource.get("for") or {}
    found = re.fullmatch(r"Patient/([A-Za-z0-9.-]{1,64})", local_reference(session, subject))
    row = None
    if found:
        c = t.patient.c
        row = session.connection.execute(
            sa.select(c.issuer, c.patient_id, c.header).where(c.id == found[1])
        ).one_or_none()
    if row is not None and row.patient_id:
        told: MetadataJson = orjson.loads(row.header or b"{}")
        return {
            **{tag: one for tag, one in told.items() if tag in ("00100010", "00100030", "00100040")},
            "00100020": element("LO", row.patient_id),
            "00100021": element("LO", row.issuer),
        }
    identifier = subject.get("identifier") or {}
    made: MetadataJson = {}
    if number := text(identifier.get("value")):
        made["00100020"] = element("LO", number[:64])
        if issuer := issuer_of(str(identifier.get("system") or "")):
            made["00100021"] = element("LO", issuer[:64])
    if name := text(subject.get("display")):
        made["00100010"] = element("PN", {"Alphabetic": name[:64]})
    return made


# -- our own items -----------------------------------------------------------------------------------------------------


def change(
    session: Session, item: StoredItem, made: Element, resource: Resource, extensions: Collection[str]
) -> StoredItem:
    """Do what the difference between a Task of ours and what was sent asks for; `item` itself where there is none.

    Parameters
    ----------
    made
        What it says of its own.
    extensions
        The addresses of those that are made here.

    Raises
    ------
    BrokenRule
        Something was to be changed that no command changes; says which.
    """
    _refuse_changes(session, made, resource)
    extras = _added(made, resource, extensions)
    began = item
    if extras != (item.extras or b"{}"):
        item = replace(item, extras=extras)
    item = _reprioritised(session, item, resource)
    shown, wanted = made["status"], resource["status"]
    holder = holder_of(resource)
    held_by = item.owner or item.offered_to
    if wanted != shown or (holder != held_by and shown in ("accepted", "in-progress")):
        item = _moved(session, item, wanted, holder, _new_reason(made, resource))
    elif resource.get("statusReason", made.get("statusReason")) != made.get("statusReason"):
        raise _refusal("statusReason", "it goes with a change of the status")
    if item.version == began.version and item is not began:
        item = items.annotate_item(session.work, item, extras, token=_token(session, item))
    return item


def _refuse_changes(session: Session, made: Element, resource: Resource) -> None:
    for name in sorted(_MODELLED & resource.keys()):
        if name == "identifier":
            if not all(one in resource[name] for one in made[name]):
                raise _refusal(name, "the identifiers that are there stay")
        elif name not in made or not _is_same(session, resource[name], made[name]):
            raise _refusal(name, "this server says what it is")


def _added(made: Element, resource: Resource, extensions: Collection[str]) -> bytes:
    """What a client says beyond what is made here, and beyond what it asks for."""
    more = {
        name: value
        for name, value in resource.items()
        if name not in (*_ALWAYS, *_COMPUTED, *_COMMANDED) and (name not in _MODELLED)
    }
    others = [one for one in resource.get("identifier", ()) if one not in made["identifier"]]
    own = [one for one in more.pop("extension", ()) if one.get("url") not in extensions]
    more |= {name: value for name, value in (("identifier", others), ("extension", own)) if value}
    meta = meta_of(resource)
    meta["profile"] = [one for one in meta.get("profile", ()) if one != PROFILE]
    meta = {name: value for name, value in meta.items() if value}
    return dump_json({name: value for name, value in (("more", more), ("meta", meta)) if value})


def _is_same(session: Session, sent: Any, made: Any) -> bool:
    """Whether two values say the same: a reference may be absolute, and say what it is called."""
    if isinstance(made, list):
        return (
            isinstance(sent, list)
            and len(sent) == len(made)
            and all(_is_same(session, *both) for both in zip(sent, made, strict=True))
        )
    if isinstance(made, Mapping) and isinstance(sent, Mapping) and "reference" in made:
        return local_reference(session, sent) == str(made["reference"])
    return bool(sent == made)


def _refusal(name: str, because: str) -> BrokenRule:
    what = f"Task.{name} of a work item of this server is not changed by a write: {because}."
    return BrokenRule([Issue(code="business-rule", diagnostics=what, expression=f"Task.{name}")])


# -- commands ----------------------------------------------------------------------------------------------------------


def _moved(session: Session, item: StoredItem, wanted: str, holder: str | None, reason: str) -> StoredItem:
    """Give the commands that lead from one status, and one owner, to another."""
    work = session.work
    _check_legal(item, wanted)
    if session.if_match is None and (item.is_claimed or wanted == "in-progress"):
        raise Unconditional(
            f"Task/{item.id} is claimed, or to be: name the version that you have read by If-Match, now "
            f'W/"{item.version}".'
        )
    match item.state, wanted:
        case ("held", "on-hold"):
            return item
        case ("held", "in-progress" | "ready" | "completed"):
            item = items.resume_item(work, item, token=_token(session, item))
            return item if STATUS[item.state] == wanted else _moved(session, item, wanted, holder, reason)
        case (_, "on-hold"):
            return items.hold_item(work, item, reason, token=_token(session, item))
        case (_, "cancelled"):
            return items.cancel_item(work, item, reason, token=_token(session, item))
        case ("claimed", "completed"):
            return items.complete_item(work, item, token=_token(session, item))
        case ("claimed", "ready"):
            return items.release_item(work, item, token=_token(session, item), reason=reason)
        case ("claimed", "requested"):
            item = items.release_item(work, item, token=_token(session, item), reason=reason)
            return items.await_input(work, item, reason)
        case ("waiting" | "ready" | "assigned", "in-progress"):
            return items.claim_item(work, item, reader=holder or "")
        case ("assigned", "ready" | "rejected"):
            return items.decline_item(work, item, reader=item.offered_to or "", reason=reason)
        case ("waiting", "ready"):
            return items.make_ready(work, item)
        case (_, "requested"):
            return items.await_input(work, item, reason)
        case ("waiting", "accepted"):
            return items.offer_item(work, items.make_ready(work, item), _named(holder), reason)
        case ("ready", "accepted"):
            return items.offer_item(work, item, _named(holder), reason)
        case ("assigned", "accepted") if holder is None:
            return items.decline_item(work, item, reader=item.offered_to or "", reason=reason)
        case ("claimed", "in-progress") if holder is None:
            return items.reassign_item(work, item, None, reason)
        case _:
            return items.reassign_item(work, item, _named(holder), reason)


def _check_legal(item: StoredItem, wanted: str) -> None:
    legal: tuple[str, ...] = _LEGAL[item.state]
    if item.kind == "external" and item.is_claimed:
        legal = tuple(one for one in legal if one not in _NOT_BACK)
    if item.state == "held" and item.held_from != "claimed":
        legal = tuple(one for one in legal if one != "completed")
    if wanted not in (*legal, *((STATUS[item.state],) if legal else ())):
        said = " or ".join(legal) or "nothing else"
        raise Conflict(f"Task/{item.id} is {STATUS[item.state]}; from there its status may become {said}.")


def _token(session: Session, item: StoredItem) -> str:
    """The token of a claim, for its owner and for who supervises; empty where nobody has claimed it."""
    actor = session.actor
    if not item.is_claimed or actor.id == item.owner or "supervise" in actor.may:
        return item.claim_token or ""
    raise Refused(f"Task/{item.id} is claimed by {item.owner}; only its owner, or who supervises, goes on with it.")


def _reprioritised(session: Session, item: StoredItem, resource: Resource) -> StoredItem:
    priority = priority_of(resource)
    if priority is None or priority == PRIORITIES[item.rank]:
        return item
    return items.reprioritise_item(session.work, item, priority)


def _named(holder: str | None) -> str:
    if holder is None:
        raise Invalid("Say by Task.owner which reader it is offered to.")
    return holder


# -- what a Task says --------------------------------------------------------------------------------------------------


def priority_of(resource: Resource) -> Priority | None:
    """How soon; None where it does not say."""
    found = resource.get("priority")
    return cast(Priority, found) if found in PRIORITIES else None


def reason_of(resource: Resource) -> str:
    """Why its status is what it is, in a line."""
    reason = resource.get("statusReason") or {}
    codes = (one.get("display") or one.get("code") for one in reason.get("coding") or ())
    said = text(reason.get("text")) or next((line for code in codes if (line := text(code))), "")
    return " ".join(said.split())[:1024]


def _new_reason(made: Element, resource: Resource) -> str:
    is_same = resource.get("statusReason") == made.get("statusReason")
    return "" if is_same else reason_of(resource)


def holder_of(resource: Resource) -> str | None:
    """Who is to do it, or does: the id of a Practitioner, or what else names somebody, in 64 characters at most."""
    owner = resource.get("owner") or {}
    where = text(owner.get("reference")) or ""
    if found := re.fullmatch(r"(?:.*/)?(?:Practitioner)/([A-Za-z0-9.-]{1,64})", where):
        return name_of(found[1])
    if found := re.search(rf"(?:^|/)({REFERENCE.pattern})$", where):
        return found[1][:64]
    identifier = owner.get("identifier") or {}
    named = text(identifier.get("value")) or where or text(owner.get("display"))
    return named[:64] if named else None


def due_of(resource: Resource) -> datetime | None:
    """When it has to be done by."""
    period = (resource.get("restriction") or {}).get("period") or {}
    return moment_of(period.get("end"))


def moment_of(written: Any) -> datetime | None:
    """A dateTime as a time; of a day, or less, its last moment in UTC. None where it is none."""
    try:
        at = datetime.fromisoformat(str(written))
    except ValueError:
        return None
    if at.tzinfo is not None:
        return at.astimezone(UTC)
    return at.replace(tzinfo=UTC) + (timedelta(days=1, milliseconds=-1) if "T" not in str(written) else timedelta())


def local_reference(session: Session, found: Any) -> str:
    """The relative reference that an element makes, if it is one to this server; else what it says."""
    where = str((found or {}).get("reference") or "") if isinstance(found, Mapping) else ""
    return where.removeprefix(f"{session.root}/")
