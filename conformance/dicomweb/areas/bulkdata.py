"""Bulk data by the URIs of the metadata, and all or the pixels of an instance, series or study (PS3.18 10.4.1.1)."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import MAY, SHOULD, Fault, NotApplicable, check, ensure
from conformance.dicomweb.jsonmodel import said
from conformance.dicomweb.peer import OCTET_PARTS, OCTETS, Answer, Peer

ANY_PARTS = 'multipart/related; type="*/*"'
_PIXELS, _DOCUMENT, _LARGE = "7FE00010", "00420011", "00711003"


def uri_of(peer: Peer, cast: Cast, name: str, tag: str) -> str:
    """The absolute URI of a bulk value; `NotApplicable` where the value is in the metadata itself."""
    uri = cast.metadata(name).get(tag, {}).get("BulkDataURI")
    if uri is None:
        raise NotApplicable(f"{tag} of {name} is in the metadata itself")
    return str(urljoin(f"{peer.base}{cast[name].path}/metadata", uri))


def value_of(answer: Answer) -> bytes:
    """The only value of an answer, of one part or of a message with one part."""
    if answer.expect(200).media.name != "multipart/related":
        return answer.body
    parts = answer.parts()
    ensure(len(parts) == 1, f"one bulk value comes as {len(parts)} parts")
    return parts[0].body


def _ensure_value(peer: Peer, cast: Cast, name: str, tag: str, wanted: bytes, accept: str = OCTET_PARTS) -> None:
    came = value_of(peer.get(uri_of(peer, cast, name, tag), accept=accept))
    ensure(came.rstrip(b"\0") == wanted.rstrip(b"\0"), f"{len(came)} bytes are not the {len(wanted)} that were stored")


@check("BULK-001", "10.4.1.1.5")
def pixel_data(peer: Peer, cast: Cast) -> None:
    """The BulkDataURI of native Pixel Data leads to the pixels."""
    for name in ("ct1", "cine"):
        _ensure_value(peer, cast, name, _PIXELS, cast[name].dataset.PixelData)


@check("BULK-002", "10.4.1.1.5")
def document(peer: Peer, cast: Cast) -> None:
    """The BulkDataURI of an encapsulated document leads to the document."""
    _ensure_value(peer, cast, "pdf", _DOCUMENT, cast["pdf"].dataset.EncapsulatedDocument)


@check("BULK-003", "10.4.1.1.5")
def large_private_value(peer: Peer, cast: Cast) -> None:
    """The BulkDataURI of a large private value leads to the value."""
    _ensure_value(peer, cast, "deep", _LARGE, cast["deep"].dataset[0x0071, 0x1003].value)


@check("BULK-004", "8.7.8.1")
def any_type(peer: Peer, cast: Cast) -> None:
    """A bulk value is sent to who takes anything."""
    _ensure_value(peer, cast, "cine", _PIXELS, cast["cine"].dataset.PixelData, "*/*")


@check("BULK-005", "F.2.6")
def uris_lead_back(peer: Peer, cast: Cast) -> None:
    """Every BulkDataURI leads back to the server by the authority that the client used."""
    found = []
    for name in ("ct1", "cine", "rle", "pdf", "deep"):
        for tag, attribute in cast.metadata(name).items():
            if uri := attribute.get("BulkDataURI"):
                absolute = urljoin(f"{peer.base}/", uri)
                if urlsplit(absolute).netloc != urlsplit(peer.base).netloc:
                    found.append(f"{name} {tag} is at {uri}")
    ensure(not found, said(found))


@check("BULK-006", "F.2.6")
def every_uri_is_answered(peer: Peer, cast: Cast) -> None:
    """Every BulkDataURI in the metadata can be retrieved."""
    found = []
    for name in ("ct1", "colour", "rle", "jls", "j2k", "htj2k", "jpeg", "pdf", "deep"):
        for tag, attribute in cast.metadata(name).items():
            if "BulkDataURI" in attribute:
                status = peer.get(uri_of(peer, cast, name, tag), accept=f"{OCTET_PARTS}; transfer-syntax=*").status
                if status != 200:
                    found.append(f"{name} {tag} is answered by {status}")
    ensure(not found, said(found))


@check("BULK-007", "10.4.3.3.5")
def location_of_the_part(peer: Peer, cast: Cast) -> None:
    """The part of a bulk value has the Content-Location that the metadata has as its URI."""
    uri = uri_of(peer, cast, "cine", _PIXELS)
    (part,) = peer.get(uri, accept=OCTET_PARTS).parts()
    found = part.headers.get("content-location", "")
    ensure(urljoin(uri, found) == uri and found, f"the Content-Location of {uri} is {found!r}")


@check("BULK-008", "10.4.4", SHOULD)
def single_part(peer: Peer, cast: Cast) -> None:
    """A bulk value is sent as application/octet-stream, without multipart, to who asks for that."""
    answer = peer.get(uri_of(peer, cast, "cine", _PIXELS), accept=OCTETS).expect(200).expect_type(OCTETS)
    ensure(answer.body == cast["cine"].dataset.PixelData, "the body is not the value")


@check("BULK-009", "RFC 9110 14.2", SHOULD)
def range_of_a_value(peer: Peer, cast: Cast) -> None:
    """A range of a single-part bulk value is answered by 206 with those bytes and their Content-Range."""
    value = cast["cine"].dataset.PixelData
    uri = uri_of(peer, cast, "cine", _PIXELS)
    answer = peer.get(uri, accept=OCTETS, headers={"Range": "bytes=100-199"}).expect(206)
    ensure(answer.body == value[100:200], f"{len(answer.body)} bytes are not bytes 100 to 199")
    found = answer.headers.get("content-range")
    ensure(found == f"bytes 100-199/{len(value)}", f"Content-Range is {found!r}")


@check("BULK-010", "RFC 9110 14.2", SHOULD)
def end_of_a_value(peer: Peer, cast: Cast) -> None:
    """A range that counts from the end gives the last bytes."""
    uri = uri_of(peer, cast, "cine", _PIXELS)
    answer = peer.get(uri, accept=OCTETS, headers={"Range": "bytes=-16"}).expect(206)
    ensure(answer.body == cast["cine"].dataset.PixelData[-16:], f"{len(answer.body)} bytes are not the last 16")


@check("BULK-011", "RFC 9110 15.5.17", SHOULD)
def range_past_the_end(peer: Peer, cast: Cast) -> None:
    """A range past the end is answered by 416."""
    uri = uri_of(peer, cast, "cine", _PIXELS)
    peer.get(uri, accept=OCTETS, headers={"Range": "bytes=1000000-"}).expect(416)


@check("BULK-012", "10.4.3.1")
def value_that_is_not_there(peer: Peer, cast: Cast) -> None:
    """A bulk value that is not there is answered by 404."""
    uri = uri_of(peer, cast, "cine", _PIXELS)
    peer.get(uri.replace(cast["cine"].uid, cast.samples.uid("nowhere")), accept=OCTET_PARTS).expect(404)


@check("BULK-013", "10.4.1.1.5", MAY)
def resources_are_offered(peer: Peer, cast: Cast) -> None:
    """All bulk data of an instance is at its /bulkdata."""
    cast["ct1"]
    if why := cast.missing("bulkdata"):
        raise Fault(why)
    ensure(peer.get(f"{cast['ct1'].path}/bulkdata", accept=ANY_PARTS).parts(), "there is no part")


@check("BULK-014", "10.4.3.3.5", needs="bulkdata")
def all_of_an_instance(peer: Peer, cast: Cast) -> None:
    """The /bulkdata of an instance has a part for each BulkDataURI of its metadata, named by Content-Location."""
    uris = {uri_of(peer, cast, "cine", tag) for tag, one in cast.metadata("cine").items() if "BulkDataURI" in one}
    parts = peer.get(f"{cast['cine'].path}/bulkdata", accept=ANY_PARTS).parts()
    found = {urljoin(peer.base + "/", part.headers.get("content-location", "")) for part in parts}
    ensure(found == uris, f"the parts are at {sorted(found)}, not {sorted(uris)}")


@check("BULK-015", "10.4.3.3.5", needs="bulkdata")
def all_of_a_series_and_study(peer: Peer, cast: Cast) -> None:
    """The /bulkdata of a series and of a study have the bulk data of all their instances."""
    pixels = {cast[f"ct{number}"].dataset.PixelData for number in range(1, 6)}
    for path in (cast["ct1"].series, cast["ct1"].study):
        found = {part.body for part in peer.get(f"{path}/bulkdata", accept=ANY_PARTS).parts()}
        ensure(pixels <= found, f"{len(pixels & found)} of {len(pixels)} pixel data are there")


@check("BULK-016", "10.4.3.1", needs="bulkdata")
def all_of_nothing(peer: Peer, cast: Cast) -> None:
    """The /bulkdata of what is not there is answered by 404."""
    cast.held()
    peer.get(f"/studies/{cast.samples.uid('nowhere')}/bulkdata", accept=ANY_PARTS).expect(404)


@check("BULK-017", "10.4.4", SHOULD)
def instance_as_octets(peer: Peer, cast: Cast) -> None:
    """An instance asked for as multipart/related; type="application/octet-stream" gives its bulk data."""
    parts = peer.get(cast["cine"].path, accept=OCTET_PARTS).parts()
    ensure(cast["cine"].dataset.PixelData in [part.body for part in parts], "no part is the pixel data")


@check("BULK-018", "RFC 9110 9.3.2", SHOULD)
def head(peer: Peer, cast: Cast) -> None:
    """HEAD of a bulk value tells its length without sending it."""
    answer = peer.ask("HEAD", uri_of(peer, cast, "cine", _PIXELS), accept=OCTETS).expect(200)
    wanted = str(len(cast["cine"].dataset.PixelData))
    ensure(
        answer.headers.get("content-length") == wanted, f"Content-Length is {answer.headers.get('content-length')!r}"
    )


@check("BULK-019", "10.4.1.1.7", MAY)
def pixels_are_offered(peer: Peer, cast: Cast) -> None:
    """The pixel data of an instance is at its /pixeldata."""
    cast["ct1"]
    if why := cast.missing("pixeldata"):
        raise Fault(why)
    ensure(peer.get(f"{cast['ct1'].path}/pixeldata", accept=ANY_PARTS).parts(), "there is no part")


@check("BULK-020", "10.4.3.3.6", needs="pixeldata")
def pixels_of_an_instance(peer: Peer, cast: Cast) -> None:
    """The /pixeldata of an instance is its pixel data, at the URI that the metadata has for it."""
    uri = uri_of(peer, cast, "cine", _PIXELS)
    parts = peer.get(f"{cast['cine'].path}/pixeldata", accept=ANY_PARTS).parts()
    found = [urljoin(peer.base + "/", part.headers.get("content-location", "")) for part in parts]
    ensure(found == [uri], f"the parts are at {found}, not at {uri}")
    ensure(parts[0].body == cast["cine"].dataset.PixelData, f"{len(parts[0].body)} bytes are not the pixel data")


@check("BULK-021", "10.4.3.3.6", needs="pixeldata")
def pixels_of_frames(peer: Peer, cast: Cast) -> None:
    """Every part of compressed pixel data has the URI of the metadata as its Content-Location."""
    uri = uri_of(peer, cast, "rle", _PIXELS)
    parts = peer.get(f"{cast['rle'].path}/pixeldata", accept=f"{ANY_PARTS}; transfer-syntax=*").parts()
    found = {urljoin(peer.base + "/", part.headers.get("content-location", "")) for part in parts}
    ensure(found == {uri}, f"the parts are at {sorted(found)}, not at {uri}")


@check("BULK-022", "10.4.3.3.6", needs="pixeldata")
def pixels_of_a_series_and_study(peer: Peer, cast: Cast) -> None:
    """The /pixeldata of a series and of a study are the pixel data of all their instances, and nothing else."""
    pixels = sorted(cast[f"ct{number}"].dataset.PixelData for number in range(1, 6))
    for path in (cast["ct1"].series, cast["ct1"].study):
        found = sorted(part.body for part in peer.get(f"{path}/pixeldata", accept=ANY_PARTS).parts())
        ensure(found == pixels, f"{len(found)} parts of {path} are not the {len(pixels)} pixel data")


@check("BULK-023", "10.4.3.1", needs="pixeldata")
def pixels_of_nothing(peer: Peer, cast: Cast) -> None:
    """The /pixeldata of what is not there is answered by 404."""
    cast.held()
    peer.get(f"/studies/{cast.samples.uid('nowhere')}/pixeldata", accept=ANY_PARTS).expect(404)
