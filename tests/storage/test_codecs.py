"""The codec and the decoders behind it, over the corpus, over made frames, and against hostile ones."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import imagecodecs
import numcodecs
import numpy as np
import pydicom
import pytest
import tensorstore
import zarr
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.pixels import get_decoder, pixel_array

from readingroom.errors import Invalid, NotAcceptable, NotDicom, ReadingRoomError, Refused, TooLarge
from storage.codecs import DicomFrame, DicomFrameV2
from storage.objects import ArraySpec, frame_payload
from storage.pixels import MAX_DECODED_BYTES, decode_chunk, decode_frame, decoded_photometric
from tests.corpus import Entry, each_file, entries
from tests.storage.reference_pixels import difference, digest, with_frames
from tests.storage.shards import spec_of, write_array

J2K, HTJ2K, JPEG_LS, JPEG, JPEG_LOSSLESS, JPEG_XL = (
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.110",
)

ROUNDED = {
    "sc/fo-dicom__VL5_J2KI.dcm": "JPEG 2000's irreversible colour transform: OpenJPEG's builds round it differently"
}
"""Files whose values differ from pydicom's by 1 at most, and why."""

UNDECODABLE = {
    "sc/healthcare-dicom-dicomwe__example3.dcm": "is no JPEG",  # its pixel data is text
    "sc/pydicom__JPEG2000-embedded-sequence-delimiter.dcm": "claims 14540801 tiles",  # pydicom's own broken example
}
"""Files in which neither pydicom's decoders nor ours read a frame, and what ours say."""

WITHOUT_FRAMES = {
    "mr/fo-dicom__GH626.dcm": "cut short before its pixel data ends",
    "mr/pydicom__MR_truncated.dcm": "cut short within its pixel data",
    "non-part10/pydicom__no_meta.dcm": "no preamble and no transfer syntax",
    "other/pydicom__meta_missing_tsyntax.dcm": "no transfer syntax",
    "other/pydicom__nested_priv_SQ.dcm": "two bytes of pixel data and no rows",
    "rt/pydicom__badVR.dcm": "Number of Frames is '1A'",
    "unreadable/fo-dicom__GH177_D_CLUNIE_CT1_IVRLE_BigEndian_undefined_length.dcm": "a length that ends nowhere",
}
"""Files with pixel data from which neither pydicom nor we get a frame."""


@pytest.fixture(autouse=True)
def _pydicom_warns_elsewhere() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture
def ramp() -> NDArray[np.int16]:
    """Signed 16-bit values of 64 x 48."""
    return np.random.default_rng(7).integers(-1024, 3072, (64, 48)).astype(np.int16)


# The corpus


@each_file()
def test_a_frame_of_the_corpus_decodes_to_the_values_that_pydicom_gives(corpus: Path, entry: Entry) -> None:
    readable = with_frames(entry)
    if readable is None:
        with pytest.raises((ValueError, AttributeError, OSError)):  # nor has pydicom any
            pixel_array(pydicom.dcmread(entry.path, force=True), raw=True)
        return
    data, found = readable
    assert found.spec is not None
    chunks = [data[offset : offset + length] for offset, length in found.chunks]
    if entry.name in UNDECODABLE:
        with pytest.raises(NotDicom, match=UNDECODABLE[entry.name]):
            decode_chunk(chunks[0], found.spec)
        return
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    values = np.concatenate([decode_chunk(chunk, found.spec) for chunk in chunks])
    assert difference(entry, dataset, values) == (1 if entry.name in ROUNDED else 0)
    last = frame_payload(found.spec, bytes(chunks[-1]), found.spec.frames - 1)  # as WADO-RS sends it
    assert np.array_equal(decode_frame(last, found.spec), values[-1])


@each_file("JPEG-Baseline_YBR422.dcm", "YBRFull.dcm", "example.dcm", "eb_cr.dcm", "US1_J2KR.dcm", "VL5_J2KI.dcm",
           "SC_rgb_jpeg.dcm", "SC_ybr_full_422_uncompressed.dcm", "SC_rgb_rle.dcm", "color-pl.dcm")  # fmt: skip
def test_the_colours_of_a_decoded_frame_are_those_that_pydicom_tells(corpus: Path, entry: Entry) -> None:
    data, found = with_frames(entry) or pytest.fail("no frames")
    assert found.spec is not None
    offset, length = found.chunks[0]
    dataset = pydicom.dcmread(io.BytesIO(data))
    _, told = get_decoder(dataset.file_meta.TransferSyntaxUID).as_array(dataset, index=0, raw=True)
    expected = str(told["photometric_interpretation"]).removesuffix("_422")
    frame = frame_payload(found.spec, data[offset : offset + length], 0)
    assert decoded_photometric(frame, found.spec) == expected


@each_file()
def test_an_object_of_the_corpus_is_a_zarr_array_with_pydicoms_values(
    corpus: Path, entry: Entry, tmp_path: Path
) -> None:
    data, found = with_frames(entry) or (b"", None)
    if found is None:
        assert entry.name in WITHOUT_FRAMES or b"\xe0\x7f\x10\x00" not in entry.read()
        return
    write_array(tmp_path / "a0", [data])
    array = zarr.open_array(tmp_path / "a0", mode="r")
    if entry.name in UNDECODABLE:
        with pytest.raises(NotDicom, match=UNDECODABLE[entry.name]):
            array[:]
        return
    assert difference(entry, pydicom.dcmread(io.BytesIO(data), force=True), array[:]) == (entry.name in ROUNDED)


def native_arrays(folder: Path) -> Iterator[tuple[Path, Entry, bytes]]:
    """Write every corpus file that zarr reads with its own codecs alone."""
    for number, entry in enumerate(entries()):
        data, found = with_frames(entry) or (b"", None)
        if (
            found is not None
            and found.spec is not None
            and "dicom_frame" not in json.dumps(found.spec.zarr_json(1, {}))
        ):
            write_array(folder / str(number), [data])
            yield folder / str(number), entry, data


def test_plain_zarr_python_reads_native_arrays_without_this_package(corpus: Path, tmp_path: Path) -> None:
    expected = {str(path): digest(zarr.open_array(path, mode="r")[:]) for path, *_ in native_arrays(tmp_path)}
    reader = """
        import hashlib, json, sys
        sys.modules |= dict.fromkeys(["readingroom", "storage", "server"])  # importing them would fail
        import zarr
        for path in json.load(sys.stdin):
            values = zarr.open_array(path, mode="r")[:]
            print(hashlib.sha256(values.astype(values.dtype.newbyteorder("<")).tobytes()).hexdigest())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(reader)],
        input=json.dumps(list(expected)),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout.split() == [sha256 for _, _, sha256 in expected.values()]
    assert len(expected) > 100


def test_tensorstore_reads_native_arrays_as_pydicom_does(corpus: Path, tmp_path: Path) -> None:
    count = 0
    for path, entry, data in native_arrays(tmp_path):
        store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
        values = tensorstore.open(store, read=True).result().read().result()
        assert difference(entry, pydicom.dcmread(io.BytesIO(data), force=True), values) == 0, entry.name
        count += 1
    assert count > 100


# Frames made here: what the corpus lacks


def test_every_lossless_syntax_gives_back_what_was_encoded(ramp: NDArray[np.int16]) -> None:
    unsigned = (ramp + 1024).astype(np.uint16)
    cases = {
        uid.JPEG2000Lossless: (imagecodecs.jpeg2k_encode(ramp, reversible=True, codecformat="j2k"), ramp),
        uid.JPEG2000: (imagecodecs.jpeg2k_encode(ramp, reversible=True, codecformat="jp2"), ramp),
        uid.HTJ2KLossless: (imagecodecs.htj2k_encode(ramp, reversible=True), ramp),
        uid.HTJ2KLosslessRPCL: (imagecodecs.htj2k_encode(ramp, reversible=True, prog_order="RPCL", tlm=True), ramp),
        uid.HTJ2K: (imagecodecs.htj2k_encode(unsigned, reversible=True), unsigned),
        uid.JPEGLSLossless: (imagecodecs.jpegls_encode(ramp.view(np.uint16)), ramp),
        uid.JPEGLosslessSV1: (imagecodecs.jpeg8_encode(unsigned, lossless=True, bitspersample=16), unsigned),
        uid.RLELossless: (rle(ramp), ramp),
        "1.2.840.10008.1.2.4.110": (imagecodecs.jpegxl_encode(unsigned, lossless=True), unsigned),
        "1.2.840.10008.1.2.1.98": (ramp.tobytes(), ramp),
        "1.2.840.10008.1.2.8.1": (zlib.compress(ramp.tobytes(), wbits=-15), ramp),
    }
    for syntax, (bitstream, values) in cases.items():
        spec = spec_of(syntax, signed=values.dtype.kind == "i")
        decoded = decode_frame(bitstream + b"\0" * (len(bitstream) % 2), spec)
        assert decoded.dtype == values.dtype, syntax
        assert np.array_equal(decoded, values), syntax


def test_progressive_jpeg_decodes() -> None:
    grey = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    bitstream = io.BytesIO()
    Image.fromarray(grey).save(bitstream, "JPEG", quality=95, progressive=True)
    spec = spec_of("1.2.840.10008.1.2.4.55", bits_allocated=8, bits_stored=8, signed=False)
    decoded = decode_frame(bitstream.getvalue(), spec)
    assert np.abs(decoded.astype(int) - grey).max() <= 3


def test_colour_comes_samples_last_from_every_layout() -> None:
    rgb = np.random.default_rng(1).integers(0, 65536, (64, 48, 3)).astype(np.uint16)
    planes = np.moveaxis(rgb, -1, 0)
    colour: dict[str, Any] = {"samples": 3, "signed": False, "photometric": "RGB"}
    cases = [
        (rgb.tobytes(), spec_of(uid.ExplicitVRLittleEndian, encoding="native", **colour)),
        (planes.tobytes(), spec_of(uid.ExplicitVRLittleEndian, encoding="native", planar_configuration=1, **colour)),
        (planes.astype(">u2").tobytes(),
         spec_of(uid.ExplicitVRBigEndian, encoding="native", planar_configuration=1, pixel_vr="OW", **colour)),
        (rle(rgb), spec_of(uid.RLELossless, **colour)),
        (imagecodecs.jpegls_encode(rgb), spec_of(JPEG_LS, planar_configuration=1, **colour)),
        (imagecodecs.htj2k_encode(rgb, reversible=True), spec_of(HTJ2K, **colour)),
    ]  # fmt: skip
    for chunk, spec in cases:
        assert np.array_equal(decode_chunk(chunk, spec)[0], rgb), spec


def test_bits_above_bits_stored_are_cleared_or_filled_with_the_sign() -> None:
    words = np.array([[0xF001, 0x0FFF, 0x0800, 0x07FF]], np.uint16)
    shape: dict[str, Any] = {"rows": 1, "columns": 4, "bits_stored": 12, "encoding": "native"}
    signed = spec_of(uid.ImplicitVRLittleEndian, **shape)
    unsigned = spec_of(uid.ImplicitVRLittleEndian, **shape | {"signed": False})
    buffer = bytearray(words.tobytes())
    assert decode_frame(buffer, signed).tolist() == [[1, -1, -2048, 2047]]
    assert decode_frame(buffer, unsigned).tolist() == [[1, 4095, 2048, 2047]]
    assert buffer == words.tobytes()  # what was lent is not written to


def test_float_pixel_data_decodes() -> None:
    for element, vr, dtype in (("7FE00008", "OF", np.float32), ("7FE00009", "OD", np.float64)):
        values = np.linspace(-1, 1, 64 * 48, dtype=dtype).reshape(64, 48)
        bits = values.itemsize * 8
        spec = spec_of(
            uid.ExplicitVRLittleEndian,
            encoding="native",
            pixel_element=element,
            pixel_vr=vr,
            bits_allocated=bits,
            bits_stored=bits,
            signed=False,
        )
        assert np.array_equal(decode_frame(values.tobytes(), spec), values)
        codec = DicomFrame.from_dict({"name": "dicom_frame", "configuration": spec.codec_configuration()})
        assert np.array_equal(codec.encoding.decode(values.tobytes(), (1, 64, 48))[0], values)


def test_a_frame_in_fragments_decodes_from_the_chunk_that_spans_its_items(ramp: NDArray[np.int16]) -> None:
    bitstream = imagecodecs.jpegls_encode(ramp.view(np.uint16))
    pieces = (bitstream[:100], bitstream[100:1002], bitstream[1002:] + b"\0" * (len(bitstream) % 2))
    chunk = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(piece)) + piece for piece in pieces)
    spec = spec_of(JPEG_LS, framing="items")
    assert np.array_equal(decode_chunk(chunk, spec)[0], ramp)
    assert np.array_equal(decode_frame(bitstream, spec), ramp)


def test_an_rle_segment_may_run_past_the_last_pixel_but_not_far() -> None:
    spec = spec_of(uid.RLELossless, rows=1, columns=128, bits_allocated=8, bits_stored=8, signed=False)

    def frame(runs: int) -> bytes:
        return struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x05" * runs

    for runs in (1, 2):
        assert decode_frame(frame(runs), spec).tolist() == [[5] * 128]
    for runs in (0, 3):
        with pytest.raises(NotDicom):
            decode_frame(frame(runs), spec)


def test_the_codestreams_word_on_colour_is_believed_over_the_data_sets() -> None:
    rgb = np.full((64, 48, 3), (200, 30, 60), np.uint8)
    jfif = io.BytesIO()
    Image.fromarray(rgb).save(jfif, "JPEG", quality=95, subsampling=0)
    spec = spec_of(JPEG, bits_allocated=8, bits_stored=8, signed=False, samples=3, photometric="RGB")
    assert decoded_photometric(jfif.getvalue(), spec) == "YBR_FULL"
    luma = decode_frame(jfif.getvalue(), spec)[0, 0, 0]
    assert abs(int(luma) - (0.299 * 200 + 0.587 * 30 + 0.114 * 60)) < 2


# Hostile frames


def jpeg_claiming(sof: int, rows: int, columns: int) -> bytes:
    return b"\xff\xd8" + struct.pack(">BBHBHHB3B", 0xFF, sof, 11, 8, rows, columns, 1, 1, 0x11, 0) + b"\xff\xd9"


def j2k_claiming(rows: int, columns: int) -> bytes:
    small = imagecodecs.jpeg2k_encode(np.zeros((8, 8), np.uint8), reversible=True, codecformat="j2k")
    size = struct.pack(">II", columns, rows)
    return small[:8] + size + small[16:24] + size + small[32:]


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "JPEG 2000": (J2K, lambda: j2k_claiming(60_000, 60_000)),
    "HTJ2K": (HTJ2K, lambda: j2k_claiming(60_000, 60_000)),
    "JPEG": (JPEG, lambda: jpeg_claiming(0xC0, 60_000, 60_000)),
    "JPEG lossless": (JPEG_LOSSLESS, lambda: jpeg_claiming(0xC3, 60_000, 60_000)),
    "JPEG-LS": (JPEG_LS, lambda: jpeg_claiming(0xF7, 60_000, 60_000)),
    "JPEG XL": (JPEG_XL, lambda: b"\xff\x0a" + (0b11 << 1 | (60_000 - 1) << 3 | 1 << 33).to_bytes(12, "little")),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_tiny_codestream_that_claims_a_huge_image_is_refused_unread(kind: str) -> None:
    syntax, make = HOSTILE[kind]
    claim = r"the codestream is 60000x60000x1, the data set says 64x48x1"
    with pytest.raises(NotDicom, match=claim):
        decode_frame(make(), spec_of(syntax, bits_allocated=8, bits_stored=8, signed=False))
    with pytest.raises(TooLarge, match="3600000000 bytes is past the limit of"):
        decode_frame(
            make(), spec_of(syntax, rows=60_000, columns=60_000, bits_allocated=8, bits_stored=8, signed=False)
        )


def test_a_codestream_of_more_tiles_than_bytes_is_refused() -> None:
    small = imagecodecs.jpeg2k_encode(np.zeros((64, 48), np.uint8), reversible=True, codecformat="j2k")
    with pytest.raises(NotDicom, match="3072 tiles, more than"):
        decode_frame(small[:24] + struct.pack(">II", 1, 1) + small[32:], spec_of(J2K, bits_allocated=8, bits_stored=8))


def test_hostile_frames_cost_no_memory(tmp_path: Path) -> None:
    """All of them in a process that may have 1.5 GiB of address space, of which little is touched."""
    frames = [(syntax, make().hex()) for syntax, make in HOSTILE.values()]
    frames.append((uid.RLELossless, (struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x05" * 4_000_000).hex()))
    frames.append(("1.2.840.10008.1.2.8.1", zlib.compress(bytes(1 << 28), 9, wbits=-15).hex()))
    decoder = """
        import json, resource, sys
        from readingroom.errors import ReadingRoomError
        from storage.pixels import decode_frame
        from tests.storage.shards import spec_of
        frames = json.load(sys.stdin)
        resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for syntax, bitstream in frames:
            for size in (64, 16_000):
                try:
                    decode_frame(bytes.fromhex(bitstream), spec_of(
                        syntax, rows=size, columns=size, bits_allocated=8, bits_stored=8, signed=False))
                    print("decoded", syntax, size)
                except ReadingRoomError as error:
                    print(type(error).__name__)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(decoder)],
        input=json.dumps(frames),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    *answers, grown_kib = done.stdout.splitlines()
    # A deflated frame is inflated no further than the data set says, so the small image is there and all of it black.
    assert answers == ["NotDicom"] * 14 + ["decoded 1.2.840.10008.1.2.8.1 64", "decoded 1.2.840.10008.1.2.8.1 16000"]
    assert int(grown_kib) < 700_000


@pytest.fixture
def frames_of_each_kind(ramp: NDArray[np.int16]) -> list[tuple[bytes, ArraySpec]]:
    grey = (ramp >> 4).astype(np.uint8)
    unsigned = (ramp + 1024).astype(np.uint16)
    byte: dict[str, Any] = {"bits_allocated": 8, "bits_stored": 8, "signed": False}
    return [
        (imagecodecs.jpeg2k_encode(ramp, reversible=True, codecformat="j2k"), spec_of(J2K)),
        (imagecodecs.jpeg2k_encode(ramp, reversible=True, codecformat="jp2"), spec_of(J2K)),
        (imagecodecs.htj2k_encode(ramp, reversible=True), spec_of(HTJ2K)),
        (imagecodecs.jpegls_encode(ramp.view(np.uint16)), spec_of(JPEG_LS)),
        (imagecodecs.jpeg8_encode(unsigned, lossless=True, bitspersample=16), spec_of(JPEG_LOSSLESS, signed=False)),
        (imagecodecs.jpeg8_encode(grey, level=95), spec_of(JPEG, **byte)),
        (imagecodecs.jpegxl_encode(grey, lossless=True), spec_of(JPEG_XL, **byte)),
        (rle(ramp), spec_of(uid.RLELossless)),
        (zlib.compress(ramp.tobytes(), wbits=-15), spec_of("1.2.840.10008.1.2.8.1")),
        (ramp.tobytes(), spec_of(uid.ExplicitVRLittleEndian, encoding="native")),
    ]


def test_a_frame_that_is_cut_short_is_refused(frames_of_each_kind: list[tuple[bytes, ArraySpec]]) -> None:
    for bitstream, spec in frames_of_each_kind:
        assert decode_frame(bitstream, spec).shape == (64, 48)
        for length in (0, 1, 2, 3, 10, 50, len(bitstream) // 2, len(bitstream) - 200):
            with pytest.raises(NotDicom):
                decode_frame(bitstream[:length], spec)


def test_garbage_gives_values_of_the_right_shape_or_a_clean_error(
    frames_of_each_kind: list[tuple[bytes, ArraySpec]],
) -> None:
    rng = np.random.default_rng(11)
    for bitstream, spec in frames_of_each_kind:
        hurt = [rng.bytes(int(rng.integers(1, 2000))) for _ in range(20)]
        for _ in range(60):
            flipped = bytearray(bitstream)
            for at in rng.integers(0, min(len(bitstream), int(rng.choice([100, 5000]))), 4):
                flipped[at] = rng.integers(0, 256)
            hurt.append(bytes(flipped))
        for frame in hurt:
            with contextlib.suppress(ReadingRoomError):
                decoded = decode_frame(frame, spec)
                assert decoded.shape == (64, 48)
                assert decoded.dtype == spec.dtype


def test_a_decoder_that_panics_is_a_broken_frame(monkeypatch: pytest.MonkeyPatch, ramp: NDArray[np.int16]) -> None:
    class PanicException(BaseException):
        """What pyo3 raises."""

    def panic(*_: object, **__: object) -> bytes:
        raise PanicException("called `Option::unwrap()` on a `None` value\nwith a backtrace")

    monkeypatch.setattr(imagecodecs, "packbits_decode", panic)
    with pytest.raises(NotDicom, match="no valid RLE Lossless: called `Option::unwrap"):
        decode_frame(rle(ramp), spec_of(uid.RLELossless))


def test_a_video_has_no_frames_to_decode() -> None:
    with pytest.raises(NotAcceptable, match=r"1\.2\.840\.10008\.1\.2\.4\.102"):
        decode_frame(b"", spec_of("1.2.840.10008.1.2.4.102"))
    assert MAX_DECODED_BYTES == 1 << 28


# The codec


def configuration(**changes: Any) -> dict[str, Any]:
    return spec_of(JPEG_LS).codec_configuration() | changes


def test_both_codecs_are_found_by_their_entry_points() -> None:
    (v3,) = entry_points(group="zarr.codecs", name="dicom_frame")
    assert v3.load() is DicomFrame
    codec = numcodecs.get_codec({"id": "dicom_frame", "rows": 64, "columns": 48, **configuration()})
    assert isinstance(codec, DicomFrameV2)
    assert numcodecs.get_codec(codec.get_config()).get_config() == codec.get_config()


def test_the_codecs_configuration_survives_zarr_json() -> None:
    said = {"name": "dicom_frame", "configuration": configuration()}
    codec = DicomFrame.from_dict(json.loads(json.dumps(said)))
    assert codec.to_dict() == said
    assert set(configuration()) == {
        "transfer_syntax_uid",
        "photometric_interpretation",
        "bits_allocated",
        "bits_stored",
        "pixel_representation",
        "planar_configuration",
        "pixel_vr",
        "framing",
    }


@pytest.mark.parametrize(
    "wrong", [{"quality": 90}, {"bits_stored": "16"}, {"framing": "frames"}, {"bits_allocated": 12}, {"pixel_vr": None}]
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match=next(iter(wrong))):
        DicomFrame.from_dict({"name": "dicom_frame", "configuration": configuration(**wrong)})


def test_a_missing_key_of_the_configuration_is_refused() -> None:
    said = configuration()
    del said["pixel_vr"]
    with pytest.raises(Invalid, match="pixel_vr"):
        DicomFrame.from_dict({"name": "dicom_frame", "configuration": said})


def array_json(spec: ArraySpec, **changes: Any) -> dict[str, Any]:
    return spec.zarr_json(1, {}) | changes


def test_an_array_of_another_type_than_its_frames_is_refused(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text(json.dumps(array_json(spec_of(JPEG_LS), data_type="uint16")))
    with pytest.raises(Invalid, match="hold int16, the array says uint16"):
        zarr.open_array(tmp_path, mode="r")[:]


def test_nothing_can_be_encoded(tmp_path: Path, ramp: NDArray[np.int16]) -> None:
    codec = {"name": "dicom_frame", "configuration": configuration()}
    (tmp_path / "zarr.json").write_text(json.dumps(array_json(spec_of(JPEG_LS), codecs=[codec])))
    array = zarr.open_array(tmp_path, mode="r+")
    with pytest.raises(Refused, match="written as received"):
        array[:] = ramp[np.newaxis]
    with pytest.raises(Refused, match="written as received"):
        DicomFrameV2(rows=64, columns=48, **configuration()).encode(b"")
    assert [path.name for path in tmp_path.iterdir()] == ["zarr.json"]


@pytest.mark.parametrize("pipeline", ["BatchedCodecPipeline", "FusedCodecPipeline"])
def test_both_pipelines_of_zarr_decode(pipeline: str, tmp_path: Path, ramp: NDArray[np.int16]) -> None:
    codec = {"name": "dicom_frame", "configuration": configuration()}
    (tmp_path / "zarr.json").write_text(json.dumps(array_json(spec_of(JPEG_LS), codecs=[codec])))
    (tmp_path / "c.0.0.0").write_bytes(imagecodecs.jpegls_encode(ramp.view(np.uint16)))
    with zarr.config.set({"codec_pipeline.path": f"zarr.core.codec_pipeline.{pipeline}"}):
        assert np.array_equal(zarr.open_array(tmp_path, mode="r")[0], ramp)


def test_an_array_of_zarr_format_2_reads_through_numcodecs(tmp_path: Path, ramp: NDArray[np.int16]) -> None:
    compressor = {"id": "dicom_frame", "rows": 64, "columns": 48, **configuration()}
    metadata = {
        "zarr_format": 2, "shape": [2, 64, 48], "chunks": [1, 64, 48], "dtype": "<i2", "fill_value": 0, "order": "C",
        "filters": None, "compressor": compressor, "dimension_separator": ".",
    }  # fmt: skip
    (tmp_path / ".zarray").write_text(json.dumps(metadata))
    for index, values in enumerate((ramp, ramp[::-1])):
        bitstream = imagecodecs.jpegls_encode(np.ascontiguousarray(values).view(np.uint16))
        (tmp_path / f"{index}.0.0").write_bytes(bitstream)
    array = zarr.open_array(tmp_path, mode="r", zarr_format=2)
    assert np.array_equal(array[:], np.stack([ramp, ramp[::-1]]))


def test_the_numcodecs_codec_decodes_into_a_buffer(ramp: NDArray[np.int16]) -> None:
    codec = DicomFrameV2(rows=64, columns=48, **configuration())
    out = np.zeros((1, 64, 48), np.int16)
    assert codec.decode(imagecodecs.jpegls_encode(ramp.view(np.uint16)), out=out) is out
    assert np.array_equal(out[0], ramp)


def rle(values: NDArray[Any]) -> bytes:
    """Encode a frame as RLE Lossless (PS3.5 annex G): segments of bytes, highest first, of each sample."""
    samples = values[..., np.newaxis] if values.ndim == 2 else values
    big = samples.astype(samples.dtype.newbyteorder(">"))
    planes = [
        np.ascontiguousarray(big[..., s]).view(np.uint8).reshape(-1, big.itemsize)[:, b].tobytes()
        for s in range(big.shape[-1])
        for b in range(big.itemsize)
    ]
    segments = [imagecodecs.packbits_encode(plane) for plane in planes]
    segments = [segment + b"\0" * (len(segment) % 2) for segment in segments]
    offsets = 64 + np.cumsum([0, *map(len, segments[:-1])])
    return struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments))) + b"".join(segments)
