"""What a check is, how it is declared, and how it says that a server is at fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from inspect import getdoc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.dicomweb.cast import Cast
    from conformance.dicomweb.peer import Peer

AREAS = {
    "NEG": "negotiation",
    "JSON": "json",
    "XML": "xml",
    "QIDO": "search",
    "WADO": "retrieve",
    "FRAME": "frames",
    "BULK": "bulkdata",
    "REND": "rendered",
    "STOW": "store",
    "DEL": "delete",
    "CAP": "capabilities",
    "NPI": "non-patient",
    "UPS": "worklist",
    "URI": "uri",
    "HTTP": "http",
    "BAD": "bad-input",
}
"""The areas by the prefix of their checks' ids."""

_ID = re.compile(r"([A-Z]+)-\d{3}")


class Level(StrEnum):
    """How much the standard wants it: ``shall`` fails a server, ``should`` warns, ``may`` informs."""

    MUST = "MUST"
    SHOULD = "SHOULD"
    MAY = "MAY"


MUST, SHOULD, MAY = Level

Run = Callable[["Peer", "Cast"], None]


class Fault(Exception):
    """The server does not do what the section demands; the message says what it did instead."""


class NotApplicable(Exception):
    """The check has nothing to look at here; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One demand of the standard.

    Attributes
    ----------
    section
        Of PS3.18, or with the name of the document in front of it.
    title
        The demand in one line.
    note
        What else a reader needs to know about it; may be empty.
    needs
        The optional feature without which there is nothing to check, as `conformance.dicomweb.cast.Cast.offers`
        knows it; may be empty.
    """

    id: str
    section: str
    level: Level
    title: str
    note: str
    needs: str
    run: Run

    @property
    def area(self) -> str:
        """The area that it belongs to."""
        return AREAS[self.id.partition("-")[0]]

    @property
    def reference(self) -> str:
        """The section, with its document."""
        return self.section if self.section.startswith(("PS3.", "RFC")) else f"PS3.18 {self.section}"


CHECKS: dict[str, Check] = {}
"""Every check that was declared, by its id, in the order of declaration."""


def check(id: str, section: str, level: Level = MUST, *, needs: str = "") -> Callable[[Run], Run]:
    """Declare a function as a check; the first paragraph of its docstring is the demand, the rest a note."""

    def declare(run: Run) -> Run:
        found = _ID.fullmatch(id)
        if not found or found[1] not in AREAS or id in CHECKS:
            raise ValueError(f"{id} is no new id of a known area.")
        title, _, note = (getdoc(run) or "").partition("\n\n")
        if not title:
            raise ValueError(f"{id} does not say what it demands.")
        CHECKS[id] = Check(
            id=id,
            section=section,
            level=level,
            title=" ".join(title.split()).removesuffix("."),
            note=" ".join(note.split()),
            needs=needs,
            run=run,
        )
        return run

    return declare


def ensure(is_so: object, found: str) -> None:
    """Raise `Fault` with what was found, unless it is so."""
    if not is_so:
        raise Fault(found)
