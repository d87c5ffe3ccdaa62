"""Data sets turned to Implicit VR, piece by piece."""

from __future__ import annotations

from io import BytesIO

import pytest
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset
from pydicom.uid import ExplicitVRLittleEndian

from readingroom.errors import NotAcceptable, NotDicom
from storage.dicomjson import DEFAULT_LIMITS
from storage.implicit import implicit
from storage.part10 import read_front
from storage.rewrite import rewrite
from tests.synthetic import new_dataset, part10


def nested() -> tuple[Dataset, bytes]:
    """A data set with values of all kinds, sequences in sequences, and its bytes as `rewrite` has them."""
    dataset = new_dataset("1.2.840.10008.5.1.4.1.1.7", transfer_syntax=ExplicitVRLittleEndian)
    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.CodeMeaning = "T-1", "Ünîcode"
    inner.LongCodeValue = "x" * 70_000
    outer.PurposeOfReferenceCodeSequence = [inner, Dataset()]
    outer.ReferencedSOPInstanceUID = "1.2.3"
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ReferencedImageSequence = [outer, Dataset()]
    dataset.ReferencedStudySequence = []
    dataset.RedPaletteColorLookupTableData = bytes(range(256))
    dataset.PixelSpacing = [0.5, 0.25]
    dataset.add_new(0x00091001, "UN", b"abcd")
    dataset.add_new(0x7FE00010, "OW", b"\1\2" * 500)
    file = b"".join(map(bytes, rewrite(part10(dataset), ExplicitVRLittleEndian)))
    return dcmread(BytesIO(file)), file[read_front(file, DEFAULT_LIMITS).data_set_at :]


@pytest.mark.parametrize("size", [1, 7, 11, 4096, 1 << 20])
def test_a_data_set_says_the_same_in_implicit_vr_wherever_it_is_cut(size: int) -> None:
    dataset, explicit = nested()
    pieces = [explicit[place : place + size] for place in range(0, len(explicit), size)]
    written = b"".join(map(bytes, implicit(pieces)))
    read = read_dataset(BytesIO(written), True, True)
    assert {element.tag: element.value for element in read.iterall()} == {
        element.tag: element.value for element in dataset.iterall()
    }
    assert len(read.ReferencedImageSequence) == 2
    assert read.ReferencedImageSequence[0].PurposeOfReferenceCodeSequence[0].LongCodeValue == "x" * 70_000


def test_what_ends_within_an_element_is_none() -> None:
    _, explicit = nested()
    for end in (-1, -1001, 3):
        with pytest.raises(NotDicom, match="within an element"):
            list(implicit([explicit[:end]]))


def test_what_is_compressed_within_has_no_form_in_implicit_vr() -> None:
    icon = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    with pytest.raises(NotAcceptable, match="compressed within"):
        list(implicit([icon]))
