"""From meaning to numbers and codes: HTTP status (PS3.18 8.5, FHIR R4 3.1.0), FHIR issue type, DICOM failure reason.

Failure reasons are those of PS3.3 C.12.1.1.3 and PS3.4 B.2.3.
"""

from __future__ import annotations

from readingroom import errors as e
from storage.catalog.commitments import Problem

HTTP: dict[type[e.ReadingRoomError], int] = {
    e.Invalid: 400,
    e.NotDicom: 400,
    e.NotThisStudy: 409,
    e.TooLarge: 413,
    e.NotAcceptable: 406,
    e.UnsupportedMedia: 415,
    e.Unprocessable: 422,
    e.NotFound: 404,
    e.Gone: 410,
    e.Conflict: 409,
    e.Changed: 412,
    e.Unconditional: 428,
    e.Refused: 403,
    e.NotAuthenticated: 401,
    e.ReadOnly: 405,
    e.Unavailable: 503,
    e.OutOfSpace: 507,
    e.Unprintable: 503,
    e.ReadingRoomError: 500,
}

ISSUE: dict[type[e.ReadingRoomError], str] = {
    e.Invalid: "invalid",
    e.TooLarge: "too-long",
    e.NotAcceptable: "not-supported",
    e.UnsupportedMedia: "not-supported",
    e.Unprocessable: "processing",
    e.NotFound: "not-found",
    e.Gone: "deleted",
    e.Conflict: "conflict",
    e.Duplicate: "duplicate",
    e.NotSelective: "multiple-matches",
    e.Refused: "forbidden",
    e.NotAuthenticated: "login",
    e.ReadOnly: "not-supported",
    e.Unavailable: "transient",
    e.OutOfSpace: "no-store",
    e.Unprintable: "not-supported",
    e.ReadingRoomError: "exception",
}
"""Codes of http://hl7.org/fhir/issue-type."""

FAILURE_REASON: dict[type[e.ReadingRoomError], int] = {
    e.NotDicom: 0xC000,  # Cannot understand
    e.NotThisStudy: 0xA900,  # Data Set does not match SOP Class (or the study it was sent to)
    e.TooLarge: 0xC000,
    e.UnsupportedMedia: 0xC122,  # Referenced Transfer Syntax not supported
    e.Duplicate: 0x0111,  # Duplicate SOP Instance
    e.Refused: 0x0124,  # Not authorized
    e.OutOfSpace: 0xA700,  # Out of resources
    e.Unavailable: 0xA700,
    e.ReadingRoomError: 0x0110,  # Processing failure
}


COMMITMENT_FAILURE: dict[Problem, int] = {
    "missing": 0x0112,  # No such object instance
    "other class": 0x0119,  # Class/Instance conflict
    "damaged": 0x0110,  # Processing failure
    "used": 0x0131,  # Duplicate transaction UID
}
"""Failure reasons of storage commitment (PS3.3 C.14.1.1)."""


HL7_ERROR: dict[type[e.ReadingRoomError], str] = {
    e.Invalid: "102",  # Data type error
    e.Unprocessable: "101",  # Required field missing
    e.UnsupportedMedia: "103",  # Table value not found: the character set
    e.Refused: "204",  # Unknown key identifier: the sender
    e.Duplicate: "205",  # Duplicate key identifier: the control id
    e.ReadingRoomError: "207",  # Application internal error
}
"""Codes of HL7 table 0357."""


def hl7_error(error: e.ReadingRoomError) -> str:
    """The code of HL7 table 0357 that an acknowledgement tells of it."""
    return next(HL7_ERROR[kind] for kind in type(error).__mro__ if kind in HL7_ERROR)


def http_status(error: e.ReadingRoomError) -> int:
    """The HTTP status for what went wrong; the nearest entry up the tree of errors."""
    return next(HTTP[kind] for kind in type(error).__mro__ if kind in HTTP)


def issue_code(error: e.ReadingRoomError) -> str:
    """The type of the issue that an OperationOutcome tells of it."""
    return next(ISSUE[kind] for kind in type(error).__mro__ if kind in ISSUE)


def failure_reason(error: e.ReadingRoomError) -> int:
    """The Failure Reason (0008,1197) for an instance that was not stored."""
    return next(FAILURE_REASON[kind] for kind in type(error).__mro__ if kind in FAILURE_REASON)
