"""Every operation of the DICOMweb services, as one table.

The capabilities (PS3.18 8.9, Annex H), the OpenAPI document and the conformance statement are all made from it, and a
test holds it against the routes that the app really has and the media types that it really sends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydicom.datadict import keyword_for_tag

from storage.catalog.keys import KEYS, LEVELS, STEP_KEYS, Level, any_key
from storage.catalog.work_items import ITEM_KEYS
from storage.nonpatient import CATEGORIES, Category

Service = Literal[
    "Studies",
    "Worklist",
    "Storage Commitment",
    "Modality Scheduled Procedure Steps",
    "Modality Performed Procedure Steps",
    "Non-Patient Instances",
    "Changes",
    "Capabilities",
]
Schema = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One query parameter: its name, what it is for, and the JSON Schema of its value as text.

    Parameters that only go together are one here, whose schema is an object of them: their names are those of its
    properties.
    """

    name: str
    meaning: str
    schema: Schema
    example: Any = None
    is_required: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names that stand in a query."""
        return tuple(self.schema.get("properties", (self.name,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one resource.

    Attributes
    ----------
    name
        The id of the transaction, as Annex H spells its examples: ``RetrieveStudyMetadata``.
    section
        Of PS3.18, or empty where the operation is this server's own.
    parameters
        Query parameters; ``accept`` goes without saying wherever `answers` has a choice and `has_accept` is set.
    takes
        Media types of the request body.
    answers
        Media types of a successful answer, the default first; empty where it has no body.
    success, errors
        Every status that a request may get, beside 400 and 503, which all may get.
    with_body
        Those whose answers have a body, where `answers` says of which type.
    json
        JSON Schema of an answer that is JSON and holds no data sets.
    """

    name: str
    method: str
    path: str
    title: str
    section: str
    service: Service = "Studies"
    parameters: tuple[Parameter, ...] = ()
    has_accept: bool = True
    takes: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    success: tuple[int, ...] = (200,)
    with_body: tuple[int, ...] = (200, 202, 206)
    errors: tuple[int, ...] = (404, 406)
    json: Schema | None = None

    @property
    def statuses(self) -> tuple[int, ...]:
        """All statuses that the operation is documented to answer."""
        return tuple(sorted({*self.success, *self.errors, 400, 503}))


STUDY = "/studies/{study}"
SERIES = f"{STUDY}/series/{{series}}"
INSTANCE = f"{SERIES}/instances/{{instance}}"
FRAMES = f"{INSTANCE}/frames/{{frames}}"

_JSON, _XML = "application/dicom+json", "application/dicom+xml"
_XML_PARTS = f'multipart/related; type="{_XML}"'
_JSON_PARTS = f'multipart/related; type="{_JSON}"'
_FILES = 'multipart/related; type="application/dicom"'
_BYTES = 'multipart/related; type="application/octet-stream"'
_PICTURES = ("image/jpeg", "image/png", "image/gif", "image/jp2")
_PICTURE_PARTS = 'multipart/related; type="image/jpeg"'
_DOCUMENTS = ("video/mp4", "text/html", "text/plain", "text/xml", "application/pdf")

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "string", "enum": ["true", "false"]}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": 10**15}
_NUMBER = r"-?[0-9]{1,5}(\.[0-9]{1,3})?"

ACCEPT = Parameter(name="accept", meaning="Media types, in place of the Accept header (8.3.3.1)", schema=_TEXT)
_VERSION = Parameter(
    name="version",
    meaning="An earlier version of an instance whose UID came again with other bytes, counted from 1",
    schema={"type": "integer", "minimum": 1, "maximum": 999_999_999},
    example=1,
)
_ORIGINAL = Parameter(
    name="original",
    meaning="What was received, whatever has been corrected since; needs the permission for it",
    schema=_FLAG,
)
_LIMIT = Parameter(name="limit", meaning="At most so many rows (8.3.4.4)", schema=_COUNT, example=25)
_REJECTED = Parameter(
    name="rejected", meaning="What a rejection note took out of use as well", schema=_FLAG, example="true"
)
_ENTRY: Schema = {
    "type": "object",
    "properties": {
        "sequence": {"type": "integer", "minimum": 1},
        "type": _TEXT,
        "time": {"type": "string", "format": "date-time"},
        "facility": _TEXT,
        "study": _TEXT,
        "url": _TEXT,
        "instances": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "series": _TEXT,
                    "instance": _TEXT,
                    "action": {"type": "string", "enum": ["create", "update", "delete", "restore", "purge"]},
                    "version": {"type": "integer", "minimum": 1},
                    "metadata": _TEXT,
                },
                "required": ["series", "instance", "action"],
            },
        },
        "details": {"type": "object"},
    },
    "required": ["sequence", "type", "time", "facility", "study", "url", "instances", "details"],
}
_TIME: Schema = {"type": "string", "format": "date-time"}
_OF_EVENTS = (
    Parameter(
        name="type",
        meaning="Of these types, several with commas between",
        schema={"type": "string", "pattern": r"^[A-Za-z]{1,40}(,[A-Za-z]{1,40}){0,4}$"},
        example="InstancesStored,InstancesRemoved",
    ),
    Parameter(
        name="study",
        meaning="Of this study",
        schema={"type": "string", "pattern": r"^[0-9]+(\.[0-9]+){0,20}$", "maxLength": 64},
    ),
    Parameter(name="from", meaning="From this time on", schema=_TIME, example="2026-01-01T00:00:00Z"),
    Parameter(name="to", meaning="Before this time; not of a stream", schema=_TIME, example="2126-01-01T00:00:00Z"),
)
_PAGE = (
    _LIMIT,
    Parameter(name="offset", meaning="Leave out so many rows (8.3.4.4)", schema=_COUNT, example=0),
    Parameter(
        name="includefield",
        meaning="Further attributes, by keyword, tag or path, several with commas; or all (8.3.4.3)",
        schema=_TEXT,
        example="StudyDescription,00100030",
    ),
    Parameter(name="fuzzymatching", meaning="Match names as they sound (8.3.4.2)", schema=_FLAG),
    Parameter(name="emptyvaluematching", meaning='Let "" match what has no value (8.3.4.5)', schema=_FLAG),
    Parameter(name="multiplevaluematching", meaning="Match each of several values (8.3.4.6)", schema=_FLAG),
    Parameter(
        name="TimezoneOffsetFromUTC",
        meaning="The zone that dates and times of the query are meant in",
        schema={"type": "string", "pattern": r"^[+-](0[0-9]|1[0-3])[0-5][0-9]$"},
        example="+0100",
    ),
)
_VALUES: dict[str, tuple[Schema, str]] = {
    "DA": ({"type": "string", "pattern": r"^(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|1[0-9]|2[0-8])-?$"}, "20240131-"),
    "DT": ({"type": "string", "pattern": r"^(19|20)[0-9]{2}(0[1-9]|1[0-2])(0[1-9]|1[0-9]|2[0-8])-?$"}, "20260101-"),
    "TM": ({"type": "string", "pattern": r"^([01][0-9]|2[0-3])[0-5][0-9]-?$"}, "0830-"),
    "IS": ({"type": "integer", "minimum": 0, "maximum": 9999}, "1"),
    "US": ({"type": "integer", "minimum": 0, "maximum": 65535}, "512"),
    "UV": ({"type": "integer", "minimum": 0, "maximum": 9999}, "1"),
    "UI": ({"type": "string", "pattern": r"^[0-2](\.(0|[1-9][0-9]{0,8})){1,6}$"}, "1.2.840.10008.5.1.4.1.1.2"),
    "CS": ({"type": "string", "pattern": r"^[A-Z0-9_ *?]{1,16}$"}, "CT"),
}
_ANY_VALUE: tuple[Schema, str] = ({"type": "string", "pattern": r"^[A-Za-z0-9*?^ ._-]{1,32}$"}, "A*")

_ELEMENT: Schema = {"type": ["object", "null"]}
_CORRECTION: Schema = {
    "type": "object",
    "properties": {
        "version": {"type": ["integer", "null"], "minimum": 1},
        "at": {"type": "string", "format": "date-time"},
        "by": _TEXT,
        "reason": _TEXT,
        "url": _TEXT,
        "changed": {
            "type": "object",
            "patternProperties": {
                "^[0-9A-F]{8}$": {
                    "type": "object",
                    "properties": {"before": _ELEMENT, "after": _ELEMENT},
                    "required": ["before", "after"],
                }
            },
            "additionalProperties": False,
        },
    },
    "required": ["version", "changed"],
}
"""An entry of the history of corrections; without the rest, and with null as its version, where nothing changed."""

_REASON = Parameter(
    name="reason",
    meaning="Why, in one line; the history keeps it",
    schema={"type": "string", "pattern": r"^[A-Za-z][A-Za-z .,-]{0,200}$"},
    example="Wrong patient chosen at the modality",
    is_required=True,
)
_THEN = Parameter(
    name="version",
    meaning="The version of the corrections that is to hold again; 0 for what was received",
    schema={"type": "integer", "minimum": 0, "maximum": 999_999_999},
    example=0,
    is_required=True,
)

_LOOK = (
    Parameter(
        name="window",
        meaning="Center, width and function of the window: linear, linear-exact or sigmoid (8.3.5.1.4)",
        schema={
            "type": "string",
            "pattern": rf"^{_NUMBER},[1-9][0-9]{{0,4}},(linear|linear-exact|sigmoid)$",
        },
        example="40,400,linear",
    ),
    Parameter(
        name="viewport",
        meaning="Columns and rows of the picture, then the region of the source shown in it (8.3.5.1.3)",
        schema={
            "type": "string",
            "pattern": r"^[1-9][0-9]{0,2},[1-9][0-9]{0,2}(,[0-9]{1,2},[0-9]{1,2},-?[1-9],-?[1-9])?$",
        },
        example="256,256",
    ),
    Parameter(
        name="quality",
        meaning="Of a lossy picture, 1 to 100 (8.3.5.1.2)",
        schema={"type": "integer", "minimum": 1, "maximum": 100},
        example=90,
    ),
    Parameter(
        name="annotation",
        meaning="What is burned in: patient, technique, and overlay for overlay planes (8.3.5.1.1)",
        schema={"type": "string", "pattern": r"^(patient|technique|overlay)(,(patient|technique|overlay))?$"},
        example="patient,technique",
    ),
    Parameter(
        name="iccprofile",
        meaning="The ICC profile to embed, and the color space to convert to (8.3.5.1.5)",
        schema={"type": "string", "enum": ["no", "yes", "srgb", "adobergb", "rommrgb"]},
        example="srgb",
    ),
    Parameter(
        name="charset", meaning="Character sets of text; it is sent in UTF-8 (8.3.3.2)", schema=_TEXT, example="utf-8"
    ),
)
_SMALL = (
    Parameter(
        name="viewport",
        meaning="Columns and rows of the picture (8.3.5.1.3)",
        schema={"type": "string", "pattern": r"^[1-9][0-9]{0,2},[1-9][0-9]{0,2}$"},
        example="128,128",
    ),
)
_BY_QUERY = (
    Parameter(
        name="requestType",
        meaning="Says that this is WADO-URI (9.1.2.1.1)",
        schema={"type": "string", "enum": ["WADO"]},
        is_required=True,
    ),
    *(
        Parameter(name=name, meaning=f"{meaning} (9.1.2.1)", schema=_VALUES["UI"][0], is_required=True)
        for name, meaning in (
            ("studyUID", "Study Instance UID"),
            ("seriesUID", "Series Instance UID"),
            ("objectUID", "SOP Instance UID"),
        )
    ),
    Parameter(
        name="contentType",
        meaning="Media types, in place of the Accept header (9.1.2.2.1)",
        schema={"type": "string", "enum": ["application/dicom", *_PICTURES]},
    ),
    _VERSION,
    Parameter(
        name="transferSyntax",
        meaning="Of a DICOM file: a UID, or * for that in which it is stored (9.4.1.2.3)",
        schema=_VALUES["UI"][0],
        example="1.2.840.10008.1.2.1",
    ),
    Parameter(
        name="frameNumber",
        meaning="The frame to show, from 1 (9.5.1.2.1)",
        schema={"type": "integer", "minimum": 1, "maximum": 999_999_999},
        example=1,
    ),
    *(
        Parameter(
            name=name,
            meaning=f"At most so many {name} of the picture (9.5.1.2.4)",
            schema={"type": "integer", "minimum": 1, "maximum": 999},
            example=128,
        )
        for name in ("rows", "columns")
    ),
    Parameter(
        name="region",
        meaning="Left, top, right and bottom of what is shown, as fractions of the image (9.5.1.2.5)",
        schema={"type": "string", "pattern": r"^(0\.[0-4][0-9]{0,2},){2}0\.[5-9][0-9]{0,2},(0\.[5-9][0-9]{0,2}|1\.0)$"},
        example="0.25,0.25,0.75,0.75",
    ),
    Parameter(
        name="window",
        meaning="Center and width of the window (9.5.1.2.6)",
        schema={
            "type": "object",
            "properties": {
                "windowCenter": {"type": "integer", "minimum": -99999, "maximum": 99999},
                "windowWidth": {"type": "integer", "minimum": 1, "maximum": 99999},
            },
            "required": ["windowCenter", "windowWidth"],
            "additionalProperties": False,
        },
        example={"windowCenter": 40, "windowWidth": 400},
    ),
    Parameter(
        name="imageQuality",
        meaning="Of a lossy picture, 1 to 100 (9.5.1.2.3)",
        schema={"type": "integer", "minimum": 1, "maximum": 100},
        example=90,
    ),
    next(one for one in _LOOK if one.name == "annotation"),
    Parameter(
        name="presentationState",
        meaning="A presentation state to show the image through, by its series and its own UID (9.5.1.2.7)",
        schema={
            "type": "object",
            "properties": dict.fromkeys(("presentationSeriesUID", "presentationUID"), _VALUES["UI"][0]),
            "required": ["presentationSeriesUID", "presentationUID"],
            "additionalProperties": False,
        },
    ),
    Parameter(name="charset", meaning="Character sets of text; it is sent in UTF-8 (9.1.2.2.2)", schema=_TEXT),
)


def keyword_of(name: str) -> str:
    """An attribute that is named by tags, by keywords."""
    return ".".join(keyword_for_tag(int(part, 16)) for part in name.split("."))


def keys_of(level: Level, *, fixed: Iterable[str] = ()) -> tuple[Parameter, ...]:
    """The matching keys of a search level and those above it, but for the UIDs that the path has fixed."""
    own = {"work_item": ITEM_KEYS, "procedure_step": STEP_KEYS}.get(level)
    allowed = (level,) if own else LEVELS[: LEVELS.index(level) + 1]
    parameters = []
    for tag, key in (own or KEYS).items():
        name = keyword_of(tag)
        if key.level in allowed and name not in fixed:
            schema, example = _VALUES.get(key.vr, _ANY_VALUE)
            meaning = f"Matching key ({tag}), VR {key.vr}, of the {key.level.replace('_', ' ')}"
            parameters.append(Parameter(name=name, meaning=meaning, schema=schema, example=example))
    return tuple(parameters)


def _a(parent: str) -> str:
    return f"{'an' if parent[0] in 'Ii' else 'a'} {parent.lower()}"


def _search(name: str, path: str, title: str, level: Level, fixed: tuple[str, ...] = ()) -> Operation:
    return Operation(
        name=name,
        method="GET",
        path=path,
        title=title,
        section="10.6",
        parameters=(*_PAGE, *keys_of(level, fixed=fixed)),
        answers=(_JSON, "application/json", _XML_PARTS),
        success=(200, 204),
        errors=(406, 409),
    )


def _retrieve(name: str, path: str, title: str, section: str, answers: tuple[str, ...], **rest: Any) -> Operation:
    errors = rest.pop("errors", (404, 406, 409, 410))
    success = rest.pop("success", (200, 304))
    return Operation(
        name=name,
        method="GET",
        path=path,
        title=title,
        section=section,
        answers=answers,
        success=success,
        errors=errors,
        **rest,
    )


_PARENTS = (("Study", STUDY), ("Series", SERIES), ("Instance", INSTANCE), ("Frames", FRAMES))
_RANGES = (200, 206, 304)
_RANGE_ERRORS = (404, 406, 409, 410, 416)
_ORIGINAL_ERRORS = (403, 404, 406, 409, 410)


def _key(name: str) -> Parameter:
    """A matching key of a category."""
    key = any_key(name)
    assert key is not None, name
    schema, example = _VALUES.get(key.vr, _ANY_VALUE)
    meaning = f"Matching key ({name}), VR {key.vr}"
    return Parameter(name=keyword_of(name), meaning=meaning, schema=schema, example=example)


def _of_category(category: Category) -> Iterator[Operation]:
    """The operations of a category of instances that belong to no patient (chapter 12)."""
    one = category.title.title().replace(" ", "")
    several = category.plural.title().replace(" ", "")
    service: Service = "Non-Patient Instances"
    yield Operation(
        name=f"SearchFor{several}",
        method="GET",
        path=f"/{category.name}",
        title=f"Search for {category.plural}",
        section="12.6",
        service=service,
        parameters=(*_PAGE, *map(_key, category.keys)),
        answers=(_JSON, "application/json", _XML_PARTS),
        success=(200, 204),
        errors=(406,),
    )
    for name, path, title in (
        (f"Store{several}", f"/{category.name}", f"Store {category.plural}"),
        (f"Store{one}", f"/{category.name}/{{uid}}", f"Store {_a(category.title)} of that UID"),
    ):
        yield Operation(
            name=name,
            method="POST",
            path=path,
            title=title,
            section="12.5",
            service=service,
            takes=(_FILES, "application/dicom", _JSON_PARTS, _XML_PARTS, _JSON, _XML),
            answers=(_JSON, "application/json", _XML),
            errors=(406, 409, 413, 415, 507),
        )
    yield _retrieve(
        f"Retrieve{one}",
        f"/{category.name}/{{uid}}",
        f"Retrieve {_a(category.title)}",
        "12.4",
        (_JSON, "application/json", _XML_PARTS, _XML, _FILES, "application/dicom"),
        service=service,
        parameters=(_VERSION,),
        success=_RANGES,
        errors=_RANGE_ERRORS,
    )
    for name, method, path, title in (
        (f"Delete{one}", "DELETE", "", f"Delete {_a(category.title)}; it can be restored"),
        (f"Restore{one}", "POST", "/restore", f"Restore {_a(category.title)} that was deleted"),
    ):
        yield Operation(
            name=name,
            method=method,
            path=f"/{category.name}/{{uid}}{path}",
            title=title,
            section="",
            service=service,
            success=(204,),
            errors=(403, 404, 409, 410, 507),
        )
    yield _retrieve(
        f"Retrieve{one}Bulkdata",
        f"/{category.name}/{{uid}}/bulkdata/{{path}}",
        f"Retrieve one bulk data value of {_a(category.title)} by its URI",
        "",
        ("application/octet-stream", _BYTES),
        service=service,
        parameters=(_VERSION,),
        success=_RANGES,
        errors=_RANGE_ERRORS,
    )


_TRANSACTION_UID = Parameter(
    name="transaction-uid",
    meaning="The Transaction UID of the claim, where the work item is claimed (11.6.1.2)",
    schema=_VALUES["UI"][0],
)
_WORKITEM_BODIES = (_JSON, "application/json", _XML, _XML_PARTS)
_WORKITEM_ERRORS = (404, 409, 413, 415)

_WORKLIST: tuple[Operation, ...] = (
    Operation(
        name="CreateWorkitem",
        method="POST",
        path="/workitems",
        title="Create a work item",
        section="11.4",
        service="Worklist",
        parameters=(Parameter(name="workitem", meaning="Its UID; without one it gets one", schema=_VALUES["UI"][0]),),
        takes=_WORKITEM_BODIES,
        success=(201,),
        errors=_WORKITEM_ERRORS[1:],
    ),
    Operation(
        name="SearchForWorkitems",
        method="GET",
        path="/workitems",
        title="Search for work items",
        section="11.9",
        service="Worklist",
        parameters=(*_PAGE, *keys_of("work_item")),
        answers=(_JSON, "application/json", _XML_PARTS),
        success=(200, 204, 206),
        errors=(406,),
    ),
    Operation(
        name="RetrieveWorkitem",
        method="GET",
        path="/workitems/{workitem}",
        title="Retrieve a work item",
        section="11.5",
        service="Worklist",
        answers=(_JSON, "application/json", _XML_PARTS),
    ),
    Operation(
        name="UpdateWorkitem",
        method="POST",
        path="/workitems/{workitem}",
        title="Set attributes of a work item",
        section="11.6",
        service="Worklist",
        parameters=(_TRANSACTION_UID,),
        takes=_WORKITEM_BODIES,
        errors=(403, *_WORKITEM_ERRORS),
    ),
    Operation(
        name="ChangeWorkitemState",
        method="PUT",
        path="/workitems/{workitem}/state",
        title="Claim a work item, complete or cancel it",
        section="11.7",
        service="Worklist",
        takes=_WORKITEM_BODIES,
        errors=_WORKITEM_ERRORS,
    ),
    Operation(
        name="RequestWorkitemCancellation",
        method="POST",
        path="/workitems/{workitem}/cancelrequest",
        title="Cancel a work item that nobody has claimed, or ask for it",
        section="11.8",
        service="Worklist",
        takes=_WORKITEM_BODIES,
        success=(202,),
        errors=_WORKITEM_ERRORS,
    ),
    Operation(
        name="SubscribeToWorkitem",
        method="POST",
        path="/workitems/{workitem}/subscribers/{ae}",
        title="Subscribe an AE to a work item; by its well-known UID to all, or to those that match a filter",
        section="11.10",
        service="Worklist",
        parameters=(
            Parameter(name="deletionlock", meaning="Keep it until the lock is released (11.10.1.2)", schema=_FLAG),
            Parameter(
                name="filter",
                meaning="Matching keys with their values, of the filtered worklist alone (11.10.1.2)",
                schema={"type": "string", "pattern": r"^(PatientID|WorklistLabel)=[A-Z]{1,8}$"},
            ),
        ),
        success=(201,),
        errors=(404,),
    ),
    Operation(
        name="UnsubscribeFromWorkitem",
        method="DELETE",
        path="/workitems/{workitem}/subscribers/{ae}",
        title="Have an AE hear no more of a work item, or of any",
        section="11.11",
        service="Worklist",
        errors=(404,),
    ),
    Operation(
        name="SuspendSubscription",
        method="POST",
        path="/workitems/{workitem}/subscribers/{ae}/suspend",
        title="Have an AE hear of no further work items",
        section="11.12",
        service="Worklist",
        errors=(404,),
    ),
)

_RESULT: Schema = {"type": "object", "patternProperties": {"^[0-9A-F]{8}$": {"type": "object"}}}

_COMMITMENT: tuple[Operation, ...] = (
    Operation(
        name="RequestStorageCommitment",
        method="POST",
        path="/commitment-requests/{transaction}",
        title="Have the archive promise that it keeps instances",
        section="13.4",
        service="Storage Commitment",
        takes=_WORKITEM_BODIES,
        answers=(_JSON, "application/json", _XML),
        success=(200, 202),
        with_body=(200,),
        errors=(406, 409, 413, 415),
        json=_RESULT,
    ),
    Operation(
        name="CheckStorageCommitment",
        method="GET",
        path="/commitment-requests/{transaction}",
        title="The result of an earlier request for storage commitment",
        section="13.5",
        service="Storage Commitment",
        answers=(_JSON, "application/json", _XML),
        success=(200, 202),
        with_body=(200,),
        json=_RESULT,
    ),
)

_PERFORMED = "/modality-performed-procedure-steps/{performed}"
_NO_ZONE = tuple(one for one in _PAGE if one.name not in ("TimezoneOffsetFromUTC", "PriorRecordKey"))

_STEPS: tuple[Operation, ...] = (
    Operation(
        name="SearchForScheduledProcedureSteps",
        method="GET",
        path="/modality-scheduled-procedure-steps",
        title="Search for what modalities are to do",
        section="14.4",
        service="Modality Scheduled Procedure Steps",
        parameters=(*_NO_ZONE, *keys_of("procedure_step")),
        answers=(_JSON, "application/json", _XML_PARTS),
        success=(200, 204),
        errors=(406,),
    ),
    Operation(
        name="CreatePerformedProcedureStep",
        method="POST",
        path=_PERFORMED,
        title="Say that a modality has begun; with update, how it goes on or has ended",
        section="15.4",
        service="Modality Performed Procedure Steps",
        parameters=(
            Parameter(name="update", meaning="It is there already, and is to be changed (15.5)", schema=_TEXT),
        ),
        takes=_WORKITEM_BODIES,
        success=(200, 201),
        errors=(404, 409, 413, 415),
    ),
    Operation(
        name="RetrievePerformedProcedureStep",
        method="GET",
        path=_PERFORMED,
        title="What a modality has done",
        section="15.6",
        service="Modality Performed Procedure Steps",
        parameters=(
            Parameter(
                name="includefield",
                meaning="The attributes that are to come, by keyword or tag, several with commas; or all (15.6.1.2)",
                schema=_TEXT,
                example="PatientName,00400252",
            ),
        ),
        answers=(_JSON, "application/json", _XML_PARTS, _XML),
        errors=(404, 406),
    ),
)

OPERATIONS: tuple[Operation, ...] = (
    *_WORKLIST,
    *_COMMITMENT,
    *_STEPS,
    _search("SearchForStudies", "/studies", "Search for studies", "study"),
    Operation(
        name="StoreInstances",
        method="POST",
        path="/studies",
        title="Store instances",
        section="10.5",
        takes=(_FILES, "application/dicom", _JSON_PARTS, _XML_PARTS),
        answers=(_JSON, "application/json", _XML),
        success=(200, 202),
        errors=(406, 409, 413, 415, 507),
    ),
    Operation(
        name="StoreStudyInstances",
        method="POST",
        path=STUDY,
        title="Store instances of one study",
        section="10.5",
        takes=(_FILES, "application/dicom", _JSON_PARTS, _XML_PARTS),
        answers=(_JSON, "application/json", _XML),
        success=(200, 202),
        errors=(406, 409, 413, 415, 507),
    ),
    _retrieve(
        "RetrieveStudy",
        STUDY,
        "Retrieve a study",
        "10.4.1.1.1",
        (_FILES, _BYTES, "application/zip"),
        parameters=(_ORIGINAL,),
        success=(200, 206, 304),
        errors=_ORIGINAL_ERRORS,
    ),
    _retrieve(
        "RetrieveSeries",
        SERIES,
        "Retrieve a series",
        "10.4.1.1.1",
        (_FILES, _BYTES, "application/zip"),
        parameters=(_ORIGINAL,),
        success=(200, 206, 304),
        errors=_ORIGINAL_ERRORS,
    ),
    _retrieve(
        "RetrieveInstance",
        INSTANCE,
        "Retrieve an instance",
        "10.4.1.1.1",
        (_FILES, "application/dicom", _BYTES, "application/zip"),
        parameters=(_VERSION, _ORIGINAL),
        success=_RANGES,
        errors=(403, *_RANGE_ERRORS),
    ),
    *(
        _retrieve(
            f"Retrieve{parent}Metadata",
            f"{path}/metadata",
            f"Retrieve the metadata of {_a(parent)}",
            "10.4.1.1.2",
            (_JSON, "application/json", _XML_PARTS, *([_XML] if parent == "Instance" else [])),
            parameters=(_VERSION, _ORIGINAL) if parent == "Instance" else (_ORIGINAL,),
            errors=_ORIGINAL_ERRORS,
        )
        for parent, path in _PARENTS[:3]
    ),
    *(
        _retrieve(
            f"Retrieve{parent}Rendered",
            f"{path}/rendered",
            f"Retrieve rendered {parent.lower()}",
            "10.4.1.1.3",
            (*_PICTURES, *(() if path == FRAMES else _DOCUMENTS), _PICTURE_PARTS),
            parameters=_LOOK,
            success=(200, 206, 304),
            errors=(404, 406, 409, 410, 413),
        )
        for parent, path in _PARENTS
    ),
    *(
        _retrieve(
            f"Retrieve{parent}Thumbnail",
            f"{path}/thumbnail",
            f"Retrieve a thumbnail of {parent.lower()}",
            "10.4.1.1.4",
            _PICTURES,
            parameters=_SMALL,
        )
        for parent, path in _PARENTS
    ),
    *(
        _retrieve(
            f"Retrieve{parent}Bulkdata",
            f"{path}/bulkdata",
            f"Retrieve all bulk data of {_a(parent)}",
            "10.4.1.1.5",
            (_BYTES,),
        )
        for parent, path in _PARENTS[:3]
    ),
    _retrieve(
        "RetrieveBulkdata",
        f"{INSTANCE}/bulkdata/{{path}}",
        "Retrieve one bulk data value by its URI",
        "10.4.1.1.5",
        ("application/octet-stream", _BYTES),
        success=_RANGES,
        errors=_RANGE_ERRORS,
        parameters=(_VERSION,),
    ),
    *(
        _retrieve(
            f"Retrieve{parent}PixelData",
            f"{path}/pixeldata",
            f"Retrieve the pixel data of {_a(parent)}",
            "10.4.1.1.7",
            (_BYTES,),
            parameters=(_VERSION,) if parent == "Instance" else (),
            success=(200, 206, 304),
        )
        for parent, path in _PARENTS[:3]
    ),
    _retrieve(
        "RetrieveFrames",
        FRAMES,
        "Retrieve frames",
        "10.4.1.1.6",
        (_BYTES, "application/octet-stream"),
        success=_RANGES,
        errors=_RANGE_ERRORS,
        parameters=(_VERSION,),
    ),
    *(
        Operation(
            name=f"Delete{parent}",
            method="DELETE",
            path=path,
            title=f"Delete {_a(parent)}; it can be restored",
            section="",
            success=(204,),
            errors=(403, 404, 409, 410, 507),
        )
        for parent, path in _PARENTS[:3]
    ),
    *(
        Operation(
            name=f"Restore{parent}",
            method="POST",
            path=f"{path}/restore",
            title=f"Restore what was deleted of {_a(parent)}",
            section="",
            parameters=(_REJECTED,),
            success=(204,),
            errors=(403, 404, 409, 410, 507),
        )
        for parent, path in _PARENTS[:3]
    ),
    _retrieve(
        "RetrieveInstanceByQuery",
        "/wado",
        "Retrieve an instance that a query names (WADO-URI)",
        "9.4, 9.5",
        (*_PICTURES, "application/dicom", *_DOCUMENTS),
        parameters=_BY_QUERY,
        has_accept=False,
        success=_RANGES,
        errors=(404, 406, 409, 410, 413, 416),
    ),
    _search("SearchForSeries", "/series", "Search for series", "series"),
    _search("SearchForInstances", "/instances", "Search for instances", "instance"),
    _search("SearchForStudySeries", f"{STUDY}/series", "Search for series of a study", "series", ("StudyInstanceUID",)),
    _search(
        "SearchForStudyInstances",
        f"{STUDY}/instances",
        "Search for instances of a study",
        "instance",
        ("StudyInstanceUID",),
    ),
    _search(
        "SearchForStudySeriesInstances",
        f"{SERIES}/instances",
        "Search for instances of a series",
        "instance",
        ("StudyInstanceUID", "SeriesInstanceUID"),
    ),
    Operation(
        name="ReadChanges",
        method="GET",
        path="/changes",
        title="Read the change feed: a page of it, or a stream of all that comes",
        section="",
        service="Changes",
        parameters=(
            Parameter(name="since", meaning="What comes after this number", schema=_COUNT, example=0),
            Parameter(
                name="limit",
                meaning="At most so many entries; not of a stream",
                schema={"type": "integer", "minimum": 1, "maximum": 1000},
                example=25,
            ),
            *_OF_EVENTS,
        ),
        answers=("application/json", "text/event-stream"),
        errors=(406,),
        json={"type": "array", "items": _ENTRY},
    ),
    Operation(
        name="ReadLatestChange",
        method="GET",
        path="/changes/latest",
        title="Read the last entry of the change feed",
        section="",
        service="Changes",
        parameters=_OF_EVENTS,
        answers=("application/json",),
        success=(200, 204),
        errors=(406,),
        json=_ENTRY,
    ),
    *(
        Operation(
            name=f"Correct{parent}",
            method="PATCH",
            path=path,
            title=f"Change what {_a(parent)} says of itself",
            section="",
            parameters=(_REASON,),
            takes=(_JSON, "application/json"),
            answers=("application/json",),
            errors=(403, 404, 406, 409, 410, 412, 413, 415, 507),
            json=_CORRECTION,
        )
        for parent, path in _PARENTS[:3]
    ),
    *(
        Operation(
            name=f"Revert{parent}",
            method="POST",
            path=f"{path}/history",
            title=f"Let an earlier version of the corrections of {_a(parent)} hold again",
            section="",
            parameters=(_THEN, _REASON),
            answers=("application/json",),
            errors=(403, 404, 406, 409, 410, 412, 507),
            json=_CORRECTION,
        )
        for parent, path in _PARENTS[:3]
    ),
    *(
        Operation(
            name=f"Retrieve{parent}History",
            method="GET",
            path=f"{path}/history",
            title=f"Retrieve the corrections of {_a(parent)}",
            section="",
            answers=("application/json",),
            success=(200, 304),
            errors=_ORIGINAL_ERRORS,
            json={"type": "array", "items": _CORRECTION},
        )
        for parent, path in _PARENTS[:3]
    ),
    *(operation for category in CATEGORIES.values() for operation in _of_category(category)),
)
