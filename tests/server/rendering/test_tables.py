"""Lookup tables, against pydicom's reading of the same data sets (PS3.3 C.7.9, C.11)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut

from readingroom.errors import NotAcceptable
from server.rendering.item import Item
from server.rendering.tables import palette_of, table_of
from tests.rendering import item_of
from tests.synthetic import new_dataset

COLOURS = ("Red", "Green", "Blue")


def little_endian() -> FileDataset:
    """A data set whose byte order pydicom knows."""
    dataset = new_dataset("1.2.840.10008.5.1.4.1.1.7")
    dataset.PixelRepresentation = 0
    return dataset


def palette(entries: int, first: int, bits: int, **data: list[int]) -> Dataset:
    dataset = little_endian()
    for colour in COLOURS:
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [entries, first, bits])
        for name, words in data.items():
            keyword = f"{'Segmented' if name == 'segments' else ''}{colour}PaletteColorLookupTableData"
            dataset.add_new(keyword, "OW", np.array(words, "<u2" if bits > 8 else "u1").tobytes())
    return dataset


SEGMENTS = [
    [0, 3, 10, 20, 30, 1, 5, 100],
    [0, 1, 7, 1, 4, 7, 0, 3, 9, 8, 65535],
    [0, 2, 100, 0, 1, 3, 300, 2, 1, 0, 0, 0, 1, 9],
    [0, 1, 1000, 1, 6, 0, 2, 2, 0, 0],
]


@pytest.mark.parametrize(("segments", "count"), list(zip(SEGMENTS, [8, 8, 8, 14], strict=True)))
def test_segments_expand_as_pydicom_expands_them(segments: list[int], count: int) -> None:
    """PS3.3 C.7.9.2: discrete, linear and indirect."""
    dataset = palette(count, 0, 16, segments=segments)
    expected = apply_color_lut(np.arange(count, dtype=np.uint16).reshape(1, -1), dataset)[0, :, 0]
    red, _, _ = palette_of(item_of(dataset))
    assert red.entries.tolist() == expected.tolist()


def test_segments_of_eight_bits_have_offsets_of_four_bytes() -> None:
    dataset = palette(6, 0, 8, segments=[0, 2, 5, 6, 2, 1, 0, 0, 0, 0, 1, 2, 9, 0])
    red, _, _ = palette_of(item_of(dataset))
    assert red.entries.tolist() == [5, 6, 5, 6, 8, 9]


@pytest.mark.parametrize(
    ("segments", "why"),
    [
        ([1, 4, 7], "nothing to start from"),
        ([0, 0], "is empty"),
        ([0, 4, 1, 2, 3, 4], "makes 4 of 8"),
        ([3, 4, 1], "kind 3"),
        ([0, 1, 5, 1, 7], "ends within a segment"),
        ([0, 1, 5, 2, 1, 3, 0], "kind 2"),
        ([0, 1, 5, 2, 60000, 0, 1], "makes 1 of 8"),
    ],
)
def test_broken_segments_are_refused(segments: list[int], why: str) -> None:
    with pytest.raises(NotAcceptable, match=why):
        palette_of(item_of(palette(8, 0, 16, segments=segments)))


def test_segments_that_go_round_in_circles_end_with_the_table() -> None:
    """Each segment makes an entry at least, so the descriptor bounds the work."""
    red, _, _ = palette_of(item_of(palette(65535, 0, 16, segments=[0, 1, 5, *[2, 1, 0, 0] * 100_000])))
    assert len(red.entries) == 65535


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_are_read_as_pydicom_reads_them(bits: int) -> None:
    values = np.array([[0, 3, 4, 5, 7, 200]], np.uint16)
    dataset = palette(4, 4, bits, table=[9, 100, 200, 250])
    expected = apply_color_lut(values, dataset)[..., 1]
    _, green, _ = palette_of(item_of(dataset))
    assert green(values).tolist() == expected.tolist()


def modality(descriptor: list[int], data: Any, vr: str = "US") -> tuple[Dataset, Item]:
    dataset, item = little_endian(), Dataset()
    dataset.PixelRepresentation = 1
    item.add_new("LUTDescriptor", "US" if descriptor[1] >= 0 else "SS", descriptor)
    item.add_new("LUTData", vr, data)
    item.ModalityLUTType = "US"
    dataset.ModalityLUTSequence = [item]
    found = item_of(dataset).item("ModalityLUTSequence")
    assert found is not None
    return dataset, found


@pytest.mark.parametrize("first", [0, -3, 100])
@pytest.mark.parametrize("vr", ["US", "OW"])
def test_a_modality_table_is_applied_as_pydicom_applies_it(first: int, vr: str) -> None:
    values = np.array([-100, -3, -1, 0, 2, 100, 102, 5000], np.int16)
    entries = np.array([40, 30, 20, 65535], "<u2")
    dataset, item = modality([4, first, 16], entries.tolist() if vr == "US" else entries.tobytes(), vr)
    assert table_of(item)(values).tolist() == apply_modality_lut(values, dataset).tolist()


def test_no_entries_means_all_that_16_bits_count() -> None:
    """PS3.3 C.11.1.1: 65,536 is written as 0."""
    _, item = modality([0, 0, 16], np.arange(65536, dtype="<u2").tobytes(), "OW")
    assert table_of(item)(np.array([0, 1, 65535, 70000])).tolist() == [0, 1, 65535, 65535]


@pytest.mark.parametrize(
    ("descriptor", "why"), [([4, 0, 7], "8 to 16"), ([5, 0, 16], "4 of 5"), ([4, 0], "three numbers")]
)
def test_a_broken_table_is_refused(descriptor: list[int], why: str) -> None:
    _, item = modality(descriptor, [1, 2, 3, 4])
    with pytest.raises(NotAcceptable, match=why):
        table_of(item)
