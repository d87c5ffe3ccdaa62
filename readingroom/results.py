"""What a plugin may answer: values that the core looks at, and applies or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from readingroom.model import Algorithm, Finding, Priority, Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """This object is not to be stored.

    `kind` says what is wrong: ``refused`` (not allowed), ``invalid`` (it is not right), ``unavailable`` (not now; the
    sender may try again).
    """

    because: str
    kind: Literal["refused", "invalid", "unavailable"] = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coerce:
    """This object is to be shown with other attributes; the received bytes are kept.

    `changes` are attributes by keyword or tag with their new value as text, as a rule of the setting ``coerce`` has
    them; an empty text empties the attribute. `remove` are those to take away.
    """

    changes: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Veto:
    """This is not to be done."""

    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Triage:
    """What was found in a study, and how soon it should be read.

    `priority` can only raise that of the work item; None leaves it. `is_flagged` marks the item beside its priority.
    """

    findings: tuple[Finding, ...] = ()
    priority: Priority | None = None
    is_flagged: bool = False
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """An earlier study of the same patient that is worth comparing with.

    `relevance` goes from 0 to 1. `root` is the DICOMweb root of the archive that has it; None where it is ours.
    """

    study_uid: str
    relevance: float
    because: str = ""
    root: str | None = None
    study_date: str | None = None
    description: str | None = None
    modalities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PriorSummary:
    """What the priors tell, in words; `cites` are the Study Instance UIDs that it rests on."""

    text: str
    cites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Who should read an item, both by id. The highest `score` wins; the core checks it once more and applies it."""

    item: str
    reader: str
    score: float = 0.0
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a report could say, for a person to take over or not.

    Its sections are offered beside the report and never put into it. `algorithm` is who has written it; a passage that
    names one of its own, or `evidence`, keeps that.
    """

    sections: tuple[Section, ...]
    algorithm: Algorithm | None = None
    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """What is amiss with a report that is about to be signed.

    `code` is a word such as ``laterality``. One that is to `block` keeps the report from being signed where the
    operator has named its code among `blocking_checks`; any other is shown.
    """

    code: str
    text: str
    severity: Literal["note", "warning", "block"] = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A report is to be reviewed by a peer; `because` is shown to supervisors alone."""

    because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notified:
    """A message was handed over to what carries it, which knows it by `reference`."""

    reference: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What the receiver of a report answered: it has it now, or it will not take it.

    `code` is its word for that (AA, 201, 250), `reference` what it knows the report by, `text` what it said besides.
    """

    accepted: bool
    code: str = ""
    reference: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number for the metrics page, in base units: seconds, bytes, a ratio from 0 to 1.

    It is shown as ``readingroom_plugin_NAME`` with the label ``plugin``; `name` is of small letters, digits and ``_``.
    """

    name: str
    value: float
    kind: Literal["counter", "gauge"] = "gauge"
    help: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
