"""The directory as FHIR: facilities are Organizations, Locations and Endpoints; readers are Practitioners.

What a file of the directory says is not for a client to change (`readingroom directory import` does); what else a
client says of a facility or a reader is kept beside it. An Organization that is no facility is kept as it was sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson
import sqlalchemy as sa

from readingroom.model import Scope
from server.fhir import endpoint
from storage.catalog import schema as t
from storage.catalog.directory import Directory, read_directory, read_reader
from storage.directory import DAYS, NUCC_RADIOLOGY, ContactEntry, ReaderEntry, Shift, zone_of
from storage.fhirvalues import NPI, Element, code_system, local_id, reference, text, without_none

CLIA = "urn:oid:2.16.840.1.113883.4.7"
NUCC = "http://nucc.org/provider-taxonomy"
ISO_3166_2 = "urn:iso:std:iso:3166:-2"

_FEW = 20
"""Readers that are read one by one; of more the whole directory is."""
_BEFORE = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS = dict(zip(DAYS, ("mon", "tue", "wed", "thu", "fri", "sat", "sun"), strict=True))
_CHANNELS = {"smtp": "email", "voice": "phone", "sms": "sms", "webhook": "url"}
_ROLE_CODES = {"hospital": "HOSP", "imaging-centre": "RADDX", "mobile": "MOBL", "clinic": "OF", "urgent-care": "OF"}


def _contacts(contacts: Sequence[ContactEntry]) -> list[Element]:
    return [{"system": _CHANNELS.get(one.channel, "other"), "value": one.address} for one in contacts]


# -- facilities --------------------------------------------------------------------------------------------------------


def _told(row: Any) -> Mapping[str, Any]:
    told: Mapping[str, Any] = orjson.loads(row.details)
    return told


def _address(row: Any) -> Element | None:
    told = _told(row)
    country, _, state = (row.state or "").partition("-")
    return without_none(
        line=list(told.get("address", ())),
        city=told.get("city"),
        state=state,
        postalCode=told.get("postal_code"),
        country=country,
    )


def _identifiers(row: Any) -> list[Element]:
    told = _told(row)
    known = ((code_system("facility"), row.id), (NPI, told.get("npi")), (CLIA, told.get("clia")))
    return [{"system": system, "value": value} for system, value in known if value]


def organization(row: Any) -> bytes:
    """A facility as the JSON of an Organization."""
    provider = {"system": "http://terminology.hl7.org/CodeSystem/organization-type", "code": "prov"}
    kind = {"system": code_system("facility-kind"), "code": row.kind} if row.kind else None
    contacts = [ContactEntry.model_validate(one) for one in _told(row).get("contacts", ())]
    made = without_none(
        identifier=_identifiers(row),
        type=[{"coding": [provider, *([kind] if kind else [])]}],
        name=text(row.name),
        address=[address] if (address := _address(row)) else None,
        partOf=reference("Organization", local_id(row.parent)) if row.parent else None,
        contact=[
            {
                "purpose": {"coding": [{"system": code_system("contact-role"), "code": one.role}]},
                "name": {"text": one.name},
                "telecom": _contacts([one]),
            }
            for one in contacts
        ],
        endpoint=[reference("Endpoint", local_id(row.id))],
    )
    return orjson.dumps({**made, "active": row.is_active})


def location(row: Any) -> bytes:
    """A facility as the JSON of a Location."""
    code = _ROLE_CODES.get(row.kind or "")
    role = {"system": "http://terminology.hl7.org/CodeSystem/v3-RoleCode", "code": code} if code else None
    kind = {"system": code_system("facility-kind"), "code": row.kind} if row.kind else None
    zone = {"url": "http://hl7.org/fhir/StructureDefinition/timezone", "valueCode": row.zone}
    made = without_none(
        extension=[zone],
        identifier=_identifiers(row),
        status="active" if row.is_active else "inactive",
        name=text(row.name),
        mode="instance",
        type=[{"coding": [one for one in (role, kind) if one]}] if kind else None,
        address=_address(row),
        managingOrganization=reference("Organization", local_id(row.id)),
        partOf=reference("Location", local_id(row.parent)) if row.parent else None,
        endpoint=[reference("Endpoint", local_id(row.id))],
    )
    return orjson.dumps(made)


# -- readers -----------------------------------------------------------------------------------------------------------


def practitioner(reader: ReaderEntry, *, is_active: bool) -> bytes:
    """A reader as the JSON of a Practitioner, with the licences as qualifications."""
    known = ((code_system("reader"), reader.id), (NPI, reader.npi))
    qualifications = [
        without_none(
            identifier=[{"system": code_system("licence"), "value": one.number}],
            code={
                "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0360", "code": "MD"}],
                "text": f"Licence to practise medicine in {one.state}",
            },
            period=_period(one),
            issuer={"identifier": {"system": ISO_3166_2, "value": one.state}, "display": one.state},
        )
        for one in reader.licences
    ]
    made = without_none(
        identifier=[{"system": system, "value": value} for system, value in known if value],
        name=[{"text": reader.name}],
        telecom=_contacts(reader.contacts),
        qualification=qualifications,
    )
    return orjson.dumps({**made, "active": is_active})


def practitioner_role(reader: ReaderEntry, facility: str, *, is_active: bool) -> bytes:
    """What a reader does for a facility, as the JSON of a PractitionerRole: privileges, specialties, and the roster."""
    there = [one for one in reader.credentials if one.facility == facility]
    granted = [one for one in there if one.status == "granted"]
    made = without_none(
        identifier=[{"system": code_system("credential"), "value": f"{reader.id} {facility}"}],
        period=_period((granted or there)[0]) if there else None,
        practitioner=reference("Practitioner", local_id(reader.id), text(reader.name)),
        organization=reference("Organization", local_id(facility)),
        code=[{"coding": [{"system": code_system("role"), "code": "radiologist", "display": "Radiologist"}]}],
        specialty=[{"coding": [_specialty(one)]} for one in reader.subspecialties],
        location=[reference("Location", local_id(facility))],
        availableTime=[_available(one) for one in reader.shifts],
        notAvailable=[_away(one, reader.zone) for one in reader.leave],
        endpoint=[reference("Endpoint", local_id(facility))],
    )
    return orjson.dumps({**made, "active": is_active and bool(granted)})


def schedule(reader: ReaderEntry, *, is_active: bool) -> bytes:
    """When a reader reads, as the JSON of a Schedule; PractitionerRole says the hours."""
    made = without_none(
        identifier=[{"system": code_system("reader"), "value": reader.id}],
        specialty=[{"coding": [_specialty(one)]} for one in reader.subspecialties],
        actor=[reference("Practitioner", local_id(reader.id), text(reader.name))],
        comment=f"By the clock of {reader.zone}",
    )
    return orjson.dumps({**made, "active": is_active})


def _period(one: Any) -> Element:
    return without_none(
        start=one.valid_from.isoformat() if one.valid_from else None,
        end=one.valid_to.isoformat() if one.valid_to else None,
    )


def _specialty(code: str) -> Element:
    if code in NUCC_RADIOLOGY:
        return {"system": NUCC, "code": code, "display": NUCC_RADIOLOGY[code]}
    return {"system": code_system("subspecialty"), "code": code}


def _available(shift: Shift) -> Element:
    days = [_DAYS[day] for day in shift.days]
    if shift.starts == shift.ends:
        return {"daysOfWeek": days, "allDay": True}
    return {
        "daysOfWeek": days,
        "availableStartTime": f"{shift.starts:%H:%M:%S}",
        "availableEndTime": f"{shift.ends:%H:%M:%S}",
    }


def _away(leave: Any, zone: str) -> Element:
    begins, ends = (one.replace(tzinfo=zone_of(zone)).isoformat() for one in (leave.first, leave.last))
    return {"description": "Leave", "during": {"start": begins, "end": ends}}


# -- the types ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One entry of the directory as a resource."""

    id: str
    version: int
    updated_at: datetime
    rest: Callable[[], bytes]
    facility: str | None = None


class Entries(Protocol):
    """Gives the entries of a scope, or those of them that have these names; `root` is that of DICOMweb."""

    def __call__(
        self, connection: sa.Connection, scope: Scope, root: str, names: Collection[str] | None = None
    ) -> Iterator[Row]: ...


def _facilities(connection: sa.Connection, scope: Scope, names: Collection[str] | None) -> Iterator[Any]:
    """The rows of the facilities in scope."""
    found = sa.select(t.facility).order_by(t.facility.c.id)
    if scope.facilities is not None:
        found = found.where(t.facility.c.id.in_(sorted(scope.facilities)))
    if names is not None:
        found = found.where(t.facility.c.id.in_(sorted(names)))
    yield from connection.execute(found)


def _readers(
    connection: sa.Connection, scope: Scope, names: Collection[str] | None
) -> Iterator[tuple[ReaderEntry, Any]]:
    """The readers, with their rows; who has privileges at a facility in scope, where that is not all of them."""
    found = sa.select(t.reader)
    if names is not None:
        found = found.where(t.reader.c.id.in_(sorted(names)))
    rows = {row.id: row for row in connection.execute(found)}
    if scope.facilities is None and names is not None and len(rows) <= _FEW:
        for id, row in rows.items():
            if (reader := read_reader(connection, id, with_inactive=True)) is not None:
                yield reader, row
        return
    if not rows:
        return
    directory = read_directory(connection, with_inactive=True)
    for reader in directory.readers.values():
        if reader.id in rows and (scope.facilities is None or _reads_for(directory, reader, scope.facilities)):
            yield reader, rows[reader.id]


def _reads_for(directory: Directory, reader: ReaderEntry, facilities: frozenset[str]) -> bool:
    named = {one.facility for one in reader.credentials}
    return any(named & {entry.id for entry in directory.chain(one)} for one in facilities)


def _of_facilities(render: Callable[[Any], bytes]) -> Entries:
    def entries(
        connection: sa.Connection, scope: Scope, root: str, names: Collection[str] | None = None
    ) -> Iterator[Row]:
        for row in _facilities(connection, scope, names):
            yield Row(
                id=local_id(row.id),
                version=row.version,
                updated_at=row.updated_at or _BEFORE,
                rest=lambda row=row: render(row),  # type: ignore[misc]
                facility=row.id,
            )

    return entries


def _of_readers(render: Callable[..., bytes]) -> Entries:
    def entries(
        connection: sa.Connection, scope: Scope, root: str, names: Collection[str] | None = None
    ) -> Iterator[Row]:
        for reader, row in _readers(connection, scope, names):
            yield Row(
                id=local_id(reader.id),
                version=row.version,
                updated_at=row.updated_at or _BEFORE,
                rest=lambda reader=reader, row=row: render(reader, is_active=row.is_active),  # type: ignore[misc]
            )

    return entries


def practitioner_roles(
    connection: sa.Connection, scope: Scope, root: str, names: Collection[str] | None = None
) -> Iterator[Row]:
    """What each reader does for each facility; of these names, such as ``ada.mercy``."""
    readers = None
    if names is not None:  # a name has dots of its own, so all ways to divide it are tried
        readers = {name[:at] for name in names for at, one in enumerate(name) if one == "."}
    for reader, row in _readers(connection, scope, readers):
        for facility in sorted({one.facility for one in reader.credentials}):
            if scope.facilities is None or facility in scope.facilities:
                yield Row(
                    id=local_id(f"{reader.id}.{facility}"),
                    version=row.version,
                    updated_at=row.updated_at or _BEFORE,
                    rest=lambda reader=reader, facility=facility, row=row: practitioner_role(  # type: ignore[misc]
                        reader, facility, is_active=row.is_active
                    ),
                    facility=facility,
                )


def endpoints(
    connection: sa.Connection, scope: Scope, root: str, names: Collection[str] | None = None
) -> Iterator[Row]:
    """Where the images of each facility are."""
    for row in _facilities(connection, scope, names):
        yield Row(
            id=local_id(row.id),
            version=row.version,
            updated_at=row.updated_at or _BEFORE,
            rest=lambda row=row: endpoint.render(  # type: ignore[misc]
                row.id, row.name, local_id(row.id), root, is_active=row.is_active
            ),
            facility=row.id,
        )


organizations = _of_facilities(organization)
locations = _of_facilities(location)
practitioners = _of_readers(practitioner)
schedules = _of_readers(schedule)
