"""Instances that belong to no patient, one of each category, made in code."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pydicom
from pydicom import FileDataset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ColorPaletteStorage,
    CTDefinedProcedureProtocolStorage,
    ExplicitVRLittleEndian,
    GenericImplantTemplateStorage,
    HangingProtocolStorage,
    InventoryStorage,
    ProtocolApprovalStorage,
)

from tests.synthetic import new_uid

LARGE = "00091010"
"""Where each of them has a value that is too long to stand in its JSON."""


def _new(sop_class: str, attributes: dict[str, Any]) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(new_uid())
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(io.BytesIO(), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.add_new(0x00090010, "LO", "MADE IN CODE")
    dataset.add_new(0x00091010, "OB", b"large value " * 500)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def item(**attributes: Any) -> Dataset:
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def color_palette(**attributes: Any) -> FileDataset:
    """PS3.3 A.58."""
    dataset = _new(ColorPaletteStorage, {"ContentLabel": "HOT_IRON", "ContentDescription": "Hot iron"} | attributes)
    dataset.ContentCreatorName = "Painter^Paula"
    for colour in ("Red", "Green", "Blue"):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(dataset, f"{colour}PaletteColorLookupTableData", bytes(range(256)))
    return dataset


def hanging_protocol(**attributes: Any) -> FileDataset:
    """PS3.3 A.44: for CT of the left knee, and MR of the right."""
    definitions = [
        item(Modality="CT", Laterality="L", AnatomicRegionSequence=[code("72696002", "SCT", "Knee")]),
        item(Modality="MR", Laterality="R", AnatomicRegionSequence=[code("72696002", "SCT", "Knee")]),
    ]
    given = {
        "HangingProtocolName": "Knees",
        "HangingProtocolDescription": "Both knees",
        "HangingProtocolLevel": "SITE",
        "HangingProtocolCreator": "Hanger",
        "HangingProtocolCreationDateTime": "20260102101500",
        "HangingProtocolDefinitionSequence": definitions,
        "NumberOfPriorsReferenced": 1,
        "NumberOfScreens": 2,
    }
    return _new(HangingProtocolStorage, given | attributes)


def procedure_protocol(**attributes: Any) -> FileDataset:
    """PS3.3 A.82.1."""
    given = {
        "InstanceCreationDate": "20260102",
        "InstanceCreationTime": "101500",
        "ProtocolName": "Low dose chest",
        "EquipmentModality": "CT",
        "ContentCreatorName": "Müller^Jürgen",
        "SpecificCharacterSet": "ISO_IR 192",
        "PotentialScheduledProtocolCodeSequence": [code("P1", "99LOCAL", "Low dose")],
        "ModelSpecificationSequence": [item(Manufacturer="Maker", ManufacturerModelName="Scanner 1")],
    }
    return _new(CTDefinedProcedureProtocolStorage, given | attributes)


def implant_template(**attributes: Any) -> FileDataset:
    """PS3.3 A.61."""
    given = {
        "Manufacturer": "Maker of hips",
        "ImplantName": "Hip",
        "ImplantPartNumber": "H-1",
        "ImplantSize": "XL",
        "EffectiveDateTime": "20260102101500+0100",
        "MaterialsCodeSequence": [code("261249004", "SCT", "Titanium")],
    }
    return _new(GenericImplantTemplateStorage, given | attributes)


def inventory(**attributes: Any) -> FileDataset:
    """PS3.3 A.88, of an archive without studies."""
    given = {
        "ContentDate": "20260102",
        "ContentTime": "235900",
        "InventoryPurpose": "Migration",
        "InventoryLevel": "STUDY",
        "ScopeOfInventorySequence": [],
        "InventoryCompletionStatus": "COMPLETE",
        "TotalNumberOfStudyRecords": 0,
        "InventoriedStudiesSequence": [],
    }
    return _new(InventoryStorage, given | attributes)


def protocol_approval(**attributes: Any) -> FileDataset:
    """PS3.3 A.82.3."""
    asserter = item(PersonName="Approver^Ada", InstitutionName="Made in code")
    approval = item(
        AssertionCodeSequence=[code("128603", "DCM", "Approved for use in clinical care")],
        AsserterIdentificationSequence=[asserter],
        AssertionDateTime="20260102101500",
    )
    subject = item(ReferencedSOPClassUID=CTDefinedProcedureProtocolStorage, ReferencedSOPInstanceUID="1.2.3.4")
    given = {
        "InstanceCreationDate": "20260102",
        "InstanceCreationTime": "101500",
        "ApprovalSequence": [approval],
        "ApprovalSubjectSequence": [subject],
    }
    return _new(ProtocolApprovalStorage, given | attributes)


MADE: dict[str, Callable[..., FileDataset]] = {
    "color-palettes": color_palette,
    "defined-procedure-protocols": procedure_protocol,
    "hanging-protocols": hanging_protocol,
    "implant-templates": implant_template,
    "inventories": inventory,
    "protocol-approvals": protocol_approval,
}
"""How one of each category is made."""


def read(content: bytes) -> FileDataset:
    return pydicom.dcmread(io.BytesIO(content))
