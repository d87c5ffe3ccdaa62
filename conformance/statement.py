"""The DICOM conformance statement, made from the code: the tables that the server runs on are those of the page.

Its chapters are those of the template in PS3.2 Annex N, in their order; the finer numbering is its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from pydicom.charset import python_encoding
from pydicom.datadict import keyword_for_tag
from pydicom.uid import UID, AllTransferSyntaxes

from readingroom import errors
from server.dicomweb.negotiation import COMPRESSED, NEVER_SENT
from server.dicomweb.operations import OPERATIONS, Operation
from server.status import FAILURE_REASON, HTTP
from storage.catalog.keys import KEYS, LEVELS
from storage.encode import TARGETS
from storage.pixels import DECODABLE

_OVERVIEW = """\
# DICOM conformance statement

Made from the code by `make docs`; do not edit. The chapters are those of the template of DICOM PS3.2 Annex N, in
their order, and the numbering within them is our own; what the template asks for and this product does not have is
named as such.

**Product:** readingroom, a standards server for teleradiology. **Edition of the standard:** 2026a.

## 1 Overview

readingroom receives, keeps, finds and sends DICOM objects over DICOM web services (PS3.18), as origin server, and by
DIMSE (PS3.4), as section 5.1 lists. It reads and writes no media but folders of files.

| Service of PS3.18 | Role | Chapter |
|---|---|---|
"""

_INTRODUCTION = """\
## 2 Contents

1 Overview; 3 Introduction; 4 Implementation model; 5 Services; 6 Configuration; 7 Network and media communication;
8 Security; 9 Annexes.

## 3 Introduction

### 3.1 Audience

Engineers who connect a viewer, a modality gateway, an archive or an EHR, and who know DICOM and HTTP.

### 3.2 Remarks

A statement is no test. `readingroom conformance dicomweb --base URL` runs a strict suite against any server, this one
included, and names the section of PS3.18 that each check is about.

### 3.3 Terms

Those of PS3.18: origin server, user agent, resource, representation. "Facility" is the owner of a study; below
`/dicomweb/f/{facility}` the same services are narrowed to one.

### 3.4 References

DICOM PS3.2, PS3.3, PS3.4, PS3.5, PS3.10, PS3.18 and PS3.19; RFC 9110 (HTTP semantics), RFC 2387 (multipart/related).

## 4 Implementation model

### 4.1 Data flow

An object enters by Store Instances, or by `readingroom import` from a folder. It is kept byte for byte; what is known
of it is written to a catalog in one transaction; only then is it acknowledged. Retrieve and Search read from the
catalog and from the kept object. Corrections and coercions lie over what was received and never change it.

### 4.2 Functions

- **Storage:** every SOP Class, also private ones and those not known yet. Nothing is refused for its SOP Class.
- **The same SOP Instance UID with the same bytes** is stored once. With other bytes, a new version becomes current and
  the earlier stays retrievable (`?version=N`); the setting `duplicates` can refuse it or keep the first instead.
- **Attributes:** none is removed or changed in what is kept. Where a rule coerces one, the metadata and the instances
  that are sent carry Original Attributes Sequence (0400,0561), and `?original=true` gives what was received.
- **Private attributes** are kept and sent; none of our own is written.

## 5 Services

### 5.1 DIMSE services

Served by `readingroom dimse` to peers that are named. Every storage SOP class is taken, private and retired ones too,
in whatever transfer syntax is proposed first; all other classes in Explicit and Implicit VR Little Endian. Statuses and
rules are in [the how-to](../how-to/dimse.md).

| SOP Class | UID | Role | Operations |
|---|---|---|---|
{dimse}
### 5.2 Web services

Every answer that is not a success has one line of `text/plain` that says why. Any request may also get 400 (not
understood) and 503 (not now; Retry-After). GET implies HEAD. OPTIONS on a resource describes it as WADL or OpenAPI
(section 8.9 of PS3.18); a CORS preflight is answered for configured origins.

"""

DIMSE: tuple[tuple[str, str, str], ...] = (
    ("1.2.840.10008.1.1", "SCP, SCU", "C-ECHO"),
    ("1.2.840.10008.5.1.4.1.2.1.1", "SCP, SCU", "C-FIND"),
    ("1.2.840.10008.5.1.4.1.2.1.2", "SCP", "C-MOVE"),
    ("1.2.840.10008.5.1.4.1.2.1.3", "SCP", "C-GET"),
    ("1.2.840.10008.5.1.4.1.2.2.1", "SCP, SCU", "C-FIND"),
    ("1.2.840.10008.5.1.4.1.2.2.2", "SCP, SCU", "C-MOVE"),
    ("1.2.840.10008.5.1.4.1.2.2.3", "SCP, SCU", "C-GET"),
    ("1.2.840.10008.5.1.4.31", "SCP", "C-FIND"),
    ("1.2.840.10008.3.1.2.3.3", "SCP", "N-CREATE, N-SET"),
    ("1.2.840.10008.3.1.2.3.4", "SCP", "N-GET"),
    ("1.2.840.10008.1.20.1", "SCP", "N-ACTION, N-EVENT-REPORT"),
    ("1.2.840.10008.5.1.4.33", "SCU", "N-CREATE"),
    ("1.2.840.10008.5.1.4.34.6.1", "SCP", "N-CREATE, N-ACTION, N-GET"),
    ("1.2.840.10008.5.1.4.34.6.2", "SCP", "N-ACTION, N-GET, C-FIND"),
    ("1.2.840.10008.5.1.4.34.6.3", "SCP", "C-FIND, N-GET, N-SET, N-ACTION"),
    ("1.2.840.10008.5.1.4.34.6.4", "SCP", "N-EVENT-REPORT"),
    ("1.2.840.10008.5.1.4.34.6.5", "SCP", "C-FIND"),
)
"""What is served and asked by DIMSE beside storage; a test holds it against what really is."""

_NEGOTIATION = """\
### 5.3 Content negotiation

The `accept` parameter goes before the Accept header, then quality values, then how exactly a media range names what
there is; without agreement, and without any Accept, the answer is 406 (8.7). Where no transfer syntax is asked for, an
instance or a frame goes as Explicit VR Little Endian, and what may be lossy as it is kept. `transfer-syntax=*` gives it
as it is kept. Implicit VR Little Endian and Explicit VR Big Endian are taken and never sent.

### 5.4 Transfer syntaxes

Every transfer syntax is kept. "Decoded" is what frames can be read from; "made" is what frames, and but for lossy ones
instances, of another transfer syntax are written in where it carries their pixels
([transcoding](transcoding.md) says which).

| Transfer syntax | UID | kept | sent as kept | decoded | made | media types of frames |
|---|---|---|---|---|---|---|
"""

_SEARCH = """\
### 5.5 Search

Matching is by single value, list of UIDs, wild card, range, universal, sequence, empty value and multiple values, as
PS3.4 C.2.2.2 and PS3.18 8.3.4 say; person names without case and accents, and by sound with `fuzzymatching=true`. A
key that is none is ignored with a Warning 299. More keys, private ones too, can be configured
(`search_attributes`).

| Key | Tag | VR | Level |
|---|---|---|---|
"""

_WORKLIST = """\
### 5.8 The worklist

Work items are this server's own (to read a study, a second reading, a peer review, a critical result, a follow-up) and
those that others create. What is asked of an attribute at which transaction, and before a final state, is that of
PS3.4 Table CC.2.5-3. A missing Transaction UID, and an update of what is COMPLETED or CANCELED, is answered by 400, a
wrong one, and what else the state forbids, by 409, with the Warning that chapter 11 names. No work item is ever
deleted, so 410 is not answered.

- **Created** is what others send, as it is, in the state SCHEDULED. An empty Worklist Label becomes the facility, with
  a Warning; Scheduled Procedure Step Modification DateTime is always ours. Where no UID is named, one is made.
- **IN PROGRESS** is a claim. One of our own readings that is claimed and left alone for `claim_minutes` becomes
  SCHEDULED again; what others created stays claimed until its performer ends it.
- **CANCELED** fills in Procedure Step Cancellation DateTime, and 110513 (DCM) as the reason where none was set. A
  cancellation that is asked for is done at once where nobody has claimed the item; else its claimant is told.
- **Our own readings** say what the catalog shows of their study. Their Expected Completion DateTime comes from a
  contract and is not set by an update (Warning 299); Scheduled Human Performers assigns them to one reader,
  whose id is the Code Value, in the scheme 99READINGROOM. Actual Human Performers Sequence beside the Transaction UID
  says who claims. By default that is whoever the request is authenticated as, if the directory has that reader, else
  the reader to whom it is assigned. Where the directory has readers, one without licence or privileges, or who is not
  among them, is answered by 403. Names of human performers are those of the directory.
- **Subscriptions** are taken for one work item, for all, and for those that match a filter when they are made or
  come to match it; those to all take in what is open. Deletion locks are granted, and none is removed by the server:
  work items in a final state are kept and can be retrieved. A subscriber is an AE title within the scope of facilities
  of whoever subscribes; nobody is subscribed unasked, and there is no fallback list.
- **Notifications** (8.10) go over a WebSocket at `/dicomweb/ws/subscribers/{ae}`, the URL that Subscribe answers; the
  subprotocol `dicom` is chosen where it is offered. Reports come in the order of the commits; one that could not be
  sent waits a day for its subscriber. Affected SOP Class UID is that of UPS Push (PS3.4 CC.2.4.3). After a start of
  the server every subscriber is sent SCP Status Change: RESTARTED, WARM START; before its end, those who are connected
  are sent GOING DOWN. A browser's page of another origin is refused unless that origin is configured.
- **Searches** match as those of studies do (5.5), by every attribute that Table CC.2.5-3 makes a key; names without
  case and accents, and with `fuzzymatching` by their words and sounds. TimezoneOffsetFromUTC says how the times of
  a query are meant. The newest item comes first; a page that is not the last is answered by 206.

"""

_FAILURES = """\
### 7.2 Status codes and failure reasons

| Meaning | HTTP status | Failure Reason (0008,1197) of an instance |
|---|---|---|
"""

_MEDIA = """\
### 5.6 Media storage

None. An answer of `application/zip` holds a file-set with its DICOMDIR (PS3.10), for general purpose.

### 5.7 Not there yet

The services of chapters 13 to 15: answered by 404.

"""

_CONFIGURATION = """\
## 6 Configuration

Host, port, public address, allowed hosts, trusted proxies, origins of other sites, owner facility, duplicates,
coercion rules, limits: see [settings](settings.md). The service root is `/dicomweb`.

## 7 Network and media communication

### 7.1 Transport

HTTP/1.1 over TCP, IPv4 or IPv6; requests and answers of any length, streamed; byte ranges on single-part bodies;
`gzip` of metadata and search answers. HTTP/2 and TLS by a proxy in front.

"""

_REST = """\

A store answers 200 where all instances were stored, 202 where some were not or something was changed on the way
(Warning Reason B000H), and 409 where none was.

## 8 Security

This release authenticates nobody, and therefore listens on loopback addresses only. A request whose Host is not
configured is refused. Every answer is narrowed by the caller's scope of facilities.

## 9 Annexes

### 9.1 Character sets

Taken: {taken}. An unknown or missing character set is read as {default}. JSON and XML are UTF-8, and Specific Character
Set (0008,0005) keeps the value of the source (PS3.18 F.2, since 2025e); file retrieval keeps the bytes.

### 9.2 Attributes written

Store Instances Response Module (PS3.18 I.1); Retrieve URL (0008,1190), Instance Availability (0008,0056), the counts
and lists of the search answers; Original Attributes Sequence (0400,0561) where something was changed; nothing else.

### 9.3 Private attributes, coded terminology, extended SOP Classes

None of our own.
"""


def statement_page() -> str:
    """The conformance statement, as Markdown."""
    taken = ", ".join(f"`{term}`" for term in python_encoding if term)
    return "".join(
        (
            _OVERVIEW,
            *_services(),
            "\n",
            _INTRODUCTION.replace("{dimse}", "".join(_dimse())),
            *_transactions(),
            _NEGOTIATION,
            *_transfer_syntaxes(),
            "\n",
            _SEARCH,
            *_keys(),
            "\n",
            _MEDIA,
            _WORKLIST,
            _CONFIGURATION,
            _FAILURES,
            *_failures(),
            _REST.format(taken=taken, default="`ISO_IR 100`"),
        )
    )


_CHAPTERS = {
    "8": "Capabilities",
    "9": "URI",
    "10": "Studies",
    "11": "Worklist (UPS-RS)",
    "12": "Non-Patient Instances",
    "13": "Storage Commitment",
    "14": "Modality Scheduled Procedure Steps",
    "15": "Modality Performed Procedure Steps",
}


def _chapter(operation: Operation) -> str:
    return operation.section.partition(".")[0]


def _services() -> Iterator[str]:
    chapters = {_chapter(one) for one in OPERATIONS if one.section} | {"8"}
    for chapter in sorted(chapters, key=int):
        yield f"| {_CHAPTERS[chapter]} | origin server | {chapter} |\n"
    if any(not one.section for one in OPERATIONS):
        yield "| what the standard does not have: corrections, change feed, restore | origin server | - |\n"


def _dimse() -> Iterator[str]:
    yield "| all storage classes | - | SCP, SCU | C-STORE |\n"
    for uid, role, operations in DIMSE:
        yield f"| {UID(uid).name} | `{uid}` | {role} | {operations} |\n"


def _transactions() -> Iterator[str]:
    by_path = sorted(OPERATIONS, key=lambda one: (bool(not one.section), one.path, one.method))
    for path, operations in groupby(by_path, key=lambda one: one.path):
        yield f"#### `{path}`\n\n| Transaction | Section | Takes | Answers | Success | Errors | Parameters |\n"
        yield "|---|---|---|---|---|---|---|\n"
        for one in operations:
            shown = [parameter for parameter in one.parameters if not _is_key(parameter.meaning)]
            keys = [name for parameter in shown for name in parameter.names]
            if len(shown) < len(one.parameters):
                keys.append("matching keys (5.5)")
            cells = (
                f"{one.method}: {one.title}",
                one.section or "own",
                _listed(one.takes),
                _listed(one.answers),
                ", ".join(map(str, one.success)),
                ", ".join(map(str, one.errors)) or "-",
                ", ".join(keys) or "-",
            )
            yield f"| {' | '.join(cells)} |\n"
        yield "\n"


def _is_key(meaning: str) -> bool:
    return meaning.startswith("Matching key")


def _listed(media_types: Iterable[str]) -> str:
    return "<br>".join(f"`{one}`" for one in media_types) or "-"


def _transfer_syntaxes() -> Iterator[str]:
    known = {*map(str, AllTransferSyntaxes), *COMPRESSED, *TARGETS, *DECODABLE}
    for syntax in sorted(known, key=lambda one: [int(part) for part in one.split(".")]):
        cells = (
            UID(syntax).name.partition(":")[0] if UID(syntax).name != syntax else "-",
            syntax,
            "yes",
            "no" if syntax in NEVER_SENT else "yes",
            "yes" if syntax in DECODABLE else "no",
            "yes" if syntax in TARGETS else "no",
            _listed(COMPRESSED.get(syntax, ("application/octet-stream",) if syntax in DECODABLE else ())),
        )
        yield f"| {' | '.join(cells)} |\n"


def _keys() -> Iterator[str]:
    for level in LEVELS:
        for tag, key in KEYS.items():
            if key.level == level:
                name = ".".join(keyword_for_tag(int(part, 16)) for part in tag.split("."))
                path = ".".join(f"({part[:4]},{part[4:]})" for part in tag.split("."))
                yield f"| {name} | {path} | {key.vr} | {level} |\n"


def _failures() -> Iterator[str]:
    def depth(kind: type[errors.ReadingRoomError]) -> tuple[int, str]:
        return HTTP[kind], kind.__name__

    for kind in sorted(HTTP, key=depth):
        reason = f"{FAILURE_REASON[kind]:04X}H" if kind in FAILURE_REASON else "-"
        yield f"| {(kind.__doc__ or kind.__name__).strip().splitlines()[0].rstrip('.')} | {HTTP[kind]} | {reason} |\n"
