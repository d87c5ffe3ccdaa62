"""ImagingStudy: a study as FHIR shows it, made of the catalog's rows and of nothing else (FHIR R4 11.4).

It is rendered in the transaction that reads it, so that it is what DICOMweb shows at that moment, corrections included.
The versions that its history has are those with which the study settled, and the current one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import orjson
import sqlalchemy as sa

from readingroom.errors import ReadOnly
from server.fhir.session import Session
from server.fhir.shown import Shown
from server.fhir.study_source import study_source
from server.fhir.types import Kind, Resource
from storage.bodyparts import SNOMED, body_part_code
from storage.catalog import fhir_studies as kept
from storage.catalog.fhir_search import Source
from storage.catalog.fhir_studies import KeptVersion, ShownStudy
from storage.catalog.rows import header_of
from storage.fhirvalues import (
    DCM,
    Element,
    accession,
    concepts,
    first,
    items,
    local_id,
    moment,
    person_name,
    reference,
    text,
    token,
    uid_identifier,
    values,
    without_none,
)
from storage.objects import MetadataJson

_LATERALITIES = {
    "L": ("7771000", "Left"),
    "R": ("24028007", "Right"),
    "B": ("51440002", "Right and left"),
    "U": ("66459002", "Unilateral"),
}
_UNKNOWN = {"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}
_LARGEST = (1 << 31) - 1


# -- render ------------------------------------------------------------------------------------------------------------


def render(study: ShownStudy) -> bytes:
    """A study as the JSON of an ImagingStudy, without ``resourceType``, ``id`` and ``meta``."""
    row = study.row
    header = header_of(row.row, row.extra) if row.row else {}
    number = token(row.accession_number)
    identifiers = [uid_identifier(row.study_uid), *([accession(number, header)] if number else [])]
    made = without_none(
        identifier=identifiers,
        status="registered" if study.state == "deleted" else study.state,
        modality=[{"system": DCM, "code": code} for code in map(token, row.modalities.split("\\")) if code],
        subject=reference("Patient", row.patient),
        started=moment(row.study_date, row.study_time, row.timezone_offset, row.zone),
        basedOn=_based_on(study, number, header),
        referrer=_person(first(header, "00080090")),
        interpreter=[one for value in values(header, "00081060") if (one := _person(value))],
        endpoint=[reference("Endpoint", local_id(row.owner_facility))],
        procedureCode=concepts(header, "00081032") or concepts(header, "00321064"),
        reasonCode=_reasons(header),
        description=text(row.study_description),
    )
    made["numberOfSeries"], made["numberOfInstances"] = row.series_count, row.instance_count
    if study.series:
        made["series"] = [_series(one, study) for one in study.series]
    return orjson.dumps(made)


def _based_on(study: ShownStudy, number: str | None, header: MetadataJson) -> list[Element]:
    """The orders of a study; where none is known, what it would be known by."""
    if number is None:
        return []
    identifier = accession(number, header)
    orders = [{**reference("ServiceRequest", id), "identifier": identifier} for id in study.orders]
    return orders or [{"type": "ServiceRequest", "identifier": identifier}]


def _reasons(header: MetadataJson) -> list[Element]:
    coded = concepts(header, "00401012")
    said = text(first(header, "00321030"))
    return coded or ([{"text": said}] if said else [])


def _person(name: Any) -> Element | None:
    display = person_name(name)
    return {"display": display} if display else None


def _series(row: Any, study: ShownStudy) -> Element:
    header = orjson.loads(row.extra)
    found = row.body_part and body_part_code(row.body_part)
    body_site = {"system": SNOMED, "code": found[0], "display": found[1]} if found else {"display": row.body_part}
    side = _LATERALITIES.get((row.laterality or "").strip().upper())
    modality = token(row.modality)
    offset = token(first(header, "00080201")) or study.row.timezone_offset
    began = (row.series_date, row.series_time) if row.series_date else (row.performed_date, row.performed_time)
    made = without_none(
        uid=row.series_uid,
        number=_unsigned(row.series_number),
        modality={"system": DCM, "code": modality} if modality else {"extension": [_UNKNOWN]},
        description=text(row.series_description),
        bodySite=body_site if text(row.body_part) else None,
        laterality={"system": SNOMED, "code": side[0], "display": side[1]} if side else None,
        started=moment(*began, offset, study.row.zone),
        performer=_performers(header),
    )
    made["numberOfInstances"] = row.instance_count
    if row.instances:
        titled = _titled(row.instances, study.documents.get(row.id, ()))
        made["instance"] = orjson.Fragment(f"[{titled}]")
    return made


def _performers(header: MetadataJson) -> list[Element]:
    """Who performed a series: physicians (0008,1050), and those who operated (0008,1070)."""
    system = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
    made = []
    for tag, code in (("00081050", "PRF"), ("00081070", "SPRF")):
        people = filter(None, map(_person, values(header, tag)))
        made += [{"function": {"coding": [{"system": system, "code": code}]}, "actor": one} for one in people]
    return made


def _titled(instances: str, documents: Sequence[tuple[str, MetadataJson]]) -> str:
    """The instances of a series, with the titles of those that have one."""
    for uid, header in documents:
        start = instances.find(f'{{"uid":"{uid}",')
        if start >= 0 and (title := _title(header)):
            at = instances.index('"sopClass":', start)
            instances = f'{instances[:at]}"title":{orjson.dumps(title).decode()},{instances[at:]}'
    return instances


def _title(header: MetadataJson) -> str | None:
    """What a document is called: Document Title, Concept Name, or a presentation's Content Label."""
    named = next(items(header, "0040A043"), {})
    return text(first(header, "00420010")) or text(first(named, "00080104")) or text(first(header, "00700080"))


def _unsigned(number: int | None) -> int | None:
    return number if number is not None and 0 <= number <= _LARGEST else None


# -- the type ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ImagingStudyType:
    """The studies of the archive; see `server.fhir.types.ResourceType`."""

    name: str = "ImagingStudy"
    kind: Kind = "projection"
    read_only_because: str = (
        "An ImagingStudy is made from the images of a study; store, correct or delete these over DICOMweb."
    )
    takes_ids: bool = False
    kept_because: str = ""

    def condition_of(self, resource: Resource) -> str | None:
        """By its Study Instance UID."""
        identifiers = resource.get("identifier")
        for identifier in identifiers if isinstance(identifiers, list) else ():
            if isinstance(identifier, dict) and identifier.get("system") == "urn:dicom:uid" and "value" in identifier:
                return urlencode({"identifier": f"urn:dicom:uid|{identifier['value']}"})
        return None

    @property
    def sources(self) -> Sequence[Source]:
        """The studies."""
        return (study_source(),)

    def read(self, session: Session, ids: Sequence[str]) -> list[Shown]:
        """The current versions."""
        return [_shown(one) for one in kept.studies_by_fhir_id(session.connection, session.scope, ids)]

    def lock(self, session: Session, id: str) -> Shown | None:
        """The current version of one, as it is read."""
        return next(iter(self.read(session, [id])), None)

    def version(self, session: Session, id: str, version: int) -> Shown | None:
        """The current version, or one with which the study settled."""
        now = self.lock(session, id)
        if now is None or now.version == version:
            return now
        found = kept.kept_versions(session.connection, session.scope, id, version=version)
        return next(map(_then, found), None)

    def versions(
        self,
        session: Session,
        id: str | None,
        *,
        limit: int,
        until: datetime | None = None,
        since: datetime | None = None,
    ) -> list[Shown]:
        """The current version, and those with which studies settled; the newest first."""
        between: dict[str, Any] = {"until": until, "since": since}
        if id is None:
            current = kept.latest_studies(session.connection, session.scope, limit=limit, **between)
        else:
            current = kept.studies_by_fhir_id(session.connection, session.scope, [id])
        found = {(one.id, one.version): one for one in map(_shown, current)}
        for one in map(_then, kept.kept_versions(session.connection, session.scope, id, limit=limit, **between)):
            found.setdefault((one.id, one.version), one)
        inside = (
            one
            for one in found.values()
            if (until is None or one.updated_at <= until) and (since is None or one.updated_at >= since)
        )
        return sorted(inside, key=lambda one: (-one.updated_at.timestamp(), one.id, -one.version))[:limit]

    def new_id(self, session: Session, resource: Resource) -> str:
        """None is made here."""
        raise ReadOnly(self.read_only_because)

    def create(self, session: Session, resource: Resource, rest: bytes, id: str) -> Shown:
        """None is made here."""
        raise ReadOnly(self.read_only_because)

    def update(self, session: Session, before: Shown, resource: Resource, rest: bytes) -> Shown:
        """None is changed here."""
        raise ReadOnly(self.read_only_because)

    def delete(self, session: Session, before: Shown) -> Shown:
        """None is deleted here."""
        raise ReadOnly(self.read_only_because)


def keep_settled(connection: sa.Connection, study: str) -> None:
    """Keep the version with which a study has settled, by the id of its row: the history has it from then on."""
    settled = kept.study_by_id(connection, study)
    kept.keep_version(connection, settled, render(settled))


def _shown(study: ShownStudy | KeptVersion) -> Shown:
    if isinstance(study, KeptVersion):
        return _then(study)
    row = study.row
    is_deleted = study.state == "deleted"
    return Shown(
        type="ImagingStudy",
        id=row.fhir_id,
        version=row.version,
        updated_at=row.updated_at,
        rest=b"{}" if is_deleted else render(study),
        facility=row.owner_facility,
        is_deleted=is_deleted,
        method=_method(row.version, is_deleted),
    )


def _then(one: KeptVersion) -> Shown:
    return Shown(
        type="ImagingStudy",
        id=one.row.fhir_id,
        version=one.version,
        updated_at=one.updated_at,
        rest=b"{}" if one.is_deleted else one.rest,
        facility=one.row.owner_facility,
        is_deleted=one.is_deleted,
        method=_method(one.version, one.is_deleted),
    )


def _method(version: int, is_deleted: bool) -> str:
    return "DELETE" if is_deleted else "POST" if version == 1 else "PUT"
