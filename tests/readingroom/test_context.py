"""What a plugin sees of a study."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from readingroom.context import Context, Dataset, SharedVolume, new_volume
from readingroom.errors import Refused
from readingroom.model import Series

SERIES = Series(series_uid="1.2.3", modality="CT")


class Kept:
    """An archive of one series in memory."""

    def __init__(self, array: np.ndarray[Any, Any], frames: Sequence[tuple[str, int]], datasets: list[Dataset]) -> None:
        self.array = array
        self.frames = frames
        self.datasets = datasets
        self.asked = 0

    def volume(self, series_uid: str) -> SharedVolume:
        self.asked += 1
        volume, target = new_volume(self.array.shape, self.array.dtype.str, self.frames)
        target[...] = self.array
        return volume

    def instances(self, series_uid: str) -> Sequence[Dataset]:
        return self.datasets


def slice_of(uid: str, z: float, intercept: float) -> Dataset:
    return {
        "00080018": {"vr": "UI", "Value": [uid]},
        "00200032": {"vr": "DS", "Value": [0, 0, z]},
        "00280030": {"vr": "DS", "Value": [0.5, 0.7]},
        "00281052": {"vr": "DS", "Value": [intercept]},
        "00281053": {"vr": "DS", "Value": [2]},
    }


@pytest.fixture
def stack() -> Kept:
    array = np.arange(3 * 2 * 4, dtype="<i2").reshape(3, 2, 4)
    datasets = [slice_of("a", 0, -1000), slice_of("b", 2.5, -1000), slice_of("c", 5, 0)]
    return Kept(array, [("a", 1), ("b", 1), ("c", 1)], datasets)


def test_a_volume_is_what_was_shared_and_nobody_writes_to_it(stack: Kept) -> None:
    context = Context(plugin="p", archive=stack)
    volume = context.pixels.volume(SERIES)
    assert np.array_equal(volume, stack.array)
    with pytest.raises(ValueError, match="read-only"):
        volume[0, 0, 0] = 1
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        volume.flags.writeable = True


def test_a_volume_is_fetched_once_in_a_call_and_its_file_is_closed(stack: Kept) -> None:
    before = len(os.listdir("/proc/self/fd"))
    context = Context(plugin="p", archive=stack)
    assert context.pixels.volume(SERIES) is context.pixels.volume(SERIES.series_uid)
    assert stack.asked == 1
    del context
    assert len(os.listdir("/proc/self/fd")) == before


def test_values_are_rescaled_frame_by_frame(stack: Kept) -> None:
    values = Context(plugin="p", archive=stack).pixels.values(SERIES)
    assert values.dtype == np.float32
    assert np.array_equal(values[0], stack.array[0] * 2.0 - 1000)
    assert np.array_equal(values[2], stack.array[2] * 2.0)


def test_a_layout_tells_where_each_frame_lies(stack: Kept) -> None:
    layout = Context(plugin="p", archive=stack).pixels.layout(SERIES)
    assert layout.spacing_mm == (2.5, 0.5, 0.7)
    assert [(frame.instance_uid, frame.number, frame.position_mm) for frame in layout.frames] == [
        ("a", 1, (0, 0, 0)),
        ("b", 1, (0, 0, 2.5)),
        ("c", 1, (0, 0, 5)),
    ]


def test_a_layout_reads_the_functional_groups_of_an_enhanced_image() -> None:
    def group(macro: str, **elements: list[float]) -> Dataset:
        return {
            macro: {"vr": "SQ", "Value": [{tag[1:]: {"vr": "DS", "Value": value} for tag, value in elements.items()}]}
        }

    enhanced = {
        "00080018": {"vr": "UI", "Value": ["e"]},
        "52009229": {"vr": "SQ", "Value": [group("00289110", t00280030=[1, 1])]},
        "52009230": {
            "vr": "SQ",
            "Value": [
                group("00209113", t00200032=[0, 0, z]) | group("00289145", t00281052=[z], t00281053=[1]) for z in (0, 3)
            ],
        },
    }
    kept = Kept(np.zeros((2, 2, 2), "u1"), [("e", 1), ("e", 2)], [enhanced])
    layout = Context(plugin="p", archive=kept).pixels.layout(SERIES)
    assert layout.spacing_mm == (3, 1, 1)
    assert [frame.intercept for frame in layout.frames] == [0, 3]


def test_frames_without_positions_have_no_spacing() -> None:
    kept = Kept(np.zeros((2, 2, 2), "u1"), [("a", 1), ("a", 2)], [{"00080018": {"vr": "UI", "Value": ["a"]}}])
    layout = Context(plugin="p", archive=kept).pixels.layout(SERIES)
    assert layout.spacing_mm is None
    assert layout.frames[1].position_mm is None
    assert (layout.frames[1].slope, layout.frames[1].intercept) == (1, 0)


def test_a_hook_without_a_study_has_neither_pixels_nor_metadata() -> None:
    context = Context(plugin="p")
    with pytest.raises(Refused, match="no pixels"):
        context.pixels.volume("1.2")
    with pytest.raises(Refused, match="no metadata"):
        context.metadata.instances("1.2")
