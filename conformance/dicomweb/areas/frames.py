"""Frames of an instance as bulk data (PS3.18 10.4.1.1.6, 8.7.3.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from pydicom.encaps import generate_frames
from pydicom.uid import ExplicitVRLittleEndian

from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import MAY, SHOULD, Fault, check, ensure
from conformance.dicomweb.peer import OCTET_PARTS, OCTETS, Answer, Peer
from conformance.dicomweb.samples import CODECS

ANY_SYNTAX = f"{OCTET_PARTS}; transfer-syntax=*"


def frames(peer: Peer, cast: Cast, name: str, numbers: str, accept: str = OCTET_PARTS) -> Answer:
    """Ask for frames of a sample."""
    return peer.get(f"{cast[name].path}/frames/{numbers}", accept=accept)


def native(cast: Cast, name: str, number: int) -> bytes:
    """The bytes of a frame as they lie in a native data set."""
    if name in CODECS or name in ("deflated", "implicit", "cine"):
        return bytes(cast.samples.frames[number - 1].tobytes())
    dataset = cast.samples[name].dataset
    length = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel * dataset.BitsAllocated // 8
    return bytes(dataset.PixelData[(number - 1) * length : number * length])


def ensure_frames(cast: Cast, name: str, answer: Answer, *numbers: int) -> None:
    """An answer has these native frames, in this order."""
    parts = answer.parts()
    ensure(len(parts) == len(numbers), f"{len(numbers)} frames come as {len(parts)} parts")
    for part, number in zip(parts, numbers, strict=True):
        wanted = native(cast, name, number)
        if part.body != wanted:
            others = [other for other in (1, 2, 3) if part.body == native(cast, name, other)]
            what = f"frame {others[0]}" if others else f"{len(part.body)} other bytes (a frame has {len(wanted)})"
            raise Fault(f"where frame {number} has to be, there is {what}")


@check("FRAME-001", "10.4.1.1.6")
def only_frame(peer: Peer, cast: Cast) -> None:
    """Frame 1 of a single-frame image is its Pixel Data."""
    ensure_frames(cast, "ct1", frames(peer, cast, "ct1", "1"), 1)


@check("FRAME-002", "10.4.1.1.6")
def one_of_several(peer: Peer, cast: Cast) -> None:
    """Each frame of a multi-frame image comes alone."""
    for number in (1, 2, 3):
        ensure_frames(cast, "cine", frames(peer, cast, "cine", str(number)), number)


@check("FRAME-003", "10.4.1.1.6")
def list_of_frames(peer: Peer, cast: Cast) -> None:
    """A list of frames comes as one part for each, in that order."""
    ensure_frames(cast, "cine", frames(peer, cast, "cine", "1,3"), 1, 3)


@check("FRAME-004", "10.4.1.1.6", SHOULD)
def order_of_frames(peer: Peer, cast: Cast) -> None:
    """The order that was asked for is the order that is sent.

    A list that does not ascend is not forbidden to be refused; sent in another order, it is wrong for certain.
    """
    answer = frames(peer, cast, "cine", "3,1").expect(200, 400)
    if answer.status == 200:
        ensure_frames(cast, "cine", answer, 3, 1)


@check("FRAME-005", "RFC 3986 2.1", SHOULD)
def list_with_encoded_commas(peer: Peer, cast: Cast) -> None:
    """A list whose commas are percent-encoded is the same list."""
    ensure_frames(cast, "cine", frames(peer, cast, "cine", "1%2C2"), 1, 2)


@check("FRAME-006", "10.4.1.1.6")
def colour(peer: Peer, cast: Cast) -> None:
    """A frame of a colour image comes with its samples as they were stored."""
    ensure_frames(cast, "colour", frames(peer, cast, "colour", "2"), 2)


@check("FRAME-007", "10.4.3.1")
def frame_zero(peer: Peer, cast: Cast) -> None:
    """There is no frame 0: 400 or 404."""
    frames(peer, cast, "cine", "0").expect(400, 404)


@check("FRAME-008", "10.4.3.1")
def frame_past_the_end(peer: Peer, cast: Cast) -> None:
    """A frame past the last is answered by 404, or by 400."""
    frames(peer, cast, "cine", "4").expect(400, 404)


@check("FRAME-009", "10.4.3.1")
def negative_frame(peer: Peer, cast: Cast) -> None:
    """A negative frame number is answered by 400, or by 404."""
    frames(peer, cast, "cine", "-1").expect(400, 404)


@check("FRAME-010", "10.4.3.1")
def frame_in_words(peer: Peer, cast: Cast) -> None:
    """A frame number that is none is answered by 400, or by 404."""
    frames(peer, cast, "cine", "first").expect(400, 404)


@check("FRAME-011", "10.4.3.1")
def list_with_a_hole(peer: Peer, cast: Cast) -> None:
    """A list with an empty number is answered by 400, or by 404."""
    frames(peer, cast, "cine", "1,,2").expect(400, 404)


@check("FRAME-012", "10.4.3.1")
def list_that_is_partly_wrong(peer: Peer, cast: Cast) -> None:
    """A list with a frame past the last is refused, or answered by 206 with the others; never by 200."""
    frames(peer, cast, "cine", "1,9").expect(206, 400, 404)


@check("FRAME-013", "10.4.3.1")
def frames_of_what_has_none(peer: Peer, cast: Cast) -> None:
    """Frames of a report are refused."""
    frames(peer, cast, "sr", "1").expect(400, 404, 406, 409)


@check("FRAME-014", "10.4.3.1")
def frames_of_nothing(peer: Peer, cast: Cast) -> None:
    """Frames of an instance that is not there are answered by 404."""
    path = f"{cast['ct1'].series}/instances/{cast.samples.uid('nowhere')}/frames/1"
    peer.get(path, accept=OCTET_PARTS).expect(404)


@check("FRAME-015", "10.4.3.1")
def frames_below_another_parent(peer: Peer, cast: Cast) -> None:
    """Frames of an instance below a series of another study are answered by 404."""
    path = f"{cast['cine'].study}/series/{cast['ct1'].series_uid}/instances/{cast['ct1'].uid}/frames/1"
    peer.get(path, accept=OCTET_PARTS).expect(404)


@check("FRAME-016", "8.7.3.3")
def type_of_native_frames(peer: Peer, cast: Cast) -> None:
    """Native frames are application/octet-stream, in Explicit VR Little Endian where the part names a syntax."""
    (part,) = frames(peer, cast, "ct1", "1").parts()
    ensure(part.media.name == OCTETS, f"the part is {part.headers.get('content-type')!r}")
    named = part.media.parameters.get("transfer-syntax", ExplicitVRLittleEndian)
    ensure(named == ExplicitVRLittleEndian, f"the part names the transfer syntax {named}")


def _decoded(peer: Peer, cast: Cast, name: str) -> None:
    ensure_frames(cast, name, frames(peer, cast, name, "2,3"), 2, 3)


@check("FRAME-017", "8.7.3.3")
def rle_as_octets(peer: Peer, cast: Cast) -> None:
    """Frames stored as RLE Lossless come decoded to who asks for application/octet-stream."""
    _decoded(peer, cast, "rle")


@check("FRAME-018", "8.7.3.3")
def jpeg_ls_as_octets(peer: Peer, cast: Cast) -> None:
    """Frames stored as JPEG-LS come decoded to who asks for application/octet-stream."""
    _decoded(peer, cast, "jls")


@check("FRAME-019", "8.7.3.3")
def jpeg_2000_as_octets(peer: Peer, cast: Cast) -> None:
    """Frames stored as JPEG 2000 come decoded to who asks for application/octet-stream."""
    _decoded(peer, cast, "j2k")


@check("FRAME-020", "8.7.3.3")
def htj2k_as_octets(peer: Peer, cast: Cast) -> None:
    """Frames stored as HTJ2K come decoded to who asks for application/octet-stream."""
    _decoded(peer, cast, "htj2k")


@check("FRAME-021", "8.7.3.3")
def deflated_as_octets(peer: Peer, cast: Cast) -> None:
    """Frames of a deflated data set come as they are in it."""
    _decoded(peer, cast, "deflated")


_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "jls": imagecodecs.jpegls_decode,
    "j2k": imagecodecs.jpeg2k_decode,
    "htj2k": imagecodecs.htj2k_decode,
}


def _compressed(peer: Peer, cast: Cast, name: str, media_type: str) -> None:
    (part,) = frames(peer, cast, name, "2", f'multipart/related; type="{media_type}"').parts()
    ensure(part.media.name == media_type, f"the part is {part.headers.get('content-type')!r}")
    if name == "rle":
        ensure(part.body == _fragment(cast, name, 2), "the frame has other bytes than were stored")
        return
    try:
        came = _DECODERS[name](part.body)
    except Exception as error:  # decoders raise what they like
        raise Fault(f"the frame cannot be decoded: {error}") from None
    ensure(np.array_equal(came, cast.samples.frames[1]), "the frame has other pixels than were stored")


def _fragment(cast: Cast, name: str, number: int) -> bytes:
    fragments = list(generate_frames(cast.samples[name].dataset.PixelData, number_of_frames=3))
    return bytes(fragments[number - 1])


@check("FRAME-022", "8.7.3.3", SHOULD)
def rle_by_type(peer: Peer, cast: Cast) -> None:
    """Frames stored as RLE Lossless come as image/dicom-rle to who asks for that."""
    _compressed(peer, cast, "rle", "image/dicom-rle")


@check("FRAME-023", "8.7.3.3", SHOULD)
def jpeg_ls_by_type(peer: Peer, cast: Cast) -> None:
    """Frames stored as JPEG-LS come as image/jls to who asks for that."""
    _compressed(peer, cast, "jls", "image/jls")


@check("FRAME-024", "8.7.3.3", SHOULD)
def jpeg_2000_by_type(peer: Peer, cast: Cast) -> None:
    """Frames stored as JPEG 2000 come as image/jp2 to who asks for that."""
    _compressed(peer, cast, "j2k", "image/jp2")


@check("FRAME-025", "8.7.3.3", SHOULD)
def htj2k_by_type(peer: Peer, cast: Cast) -> None:
    """Frames stored as HTJ2K come as image/jphc to who asks for that."""
    _compressed(peer, cast, "htj2k", "image/jphc")


@check("FRAME-026", "8.7.3.5.2", SHOULD)
def any_syntax(peer: Peer, cast: Cast) -> None:
    """Frames asked for in any transfer syntax come as the bitstream that is stored, under a type that says so."""
    for name, syntax in CODECS.items():
        (part,) = frames(peer, cast, name, "2", ANY_SYNTAX).parts()
        ensure(part.body.rstrip(b"\0") == _fragment(cast, name, 2).rstrip(b"\0"), f"{name} is not sent as it is stored")
        named = part.media.parameters.get("transfer-syntax")
        ensure(named == syntax, f"the part of {name} names the transfer syntax {named!r}, not {syntax}")


@check("FRAME-027", "8.6.1.2.2", SHOULD)
def content_location(peer: Peer, cast: Cast) -> None:
    """The part of a frame says by Content-Location which frame it is."""
    parts = frames(peer, cast, "cine", "1,3").parts()
    found = [part.headers.get("content-location", "") for part in parts]
    ensure(
        len(found) == 2 and found[0].endswith("/frames/1") and found[1].endswith("/frames/3"),
        f"the Content-Locations are {found}",
    )


@check("FRAME-028", "10.4.4", SHOULD)
def single_part(peer: Peer, cast: Cast) -> None:
    """A single frame is sent as application/octet-stream, without multipart, to who asks for that."""
    answer = frames(peer, cast, "cine", "2", OCTETS).expect(200).expect_type(OCTETS)
    ensure(answer.body == native(cast, "cine", 2), "the body is not frame 2")


@check("FRAME-029", "10.4.4")
def several_are_no_single_part(peer: Peer, cast: Cast) -> None:
    """Several frames in a single part are answered by 406."""
    frames(peer, cast, "cine", "1,2", OCTETS).expect(406)


@check("FRAME-030", "RFC 9110 14.2", MAY)
def range_of_a_frame(peer: Peer, cast: Cast) -> None:
    """A range of a single-part frame is answered by 206 with those bytes."""
    path = f"{cast['cine'].path}/frames/2"
    answer = peer.get(path, accept=OCTETS, headers={"Range": "bytes=10-19"}).expect(206)
    ensure(answer.body == native(cast, "cine", 2)[10:20], f"bytes 10 to 19 are {answer.body[:20]!r}")
