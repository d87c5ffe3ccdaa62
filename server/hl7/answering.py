"""Acknowledgements: what a sender is told of its message (HL7 v2.5.1 2.9).

| | original mode | enhanced mode |
|---|---|---|
| it is kept | AA | CA, then AA |
| it is not, and never will be | AR | CR |
| it is not now: send it again | AE | CE |

Enhanced mode is that of a message with MSH-15 or MSH-16. They say when the one and the other are wanted: AL always, NE
never, ER where something is wrong, SU where nothing is; a field without a value means never.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from readingroom.errors import ReadingRoomError, Unavailable
from server.hl7.header import Header
from server.hl7.messages import moment
from server.status import hl7_error

_US = "READINGROOM"
_PROBLEM, _FINE = ("AL", "ER"), ("AL", "SU")


def answers(header: Header | None, error: ReadingRoomError | None, id: str, at: datetime) -> Iterator[bytes]:
    """The acknowledgements of a message, in the order in which they are sent.

    Parameters
    ----------
    header
        None: the message has none that could be read.
    error
        Why it is not kept; None: it is.
    id
        Control id of ours; a second acknowledgement has one of its own.
    """
    if header is not None and header.type == "ACK":
        return  # nobody acknowledges an acknowledgement
    code = "A" if error is None else "E" if isinstance(error, Unavailable) else "R"
    if header is None or not header.is_enhanced:
        yield _written(header, f"A{code}", error, id, at)
        return
    wanted = _FINE if error is None else _PROBLEM
    if header.accept in wanted:
        yield _written(header, f"C{code}", error, id, at)
    if error is None and header.apply in wanted:
        yield _written(header, "AA", None, f"{id}A", at)


def _written(header: Header | None, code: str, error: ReadingRoomError | None, id: str, at: datetime) -> bytes:
    f, c = (header.separator, header.encoding[0]) if header else ("|", "^")
    encoding = header.encoding if header else "^~\\&"
    signs = {*(f + encoding), "\r", "\n"}
    said = "".join(" " if one in signs else one for one in error.message) if error else ""
    version = header.version if header and header.version else "2.5.1"
    kind = f"ACK{c}{header.event}{c}ACK" if header and header.event and version >= "2.4" else "ACK"
    head = [
        "MSH",
        encoding,
        (header.receiving_application if header else "") or _US,
        header.receiving_facility if header else "",
        header.application if header else "",
        header.facility if header else "",
        moment(at),
        "",
        kind,
        id,
        (header.processing if header else "") or "P",
        version,
        *([""] * 5 + [header.character_set] if header and header.character_set else []),
    ]
    segments = [f.join(head), f.join(["MSA", code, header.control_id if header else "", said]).rstrip(f)]
    if error is not None and version >= "2.5":
        coded = c.join((hl7_error(error), "", "HL70357"))
        segments.append(f.join(["ERR", "", "", coded, "E", "", "", "", said]))
    return "".join(f"{one}\r" for one in segments).encode("latin-1", "replace")
