"""Endpoint: where the images of a facility are, over DICOMweb (FHIR R4 8.8)."""

from __future__ import annotations

import orjson

from storage.fhirvalues import DCM, reference, text, without_none


def render(id: str, name: str, organization: str, address: str, *, is_active: bool) -> bytes:
    """The DICOMweb service of a facility as the JSON of an Endpoint.

    Parameters
    ----------
    id
        Of the facility, as the path of its service has it.
    organization
        The id of its Organization.
    address
        The root of the whole service, or already that of the facility.
    """
    root = address if address.endswith(f"/f/{id}") else f"{address}/f/{id}"
    made = without_none(
        status="active" if is_active else "off",
        connectionType={
            "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
            "code": "dicom-wado-rs",
            "display": "DICOM WADO-RS",
        },
        name=text(name),
        managingOrganization=reference("Organization", organization),
        payloadType=[
            {
                "coding": [{"system": DCM, "code": "113014", "display": "DICOM Study"}],
                "text": "DICOM studies",
            }
        ],
        payloadMimeType=["application/dicom", "application/dicom+json"],
        address=root,
    )
    return orjson.dumps(made)
