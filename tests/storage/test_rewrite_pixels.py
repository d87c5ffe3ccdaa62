"""Files with their pixels in another transfer syntax, read by pydicom and dcmtk (PS3.5 8.2, A.4)."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import generate_frames, parse_basic_offsets
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from readingroom.errors import NotAcceptable
from storage.arrays import ArraySpec
from storage.encode import ENCODINGS, TARGETS, is_lossy, refusal
from storage.objects import Scan, inflate, scan
from storage.pixels import decode_frame
from tests import synthetic
from tests.conftest import absent
from tests.corpus import entries
from tests.retrieve import compressed, read
from tests.storage.test_objects import REFUSED
from tests.storage.test_rewrite import UNDECODABLE, padded, pixels_of, rewritten
from tests.synthetic import part10

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@cache
def kinds() -> dict[str, tuple[bytes, Scan]]:
    """The smallest file of each kind of pixels in each transfer syntax, of those that can be decoded."""
    smallest: dict[ArraySpec, tuple[int, str, bytes, Scan]] = {}
    for entry in entries():
        if entry.name in REFUSED or entry.name.endswith(UNDECODABLE):
            continue
        file = entry.read()
        found = scan(file)
        if found.spec is None:
            continue
        kind = replace(found.spec, rows=1, columns=1, frames=1, framing="none")
        size = found.spec.rows * found.spec.columns * found.spec.frames
        if kind not in smallest or size < smallest[kind][0]:
            smallest[kind] = size, entry.name, file, found
    return {name: (file, found) for _, name, file, found in smallest.values()}


JPEG_XL_FROM_JPEG = "1.2.840.10008.1.2.4.111"

TRIED = [target for target in TARGETS if not target.endswith((".81", ".91", ".203", ".112"))]
"""The transfer syntaxes with an encoder of their own; the others have that of one of these."""


@pytest.mark.parametrize("target", TRIED)
def test_every_kind_of_pixels_comes_out_in_every_transfer_syntax_that_carries_it(corpus: object, target: str) -> None:
    """As a file that pydicom reads, with the same pixels and the same values of all else; or it is refused."""
    written_kinds = 0
    for name, (file, received) in kinds().items():
        assert received.spec is not None
        if received.spec.rows * received.spec.columns * received.spec.frames > 100_000:
            continue
        if target == received.transfer_syntax:
            continue
        if refusal(received.spec, target) or is_lossy(received.spec, target):
            with pytest.raises(NotAcceptable):
                rewritten(file, target)
            continue
        written = rewritten(file, target)
        found = scan(as_it_was(written))
        assert found.spec is not None, name
        assert (found.spec.frames, found.spec.framing) == (received.spec.frames, "none")
        assert read(written).file_meta.TransferSyntaxUID == target
        changed = {"00080005", "00280004", "00280006", "00282110", "7FE00001", "7FE00002", "7FE00010"}
        for key in (received.metadata.keys() | found.metadata.keys()) - changed:
            assert padded(found.metadata.get(key)) == padded(received.metadata.get(key)), (name, key)
        if target != JPEG_XL_FROM_JPEG:  # keeps the JPEG, not what a decoder makes of it
            for index in (0, received.spec.frames - 1):
                assert np.array_equal(pixels_of(as_it_was(written), found, index), pixels_of(file, received, index)), (
                    name
                )
        written_kinds += 1
    assert written_kinds >= {JPEGBaseline8Bit: 0, JPEG_XL_FROM_JPEG: 1}.get(target, 15)


def as_it_was(file: bytes) -> bytes:
    return bytes(inflate(file)) if scan(file).transfer_syntax == DeflatedExplicitVRLittleEndian else file


@pytest.mark.parametrize(
    ("target", "program"), [(JPEGLSLossless, "dcmdjpls"), (JPEGLosslessSV1, "dcmdjpeg"), (RLELossless, "dcmdrle")]
)
def test_dcmtk_decompresses_what_is_written_to_the_same_pixels(target: str, program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        absent(f"the program {program}")
    for number, dataset in enumerate((synthetic.cine(3), synthetic.secondary_capture(), *synthetic.ct_series(1))):
        (tmp_path / "in.dcm").write_bytes(rewritten(part10(dataset), target))
        subprocess.run([program, tmp_path / "in.dcm", tmp_path / f"{number}.dcm"], check=True, timeout=60)
        assert np.array_equal(pydicom.dcmread(tmp_path / f"{number}.dcm").pixel_array, dataset.pixel_array)


@pytest.mark.parametrize("is_extended", [False, True])
def test_compressed_frames_come_with_the_table_of_their_offsets(
    is_extended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PS3.5 A.4; PS3.3 C.7.6.3.1.8 where an offset needs more than 32 bits."""
    if is_extended:
        monkeypatch.setattr("storage.rewrite._LARGEST_BASIC_OFFSET", 100)
    dataset = synthetic.cine(7, rows=13, columns=11)
    got = read(rewritten(part10(dataset), JPEGLSLossless))
    assert ("ExtendedOffsetTable" in got) == is_extended
    tables = {"extended_offsets": (got.ExtendedOffsetTable, got.ExtendedOffsetTableLengths)} if is_extended else {}
    assert len(parse_basic_offsets(got.PixelData)) == (0 if is_extended else 7)
    frames = list(generate_frames(got.PixelData, number_of_frames=7, **tables))
    assert len(frames) == 7
    spec = scan(rewritten(part10(dataset), JPEGLSLossless)).spec
    assert spec is not None
    for number, frame in enumerate(frames, start=1):
        assert (decode_frame(frame, spec) == number).all()


def test_frames_that_do_not_fit_into_memory_wait_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    file = part10(synthetic.cine(5))
    whole = rewritten(file, JPEGLSLossless)
    monkeypatch.setattr("storage.rewrite._SPOOL_BYTES", 16)
    assert rewritten(file, JPEGLSLossless) == whole


def test_a_lossy_instance_stays_one_once_it_is_decompressed() -> None:
    """PS3.3 C.7.6.1.1.5: once lossy, always lossy, also where the sender forgot to say it."""
    dataset = compressed(synthetic.secondary_capture(), JPEGBaseline8Bit, imagecodecs.jpeg8_encode)
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    for target in (ExplicitVRLittleEndian, JPEGLSLossless):
        got = read(rewritten(part10(dataset), target))
        assert got.LossyImageCompression == "01"
        assert got.SOPInstanceUID == dataset.SOPInstanceUID
        assert got.PhotometricInterpretation == "YBR_FULL"
    dataset.LossyImageCompression, dataset.LossyImageCompressionRatio = "01", 7.5
    got = read(rewritten(part10(dataset), JPEGLSLossless))
    assert got.LossyImageCompressionRatio == 7.5


def test_a_lossless_instance_is_never_written_with_a_loss() -> None:
    """PS3.3 C.7.6.1.1.5: that would be another instance."""
    with pytest.raises(NotAcceptable, match="another UID"):
        rewritten(part10(synthetic.secondary_capture()), JPEGBaseline8Bit)


def test_every_frame_of_a_file_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that fails with one frame of many makes no file."""

    def broken(values: np.ndarray, bits: int, photometric: str) -> bytes:
        return bytes(ENCODINGS[JPEGLSLossless].encode(np.minimum(values, 3), bits, photometric))

    encodings = {**ENCODINGS, JPEGLSNearLossless: replace(ENCODINGS[JPEGLSLossless], encode=broken)}
    monkeypatch.setattr("storage.encode.ENCODINGS", encodings)
    with pytest.raises(NotAcceptable, match="do not come back"):
        rewritten(part10(synthetic.cine(4)), JPEGLSNearLossless)
