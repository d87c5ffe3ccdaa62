"""Frames in every transfer syntax that can carry them, checked by decoders other than the encoders' own (PS3.5 8.2)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid

from readingroom.errors import NotAcceptable
from storage import encode
from storage.arrays import ArraySpec
from storage.codestreams import read_jpeg, read_jpeg2000
from storage.encode import (
    ENCODINGS,
    TARGETS,
    encode_frame,
    encoded_spec,
    is_lossy,
    refusal,
    transcode_frame,
)
from storage.part10 import EXPLICIT_LITTLE
from storage.pixels import decode_frame, decoded_photometric

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

JPEG_BASELINE, JPEG_LOSSLESS, RLE = str(uid.JPEGBaseline8Bit), str(uid.JPEGLosslessSV1), str(uid.RLELossless)
JPEG_LS, J2K = str(uid.JPEGLSLossless), str(uid.JPEG2000Lossless)
HTJ2K, HTJ2K_RPCL = str(uid.HTJ2KLossless), str(uid.HTJ2KLosslessRPCL)
JPEG_XL, JPEG_XL_FROM_JPEG = "1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.111"

GREY = ArraySpec(
    transfer_syntax=EXPLICIT_LITTLE,
    rows=19,
    columns=33,
    samples=1,
    bits_allocated=16,
    bits_stored=12,
    signed=False,
    planar_configuration=0,
    photometric="MONOCHROME2",
    frames=1,
    pixel_element="7FE00010",
    pixel_vr="OW",
    encoding="native",
)
COLOUR = replace(GREY, samples=3, bits_allocated=8, bits_stored=8, photometric="RGB", pixel_vr="OB")

KINDS: dict[str, ArraySpec] = {
    "8 bits": replace(GREY, bits_allocated=8, bits_stored=8),
    "8 bits signed": replace(GREY, bits_allocated=8, bits_stored=8, signed=True),
    "7 bits signed": replace(GREY, bits_allocated=8, bits_stored=7, signed=True),
    "1 bit in 8": replace(GREY, bits_allocated=8, bits_stored=1),
    "7 bits in 16": replace(GREY, bits_stored=7),
    "8 bits in 16 signed": replace(GREY, bits_stored=8, signed=True),
    "12 bits": GREY,
    "12 bits signed": replace(GREY, signed=True),
    "16 bits": replace(GREY, bits_stored=16),
    "16 bits signed": replace(GREY, bits_stored=16, signed=True),
    "32 bits": replace(GREY, bits_allocated=32, bits_stored=32),
    "26 bits signed": replace(GREY, bits_allocated=32, bits_stored=26, signed=True),
    "MONOCHROME1": replace(GREY, photometric="MONOCHROME1"),
    "palette": replace(GREY, bits_allocated=8, bits_stored=8, photometric="PALETTE COLOR"),
    "RGB": COLOUR,
    "RGB by plane": replace(COLOUR, planar_configuration=1),
    "RGB of 16 bits": replace(COLOUR, bits_allocated=16, bits_stored=14),
    "YBR_FULL": replace(COLOUR, photometric="YBR_FULL"),
    "one pixel": replace(GREY, rows=1, columns=1),
    "one row": replace(GREY, rows=1, columns=301),
    "one column": replace(COLOUR, rows=301, columns=1),
}


def pictures(spec: ArraySpec) -> Iterator[np.ndarray]:
    """Noise over the whole range with both ends of it, one value alone, a ramp with an edge, and steps."""
    dtype = np.dtype(spec.dtype)
    low, high = 0, (1 << spec.bits_stored) - 1
    if spec.signed:
        low, high = -(1 << spec.bits_stored - 1), (1 << spec.bits_stored - 1) - 1
    noise = np.random.default_rng(7).integers(low, high, spec.frame_shape, dtype=np.int64, endpoint=True)
    noise.flat[0] = high
    noise.flat[-1] = low
    yield noise.astype(dtype)
    yield np.full(spec.frame_shape, high, dtype)
    ramp = np.linspace(low, high, noise.size).reshape(spec.frame_shape).astype(np.int64)
    yield ramp.astype(dtype)
    yield np.where(np.indices(spec.frame_shape).sum(0) // 5 % 2, low, high).astype(dtype)


CARRIED = [(kind, target) for kind, target in product(KINDS, TARGETS) if not refusal(KINDS[kind], target)]


@pytest.mark.parametrize(("kind", "target"), CARRIED)
def test_what_is_carried_comes_back_as_it_was(kind: str, target: str) -> None:
    spec = KINDS[kind]
    for values in pictures(spec):
        native = encode.native_bytes(values, spec, planar=spec.planar_configuration == 1)
        encoded = transcode_frame(native, spec, target, verify=True)
        decoded = decode_frame(encoded, encoded_spec(spec, target, spec.photometric))
        if is_lossy(spec, target):
            assert decoded.shape == values.shape
        else:
            assert decoded.dtype == values.dtype
            assert np.array_equal(decoded, values)


def pillow(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


def packbits(encoded: bytes) -> np.ndarray:
    from pydicom.pixels.decoders.rle import _rle_decode_frame

    return np.frombuffer(_rle_decode_frame(encoded, GREY.rows, GREY.columns, 1, 16), "<u2").reshape(19, 33)


@pytest.mark.parametrize(
    ("target", "decode"),
    [
        (RLE, lambda encoded: packbits(encoded)),
        (J2K, lambda encoded: pillow(encoded) >> 4),
        (HTJ2K, imagecodecs.jpeg2k_decode),  # OpenJPEG; the encoder is OpenJPH
        (HTJ2K_RPCL, imagecodecs.jpeg2k_decode),
        (JPEG_LOSSLESS, imagecodecs.jpegsof3_decode),
        (JPEG_LOSSLESS, imagecodecs.ljpeg_decode),
    ],
)
def test_another_decoder_reads_the_same(target: str, decode: Callable[[bytes], np.ndarray]) -> None:
    for values in pictures(GREY):
        assert np.array_equal(decode(encode_frame(values, GREY, target)), values)


def test_every_kind_and_every_target_is_tested() -> None:
    assert {target for _, target in CARRIED} == set(TARGETS) - {JPEG_XL_FROM_JPEG}
    assert {kind for kind, _ in CARRIED} == set(KINDS)


REFUSED_KINDS: list[tuple[dict[str, Any], str, str]] = [
    ({"bits_allocated": 1, "bits_stored": 1}, RLE, "1 bits allocated"),
    ({"bits_allocated": 32}, JPEG_LS, "32 bits allocated"),
    ({"bits_allocated": 32}, J2K, "32 bits allocated"),
    ({"bits_allocated": 64, "pixel_element": "7FE00009"}, HTJ2K, "floating-point"),
    ({"bits_stored": 1}, JPEG_LS, "1 bits stored"),
    ({"signed": True}, JPEG_XL, "signed"),
    ({"signed": True, "photometric": "PALETTE COLOR"}, J2K, "signed"),
    ({"signed": True, "photometric": "RGB", "samples": 3}, J2K, "signed"),
    ({"samples": 4, "photometric": "CMYK"}, RLE, "4 samples of CMYK"),
    ({"samples": 3, "photometric": "YBR_FULL"}, JPEG_LS, "16 bits allocated"),
    ({"photometric": ""}, RLE, "no photometric"),
    ({"holds_overlays": True}, HTJ2K, "overlays"),
    ({}, JPEG_BASELINE, "16 bits allocated"),
    ({"bits_allocated": 8, "bits_stored": 8, "photometric": "PALETTE COLOR"}, JPEG_BASELINE, "palette"),
    ({"photometric": "PALETTE COLOR"}, "1.2.840.10008.1.2.4.81", "palette"),
    ({"columns": 65_501}, JPEG_LOSSLESS, "not 1 to 65500"),
    ({"rows": 1}, HTJ2K, "1 rows and 33 columns are not 2 to 65535"),
    ({"rows": 60_000, "columns": 60_000}, HTJ2K, "longer than"),
    ({}, JPEG_XL_FROM_JPEG, "nothing is encoded"),
    ({}, "1.2.840.10008.1.2.4.57", "nothing is encoded"),
    ({"transfer_syntax": "1.2.840.10008.1.2.4.102"}, EXPLICIT_LITTLE, "not decoded"),
]


@pytest.mark.parametrize(("changes", "target", "reason"), REFUSED_KINDS)
def test_what_a_codec_cannot_carry_is_told_before_anything_is_decoded(
    changes: dict[str, Any], target: str, reason: str
) -> None:
    spec = replace(GREY, **changes)
    assert reason in refusal(spec, target)
    with pytest.raises(NotAcceptable, match=reason):
        transcode_frame(b"", spec, target)


def test_a_frame_that_is_broken_is_not_acceptable_in_any_form() -> None:
    for target in (EXPLICIT_LITTLE, JPEG_LS):
        with pytest.raises(NotAcceptable, match=r"ask for transfer-syntax=\*"):
            transcode_frame(b"\xff\xd8broken", replace(GREY, transfer_syntax=J2K, encoding="encapsulated"), target)


def test_what_does_not_come_back_as_it_was_is_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that loses a bit is caught with the first frame of its kind."""

    def forgetful(values: np.ndarray, bits: int, photometric: str) -> bytes:
        return bytes(ENCODINGS[JPEG_LS].encode(values & 0xFFE, bits, photometric))

    monkeypatch.setattr(encode, "_VERIFIED", set())
    good = transcode_frame(np.ones(GREY.frame_shape, "<u2").tobytes(), GREY, JPEG_LS)
    assert decode_frame(good, replace(GREY, transfer_syntax=JPEG_LS)).min() == 1
    broken = {**ENCODINGS, J2K: replace(ENCODINGS[JPEG_LS], encode=forgetful)}
    monkeypatch.setattr(encode, "ENCODINGS", broken)
    with pytest.raises(NotAcceptable):
        transcode_frame(np.ones(GREY.frame_shape, "<u2").tobytes(), GREY, J2K)


def test_colours_are_told_as_they_are_coded() -> None:
    """PS3.5 8.2.1, 8.2.3, 8.2.4: the component transform of JPEG 2000 has a name of its own."""
    (values, *_) = pictures(COLOUR)
    for target, photometric in {J2K: "YBR_RCT", HTJ2K: "YBR_RCT", JPEG_LS: "RGB", RLE: "RGB"}.items():
        written = encoded_spec(COLOUR, target, "RGB")
        assert (written.photometric, written.planar_configuration) == (photometric, 0)
        assert decoded_photometric(encode_frame(values, COLOUR, target), written) == "RGB"
    assert read_jpeg(encode_frame(values, COLOUR, JPEG_LOSSLESS)).colour == "RGB"
    ybr = replace(COLOUR, photometric="YBR_FULL")
    written = encoded_spec(ybr, JPEG_LOSSLESS, "YBR_FULL")
    assert decoded_photometric(encode_frame(values, ybr, JPEG_LOSSLESS), written) == "YBR_FULL"
    assert encoded_spec(ybr, J2K, "YBR_FULL").photometric == "YBR_FULL"


def test_the_precision_of_the_codestream_is_bits_stored() -> None:
    """PS3.5 8.2: the attributes are consistent with the compressed data stream."""
    values = next(pictures(replace(GREY, signed=True)))
    coded = read_jpeg2000(encode_frame(values, replace(GREY, signed=True), HTJ2K))
    assert (coded.precision, coded.signed) == (12, True)
    assert read_jpeg(encode_frame(values.view("u2") & 0xFFF, GREY, JPEG_LS)).precision == 12


def test_rpcl_has_a_tile_part_for_each_resolution_and_their_lengths() -> None:
    """PS3.5 A.4.4: 1.2.840.10008.1.2.4.202; a prefix of it is a smaller picture."""
    spec = replace(GREY, rows=256, columns=256)
    encoded = encode_frame(next(pictures(spec)), spec, HTJ2K_RPCL)
    header, *tile_parts = encoded.split(b"\xff\x90\x00\x0a")
    assert b"\xff\x55" in header, "TLM"
    assert header[header.index(b"\xff\x52") + 5] == 2, "RPCL"
    assert len(tile_parts) == 6


def test_a_jpeg_becomes_jpeg_xl_and_the_same_jpeg_again() -> None:
    """PS3.5 8.2.15: recompression keeps the bits of the JPEG, and so what it looks like."""
    jpeg = bytes(imagecodecs.jpeg8_encode(next(pictures(COLOUR)), level=80))
    spec = replace(COLOUR, transfer_syntax=JPEG_BASELINE, photometric="YBR_FULL_422", encoding="encapsulated")
    jpeg_xl = transcode_frame(jpeg + b"\0", spec, JPEG_XL_FROM_JPEG)
    written = encoded_spec(spec, JPEG_XL_FROM_JPEG, "YBR_FULL")
    assert written.photometric == "YBR_FULL_422"
    assert transcode_frame(jpeg_xl, written, JPEG_BASELINE) == jpeg
    assert not is_lossy(written, JPEG_BASELINE)
    shown = decode_frame(jpeg_xl, written)
    assert decoded_photometric(jpeg_xl, written) == "RGB"
    assert np.abs(shown.astype(int) - imagecodecs.jpeg8_decode(jpeg)).mean() < 8
    with pytest.raises(NotAcceptable, match="recompressed"):
        transcode_frame(jpeg[:100], spec, JPEG_XL_FROM_JPEG)


def test_jpeg_baseline_loses_little() -> None:
    grey = replace(GREY, bits_allocated=8, bits_stored=8)
    *_, ramp, _ = pictures(grey)
    for spec, values in ((grey, ramp), (COLOUR, np.repeat(ramp[..., None], 3, axis=2))):
        encoded = encode_frame(values, spec, JPEG_BASELINE)
        assert np.abs(imagecodecs.jpeg8_decode(encoded).astype(int) - values).mean() < 3
        assert is_lossy(spec, JPEG_BASELINE)
