"""Values of FHIR's data types made of DICOM's: codes, names, moments, references. Nothing here raises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import quote, unquote
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from storage.bodyparts import SNOMED
from storage.directory import zone_of

Element = dict[str, Any]
Header = Mapping[str, Any]
"""A data set of DICOM JSON."""

DCM = "http://dicom.nema.org/resources/ontology/DCM"
UID = "urn:dicom:uid"
URI = "urn:ietf:rfc:3986"
IDENTIFIER_TYPE = "http://terminology.hl7.org/CodeSystem/v2-0203"
NPI = "http://hl7.org/fhir/sid/us-npi"

# Designators of coding schemes (PS3.16 section 8) as FHIR names the systems.
_SYSTEMS: Mapping[str, str] = {
    "DCM": DCM,
    "SCT": SNOMED,
    "SRT": "http://snomed.info/srt",
    "LN": "http://loinc.org",
    "RADLEX": "http://www.radlex.org",
    "UCUM": "http://unitsofmeasure.org",
    "I10": "http://hl7.org/fhir/sid/icd-10",
    "I10C": "http://hl7.org/fhir/sid/icd-10-cm",
    "I10P": "http://www.cms.gov/Medicare/Coding/ICD10",
    "I9C": "http://hl7.org/fhir/sid/icd-9-cm",
    "C4": "http://www.ama-assn.org/go/cpt",
    "C5": "http://www.ama-assn.org/go/cpt",
    "FMA": "http://sig.biostr.washington.edu/projects/fm/",
    "NCIt": "http://ncicb.nci.nih.gov/xml/owl/EVS/Thesaurus.owl",
}
_NAMESPACE = UUID("5c1b8a0e-8e0f-5c3a-b7a1-2f4f7a5f9d10")
UNDERSCORE = "-.-"
_HASHED = re.compile(r"[0-9a-f]{32}", re.ASCII)
_FHIR_ID = re.compile(r"[A-Za-z0-9.-]{1,64}", re.ASCII)
_ISSUER = "urn:x-readingroom:issuer:"
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_NAME_FORMS = {"Alphabetic": "ABC", "Ideographic": "IDE", "Phonetic": "SYL"}
_GENDERS = {"M": "male", "F": "female", "O": "other"}


def text(value: Any) -> str | None:
    """A value as FHIR's string; None where nothing is left of it."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return None
    return _UNPRINTABLE.sub("", str(value)).strip() or None


def token(value: Any) -> str | None:
    """A value as FHIR's code: single blanks, and none at an end."""
    return " ".join((text(value) or "").split()) or None


def is_id(value: str) -> bool:
    """Whether that may be an id of a resource."""
    return _FHIR_ID.fullmatch(value) is not None


def designators(system: str) -> list[str]:
    """The designators of coding schemes that FHIR calls so."""
    return [scheme for scheme, known in _SYSTEMS.items() if known == system]


def system_of(scheme: str) -> str | None:
    """What FHIR calls the system of a designator, or of a URI; None where that is not known."""
    return _SYSTEMS.get(scheme) or (scheme if re.match(r"(https?://|urn:)\S+$", scheme) else None)


def designator(system: Any) -> str:
    """The designator of the coding scheme that FHIR calls so."""
    return next((scheme for scheme, known in _SYSTEMS.items() if known == system), "99FHIR")


def local_id(name: str) -> str:
    """The id of the resource that shows what this server calls `name`: an underscore is none of FHIR's characters.

    Searches say it in SQL, as ``replace(name, '_', '-.-')``.
    """
    written = name.replace("_", UNDERSCORE)
    return written if is_id(written) else uuid5(_NAMESPACE, name).hex


def name_of(id: str) -> str:
    """What `local_id` gave an id to, unless that `is_hashed`."""
    return id.replace(UNDERSCORE, "_")


def is_hashed(id: str) -> bool:
    """Whether an id may be of a name that is too long to be one."""
    return _HASHED.fullmatch(id) is not None


def without_none(**members: Any) -> Element:
    """An element of those members that there are."""
    return {name.rstrip("_"): value for name, value in members.items() if value not in (None, [], {}, "")}


# -- from DICOM JSON ---------------------------------------------------------------------------------------------------


def values(header: Header, tag: str) -> Iterator[Any]:
    """The values of an element, whatever they are."""
    element = header.get(tag)
    found = element.get("Value") if isinstance(element, Mapping) else None
    yield from found if isinstance(found, list) else ()


def first(header: Header, tag: str) -> Any:
    """The first value of an element; None where it has none."""
    return next(values(header, tag), None)


def items(header: Header, tag: str) -> Iterator[Header]:
    """The items of a sequence."""
    yield from (one for one in values(header, tag) if isinstance(one, dict))


def coding(item: Header) -> Element:
    """An item of a code sequence (PS3.3 section 8) as a Coding; empty where it has no code."""
    code = token(first(item, "00080100") or first(item, "00080119") or first(item, "00080120"))
    scheme, uid = token(first(item, "00080102")) or "", text(first(item, "0008010C"))
    if code is None:
        return {}
    system = _SYSTEMS.get(scheme) or (f"urn:oid:{uid}" if uid else None)
    return without_none(
        system=system, version=text(first(item, "00080103")), code=code, display=text(first(item, "00080104"))
    )


def concepts(header: Header, tag: str) -> list[Element]:
    """A code sequence as a list of CodeableConcept."""
    made = []
    for item in items(header, tag):
        concept = without_none(coding=[one] if (one := coding(item)) else None, text=text(first(item, "00080104")))
        if concept:
            made.append(concept)
    return made


def human_names(header: Header, tag: str) -> list[Element]:
    """A name of a person in each form that it has; the form is told where there are several (PS3.5 6.2.1)."""
    name = first(header, tag)
    forms = [(form, text(name.get(form))) for form in _NAME_FORMS] if isinstance(name, Mapping) else []
    made = [(form, _human_name(written)) for form, written in forms if written]
    if len(made) > 1:
        url = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"
        return [{"extension": [{"url": url, "valueCode": _NAME_FORMS[form]}], **one} for form, one in made if one]
    return [one for _, one in made if one]


def _human_name(written: str) -> Element:
    parts = [text(part) for part in written.split("^")]
    family, given, middle, prefix, suffix = (parts + [None] * 5)[:5]
    order = [prefix, given, middle, family, suffix]
    return without_none(
        text=" ".join(part for part in order if part),
        family=family,
        given=[one for part in (given, middle) if part for one in part.split()],
        prefix=[prefix] if prefix else None,
        suffix=[suffix] if suffix else None,
    )


def person_name(value: Any) -> str | None:
    """A name of a person as one reads it."""
    written = text(value.get("Alphabetic") or value.get("Ideographic")) if isinstance(value, Mapping) else None
    return _human_name(written).get("text") if written else None


def gender(sex: str | None) -> str | None:
    """Patient's Sex (0010,0040) as administrative gender."""
    return _GENDERS.get((sex or "").strip().upper())


# -- moments -----------------------------------------------------------------------------------------------------------


def day(written: str | None) -> str | None:
    """``YYYYMMDD``, a day of the calendar, as FHIR's date."""
    return f"{written[:4]}-{written[4:6]}-{written[6:]}" if written else None


def moment(date: str | None, time: str | None, offset: str | None, zone: str) -> str | None:
    """A date and a time as columns of the catalog have them, as FHIR's dateTime; the date alone without a time.

    Parameters
    ----------
    offset
        Timezone Offset From UTC (0008,0201); without it the clock is that of `zone`.
    """
    if not date or not time:
        return day(date)
    fraction = time[7:].rstrip("0")
    seconds = min(int(time[4:6]), 59)  # FHIR knows no leap second that JSON clients read
    at = f"{day(date)}T{time[:2]}:{time[2:4]}:{seconds:02}{'.' + fraction if fraction else ''}"
    if offset:
        return f"{at}{offset[:3]}:{offset[3:]}"
    try:
        known: ZoneInfo | timezone = zone_of(zone)
        span = datetime.fromisoformat(f"{day(date)}T{time[:2]}:{time[2:4]}:{seconds:02}").replace(tzinfo=known)
        shift = span.utcoffset() or timedelta()
    except (ValueError, OverflowError):
        shift = timedelta()
    minutes = int(shift.total_seconds() // 60)
    sign = "-" if minutes < 0 else "+"
    return f"{at}{sign}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


# -- identifiers, references -------------------------------------------------------------------------------------------


def uid_identifier(uid: str) -> Element:
    """A DICOM UID as an identifier."""
    return {"system": UID, "value": f"urn:oid:{uid}"}


def typed_identifier(code: str, value: str, **more: Any) -> Element:
    """An identifier of a type of HL7 table 0203."""
    kind = {"coding": [{"system": IDENTIFIER_TYPE, "code": code}]}
    return {"type": kind, **without_none(**more), "value": value}


def issuer_system(issuer: str) -> str:
    """The system of the identifiers that an issuer gives: its OID or URI, else a URN of its name."""
    if re.fullmatch(r"[012](\.(0|[1-9]\d*))+", issuer):
        return f"urn:oid:{issuer}"
    if re.match(r"(https?://|urn:)\S+$", issuer):
        return issuer
    return f"{_ISSUER}{quote(issuer, safe='')}"


def issuer_of(system: str) -> str | None:
    """The issuer that `issuer_system` would write so; None for a URN that it would not."""
    if system.startswith(_ISSUER):
        return unquote(system.removeprefix(_ISSUER))
    if system.startswith("urn:oid:"):
        return system.removeprefix("urn:oid:")
    return system or None


def accession(number: str, header: Header | None = None) -> Element:
    """An accession number as an identifier, with who has issued it (PS3.3 C.7.2.1)."""
    issuer = next(items(header or {}, "00080051"), {})
    namespace, universal = text(first(issuer, "00400031")), text(first(issuer, "00400032"))
    system = issuer_system(universal) if universal and first(issuer, "00400033") in ("ISO", "URI") else None
    assigner = {"display": namespace} if namespace else None
    return typed_identifier("ACSN", number, system=system, assigner=assigner)


def reference(type: str, id: str, display: str | None = None) -> Element:
    """A reference to a resource of this server."""
    return without_none(reference=f"{type}/{id}", display=display)


OURS = "https://readingroom.example/fhir"
"""Before the canonical addresses of what this server defines itself."""


def code_system(name: str) -> str:
    """The address of a code system of ours."""
    return f"{OURS}/CodeSystem/{name}"


def profile(name: str) -> str:
    """The address of a StructureDefinition of ours: a profile or an extension."""
    return f"{OURS}/StructureDefinition/{name}"


def instant_of(at: datetime | None) -> str | None:
    """A time as FHIR's dateTime in UTC."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if at else None
