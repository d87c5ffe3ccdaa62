"""The nouns that travel: frozen, keyword-only, without live handles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

Permission = Literal["remove", "correct", "original", "supervise", "sign"]
"""What not everybody may do: delete and restore, change what was received, see what a correction hides, give work that
one reader has to another, have reports signed in the name of a reader."""


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
    """Who asks: a person, a service client, an AE, a plugin. Every request carries one.

    `scopes` are those of the SMART token that the actor came with, and `patient` the id of the FHIR Patient that its
    ``patient/`` scopes are for. None: there is no token that says less than `scope` and `may` do.
    """

    id: str
    name: str
    kind: str = "person"
    scope: Scope = Scope()
    facility: str | None = None
    may: frozenset[Permission] = frozenset()
    scopes: frozenset[str] | None = None
    patient: str | None = None


NOBODY = Actor(id="nobody", name="Nobody", scope=Scope(facilities=frozenset()), scopes=frozenset())
"""Who has not said who they are; sees what is for everybody."""

LOCAL_OPERATOR = Actor(id="local-operator", name="Local operator", may=frozenset(get_args(Permission)))
"""The one actor of an installation without authentication, which therefore serves loopback only."""

# -- images ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series of a study as the catalog shows it, corrections included."""

    series_uid: str
    modality: str | None = None
    number: int | None = None
    description: str | None = None
    body_part: str | None = None
    laterality: str | None = None
    instance_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One study of one facility, as the catalog shows it.

    `revision` counts how often it has settled: findings and events name the one that they were made from. `patient` is
    the catalog's key of the patient, the same in every study of that person; it is no Patient ID.
    """

    study_uid: str
    facility: str
    patient: str
    revision: int = 1
    patient_id: str | None = None
    issuer: str | None = None
    patient_name: str | None = None
    birth_date: str | None = None
    sex: str | None = None
    study_date: str | None = None
    study_time: str | None = None
    accession_number: str | None = None
    description: str | None = None
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    series: tuple[Series, ...] = ()
    instance_count: int = 0
    received_at: datetime | None = None

    def has(self, *modalities: str) -> bool:
        """Whether a series is of one of these modalities, as PS3.16 CID 33 codes them."""
        return not frozenset(self.modalities).isdisjoint(modalities)

    def region(self, *body_parts: str) -> bool:
        """Whether a series shows one of these regions, as Body Part Examined (0018,0015) names them."""
        return not frozenset(self.body_parts).isdisjoint(body_parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A patient as the catalog knows them; `id` is its key, and no Patient ID.

    `studies` are the others of that patient that may be looked at, the newest first. `elsewhere` are those that other
    archives have and this one not: what `find_priors` says of one of them decides whether it is fetched.
    """

    id: str
    patient_id: str | None = None
    issuer: str | None = None
    studies: tuple[Study, ...] = ()
    elsewhere: tuple[Study, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an object came from: the facility that it will belong to, and what brought it (``stow``, an AE title)."""

    facility: str
    name: str


# -- the work ----------------------------------------------------------------------------------------------------------

Priority = Literal["stat", "asap", "urgent", "routine"]
"""How soon; the words of FHIR's request-priority."""
PRIORITIES: tuple[Priority, ...] = ("routine", "urgent", "asap", "stat")
"""From the lowest to the highest: the rank is the index."""

ItemKind = Literal["read", "second", "peer", "critical", "followup", "external"]
"""What a work item asks for; `external` is any UPS workitem or Task that others create."""
ItemState = Literal["waiting", "assigned", "ready", "claimed", "held", "completed", "cancelled"]


def priority_rank(priority: Priority) -> int:
    """0 for routine to 3 for stat."""
    return PRIORITIES.index(priority)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was asked for, by whom, at which facility."""

    accession_number: str
    facility: str
    priority: Priority = "routine"
    patient_id: str | None = None
    issuer: str | None = None
    procedure: str | None = None
    reason: str | None = None
    ordered_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkItem:
    """One reading to be done. A UPS workitem and a FHIR Task are views of it.

    `priority` is what was ordered; `rank` what holds now (`priority_rank`), which findings may have raised.
    `findings` says in a line what flagged it. `owner` is the reader who has claimed it, `offered_to` whom it was
    assigned to. `study_type` is the class of the contract that its SLA comes from; `modality`, `body_part` and
    `subspecialty` (a NUCC or local code) are what routing matches.
    """

    id: str
    kind: ItemKind
    state: ItemState
    facility: str
    version: int
    study_uid: str | None = None
    accession_number: str | None = None
    priority: Priority = "routine"
    rank: int = 0
    is_flagged: bool = False
    findings: str = ""
    modality: str | None = None
    body_part: str | None = None
    subspecialty: str | None = None
    study_type: str | None = None
    patient_state: str | None = None
    owner: str | None = None
    offered_to: str | None = None
    created_at: datetime | None = None
    ready_at: datetime | None = None
    claim_expires_at: datetime | None = None
    warn_at: datetime | None = None
    due_at: datetime | None = None


SlaMark = Literal["warn", "due", "breached", "paused", "resumed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sla:
    """When an item is due and when to warn, but for pauses: those for these reasons do not count, and are added.

    It counts as breached `grace` after it was due. `contract` and `study_type` name the version of a contract, and the
    class of it, that this comes from: empty where it comes from a plugin.
    """

    due_at: datetime
    warn_at: datetime | None = None
    grace: timedelta = timedelta()
    pause_reasons: tuple[str, ...] = ()
    because: str = ""
    contract: str = ""
    study_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """An item that waits for a reader, in a snapshot of the queue.

    `eligible` are the ids of the readers whom licence, credential and shift allow it. `read_seconds` is how long
    reading it is expected to take.
    """

    item: WorkItem
    eligible: tuple[str, ...] = ()
    read_seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The head of the queue at one moment, in the order of the built-in policy, with those who could read it.

    `utilisation` is the share of the readers' time that the work at hand is predicted to take.
    """

    at: datetime
    waiting: tuple[Waiting, ...] = ()
    readers: tuple[Reader, ...] = ()
    utilisation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coded concept (PS3.3 section 8): its system is DCM, SCT, RADLEX or a URI."""

    value: str
    system: str
    meaning: str


Category = Literal[1, 2, 3]
"""How actionable (ACR): within minutes, hours, days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Where something was seen: an instance, its frames (1-based; none: all of it), and a box in pixels.

    `box` is left, top, right, bottom in columns and rows of the stored image, right and bottom exclusive.
    """

    series_uid: str
    instance_uid: str
    frames: tuple[int, ...] = ()
    box: tuple[int, int, int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """Which algorithm said it, and what it is cleared for.

    `clearance` is the FDA's number (K123456, DEN123456, P123456), None for one that is not cleared. `modalities` and
    `body_parts` are its indications for use; empty means any.
    """

    name: str
    version: str
    manufacturer: str = ""
    clearance: str | None = None
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    is_research: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something seen in a study, by a reader or a plugin, always with its provenance."""

    text: str
    code: Code | None = None
    category: Category | None = None
    probability: float | None = None
    evidence: tuple[Evidence, ...] = ()
    algorithm: Algorithm | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)


# -- reports -----------------------------------------------------------------------------------------------------------

ReportStatus = Literal[
    "registered", "preliminary", "final", "amended", "corrected", "appended", "cancelled", "entered-in-error"
]
"""The words of FHIR's diagnostic-report-status that a report of ours goes through."""

ReportKind = Literal["report", "addendum", "amendment", "correction"]
"""What a version of a report is: the first text, something added to it, or another text in its place. A correction
takes back an error, an amendment does not."""

Origin = Literal["human", "ai", "edited", "template", "macro", "measurement", "prior"]
"""Where a sentence comes from; `edited` is one that an algorithm wrote and a person has changed."""

SignatureRole = Literal["resident", "attending", "facility"]
"""As what a reader signs: in training, so that somebody else has to sign too; responsible for the reading; as the
facility's own radiologist, who finishes what a service has read before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """A sentence of a report, with the white space behind it.

    `source` names where it comes from: the plugin, the template, the macro, the study. `is_accepted` is True once a
    person has said of what an algorithm wrote that it holds. `evidence` is where in the images it is to be seen.
    """

    text: str
    origin: Origin = "human"
    source: str = ""
    is_accepted: bool = False
    evidence: tuple[Evidence, ...] = ()
    algorithm: Algorithm | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a report under a heading; `name` is a word such as ``findings``, `code` the LOINC code of it."""

    name: str
    title: str
    code: Code | None = None
    passages: tuple[Passage, ...] = ()

    @property
    def text(self) -> str:
        """What it says, as it was written."""
        return "".join(passage.text for passage in self.passages)


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticalResult:
    """A finding that somebody has to hear of in time: within minutes, hours or days (ACR category 1, 2, 3)."""

    category: Category
    text: str
    code: Code | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowUp:
    """What is recommended to be done, and by which day: ``2027-05-24``."""

    text: str
    due_on: str
    procedure: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Who has signed, as what, when, and by which licence; `reader` is an id of the directory."""

    reader: str
    name: str
    role: SignatureRole
    at: datetime
    licence: str = ""
    state: str = ""
    npi: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Addendum:
    """What was added to a signed report, in the version that `number` names."""

    number: int
    passages: tuple[Passage, ...]
    signatures: tuple[Signature, ...] = ()

    @property
    def text(self) -> str:
        """What it says, as it was written."""
        return "".join(passage.text for passage in self.passages)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One version of a report, complete in itself: whoever has it needs no other to read it.

    `number` counts the signed versions: 0 is a report that nobody has signed. `status` is that of this version, and
    `kind` what it is to the one before. Patient and study are as they were when it was signed; `patient_name` is a
    DICOM PN, days are ``20261124`` as DICOM has them. `discrepancy` says how a final text differs from the preliminary
    one that another reader had signed. `facility_name`, `state` and `zone` are of the facility. `procedure` is what was
    done, in words.
    """

    id: str
    facility: str
    status: ReportStatus
    number: int = 0
    kind: ReportKind = "report"
    facility_name: str = ""
    state: str | None = None
    zone: str = "UTC"
    item: str | None = None
    study_uid: str | None = None
    accession_number: str | None = None
    patient_id: str | None = None
    issuer: str | None = None
    patient_name: str | None = None
    birth_date: str | None = None
    sex: str | None = None
    study_date: str | None = None
    study_time: str | None = None
    modalities: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    procedure: str | None = None
    reason: str | None = None
    language: str = "en"
    sections: tuple[Section, ...] = ()
    addenda: tuple[Addendum, ...] = ()
    critical_results: tuple[CriticalResult, ...] = ()
    follow_ups: tuple[FollowUp, ...] = ()
    codes: tuple[Code, ...] = ()
    signatures: tuple[Signature, ...] = ()
    signed_at: datetime | None = None
    discrepancy: Literal["none", "minor", "major"] | None = None
    because: str = ""
    """Why this version was made, where it is an amendment, a correction or withdrawn."""

    def section(self, name: str) -> str:
        """The text of a section; empty where there is none."""
        return "".join(section.text for section in self.sections if section.name == name)


DELIVERED: tuple[ReportStatus, ...] = (
    "preliminary",
    "final",
    "amended",
    "corrected",
    "appended",
    "cancelled",
    "entered-in-error",
)
"""The statuses that a version of a report may be delivered with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where reports of a facility go: `channel` is the name of what carries them (hl7, fhir, mail, fax).

    `facility` is the one whose directory entry has it: that of the reports, or one above it. `options` are for the
    channel. Reports of these `statuses` go there first; what follows one that went there follows it whatever it is.
    """

    id: str
    facility: str
    channel: str
    address: str
    statuses: tuple[ReportStatus, ...] = DELIVERED
    is_active: bool = True
    options: Mapping[str, str | bool | int | float] = field(default_factory=dict)


# -- people and places -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """One way to reach a person: `channel` is the name of what carries it (smtp, webhook, voice, sms)."""

    name: str
    role: str
    channel: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Facility:
    """A place that sends studies. `zone` is an IANA time zone, `state` the code of where its patients are."""

    id: str
    name: str
    kind: str | None = None
    parent: str | None = None
    state: str | None = None
    zone: str = "UTC"
    contacts: tuple[Contact, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A radiologist.

    `subspecialties` are NUCC or local codes; `skills` modalities, regions or both: CT, CT/HEAD, */HEAD.
    """

    id: str
    name: str
    subspecialties: tuple[str, ...] = ()
    skills: tuple[str, ...] = ()
    zone: str = "UTC"
    is_overflow: bool = False
    free_at: datetime | None = None
    """When the reader is predicted to be free; only in a snapshot of the queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """A duty to reach a person; it ends by an acknowledgement, never by time or failure."""

    id: str
    facility: str
    item: str | None = None
    study_uid: str | None = None
    reason: str = ""
    category: Category | None = None
    state: Literal["open", "acknowledged", "cancelled"] = "open"
    rung: int = 0
    opened_at: datetime | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step of an escalation's ladder: whom to reach, and how long after it was opened.

    Contacts whose `role` is that of the rung are tried in their order.
    """

    number: int
    role: str
    after: timedelta
