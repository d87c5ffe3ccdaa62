"""The DICOMDIR of a file-set (PS3.10 8, PS3.3 F)."""

from __future__ import annotations

import io
from dataclasses import replace

import pydicom
import pytest
from pydicom.fileset import _FOUR_LEVEL_SOP_CLASSES

from storage.dicomjson import MetadataJson
from storage.fileset import _CONDITIONAL, _KEYS, Member, dicomdir, directory_keys, record_type


def member(number: int, study: str = "1.2", series: str = "1.2.3", **keys: MetadataJson) -> Member:
    metadata: MetadataJson = {
        "0020000D": {"vr": "UI", "Value": [study]},
        "0020000E": {"vr": "UI", "Value": [series]},
        "00200013": {"vr": "IS", "Value": [number]},
    }
    return Member(
        file_id=("DICOM", f"IM{number:06}"),
        kind="IMAGE",
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        instance_uid=f"1.2.3.{number}",
        transfer_syntax="1.2.840.10008.1.2.1",
        keys=directory_keys("IMAGE", metadata | keys),
    )


def tree_of(data: bytes) -> list[tuple[str, list[object]]]:
    """The records as their offsets chain them: type, and those below."""
    directory = pydicom.dcmread(io.BytesIO(data))
    by_offset = {record.seq_item_tell: record for record in directory.DirectoryRecordSequence}

    def level(at: int) -> list[tuple[str, list[object]]]:
        found: list[tuple[str, list[object]]] = []
        while at:
            record = by_offset.pop(at)
            found.append((record.DirectoryRecordType, [*level(record.OffsetOfReferencedLowerLevelDirectoryEntity)]))
            last, at = at, record.OffsetOfTheNextDirectoryRecord
            if record.DirectoryRecordType == "PATIENT" and not at:
                assert directory.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity == last
        return found

    tree = level(directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity)
    assert not by_offset, "every record is reached once"
    return tree


def test_records_are_chained_by_their_places_in_the_file() -> None:
    data = dicomdir([member(1), member(2), member(3, series="1.2.4"), member(4, study="1.9")], "2.25.1", "SET")
    images: list[object] = [("IMAGE", [])]
    assert tree_of(data) == [
        ("PATIENT", [("STUDY", [("SERIES", images * 2), ("SERIES", images)])]),
        ("PATIENT", [("STUDY", [("SERIES", images)])]),
    ]
    assert pydicom.dcmread(io.BytesIO(data)).FileSetID == "SET"


def test_members_of_a_series_need_not_follow_each_other() -> None:
    data = dicomdir([member(1), member(2, series="1.2.4"), member(3)], "2.25.1")
    (patient,) = tree_of(data)
    assert str(patient).count("SERIES") == 2


def test_an_empty_file_set_has_an_empty_directory() -> None:
    assert tree_of(dicomdir([], "2.25.1")) == []


def test_text_that_its_character_set_does_not_have_is_told_in_utf_8() -> None:
    name = {"vr": "PN", "Value": [{"Alphabetic": "Yamada^Tarou", "Ideographic": "山田^太郎"}]}
    directory = pydicom.dcmread(io.BytesIO(dicomdir([member(1, **{"00100010": name})], "2.25.1")))
    record = directory.DirectoryRecordSequence[0]
    assert record.SpecificCharacterSet == "ISO_IR 192"
    assert record.PatientName.ideographic == "山田^太郎"


def test_a_directory_holds_little_of_large_objects() -> None:
    content = [
        {"0040A010": {"vr": "CS", "Value": [kind]}, "0040A160": {"vr": "UT", "Value": ["text"]}}
        for kind in ("CONTAINS", "HAS CONCEPT MOD")
    ]
    metadata: MetadataJson = {
        "0040A730": {"vr": "SQ", "Value": content},
        "00081115": {"vr": "SQ", "Value": [{"00281201": {"vr": "OW", "BulkDataURI": "there"}}]},
        "7FE00010": {"vr": "OW", "BulkDataURI": "there"},
    }
    assert directory_keys("SR DOCUMENT", metadata) == {"0040A730": {"vr": "SQ", "Value": content[1:]}}
    assert directory_keys("PRESENTATION", metadata) == {"00081115": {"vr": "SQ", "Value": [{}]}}


@pytest.mark.parametrize(("sop_class", "kind"), sorted(_FOUR_LEVEL_SOP_CLASSES.items()))
def test_classes_have_the_records_that_pydicom_gives_them(sop_class: str, kind: str) -> None:
    assert record_type(sop_class) == kind


@pytest.mark.parametrize("kind", sorted(_KEYS))
def test_what_an_instance_lacks_is_empty_in_its_record(kind: str) -> None:
    lacking = replace(member(1), kind=kind)
    record = pydicom.dcmread(io.BytesIO(dicomdir([lacking], "2.25.1"))).DirectoryRecordSequence[-1]
    assert record.DirectoryRecordType == kind
    for key in set(_KEYS[kind]) - _CONDITIONAL:
        assert pydicom.datadict.dictionary_VR(int(key, 16)) == record[int(key, 16)].VR
    assert not any(int(key, 16) in record for key in _CONDITIONAL)
