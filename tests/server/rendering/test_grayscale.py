"""The grayscale pipeline without a server: what formulas say, and pydicom (PS3.4 N.2.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_voi_lut

from tests.rendering import drawn, pixels

RAMP = np.arange(-1000, 3096, dtype=np.int16).reshape(64, 64)


def table(entries: Any, first: int = 0, bits: int = 16) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries), first, bits])
    item.add_new("LUTData", "OW", np.asarray(entries, "<u2").tobytes())
    return item


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning:pydicom")
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (0.5, 1.0), (-500, 1500)])
@pytest.mark.parametrize("dtype", ["int16", "int32", "float32"])
def test_a_window_is_that_of_pydicom(function: str, center: float, width: float, dtype: str) -> None:
    image = Dataset()
    image.WindowCenter, image.WindowWidth, image.VOILUTFunction = center, width, function
    image.PhotometricInterpretation, image.BitsStored, image.PixelRepresentation = "MONOCHROME2", 16, 1
    expected = apply_voi_lut(RAMP, image)
    scaled = (expected + 32768) / 65535 * 255  # pydicom maps to the range of the stored bits
    assert np.abs(pixels(drawn(RAMP.astype(dtype), image=image)) - scaled).max() <= 0.502


def test_padding_is_black_whatever_its_value_would_be() -> None:
    """PS3.3 C.7.5.1.1.2, C.7.5.1.1.3."""
    image = Dataset()
    image.PixelRepresentation = 0
    image.add_new("PixelPaddingValue", "US", 4000)
    image.add_new("PixelPaddingRangeLimit", "US", 4095)
    values = np.array([[0, 100, 4000], [200, 4095, 4050]], np.uint16)
    assert pixels(drawn(values, image=image)).tolist() == [[0, 128, 0], [255, 0, 0]]
    assert pixels(drawn(values, image=image, photometric="MONOCHROME1")).tolist() == [[255, 128, 0], [0, 0, 0]]


def test_an_inverse_presentation_is_not_inverted_twice() -> None:
    """PS3.3 C.8.11.3.1.2: INVERSE comes with MONOCHROME1, and says the same."""
    image = Dataset()
    image.PresentationLUTShape = "INVERSE"
    values = np.array([[0, 255]], np.uint8)
    assert pixels(drawn(values, image=image, photometric="MONOCHROME1")).tolist() == [[255, 0]]


def test_the_tables_of_a_presentation_state_follow_each_other() -> None:
    """PS3.4 N.2.1: Modality LUT, VOI LUT, Presentation LUT; those of the image do not count."""
    state, voi = Dataset(), Dataset()
    state.ModalityLUTSequence = [table([3, 2, 1, 0], bits=8)]
    voi.VOILUTSequence = [table([0, 100, 200, 255], bits=8)]
    state.SoftcopyVOILUTSequence = [voi]
    state.PresentationLUTSequence = [table(np.arange(255, -1, -1), bits=8)]
    image = Dataset()
    image.WindowCenter, image.WindowWidth, image.RescaleSlope, image.RescaleIntercept = 1, 2, 5, 7
    values = np.array([[0, 1], [2, 3]], np.uint8)
    assert pixels(drawn(values, image=image, state=state)).tolist() == [[0, 55], [155, 255]]


def test_what_a_presentation_state_leaves_out_is_not_there() -> None:
    """PS3.4 N.2.1: no VOI LUT means the whole range, no matter what the values are."""
    image = Dataset()
    image.WindowCenter, image.WindowWidth = 10, 20
    values = np.array([[0, 0x8000], [0xFFFF, 0x4000]], np.uint16)
    state = Dataset()
    state.ContentLabel = "PLAIN"
    assert pixels(drawn(values, image=image, state=state)).tolist() == [[0, 128], [255, 64]]
    state.PresentationLUTShape = "INVERSE"
    assert pixels(drawn(values, image=image, state=state)).tolist() == [[255, 127], [0, 191]]


def test_a_presentation_state_may_have_a_window_for_some_images_only() -> None:
    """PS3.3 C.11.8."""
    state = Dataset()
    items = []
    for uid, frames, center in (("9.9", None, 1000), ("1.2.3.4", [2], 2000), ("1.2.3.4", [1, 3], 100)):
        voi, reference = Dataset(), Dataset()
        reference.ReferencedSOPInstanceUID = uid
        if frames:
            reference.ReferencedFrameNumber = frames
        voi.ReferencedImageSequence = [reference]
        voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = center, 200, "LINEAR_EXACT"
        items.append(voi)
    state.SoftcopyVOILUTSequence = items
    values = np.array([[0, 100, 200, 2000]], np.uint16)
    assert pixels(drawn(values, state=state, number=1)).tolist() == [[0, 128, 255, 255]]
    assert pixels(drawn(values, state=state, number=2)).tolist() == [[0, 0, 0, 128]]


def test_pseudo_colors_take_the_place_of_shades() -> None:
    """PS3.4 N.2.3."""
    state = Dataset()
    state.SOPClassUID = "1.2.840.10008.5.1.4.1.1.11.3"
    for colour, shift in (("Red", 0), ("Green", 1), ("Blue", 2)):
        state.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        entries = np.roll(np.arange(256), shift) << 8
        state.add_new(f"{colour}PaletteColorLookupTableData", "OW", entries.astype("<u2").tobytes())
    values = np.array([[2, 100, 255]], np.uint8)
    assert pixels(drawn(values, state=state)).tolist() == [[[2, 1, 0], [100, 99, 98], [255, 254, 253]]]


def test_a_supplemental_palette_colors_what_it_has_colors_for() -> None:
    """PS3.3 C.7.6.19."""
    image = Dataset()
    image.PixelPresentation = "MIXED"
    for colour, entries in (("Red", [255, 0]), ("Green", [0, 255]), ("Blue", [0, 9])):
        image.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [2, 200, 8])
        image.add_new(f"{colour}PaletteColorLookupTableData", "OW", bytes(entries))
    values = np.array([[0, 128, 200, 201]], np.uint8)
    assert pixels(drawn(values, image=image)).tolist() == [[[0, 0, 0], [128, 128, 128], [255, 0, 0], [0, 255, 9]]]


def test_labels_are_shown_in_their_recommended_colors() -> None:
    """PS3.3 C.8.20: a label map's values are the numbers of its segments."""
    image = Dataset()
    image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    image.SegmentSequence = [Dataset(), Dataset()]
    image.SegmentSequence[0].SegmentNumber = 3
    image.SegmentSequence[0].RecommendedDisplayCIELabValue = [65535, 0x8080, 0x8080]
    image.SegmentSequence[1].SegmentNumber = 4
    ((ground, white, coloured, unknown),) = pixels(drawn(np.array([[0, 3, 4, 9]], np.uint8), image=image)).tolist()
    assert ground == unknown == [0, 0, 0]
    assert min(white) >= 254
    assert max(coloured) - min(coloured) > 100
