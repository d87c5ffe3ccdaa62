"""SMART scopes: what a token lets its bearer do (SMART App Launch 2.2, "Scopes for requesting FHIR Resources").

``system/Observation.rs?category=laboratory`` is to read and to search the Observations that such a search would find.
The letters are those of version 2: create, read (also versions and the history of one), update (also patch), delete,
search (also the history of a type or of all). Those of version 1 are other words for some of them: ``read`` is ``rs``,
``write`` is ``cud``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast, get_args
from urllib.parse import parse_qsl

from readingroom.errors import Refused
from readingroom.model import Actor, Scope

Context = Literal["patient", "user", "system"]
Letter = Literal["c", "r", "u", "d", "s"]
LETTERS: tuple[Letter, ...] = get_args(Letter)

_SCOPE = re.compile(
    r"(patient|user|system)/(\*|[A-Z][A-Za-z]{1,63})\.(read|write|\*|(?=[cruds])c?r?u?d?s?)(?:\?([!-~]{1,500}))?"
)
_FIRST_VERSION = {"read": "rs", "write": "cud", "*": "cruds"}
_MOST = 500

_READS = frozenset(("GET", "HEAD"))
_PERFORMED = "modality-performed-procedure-steps"
_WORK = frozenset(("workitems", "ws", "subscribers", "modality-scheduled-procedure-steps", _PERFORMED))
_DICOMWEB = re.compile(r"/dicomweb(?:/f/[^/]+)?(/.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One scope: `type` is a type of resource or ``*``, `letters` what may be done, `query` to which of them."""

    context: Context
    type: str
    letters: frozenset[Letter]
    query: str = ""

    @property
    def scope(self) -> str:
        """The scope as text, as version 2 has it."""
        letters = "".join(letter for letter in LETTERS if letter in self.letters)
        return f"{self.context}/{self.type}.{letters}" + (f"?{self.query}" if self.query else "")

    def is_within(self, other: Grant) -> bool:
        """Whether all that this lets one do, the other does."""
        return (
            self.context == other.context
            and other.type in ("*", self.type)
            and self.letters <= other.letters
            and other.query in ("", self.query)
        )

    def meet(self, other: Grant) -> Grant | None:
        """What both let one do; None where that is nothing."""
        letters = self.letters & other.letters
        types = {self.type, other.type} - {"*"}
        if self.context != other.context or not letters or len(types) > 1:
            return None
        type = types.pop() if types else "*"
        queries = dict.fromkeys(query for query in (self.query, other.query) if query)
        return Grant(context=self.context, type=type, letters=letters, query="&".join(queries))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Which resources of a type: those that `query` finds, and, with `is_of_patient`, that are about one patient."""

    query: str = ""
    is_of_patient: bool = False


def read_scope(text: str) -> Grant | None:
    """A scope as a grant; None where it is none that this server knows."""
    found = _SCOPE.fullmatch(text)
    if found is None:
        return None
    context, type, letters, query = found.groups()
    if query is not None and (type == "*" or letters in _FIRST_VERSION or not parse_qsl(query)):
        return None
    return Grant(
        context=cast(Context, context),
        type=type,
        letters=frozenset(cast(Letter, letter) for letter in _FIRST_VERSION.get(letters, letters)),
        query=query or "",
    )


@lru_cache(1024)
def read_scopes(scopes: frozenset[str]) -> tuple[Grant, ...]:
    """The grants of scopes; what is none is left out."""
    return tuple(grant for text in sorted(scopes) if (grant := read_scope(text)) is not None)


def granted(asked: Iterable[str], allowed: Iterable[str]) -> tuple[str, ...]:
    """Of the scopes that a client asks for, what it is allowed: no more of each than that, and nothing unknown."""
    wanted = [grant for text in list(asked)[:_MOST] if (grant := read_scope(text)) is not None]
    held = [grant for text in allowed if (grant := read_scope(text)) is not None]
    common = dict.fromkeys(met for one in wanted for other in held if (met := one.meet(other)) is not None)
    kept = [one for one in common if not any(one != other and one.is_within(other) for other in common)]
    return tuple(one.scope for one in kept[:_MOST])


def limits(actor: Actor, type: str, letter: Letter) -> tuple[Limit, ...]:
    """To which resources of a type an actor may do something: those of any of these; none: to no resource.

    One limit without a condition alone: to all of them that are in `Actor.scope`.
    """
    if actor.scopes is None:
        return _ALL
    found = {
        Limit(query=grant.query, is_of_patient=grant.context == "patient"): None
        for grant in read_scopes(actor.scopes)
        if grant.type in ("*", type)
        and letter in grant.letters
        and (grant.context != "patient" or actor.patient is not None)
    }
    return _ALL if _ALL[0] in found else tuple(found)


def require_dicomweb(actor: Actor, method: str, path: str, facility: str) -> None:
    """Raise `Refused` where a token does not let its bearer do this over DICOMweb.

    Images are an ImagingStudy; workitems and the steps of modalities are Tasks: to read and search either takes ``rs``
    of it, to store a first time ``c``, to change ``u``, to remove ``d``. Scopes for one patient or with a query give
    nothing here.
    """
    if actor.scopes is None:
        return
    found = _DICOMWEB.fullmatch(path)
    parts = [part for part in (found[1] or "").split("/") if part] if found else []
    if not parts or method == "OPTIONS":
        return  # what the service can do is for everybody
    type = "Task" if parts[0] in _WORK else "ImagingStudy"
    needed = _needed(method, parts)
    if any(limits(actor, type, letter) != _ALL for letter in needed):
        raise Refused(f"The token has no scope for this; it would be system/{type}.{''.join(needed)}.")
    if "c" in needed:
        require_facility(actor.scope, facility)


def require_facility(scope: Scope, facility: str) -> None:
    """Raise `Refused` where what is written would belong to a facility that its writer does not see."""
    if scope.facilities is not None and facility not in scope.facilities:
        raise Refused("Nothing may be stored for this facility; write below /f/FACILITY of one that is yours.")


def _needed(method: str, parts: Sequence[str]) -> tuple[Letter, ...]:
    if method in _READS or "subscribers" in parts:
        return "r", "s"
    if method == "DELETE":
        return ("d",)
    if parts[0] == _PERFORMED:
        return "c", "u"  # one path begins and ends it
    is_new = method == "POST" and (len(parts) == 1 or (parts[0] == "studies" and len(parts) == 2))
    return ("c",) if is_new else ("u",)


_ALL = (Limit(),)
