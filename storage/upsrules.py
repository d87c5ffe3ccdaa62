"""Which attributes a Unified Procedure Step has, and what transactions ask of them: PS3.4 Table CC.2.5-3 as data.

The order of columns is the standard's: what Create asks, what Update asks, what the final states ask, and how searches
match and return it. Content Item, Referenced Instances and Storage macros are checked as far as they are named here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydicom.datadict import dictionary_VR, keyword_for_tag

from readingroom.errors import Conflict, Invalid
from storage.objects import MetadataJson

Final = Literal["COMPLETED", "CANCELED"]

PUSH = "1.2.840.10008.5.1.4.34.6.1"
"""SOP Class UID of every UPS instance (PS3.4 CC.3.1)."""

WORKLIST, FILTERED = "1.2.840.10008.5.1.4.34.5", "1.2.840.10008.5.1.4.34.5.1"
"""The well-known UIDs of the subscriptions to all, and to a part of, the work items (PS3.4 CC.3.1.2)."""

# Create and Update: 1 with a value; 2 there, maybe empty; 3 with a value if there; ? may be there, maybe empty;
# E there and empty; - not allowed; S set by this server, whatever is sent. Final: PS3.4 CC.2.5.1.1. Match: R and O are
# matched, - is not. Return: 1, 2 and C (where it is there) come unasked, 3 where it is asked for. A > is a level.
_TABLE = """
00081195   E  ?  O  -  -   Transaction UID, which is a lock and told to nobody
00080005   ?  ?  O  -  C   Specific Character Set
00080016   S  -  R  O  1   SOP Class UID
00080018   S  -  R  O  1   SOP Instance UID

00741200   1  3  R  R  1   Scheduled Procedure Step Priority
00404010   S  S  R  O  3   Scheduled Procedure Step Modification DateTime
00741204   1  3  O  R  1   Procedure Step Label
00741202   2  3  O  R  1   Worklist Label, which this server fills in
00741210   2  ?  O  -  2   Scheduled Processing Parameters Sequence
00404025   2  ?  O  R  2   Scheduled Station Name Code Sequence
00404026   2  ?  O  R  2   Scheduled Station Class Code Sequence
00404027   2  ?  O  R  2   Scheduled Station Geographic Location Code Sequence
00404034   ?  ?  O  R  C   Scheduled Human Performers Sequence
>00404009  1  1  O  R  1   Human Performer Code Sequence
>00404037  1  1  O  O  3   Human Performer's Name
>00404036  1  1  O  O  3   Human Performer's Organization
00404005   1  3  R  R  1   Scheduled Procedure Step Start DateTime
00404011   3  3  O  R  3   Expected Completion DateTime
00404008   ?  ?  O  O  3   Scheduled Procedure Step Expiration DateTime
00404018   2  3  O  R  2   Scheduled Workitem Code Sequence
00400400   2  3  O  O  3   Comments on the Scheduled Procedure Step
00404041   1  3  R  R  1   Input Readiness State
00404021   2  ?  O  O  2   Input Information Sequence
>0040E020  1  1  O  O  1   Type of Instances
>0020000D  3  3  O  O  C   Study Instance UID
>0020000E  3  3  O  O  C   Series Instance UID
0020000D   ?  ?  O  O  C   Study Instance UID of what is made
00404070   ?  ?  O  -  3   Output Destination Sequence

00100010   2  -  O  R  2   Patient's Name
00100020   ?  -  O  R  C   Patient ID
00100021   2  -  O  R  2   Issuer of Patient ID
00100024   2  -  O  O  2   Issuer of Patient ID Qualifiers Sequence
>00400032  ?  -  O  O  C   Universal Entity ID
>00400033  ?  -  O  O  C   Universal Entity ID Type
00101002   2  ?  O  O  2   Other Patient IDs Sequence
>00100020  1  1  O  O  1   Patient ID
>00100021  ?  ?  O  O  2   Issuer of Patient ID
00100030   2  -  O  R  2   Patient's Birth Date
00100040   2  -  O  R  2   Patient's Sex
00101100   ?  ?  O  -  3   Referenced Patient Photo Sequence
00102000   ?  ?  O  O  C   Medical Alerts
001021C0   ?  ?  O  O  C   Pregnancy Status
00380050   ?  ?  O  O  C   Special Needs
00380010   2  -  O  R  2   Admission ID
00380014   2  -  O  R  2   Issuer of Admission ID Sequence
>00400031  ?  -  O  O  C   Local Namespace Entity ID
>00400032  ?  -  O  O  C   Universal Entity ID
>00400033  ?  -  O  O  C   Universal Entity ID Type
00081080   2  -  O  O  2   Admitting Diagnoses Description
00081084   2  -  O  O  2   Admitting Diagnoses Code Sequence
0040A370   2  -  O  R  2   Referenced Request Sequence
>0020000D  1  -  O  O  1   Study Instance UID
>00080050  2  -  O  R  2   Accession Number
>00080051  2  -  O  R  2   Issuer of Accession Number Sequence
>>00400031 ?  -  O  O  C   Local Namespace Entity ID
>>00400032 ?  -  O  O  C   Universal Entity ID
>>00400033 ?  -  O  O  C   Universal Entity ID Type
>00402016  3  -  O  O  C   Placer Order Number / Imaging Service Request
>00400026  2  -  O  O  2   Order Placer Identifier Sequence
>00402017  3  -  O  O  C   Filler Order Number / Imaging Service Request
>00400027  2  -  O  O  2   Order Filler Identifier Sequence
>00401001  2  -  O  R  2   Requested Procedure ID
>00321060  2  -  O  O  2   Requested Procedure Description
>00321064  2  -  O  O  2   Requested Procedure Code Sequence
>00401002  ?  -  O  O  3   Reason for the Requested Procedure
>00401400  ?  -  O  O  C   Requested Procedure Comments
>00321032  ?  -  O  O  3   Requesting Physician
>00321033  3  -  O  R  3   Requesting Service
00741224   3  -  O  -  3   Replaced Procedure Step Sequence
>00081150  1  -  O  -  1   Referenced SOP Class UID
>00081155  1  -  O  -  1   Referenced SOP Instance UID

00741000   1  -  R  R  1   Procedure Step State
00741002   E  ?  X  -  3   Progress Information Sequence
>00741004  -  3  O  -  3   Procedure Step Progress
>00741006  -  3  O  -  3   Procedure Step Progress Description
>00741007  -  ?  O  -  3   Procedure Step Progress Parameters Sequence
>00741008  -  3  O  -  3   Procedure Step Communications URI Sequence
>>0074100A -  1  O  -  3   Contact URI
>>0074100C -  3  O  -  3   Contact Display Name
>00404052  -  3  X  -  3   Procedure Step Cancellation DateTime, which this server fills in
>00741238  -  3  O  -  3   Reason For Cancellation
>0074100E  -  3  X  -  3   Procedure Step Discontinuation Reason Code Sequence

00741216   E  ?  P  -  3   Unified Procedure Step Performed Procedure Sequence
>00404035  -  3  O  O  C   Actual Human Performers Sequence
>>00404009 -  3  O  O  C   Human Performer Code Sequence
>>00404037 -  3  O  O  C   Human Performer's Name
>00404028  -  ?  P  O  C   Performed Station Name Code Sequence
>00404050  -  3  P  O  C   Performed Procedure Step Start DateTime
>00400254  -  3  O  -  3   Performed Procedure Step Description
>00400280  -  3  O  -  3   Comments on the Performed Procedure Step
>00404019  -  3  P  -  3   Performed Workitem Code Sequence
>00741212  -  3  O  -  3   Performed Processing Parameters Sequence
>00404051  -  3  P  O  C   Performed Procedure Step End DateTime
>00404033  -  2  O  -  3   Output Information Sequence, which may have no items
"""

_CODE = ("00080100", "00080102", "00080104")


class Missing(Invalid):
    """An attribute has to be there."""


class Empty(Invalid):
    """An attribute has to have a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is asked of one attribute; `path` has the sequences that it is in before it."""

    path: tuple[str, ...]
    create: str
    update: str
    final: str
    match: str
    answer: str

    @property
    def named(self) -> str:
        """Keywords and tag, for people."""
        tag = self.path[-1]
        return ".".join(keyword_for_tag(int(part, 16)) for part in self.path) + f" ({tag[:4]},{tag[4:]})"


def _rules() -> Iterator[Rule]:
    above: list[str] = []
    for line in _TABLE.split("\n"):
        if not line.strip():
            continue
        name, create, update, final, match, answer, _ = line.split(None, 6)
        above = [*above[: name.count(">")], name.strip(">")]
        yield Rule(path=tuple(above), create=create, update=update, final=final, match=match, answer=answer)


RULES: Mapping[tuple[str, ...], Rule] = {rule.path: rule for rule in _rules()}
"""The table, by path."""

_INNER: Mapping[tuple[str, ...], tuple[Rule, ...]] = {
    above: tuple(rule for rule in RULES.values() if rule.path[:-1] == above)
    for above in {(), *(rule.path[:-1] for rule in RULES.values())}
}
_CODED = frozenset(path for path in RULES if keyword_for_tag(int(path[-1], 16)).endswith("CodeSequence"))

MATCHED: tuple[tuple[str, ...], ...] = tuple(
    path + inner
    for path, rule in RULES.items()
    if rule.match != "-"
    for inner in ([(tag,) for tag in _CODE] if path in _CODED else [()])
    if inner or dictionary_VR(int(path[-1], 16)) != "SQ"
)
"""The attributes that searches match; of a code sequence those of its items."""

RETURNED: frozenset[str] = frozenset(path[0] for path, rule in RULES.items() if len(path) == 1 and rule.answer in "12C")
"""What an answer to a search has unasked (PS3.18 11.9.2)."""

ALWAYS: frozenset[str] = frozenset(path[0] for path, rule in RULES.items() if len(path) == 1 and rule.answer in "12")
"""Those of them that it has even where they are empty."""

SET_HERE: Mapping[str, frozenset[str]] = {
    column: frozenset(path[0] for path, rule in RULES.items() if len(path) == 1 and getattr(rule, column) == "S")
    for column in ("create", "update")
}
"""What this server sets, whatever is sent to create or to update a work item."""


def check_created(dataset: MetadataJson) -> None:
    """Raise `Invalid` unless a data set may become a UPS (the N-CREATE column)."""
    _check(dataset, (), "create")
    if value_of(dataset, "00741000") != "SCHEDULED":
        raise Invalid("A work item is created with the Procedure Step State (0074,1000) SCHEDULED.")
    _check_terms(dataset)


def check_updated(dataset: MetadataJson) -> None:
    """Raise `Invalid` unless a data set may be set on a UPS (the N-SET column)."""
    _check(dataset, (), "update")
    _check_terms(dataset)


def check_final(dataset: MetadataJson, state: Final) -> None:
    """Raise `Conflict` unless a UPS meets the requirements of a final state (PS3.4 CC.2.5.1.1)."""
    missing = list(_missing(dataset, (), "RP" if state == "COMPLETED" else "RX"))
    if missing:
        names = ", ".join(rule.named for rule in missing[:4])
        raise Conflict(f"A work item without {names} cannot be {state} (PS3.4 CC.2.5.1.1); set it first.")


def value_of(dataset: MetadataJson, *path: str) -> Any:
    """The first value at the end of a path through the first items of sequences; None where there is none."""
    within: Any = dataset
    for tag in path[:-1]:
        within = value_of(within, tag)
        if not isinstance(within, dict):
            return None
    element = within.get(path[-1])
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


def items_of(dataset: MetadataJson, tag: str) -> list[MetadataJson]:
    """The items of a sequence."""
    element = dataset.get(tag, {})
    return [item for item in element.get("Value", ()) if isinstance(item, dict)]


def _has_value(element: Any) -> bool:
    return isinstance(element, dict) and any(value not in (None, "", {}) for value in element.get("Value", ()))


def _check(dataset: MetadataJson, above: tuple[str, ...], column: Literal["create", "update"]) -> None:
    for rule in _INNER.get(above, ()):
        asked, tag = getattr(rule, column), rule.path[-1]
        is_there, has_value = tag in dataset, _has_value(dataset.get(tag))
        if asked in "123" and (is_there or asked != "3") and not (has_value or (asked == "2" and is_there)):
            wanted = "has to be there" if asked == "2" else "has to have a value"
            broken = Empty if is_there else Missing
            raise broken(f"{rule.named} {wanted} (PS3.4 Table CC.2.5-3, {_called(column)}).")
        if asked == "E" and (has_value or not is_there):
            wrong = Invalid if is_there else Missing
            raise wrong(f"{rule.named} has to be there and empty (PS3.4 Table CC.2.5-3, {_called(column)}).")
        if asked == "-" and is_there:
            raise Invalid(f"{rule.named} cannot be set here (PS3.4 Table CC.2.5-3, {_called(column)}).")
        if rule.path in _INNER:
            for item in items_of(dataset, tag):
                _check(item, rule.path, column)


def _called(column: str) -> str:
    return "N-CREATE" if column == "create" else "N-SET"


def _missing(dataset: MetadataJson, above: tuple[str, ...], codes: str) -> Iterator[Rule]:
    for rule in _INNER[above]:
        tag = rule.path[-1]
        if rule.final in codes and not _has_value(dataset.get(tag)):
            yield rule
        elif rule.path in _INNER:
            for item in items_of(dataset, tag):
                yield from _missing(item, rule.path, codes)


_TERMS = {
    "00741200": ("HIGH", "MEDIUM", "LOW"),
    "00404041": ("READY", "INCOMPLETE", "UNAVAILABLE"),
}


def _check_terms(dataset: MetadataJson) -> None:
    for tag, terms in _TERMS.items():
        if tag in dataset and value_of(dataset, tag) not in terms:
            raise Invalid(f"{RULES[(tag,)].named} has to be one of {', '.join(terms)} (PS3.3 C.30.2).")
