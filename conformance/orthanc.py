"""Why Debian's Orthanc does not meet what it does not meet: every failure of the suite, with its cause.

`tests/conformance/test_orthanc.py` runs the suite against it and compares; `conformance.reference` writes the page
``docs/reference/conformance-orthanc.md``.
"""

from __future__ import annotations

from dataclasses import dataclass

from conformance.dicomweb import areas
from conformance.dicomweb.checks import CHECKS, Check

VERSION = "Orthanc 1.10.1 + DICOMweb 1.7"
"""What was run: the packages of Debian 12, in the set-up of the benchmarks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """One fault, or one thing that is not there, and the checks that find it.

    Attributes
    ----------
    does
        What the server does.
    follows
        What comes of it for who uses the server.
    """

    title: str
    ids: str
    does: str
    follows: str

    @property
    def checks(self) -> list[Check]:
        """The checks that find it."""
        return [CHECKS[id] for id in self.ids.split()]


CAUSES = (
    Cause(
        title="400 in place of 406",
        ids="NEG-003 NEG-004 NEG-005 NEG-006 NEG-008 NEG-031 NEG-033 NEG-034 NEG-041 FRAME-029 XML-013",
        does="A media type or transfer syntax that it does not have is answered by 400.",
        follows="A client cannot tell a request that is wrong from one that it may repeat with another media type.",
    ),
    Cause(
        title="The Accept header is one media type",
        ids="NEG-002 NEG-009 NEG-010 NEG-011 NEG-015 NEG-016 BAD-014",
        does="Lists, weights and partial wildcards are not read: anything but one known media type is "
        "answered by 400, a weight of 0 is not looked at, and of several Accept lines one is taken.",
        follows="Clients that say what they prefer and what they also take, as browsers and dicomweb-client do, fail.",
    ),
    Cause(
        title="No accept query parameter",
        ids="NEG-017 NEG-019",
        does="The accept query parameter is not looked at.",
        follows="A link in a page cannot choose the media type of what it leads to.",
    ),
    Cause(
        title="Searches and stores do not negotiate",
        ids="NEG-007 STOW-027 XML-014 XML-015 XML-016",
        does="What cannot be had in the media type that was asked for is sent as JSON with 200. The "
        "multipart XML that the standard requires for searches is among it; it is sent to who asks for "
        "application/dicom+xml by itself.",
        follows="A client that reads XML gets what it cannot read, and the status says that all is well.",
    ),
    Cause(
        title="Implicit VR and Big Endian are sent",
        ids="NEG-028 NEG-029 NEG-030 WADO-031",
        does="Both are sent to who asks for them, and what is stored in Implicit VR is sent so to who takes "
        "any syntax.",
        follows="Web clients without a data dictionary cannot read Implicit VR; the standard keeps both off the web.",
    ),
    Cause(
        title="JPEG 2000 and HTJ2K are not decoded",
        ids="NEG-023 NEG-024 FRAME-019 WADO-007 REND-038 WADO-030",
        does="Without the GDCM plugin there is no decoder; a request that needs one is answered by 500 or "
        "400, also that for a study in which one such image lies.",
        follows="One image that it cannot decode keeps a whole study from being retrieved. 406 would tell the "
        "client to ask for the syntax that is stored.",
    ),
    Cause(
        title="HTJ2K is not known",
        ids="NEG-027 FRAME-020 FRAME-025 FRAME-026",
        does="The syntax is refused by 400 where it is named, and its frames are sent compressed as "
        "application/octet-stream to who asked for native ones.",
        follows="A viewer draws the bitstream as pixels.",
    ),
    Cause(
        title="No single part",
        ids="NEG-035 FRAME-028 FRAME-030 BULK-008 BULK-009 BULK-010 BULK-011 WADO-028",
        does="Instances, frames and bulk data come as multipart/related alone, and so without ranges.",
        follows="Large values cannot be read in pieces, and simple clients have to read multipart messages.",
    ),
    Cause(
        title="No media type of bulk data but octet-stream, and none of an instance",
        ids="BULK-013 BULK-017",
        does="The resource /bulkdata is not there, and an instance is not given as its bulk data.",
        follows="Each bulk value is a request of its own.",
    ),
    Cause(
        title="No Content-Location",
        ids="BULK-007 WADO-010",
        does="Parts do not say where they come from.",
        follows="A client that gets several parts cannot tell which is which but by reading them.",
    ),
    Cause(
        title="No HEAD",
        ids="WADO-023 BULK-018",
        does="HEAD is answered by 404.",
        follows="To know whether something is there, or how long it is, it has to be retrieved.",
    ),
    Cause(
        title="No entity tags, no caching headers",
        ids="WADO-024 REND-036 HTTP-006 HTTP-012",
        does="Answers have neither ETag nor Vary nor Cache-Control.",
        follows="Caches may keep what is about patients, hand one representation out for another, and never ask "
        "whether it has changed.",
    ),
    Cause(
        title="Values of a query are not decoded",
        ids="QIDO-027 QIDO-117 QIDO-119 QIDO-121 QIDO-122 QIDO-123 QIDO-125 QIDO-143",
        does="Percent-encoded characters in the value of a key are taken as they stand.",
        follows="No name with an accent, no description with a blank and no list of UIDs with a backslash is "
        "ever found; the answer is an empty success.",
    ),
    Cause(
        title="Keys of sequences are ignored",
        ids="QIDO-134 QIDO-135",
        does="A key below a sequence counts as if it were not there, without a Warning.",
        follows="A search for the series of one procedure step returns all series: a wrong answer that looks right.",
    ),
    Cause(
        title="Matching of text folds case",
        ids="QIDO-113 QIDO-114",
        does="Identifiers match in upper and lower case alike.",
        follows="Two accession numbers that differ in case alone are found for each other.",
    ),
    Cause(
        title="No empty, multiple or fuzzy value matching, and no Warning of it",
        ids="QIDO-137 QIDO-138 QIDO-140",
        does="emptyvaluematching, multiplevaluematching and fuzzymatching are ignored in silence.",
        follows="The client takes the answer for what it asked for; the standard wants a Warning 299 that says "
        "otherwise.",
    ),
    Cause(
        title="No Warnings",
        ids="QIDO-038 QIDO-049",
        does="Neither further results nor parameters that were ignored are told of.",
        follows="A list that was cut looks complete.",
    ),
    Cause(
        title="Invalid values are not refused",
        ids="QIDO-045 QIDO-046 QIDO-047",
        does="What is no date or time matches nothing, and the answer is 200.",
        follows="A mistake of the client looks like an archive without studies.",
    ),
    Cause(
        title="Negative numbers fail the server",
        ids="QIDO-040 QIDO-042",
        does="limit=-1 and offset=-1 are answered by 500.",
        follows="A mistake of the client looks like a fault of the server, and alarms whoever watches it.",
    ),
    Cause(
        title="Results lack attributes",
        ids="QIDO-019 QIDO-020 QIDO-030 QIDO-141 QIDO-050",
        does="Series and instances across studies come without Modalities in Study and the counts; Instance "
        "Availability, private attributes and record keys are not there.",
        follows="A list of series needs another search for each of its studies.",
    ),
    Cause(
        title="Results have attributes that they may not have",
        ids="QIDO-028",
        does="Attributes of an instance that are included in a search for studies are returned, those of any instance.",
        follows="The value of one instance looks like one of the study.",
    ),
    Cause(
        title="Names lose their component groups",
        ids="QIDO-029",
        does="The ideographic and phonetic groups of a name come out of a search as ``^``.",
        follows="Japanese and Korean names are lost in lists.",
    ),
    Cause(
        title="An empty search is 200",
        ids="QIDO-032",
        does="A search that finds nothing is answered by 200 with an empty array.",
        follows="None for most clients; 204 is what 10.6.3.1 names.",
    ),
    Cause(
        title="Metadata is not what was stored",
        ids="JSON-012 JSON-013 JSON-026 JSON-027 JSON-029 JSON-032 JSON-036",
        does="Empty items are left out, so that those behind them change their place; numbers that are very "
        "small become 0; private attributes of 64 bits are left out; a backslash in a text splits it; "
        "encapsulated Pixel Data is not there at all.",
        follows="What is made again of metadata and bulk data is another object, without its pixels where they "
        "were compressed.",
    ),
    Cause(
        title="XML is not the Native DICOM Model",
        ids="XML-007 XML-009 XML-011 XML-012",
        does="Sequences have an empty Value beside their items, BulkData has an attribute URI where the "
        "model has uri, private attributes have no privateCreator, and decimal strings are written as "
        "binary fractions (33.330 becomes 33.3300018).",
        follows="Readers of the model do not find the bulk data, cannot tell whose a private attribute is, and "
        "compute with other numbers than were stored.",
    ),
    Cause(
        title="The type parameter has a transfer syntax in it",
        ids="HTTP-002",
        does='Frames come as multipart/related; type="application/octet-stream; transfer-syntax=...".',
        follows="RFC 2387 wants the media type of the parts there; strict readers do not recognise it.",
    ),
    Cause(
        title="Frames of what has none",
        ids="FRAME-013",
        does="Frames of a report are answered by 500.",
        follows="A mistake of the client looks like a fault of the server.",
    ),
    Cause(
        title="A part that fails makes the request fail",
        ids="STOW-011 STOW-014",
        does="Where one part is no DICOM, or of another study, the others are stored and listed, but the "
        "status is 400 or 409 as if nothing had been.",
        follows="A client that goes by the status sends all again, or tells its user that nothing arrived.",
    ),
    Cause(
        title="Messages that are broken are a success",
        ids="STOW-020 STOW-021 STOW-022 BAD-020 BAD-022",
        does="A message without its boundary, without a part, or that ends within a part, and a file without "
        "a Study Instance UID, are answered by 200.",
        follows="A transfer that was cut counts as stored, and the sender deletes its copy.",
    ),
    Cause(
        title="Multipart messages are read loosely",
        ids="STOW-030 STOW-032",
        does="A quoted boundary of unusual characters is not read, and the boundary within a line of a value "
        "ends the part.",
        follows="Objects that hold the boundary by chance are cut, and messages of some clients refused.",
    ),
    Cause(
        title="An empty Failed SOP Sequence",
        ids="STOW-007",
        does="The sequence is there, and empty, where nothing failed.",
        follows="Clients that look whether it is there take a success for a failure.",
    ),
    Cause(
        title="Only DICOM files in multipart messages are stored",
        ids="STOW-028 STOW-035 STOW-036 STOW-039",
        does="A single file without multipart, and metadata with bulk data in parts of their own, are answered by 415.",
        follows="Web applications have to write DICOM files themselves.",
    ),
    Cause(
        title="The window of the image is not used",
        ids="REND-007",
        does="Without a window parameter the image is stretched between its least and its greatest value.",
        follows="A rendered CT shows another contrast than was set for it.",
    ),
    Cause(
        title="Functions of a window",
        ids="REND-008 REND-014",
        does="linear-exact is shown as something else, and a negative width is taken.",
        follows="Two servers show one image differently.",
    ),
    Cause(
        title="A viewport of no size breaks the connection",
        ids="REND-015",
        does="viewport=0,0 ends the connection without an answer.",
        follows="One parameter is enough to make a worker fail.",
    ),
    Cause(
        title="Rendering parameters that are not there",
        ids="REND-017 REND-018 REND-019",
        does="annotation and iccprofile are ignored.",
        follows="Pictures come without the patient's name on them, and in unknown colours.",
    ),
    Cause(
        title="Renderings that are not there",
        ids="REND-004 REND-023 REND-024 REND-025 REND-026 REND-028 REND-029 REND-030 REND-031 REND-035",
        does="Single images are rendered alone: no lists of frames, no series and studies but as one "
        "picture, no documents, reports and presentation states, no GIF, and no thumbnails.",
        follows="Portals have to compose all of this themselves.",
    ),
    Cause(
        title="Errors without a Content-Type",
        ids="HTTP-009 STOW-012",
        does="The reason of an error, and the list of what was not stored, are JSON without a Content-Type.",
        follows="Clients show it as text, or not at all.",
    ),
    Cause(
        title="No capabilities",
        ids="CAP-001",
        does="OPTIONS on the service root is answered by 404.",
        follows="What the server can do has to be known beforehand.",
    ),
    Cause(
        title="Optional services that are not there",
        ids="BULK-019 DEL-001 NPI-001 UPS-001 WADO-032 URI-001",
        does="DELETE, pixel data resources, non-patient instances, a worklist (UPS-RS) and archives are not there; "
        "WADO-URI is turned off in the benchmarks' set-up.",
        follows="None: the standard leaves them to the server.",
    ),
)
"""What the suite finds, each check under one cause."""

_HEAD = f"""\
# What the suite finds in Orthanc

Made from `conformance/orthanc.py` by `make docs`; `tests/conformance/test_orthanc.py` runs the suite against the server
and fails if this page does not say what comes of it.

{VERSION}, the packages of Debian 12, in the set-up of the benchmarks. They are of 2022; later releases
have mended some of this. Orthanc is good software that many rely on: the page shows what a strict suite finds, and that
it finds it.

The suite has {{checks}} checks. {{must}} that the standard demands (MUST) are not met, {{should}} that it recommends
(SHOULD), and {{may}} optional features (MAY) are not there.
"""


def page() -> str:
    """The reference page, as Markdown."""
    found = [check for cause in CAUSES for check in cause.checks]
    levels = {name: sum(check.level.lower() == name for check in found) for name in ("must", "should", "may")}
    text = _HEAD.format(checks=len(CHECKS), **levels)
    for cause in CAUSES:
        text += f"\n## {cause.title}\n\n{cause.does} {cause.follows}\n\n"
        text += "| check | section | level | demand |\n|---|---|---|---|\n"
        text += "".join(
            f"| {check.id} | {check.reference} | {check.level} | {_cell(check.title)} |\n" for check in cause.checks
        )
    return text


def _cell(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


assert areas  # importing it declares the checks
