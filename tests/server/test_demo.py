"""The demo studies: a CT whose every pixel is known, and real images that are there without a network."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from server import demo


def slice_of(number: int, slices: int = demo.SLICES) -> Dataset:
    return dcmread(BytesIO(demo.made_slice(number, slices)))


def test_the_made_ct_is_one_series_in_order_from_skull_base_to_vertex() -> None:
    images = [dcmread(BytesIO(content), stop_before_pixels=True) for content in demo.made_ct(12)]
    assert [image.InstanceNumber for image in images] == list(range(1, 13))
    assert len({image.SOPInstanceUID for image in images}) == 12
    assert len({(image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID) for image in images}) == 1
    positions = np.array([image.ImagePositionPatient for image in images], float)
    assert np.allclose(np.diff(positions, axis=0), (0, 0, images[0].SliceThickness))
    assert all(uid.startswith("2.25.") for uid in (images[0].SOPInstanceUID, images[0].StudyInstanceUID))


def test_the_same_slice_is_the_same_bytes_on_every_call() -> None:
    assert demo.made_slice(7) == demo.made_slice(7)


def test_another_count_of_slices_is_another_study() -> None:
    assert slice_of(1, 20).StudyInstanceUID != slice_of(1, 21).StudyInstanceUID


def test_the_header_is_as_full_as_a_scanner_s() -> None:
    image = slice_of(1)
    assert len(image) > 100
    assert (image.Rows, image.Columns, image.BitsAllocated) == (512, 512, 16)
    assert image.PixelData is not None
    assert len(image.PixelData) == 512 * 512 * 2


@pytest.mark.parametrize("number", [1, 100, 200])
def test_rods_and_number_stand_in_every_slice_at_their_density(number: int) -> None:
    image = slice_of(number)
    hounsfield = image.pixel_array.astype(int) * int(image.RescaleSlope) + int(image.RescaleIntercept)
    for rod in demo.RODS:
        disc = hounsfield[rod.row - 8 : rod.row + 9, rod.column - 8 : rod.column + 9]
        assert (disc == rod.hounsfield).all()
    shown = [
        hounsfield[
            demo.NUMBER_TOP : demo.NUMBER_TOP + 5 * demo.DIGIT_CELL : demo.DIGIT_CELL,
            left : left + 3 * demo.DIGIT_CELL : demo.DIGIT_CELL,
        ]
        == demo.DIGIT_HU
        for left in range(demo.NUMBER_LEFT, demo.NUMBER_LEFT + 12 * demo.DIGIT_CELL, 4 * demo.DIGIT_CELL)
    ]
    known = [np.array([[mark == "#" for mark in line] for line in digit]) for digit in demo.DIGITS]
    read = [next(digit for digit, pattern in enumerate(known) if (pattern == seen).all()) for seen in shown]
    assert "".join(map(str, read)) == f"{number:03}"


def test_the_middle_of_the_head_shows_brain_in_bone_in_air() -> None:
    hounsfield = demo.slice_hounsfield(100, demo.LOWEST_MM + 99 * 0.75)
    assert hounsfield[256, 5] == demo.AIR_HU
    bone = hounsfield[256, 88:92]
    assert bone.mean() > 400
    white_matter = hounsfield[320:340, 170:190]
    assert 25 < white_matter.mean() < 29
    assert 1 < white_matter.std() < 8


def test_demo_objects_are_named_counted_and_made_only_when_read() -> None:
    objects = demo.demo_objects()
    assert len(objects) == demo.SLICES + len(demo.demo_files())
    assert len({item.name for item in objects}) == len(objects)
    assert objects[41].read() == demo.made_slice(42)


def test_the_real_files_are_there_without_a_network_and_no_two_are_one_instance() -> None:
    headers = [dcmread(path, stop_before_pixels=True) for path in demo.demo_files()]
    assert len(headers) == len(demo.REAL_FILES)
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)
    assert {header.Modality for header in headers} >= {"CT", "MR", "CR", "US", "NM", "ECG", "SR", "OT"}
