"""Series as volumes: sorted, read-only, equal to what was stored, and loud about what is missing."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
import zarr
from numpy.typing import NDArray
from pydicom import uid
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import cpu, default_buffer_prototype

from readingroom.errors import NotDicom, NotFound, Refused
from storage.arrays import FrameRef
from storage.blobs import LocalBlobs
from storage.objects import ArraySpec, scan
from storage.slices import slice_order
from storage.volumes import SortedVolumeStore, open_volume, read_volume
from tests.corpus import each_file
from tests.storage.reference_pixels import difference, with_frames
from tests.storage.shards import spec_of
from tests.synthetic import ct_series, part10

NATIVE, JPEG_LS = uid.ExplicitVRLittleEndian, uid.JPEGLSLossless


class Bucket:
    """Objects in memory that have no path, as in S3."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def read_range(self, key: str, offset: int, length: int) -> bytes:
        if key not in self.objects:
            raise NotFound(f"The store has no object {key}.")
        return self.objects[key][offset : offset + length]

    def local_path(self, key: str) -> Path | None:
        return None


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path / "store")


@pytest.fixture
def truth() -> NDArray[np.int16]:
    """A volume of 12 slices of 64 x 48."""
    return np.random.default_rng(5).integers(-1024, 3072, (12, 64, 48)).astype(np.int16)


def store_slices(
    blobs: LocalBlobs, slices: NDArray[Any], encode: Callable[[NDArray[Any]], bytes], lead: int = 1000
) -> list[FrameRef]:
    """Put each slice behind `lead` other bytes in an object of its own."""
    frames = []
    for index, values in enumerate(slices):
        bitstream = encode(values)
        blobs.put(f"c.{index}.0.0", b"\xaa" * lead + bitstream, durable=False)
        frames.append(FrameRef(key=f"c.{index}.0.0", offset=lead, length=len(bitstream)))
    return frames


def raw(values: NDArray[Any]) -> bytes:
    return values.tobytes()


def jpeg_ls(values: NDArray[Any]) -> bytes:
    return bytes(imagecodecs.jpegls_encode(values.view(f"u{values.itemsize}")))


@pytest.fixture
def native(blobs: LocalBlobs, truth: NDArray[np.int16]) -> tuple[list[FrameRef], ArraySpec]:
    return store_slices(blobs, truth, raw), spec_of(NATIVE, encoding="native")


# Values and order


def test_slices_that_arrive_in_any_order_are_one_sorted_volume(blobs: LocalBlobs) -> None:
    arriving = ct_series(slices=9)
    truth = np.stack([dataset.pixel_array for dataset in arriving])
    random.Random(3).shuffle(arriving)
    scans = []
    frames = []
    for slot, dataset in enumerate(arriving):
        data = part10(dataset)
        blobs.put(f"c.{slot}.0.0", data, durable=False)
        scans.append(scan(data))
        ((offset, length),) = scans[-1].chunks
        frames.append(FrameRef(key=f"c.{slot}.0.0", offset=offset, length=length))
    order = slice_order([found.metadata for found in scans])
    assert order != sorted(order)
    spec = scans[0].spec
    assert spec is not None
    volume = open_volume(blobs, [frames[i] for i in order], spec, attributes={"slots": order})
    assert volume.shape == truth.shape
    assert volume.attrs["slots"] == order
    assert volume.metadata.dimension_names == ("frame", "row", "column")
    assert np.array_equal(volume[:], truth)
    assert np.array_equal(read_volume(blobs, [frames[i] for i in order], spec, threads=2), truth)


def test_a_part_of_a_volume_reads_only_its_own_frames(
    blobs: LocalBlobs, native: tuple[list[FrameRef], ArraySpec], truth: NDArray[np.int16]
) -> None:
    frames, spec = native
    for index in set(range(len(frames))) - {3, 4}:
        blobs.delete(frames[index].key)
    volume = open_volume(blobs, frames, spec)
    assert np.array_equal(volume[3:5, 10:20, ::7], truth[3:5, 10:20, ::7])
    assert np.array_equal(volume[4], truth[4])


@pytest.mark.parametrize("threads", [1, 2, 7, 40])
def test_reading_directly_and_through_zarr_give_the_same(
    blobs: LocalBlobs, truth: NDArray[np.int16], threads: int
) -> None:
    unsigned = (truth + 1024).astype(np.uint16)
    overlaid = unsigned | 0x8000  # a bit above Bits Stored that is none of the pixel's
    rgb = np.random.default_rng(1).integers(0, 256, (3, 64, 48, 3)).astype(np.uint8)
    planes = np.ascontiguousarray(np.moveaxis(rgb, -1, 1))
    colour: dict[str, Any] = {
        "samples": 3,
        "bits_allocated": 8,
        "bits_stored": 8,
        "signed": False,
        "photometric": "RGB",
    }
    cases: list[tuple[NDArray[Any], NDArray[Any], Callable[[NDArray[Any]], bytes], ArraySpec]] = [
        (truth, truth, raw, spec_of(NATIVE, encoding="native")),
        (truth, truth, jpeg_ls, spec_of(JPEG_LS)),
        (truth, truth.astype(">i2"), raw, spec_of(uid.ExplicitVRBigEndian, encoding="native", pixel_vr="OW")),
        (unsigned, overlaid, raw, spec_of(NATIVE, encoding="native", signed=False, bits_stored=12)),
        (truth >> 1, truth >> 1 & 0x0FFF, raw, spec_of(NATIVE, encoding="native", bits_stored=12)),
        (rgb, rgb, raw, spec_of(NATIVE, encoding="native", **colour)),
        (rgb, planes, raw, spec_of(NATIVE, encoding="native", planar_configuration=1, **colour)),
    ]
    for expected, stored, encode, spec in cases:
        frames = store_slices(blobs, stored, encode)
        direct = read_volume(blobs, frames, spec, threads=threads)
        assert direct.dtype == expected.dtype
        assert np.array_equal(direct, expected), spec
        assert np.array_equal(open_volume(blobs, frames, spec)[:], expected), spec


@each_file("label.seg.dcm", "sm_image_dots_tiled_full.dcm", "seg_image_sm_dots_tiled_full.dcm", "emri_small_RLE.dcm",
           "jpeg2000-multiframe-multifragments.dcm", "sm_image_jpegls_nobot.dcm", "examples_ybr_color.dcm")  # fmt: skip
def test_a_multi_frame_object_is_a_volume_of_its_frames(corpus: Path, entry: Any, blobs: LocalBlobs) -> None:
    data, found = with_frames(entry) or pytest.fail("no frames")
    assert found.spec is not None
    blobs.put("c.0.0.0", data, durable=False)
    frames = [FrameRef(key="c.0.0.0", offset=offset, length=length) for offset, length in found.chunks]
    dataset = pydicom.dcmread(io.BytesIO(data))
    volume = open_volume(blobs, frames, found.spec)
    assert volume.shape[0] == dataset.NumberOfFrames > 1
    assert difference(entry, dataset, np.asarray(volume[:])) == 0
    assert difference(entry, dataset, read_volume(blobs, frames, found.spec, threads=2)) == 0


def test_frames_in_a_bucket_make_a_volume_too(truth: NDArray[np.int16]) -> None:
    bucket = Bucket()
    bucket.objects = {"one": b"lead" + truth.tobytes()}  # all slices in one object
    size = truth[0].nbytes
    frames = [FrameRef(key="one", offset=4 + i * size, length=size) for i in range(len(truth))]
    spec = spec_of(NATIVE, encoding="native")
    assert np.array_equal(open_volume(bucket, frames, spec)[:], truth)
    assert np.array_equal(read_volume(bucket, frames, spec, threads=2), truth)


def test_a_volume_of_no_frames_is_empty(blobs: LocalBlobs) -> None:
    spec = spec_of(JPEG_LS)
    assert open_volume(blobs, [], spec)[:].shape == (0, 64, 48)
    assert read_volume(blobs, [], spec, threads=2).shape == (0, 64, 48)


# What is missing or broken


@pytest.mark.parametrize("encode", [raw, jpeg_ls])
def test_a_frame_that_is_gone_raises_and_never_reads_as_fill_value(
    blobs: LocalBlobs, truth: NDArray[np.int16], encode: Callable[[NDArray[Any]], bytes]
) -> None:
    frames = store_slices(blobs, truth, encode)
    spec = spec_of(NATIVE, encoding="native") if encode is raw else spec_of(JPEG_LS)
    blobs.delete(frames[5].key)
    volume = open_volume(blobs, frames, spec)
    with pytest.raises(NotFound, match=r"c\.5\.0\.0"):
        volume[:]
    with pytest.raises(NotFound, match=r"c\.5\.0\.0"):
        read_volume(blobs, frames, spec, threads=2)
    assert np.array_equal(volume[4], truth[4])


def test_a_frame_without_all_its_bytes_raises(blobs: LocalBlobs, native: tuple[list[FrameRef], ArraySpec]) -> None:
    frames, spec = native
    whole = blobs.read(frames[2].key)
    blobs.delete(frames[2].key)
    blobs.put(frames[2].key, whole[:-10], durable=False)
    with pytest.raises(NotFound, match="ends before the frame"):
        open_volume(blobs, frames, spec)[:]
    with pytest.raises(NotFound, match="ends before the frame"):
        read_volume(blobs, frames, spec, threads=2)
    short = [FrameRef(key=frames[0].key, offset=frames[0].offset, length=100)]
    with pytest.raises(NotDicom, match="cut short: 100 of 6144 bytes"):
        open_volume(blobs, short, spec)[:]
    with pytest.raises(NotDicom, match="cut short: 100 of 6144 bytes"):
        read_volume(blobs, short, spec, threads=2)


def test_a_frame_that_does_not_decode_raises(blobs: LocalBlobs, truth: NDArray[np.int16]) -> None:
    frames = store_slices(blobs, truth, lambda values: jpeg_ls(values)[:-500])
    with pytest.raises(NotDicom, match="no end of image"):
        open_volume(blobs, frames, spec_of(JPEG_LS))[:]
    with pytest.raises(NotDicom, match="no end of image"):
        read_volume(blobs, frames, spec_of(JPEG_LS), threads=2)


# Read-only


VALUE = cpu.Buffer.from_bytes(b"x")

WRITES: dict[str, Callable[[zarr.Array[Any], Any], object]] = {
    "array values": lambda array, store: array.__setitem__(0, 7),
    "array fill values": lambda array, store: array.__setitem__(0, 0),
    "attribute": lambda array, store: array.attrs.__setitem__("a", 1),
    "update_attributes": lambda array, store: array.update_attributes({"a": 1}),
    "resize": lambda array, store: array.resize((1, 64, 48)),
    "append": lambda array, store: array.append(np.zeros((1, 64, 48), np.int16)),
    "open r+": lambda array, store: zarr.open_array(store, mode="r+"),
    "open a": lambda array, store: zarr.open_array(store, mode="a"),
    "open w": lambda array, store: zarr.open_group(store, mode="w"),
    "create": lambda array, store: zarr.create_array(store, shape=(1,), dtype="i2", overwrite=True),
    "set": lambda array, store: asyncio.run(store.set("c/0/0/0", VALUE)),
    "set_if_not_exists": lambda array, store: asyncio.run(store.set_if_not_exists("c/0/0/0", VALUE)),
    "set_if_not_exists new": lambda array, store: asyncio.run(store.set_if_not_exists("new", VALUE)),
    "_set_many": lambda array, store: asyncio.run(store._set_many([("new", VALUE)])),
    "delete": lambda array, store: asyncio.run(store.delete("c/0/0/0")),
    "delete_dir": lambda array, store: asyncio.run(store.delete_dir("c")),
    "clear": lambda array, store: asyncio.run(store.clear()),
    "set_sync": lambda array, store: store.set_sync("c/0/0/0", VALUE),
    "delete_sync": lambda array, store: store.delete_sync("c/0/0/0"),
    "with_read_only": lambda array, store: store.with_read_only(False),
}


@pytest.mark.parametrize("way", WRITES)
def test_every_way_to_write_is_refused(
    way: str, blobs: LocalBlobs, native: tuple[list[FrameRef], ArraySpec], truth: NDArray[np.int16]
) -> None:
    frames, spec = native
    before = {key: blobs.read(key) for key in list(blobs.keys())}
    volume = open_volume(blobs, frames, spec)
    with pytest.raises((ValueError, Refused), match=r"read.only|does not encode"):
        WRITES[way](volume, volume.store)
    assert {key: blobs.read(key) for key in list(blobs.keys())} == before
    assert np.array_equal(volume[:], truth)


def test_the_store_says_that_it_is_read_only(blobs: LocalBlobs, native: tuple[list[FrameRef], ArraySpec]) -> None:
    store = open_volume(blobs, *native).store
    assert store.read_only
    assert store.with_read_only(True) is store
    assert not store.supports_writes
    assert not store.supports_deletes
    assert not store.supports_partial_writes


# The store as zarr sees it


def test_the_store_lists_and_measures_its_keys(blobs: LocalBlobs, native: tuple[list[FrameRef], ArraySpec]) -> None:
    frames, spec = native
    store = SortedVolumeStore(blobs, frames[:2], spec, {})

    async def collect() -> list[Any]:
        return [
            [key async for key in store.list()],
            [key async for key in store.list_prefix("c/1")],
            [key async for key in store.list_dir("")],
            [key async for key in store.list_dir("c")],
            [await store.exists(key) for key in ("zarr.json", "c/1/0/0", "c/2/0/0", "c/01/0/0", "c/1/0/1", "c/1", "x")],
            await store.getsize("c/0/0/0"),
            await store.is_empty(""),
        ]

    assert asyncio.run(collect()) == [
        ["zarr.json", "c/0/0/0", "c/1/0/0"],
        ["c/1/0/0"],
        ["zarr.json", "c"],
        ["0", "1"],
        [True, True, False, False, False, False, False],
        64 * 48 * 2,
        False,
    ]
    with pytest.raises(FileNotFoundError):
        asyncio.run(store.getsize("c/2/0/0"))
    assert store == SortedVolumeStore(blobs, list(frames[:2]), spec, {})
    assert store != SortedVolumeStore(blobs, frames[1:3], spec, {})
    assert store != SortedVolumeStore(blobs, frames[:2], spec, {"a": 1})


def test_the_store_gives_byte_ranges(
    blobs: LocalBlobs, native: tuple[list[FrameRef], ArraySpec], truth: NDArray[np.int16]
) -> None:
    frames, spec = native
    store = SortedVolumeStore(blobs, frames, spec, {})
    whole = truth[7].tobytes()
    for wanted, expected in (
        (None, whole),
        (RangeByteRequest(10, 50), whole[10:50]),
        (RangeByteRequest(len(whole) - 5, len(whole) + 99), whole[-5:]),
        (OffsetByteRequest(6000), whole[6000:]),
        (SuffixByteRequest(12), whole[-12:]),
        (SuffixByteRequest(10_000), whole),
    ):
        got = store.get_sync("c/7/0/0", byte_range=wanted)
        assert got is not None
        assert got.to_bytes() == expected
    prototype = default_buffer_prototype()
    many = asyncio.run(store.get_partial_values(prototype, [("c/7/0/0", RangeByteRequest(0, 4)), ("c/99/0/0", None)]))
    assert [part and part.to_bytes() for part in many] == [whole[:4], None]


def test_opening_a_volume_leaves_zarrs_configuration_alone(
    blobs: LocalBlobs, native: tuple[list[FrameRef], ArraySpec]
) -> None:
    before = zarr.config.get("codec_pipeline.path")
    volume = open_volume(blobs, *native)
    assert zarr.config.get("codec_pipeline.path") == before
    assert type(volume._async_array.codec_pipeline).__name__ == "FusedCodecPipeline"


# Slice order (PS3.3 C.7.6.2.1.1)


def plane(
    position: tuple[Any, ...] | None = None, direction: tuple[Any, ...] = (1, 0, 0, 0, 1, 0), number: Any = None
) -> dict[str, Any]:
    """The metadata of a slice, as far as its place goes."""
    metadata: dict[str, Any] = {}
    if position is not None:
        metadata["00200032"] = {"vr": "DS", "Value": list(position)}
        metadata["00200037"] = {"vr": "DS", "Value": list(direction)}
    if number is not None:
        metadata["00200013"] = {"vr": "IS", "Value": [number]}
    return metadata


def test_slices_are_ordered_along_the_normal_whatever_their_numbers() -> None:
    assert slice_order([plane((0, 0, z), number=n) for n, z in enumerate((30.5, -12, 7, 1e-3))]) == [1, 3, 2, 0]


def test_the_normal_is_row_direction_times_column_direction() -> None:
    sagittal = (0, 1, 0, 0, 0, -1)  # the normal points to -x
    assert slice_order([plane((x, 40, 9), sagittal) for x in (1, 3, 2)]) == [1, 2, 0]
    oblique = (0.8, 0, 0.6, 0, 1, 0)  # the normal is (-0.6, 0, 0.8)
    assert slice_order([plane((-0.6 * d, 100 * d % 7, 0.8 * d), oblique) for d in (5, -5, 0)]) == [1, 2, 0]


def test_slices_at_one_place_keep_together_and_go_by_instance_number() -> None:
    jitter = 1e-5
    phases = [plane((0, 0, 2.0 + jitter), number=4), plane((0, 0, 1.0), number=3),
              plane((0, 0, 2.0), number=2), plane((0, 0, 1.0 + jitter), number=1)]  # fmt: skip
    assert slice_order(phases) == [3, 1, 2, 0]


def test_directions_that_differ_leave_the_order_to_the_instance_number() -> None:
    tilted = (1, 0, 0, 0, 0.9998, 0.02)
    assert slice_order([plane((0, 0, 1), number=2), plane((0, 0, 2), tilted, number=1)]) == [1, 0]
    rounded = (1, 0.00001, 0, 0, 0.99999, 0)
    assert slice_order([plane((0, 0, 1), number=2), plane((0, 0, 2), rounded, number=1)]) == [0, 1]


@pytest.mark.parametrize(
    "broken",
    [
        plane(number=1),
        plane((0, 0), number=1),
        plane((0, 0, "1.5.2"), number=1),
        plane((0, 0, None), number=1),
        plane((0, 0, float("nan")), number=1),
        plane((0, 0, 9), (0, 0, 0, 0, 0, 0), number=1),
        plane((0, 0, 9), (1, 0, 0, 1, 0, 0), number=1),
        plane((0, 0, 9), (1, 0, 0), number=1),
    ],
)
def test_a_slice_without_a_place_leaves_the_order_to_the_instance_number(broken: dict[str, Any]) -> None:
    assert slice_order([plane((0, 0, 1), number=3), broken, plane((0, 0, 5), number=2)]) == [1, 2, 0]


def test_without_numbers_slices_stay_as_they_arrived() -> None:
    assert slice_order([plane(number=2), plane(), plane(number=1)]) == [0, 1, 2]
    assert slice_order([plane(number="two"), plane(number=1)]) == [0, 1]
    assert slice_order([]) == []


def test_numbers_order_what_has_no_place() -> None:
    assert slice_order([plane(number=10), plane(number=-1), plane(number="9"), plane(number=-1)]) == [1, 3, 2, 0]
