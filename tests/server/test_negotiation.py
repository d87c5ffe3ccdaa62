"""Negotiation as PS3.18 8.7 has it, rule by rule."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from starlette.requests import Request

from readingroom.errors import NotAcceptable
from server.dicomweb.negotiation import (
    COMPRESSED,
    DICOM,
    EXPLICIT_LITTLE_ENDIAN,
    OCTET_STREAM,
    Offer,
    accepted,
    agree,
    choose,
    frame_offers,
    instance_offers,
    parse_accept,
)
from storage.arrays import ArraySpec

JPEG, PNG = Offer(media_type="image/jpeg"), Offer(media_type="image/png")
PICTURES = (JPEG, PNG)
JPEG_LS, JPEG_BASELINE, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5"
IMPLICIT, BIG_ENDIAN, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
MPEG_4 = "1.2.840.10008.1.2.4.102"
NATIVE = [EXPLICIT_LITTLE_ENDIAN, IMPLICIT, BIG_ENDIAN, DEFLATED]


def asked(query: str = "", *headers: str) -> Request:
    raw = [(b"accept", header.encode("latin-1")) for header in headers]
    return Request({"type": "http", "query_string": query.encode("latin-1"), "headers": raw})


def chosen(header: str, offers: tuple[Offer, ...], query: str = "") -> Offer:
    return choose((query, header), offers)


# -- reading the lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'multipart/related; type="application/dicom"; transfer-syntax=*',
        "multipart/related; type=application/dicom; transfer-syntax=*",
        'multipart/related;type="application/dicom";transfer-syntax="*"',
        'MULTIPART/Related ; Type = "Application/DICOM" ; Transfer-Syntax = *',
        'multipart/related; transfer-syntax=*; boundary="a,b;c"; type="application/dicom"',
    ],
)
def test_parameters_are_read_quoted_and_unquoted_in_any_case_and_order(text: str) -> None:
    """PS3.18 8.7: "The quoted and unquoted values are equivalent"; names are case-insensitive."""
    (found,) = parse_accept(text)
    assert (found.multipart, found.media_type, found.transfer_syntax) == (True, DICOM, "*")


def test_what_is_not_valid_is_ignored() -> None:
    """PS3.18 8.7.7: values that are not valid or not supported shall be ignored."""
    found = parse_accept('nonsense, , /, a/, /b, a/b/c, image/png; q=high, image/jpeg; odd; =; x="')
    assert [one.media_type for one in found] == ["image/jpeg"]


@pytest.mark.parametrize("text", [";", ";;;", "; ;", ",;,", ";q=1"])
def test_an_element_of_semicolons_alone_is_ignored(text: str) -> None:
    assert parse_accept(text) == ()


def test_a_list_that_means_harm_is_read_in_one_pass() -> None:
    started = time.perf_counter()
    parse_accept('"\\' * 30_000)
    parse_accept('a/b; x="' + '\\"' * 30_000)
    parse_accept("a/b," * 16_000)
    assert time.perf_counter() - started < 2


def test_a_quote_hides_commas_and_semicolons() -> None:
    first, second = parse_accept('multipart/related; boundary="x, image/png;q=0"; type="image/jpeg", image/gif')
    assert (first.media_type, first.multipart) == ("image/jpeg", True)
    assert second.media_type == "image/gif"


def test_accept_headers_are_joined() -> None:
    """RFC 9110 5.3: several header lines are one list."""
    assert accepted(asked("", "image/png", "image/jpeg")) == ("", "image/png, image/jpeg")


@pytest.mark.parametrize(
    "query",
    [
        "accept=application/dicom%2Bjson",
        "accept=application/dicom+json",
        "limit=1&accept=application%2Fdicom%2Bjson&accept=image/png",
    ],
)
def test_the_accept_parameter_is_decoded_once_and_keeps_its_plus(query: str) -> None:
    """PS3.18 8.3.3.1."""
    text, _ = accepted(asked(query, "*/*"))
    assert text.startswith("application/dicom+json")


def test_a_request_without_any_accept_is_not_acceptable() -> None:
    """PS3.18 8.7.5: the response to a request without an Accept header field shall be 406."""
    with pytest.raises(NotAcceptable, match="no Accept header"):
        accepted(asked())


# -- choosing the media type -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("image/png", PNG),
        ("image/jpeg", JPEG),
        ("image/png, image/jpeg", PNG),
        ("image/png;q=0.5, image/jpeg;q=0.6", JPEG),
        ("image/png;q=0.5, image/*", JPEG),
        ("image/*, image/png", PNG),
        ("*/*, image/png", PNG),
        ("*/*;q=1, image/png;q=0.5", JPEG),
        ("image/jpeg;q=0, */*", PNG),
        ("image/*;q=0.1, text/html", JPEG),
        ("text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8", JPEG),
        ("image/gif, image/png;q=0.001", PNG),
    ],
)
def test_the_best_of_a_mixed_list_wins(header: str, expected: Offer) -> None:
    """PS3.18 8.7.8.1 by the weights of RFC 9110 12.4.2; a wildcard gets the default."""
    assert chosen(header, PICTURES) == expected


@pytest.mark.parametrize("header", ["image/gif", "text/html", "image/*;q=0", "*/*;q=0", "video/*", "nonsense"])
def test_nothing_in_common_is_not_acceptable_and_says_what_there_is(header: str) -> None:
    """PS3.18 8.7.8.1 step 5."""
    assert agree(("", header), PICTURES) is None
    with pytest.raises(NotAcceptable, match="image/jpeg, image/png"):
        chosen(header, PICTURES)


@pytest.mark.parametrize(
    ("query", "header", "expected"),
    [
        ("image/png", "image/jpeg", PNG),
        ("image/png", "*/*", PNG),
        ("image/gif", "image/jpeg", JPEG),
        ("image/gif", "*/*", JPEG),
        ("image/png;q=0.1", "image/jpeg;q=1", PNG),
    ],
)
def test_the_accept_parameter_goes_before_the_header(query: str, header: str, expected: Offer) -> None:
    """PS3.18 8.7.8.1 steps 2 and 3: the header only where nothing in the parameter is supported."""
    assert choose((query, header), PICTURES) == expected


def test_a_transfer_syntax_means_nothing_to_what_has_none() -> None:
    """PS3.18 8.7.7: media type parameters that are not supported are ignored."""
    assert chosen("image/png; transfer-syntax=1.2.840.10008.1.2.1", PICTURES) == PNG


# -- instances -------------------------------------------------------------------------------------------------


def instance(header: str, stored: str, *, has_single_part: bool = True) -> tuple[bool, str]:
    offer = chosen(header, instance_offers(stored, has_single_part=has_single_part))
    assert offer.media_type == DICOM
    return offer.multipart, offer.transfer_syntax


@pytest.mark.parametrize("stored", [*NATIVE, JPEG_LS, RLE])
@pytest.mark.parametrize("header", ["*/*", 'multipart/related; type="*/*"', "multipart/*", "multipart/related"])
def test_a_wildcard_gets_multipart_in_explicit_little_endian(header: str, stored: str) -> None:
    """PS3.18 8.7.3.4, Table 8.7.3-2: the default transfer syntax; Table 10.4.4-1: the default media type."""
    assert instance(header, stored) == (True, EXPLICIT_LITTLE_ENDIAN)


@pytest.mark.parametrize("stored", [IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("syntax", ["", "; transfer-syntax=*", "; transfer-syntax=1.2.840.10008.1.2.1"])
def test_implicit_vr_and_big_endian_are_never_sent(stored: str, syntax: str) -> None:
    """PS3.18 8.7.3: they shall not be used with Web Services."""
    assert instance(f"application/dicom{syntax}", stored) == (False, EXPLICIT_LITTLE_ENDIAN)
    with pytest.raises(NotAcceptable):
        instance(f"application/dicom; transfer-syntax={stored}", stored)


@pytest.mark.parametrize("stored", [EXPLICIT_LITTLE_ENDIAN, DEFLATED, JPEG_LS, JPEG_BASELINE, MPEG_4, "1.2.3.4"])
def test_the_wildcard_transfer_syntax_gets_what_is_stored(stored: str) -> None:
    """PS3.18 8.7.3.5.2."""
    assert instance("application/dicom; transfer-syntax=*", stored) == (False, stored)
    assert instance(f"application/dicom; transfer-syntax={stored}", stored) == (False, stored)


@pytest.mark.parametrize("stored", [JPEG_BASELINE, MPEG_4])
def test_what_there_is_only_in_lossy_form_is_sent_so(stored: str) -> None:
    """PS3.18 8.7.3.4: unless the origin server has only access to the pixel data in lossy compressed form."""
    assert instance("application/dicom", stored) == (False, stored)


def test_lossy_still_images_are_decompressed_for_who_names_that() -> None:
    named = "application/dicom; transfer-syntax=1.2.840.10008.1.2.1"
    assert instance(named, JPEG_BASELINE) == (False, EXPLICIT_LITTLE_ENDIAN)
    with pytest.raises(NotAcceptable):
        instance(named, MPEG_4)


@pytest.mark.parametrize("stored", [EXPLICIT_LITTLE_ENDIAN, JPEG_LS])
def test_an_instance_whose_frames_are_not_known_is_not_compressed_otherwise(stored: str) -> None:
    with pytest.raises(NotAcceptable, match=r"transfer-syntax=1\.2\.840\.10008\.1\.2\.1"):
        instance("application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90", stored)


def test_a_study_never_goes_in_one_part() -> None:
    """PS3.18 Table 10.4.4-1 (2025a): application/dicom shall only be used for individual instances."""
    with pytest.raises(NotAcceptable):
        instance("application/dicom; transfer-syntax=*", JPEG_LS, has_single_part=False)
    with pytest.raises(NotAcceptable):
        instance("application/dicom", EXPLICIT_LITTLE_ENDIAN, has_single_part=False)


# -- frames ----------------------------------------------------------------------------------------------------


def frame(header: str, stored: str) -> tuple[bool, str]:
    """Whether it goes in multipart, and the Content-Type of the part."""
    offer = chosen(header, frame_offers(stored, has_single_part=True))
    return offer.multipart, offer.part_type


GREY = ArraySpec(
    transfer_syntax=EXPLICIT_LITTLE_ENDIAN,
    rows=16,
    columns=16,
    samples=1,
    bits_allocated=8,
    bits_stored=8,
    signed=False,
    planar_configuration=0,
    photometric="MONOCHROME2",
    frames=1,
    pixel_element="7FE00010",
    pixel_vr="OB",
    encoding="native",
)
NATIVE_FRAME = f"{OCTET_STREAM}; transfer-syntax={EXPLICIT_LITTLE_ENDIAN}"


@pytest.mark.parametrize("stored", [*NATIVE, JPEG_LS, JPEG_BASELINE, RLE])
@pytest.mark.parametrize(
    "header", ["*/*", 'multipart/related; type="*/*"', "multipart/related; type=application/octet-stream"]
)
def test_who_names_no_transfer_syntax_gets_native_frames(header: str, stored: str) -> None:
    """PS3.18 8.7.3.3: Explicit VR Little Endian shall be used, as application/octet-stream (Table 8.7.3-4)."""
    assert frame(header, stored) == (True, NATIVE_FRAME)


@pytest.mark.parametrize("syntax", sorted(COMPRESSED))
@pytest.mark.parametrize("media_type", [OCTET_STREAM, "*/*"])
def test_any_transfer_syntax_gets_the_bitstream_under_its_own_name(syntax: str, media_type: str) -> None:
    """PS3.18 8.7.3.5.2, Table 8.7.3-5: this is how OHIF asks for every frame."""
    header = f"multipart/related; type={media_type}; transfer-syntax=*"
    assert frame(header, syntax) == (True, f"{COMPRESSED[syntax][0]}; transfer-syntax={syntax}")


@pytest.mark.parametrize("stored", NATIVE)
def test_any_transfer_syntax_gets_native_frames_where_they_are_native(stored: str) -> None:
    header = "multipart/related; type=application/octet-stream; transfer-syntax=*"
    assert frame(header, stored) == (True, NATIVE_FRAME)


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("image/jpeg", JPEG_BASELINE),
        ("image/jpeg", "1.2.840.10008.1.2.4.57"),
        ("image/jls", JPEG_LS),
        ("image/x-jls", JPEG_LS),
        ("image/dicom-rle", RLE),
        ("image/x-dicom-rle", RLE),
        ("image/jp2", "1.2.840.10008.1.2.4.90"),
        ("image/jphc", "1.2.840.10008.1.2.4.202"),
        ("image/jxl", "1.2.840.10008.1.2.4.110"),
        ("video/mp4", MPEG_4),
    ],
)
def test_the_media_type_of_the_bitstream_gets_it_by_its_new_and_its_old_name(name: str, stored: str) -> None:
    """PS3.18 Table 8.7.3-5; the x- names were replaced in 2024d, clients still use them."""
    assert frame(f'multipart/related; type="{name}"', stored) == (True, f"{name}; transfer-syntax={stored}")
    assert frame(name, stored) == (False, f"{name}; transfer-syntax={stored}")


@pytest.mark.parametrize(
    ("header", "stored"),
    [
        ("image/jp2", JPEG_LS),
        ("image/jpeg", EXPLICIT_LITTLE_ENDIAN),
        ("image/*", EXPLICIT_LITTLE_ENDIAN),
        ("image/jls; transfer-syntax=1.2.840.10008.1.2.4.81", JPEG_LS),
        ("application/octet-stream; transfer-syntax=1.2.840.10008.1.2.4.90", JPEG_LS),
        ("application/octet-stream; transfer-syntax=1.2.840.10008.1.2", IMPLICIT),
        ("application/octet-stream", MPEG_4),
    ],
)
def test_frames_that_are_not_known_are_not_transcoded_to_another_compression(header: str, stored: str) -> None:
    with pytest.raises(NotAcceptable):
        frame(header, stored)


def test_of_a_list_the_client_prefers_first_that_can_be_made_wins() -> None:
    """PS3.18 8.7.8.1: by weight, whatever it costs; of equal weights the first that is named."""
    offers = frame_offers(JPEG_LS, replace(GREY, transfer_syntax=JPEG_LS), has_single_part=True)
    for header, expected in {
        "image/jls;q=0.9, image/jp2": "1.2.840.10008.1.2.4.90",
        "image/jls, image/jp2": JPEG_LS,
        "image/jp2, image/jls": "1.2.840.10008.1.2.4.90",
        "image/jxl, image/jls;q=0.9": "1.2.840.10008.1.2.4.110",
        "image/jpx, image/jls;q=0.9": JPEG_LS,
    }.items():
        assert chosen(header, offers).transfer_syntax == expected


def test_what_is_stored_goes_before_what_has_to_be_made() -> None:
    """A wildcard never costs a transcoding, but for those that get the default."""
    for stored in (EXPLICIT_LITTLE_ENDIAN, JPEG_LS, RLE, JPEG_BASELINE):
        spec = replace(GREY, transfer_syntax=stored)
        for header in ("*/*; transfer-syntax=*", f"{OCTET_STREAM}; transfer-syntax=*"):
            assert chosen(header, frame_offers(stored, spec, has_single_part=True)).transfer_syntax == stored
        for header in ("application/dicom; transfer-syntax=*", "*/*; transfer-syntax=*"):
            assert chosen(header, instance_offers(stored, spec, has_single_part=True)).transfer_syntax == stored


def test_offers_are_made_once_for_equal_frames() -> None:
    """Choosing among them is then a look into a cache, for each of a thousand frames."""
    assert frame_offers(RLE, replace(GREY), has_single_part=True) is frame_offers(
        RLE, replace(GREY), has_single_part=True
    )


def test_several_frames_never_go_in_one_part() -> None:
    assert all(offer.multipart for offer in frame_offers(JPEG_LS, has_single_part=False))


def test_of_a_list_the_client_prefers_first_that_is_stored_wins() -> None:
    """PS3.18 8.7.3.5.2: several media types with weights say which transfer syntax is liked best."""
    header = (
        'multipart/related; type="image/jp2"; transfer-syntax=1.2.840.10008.1.2.4.90,'
        ' multipart/related; type="image/jls"; transfer-syntax=1.2.840.10008.1.2.4.80;q=0.9,'
        ' multipart/related; type="application/octet-stream";q=0.5'
    )
    assert frame(header, JPEG_LS) == (True, f"image/jls; transfer-syntax={JPEG_LS}")
    assert frame(header, RLE) == (True, NATIVE_FRAME)
