"""Which representation is sent: media types and transfer syntaxes (PS3.18 8.7, 10.4.4)."""

from __future__ import annotations

import httpx
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import MAY, MUST, SHOULD, check, ensure
from conformance.dicomweb.peer import DICOM, DICOM_PARTS, JSON, OCTET_PARTS, Answer, Peer, read_file
from conformance.dicomweb.samples import CODECS

NONSENSE = "application/x-nobody-has-this"


def metadata(peer: Peer, cast: Cast, accept: str | None, query: str = "") -> Answer:
    """Ask for the metadata of an image, which every server has as JSON."""
    return peer.get(f"{cast['ct1'].path}/metadata", query, accept=accept)


def syntax_of(answer: Answer) -> str:
    """The transfer syntax of the only file in a multipart answer."""
    (part,) = answer.parts()
    return str(read_file(part.body).file_meta.TransferSyntaxUID)


@check("NEG-001", "8.7.8.1")
def any_type_gets_the_default(peer: Peer, cast: Cast) -> None:
    """``*/*`` gets the default media type of the resource: DICOM JSON for metadata."""
    metadata(peer, cast, "*/*").expect(200).expect_type(JSON)


@check("NEG-002", "8.7.8.1")
def type_wildcard_gets_the_default(peer: Peer, cast: Cast) -> None:
    """``application/*`` matches DICOM JSON, so metadata comes as that."""
    metadata(peer, cast, "application/*").expect(200).expect_type(JSON)


@check("NEG-003", "8.7.8.1")
def unknown_type_of_metadata(peer: Peer, cast: Cast) -> None:
    """Metadata in a media type that is not supported is answered by 406."""
    metadata(peer, cast, NONSENSE).expect(406)


@check("NEG-004", "8.7.8.1")
def unknown_type_of_an_instance(peer: Peer, cast: Cast) -> None:
    """An instance in a media type that is not supported is answered by 406."""
    peer.get(cast["ct1"].path, accept=f'multipart/related; type="{NONSENSE}"').expect(406)


@check("NEG-005", "8.7.8.1")
def unknown_type_of_a_study(peer: Peer, cast: Cast) -> None:
    """A study in a media type that is not supported is answered by 406."""
    peer.get(cast["ct1"].study, accept=f'multipart/related; type="{NONSENSE}"').expect(406)


@check("NEG-006", "8.7.8.1")
def unknown_type_of_frames(peer: Peer, cast: Cast) -> None:
    """Frames of a still image as video are answered by 406."""
    peer.get(f"{cast['ct1'].path}/frames/1", accept='multipart/related; type="video/mp4"').expect(406)


@check("NEG-007", "8.7.8.1")
def unknown_type_of_a_search(peer: Peer, cast: Cast) -> None:
    """Search results in a media type that is not supported are answered by 406."""
    peer.search("/studies", accept=NONSENSE, PatientID=cast["ct1"].dataset.PatientID).expect(406)


@check("NEG-008", "8.7.8.1", needs="rendered")
def unknown_type_of_a_rendering(peer: Peer, cast: Cast) -> None:
    """A rendered image in a media type that is not supported is answered by 406."""
    peer.get(f"{cast['ct1'].path}/rendered", accept="image/x-nobody-has-this").expect(406)


@check("NEG-009", "8.7.8.1")
def list_of_types(peer: Peer, cast: Cast) -> None:
    """Of several media types the supported one is sent, wherever it stands."""
    metadata(peer, cast, f"{NONSENSE}, image/png;q=0.9, {JSON};q=0.2").expect(200).expect_type(JSON)


@check("NEG-010", "8.7.8.1", needs="rendered")
def weights_choose(peer: Peer, cast: Cast) -> None:
    """The media type of the highest weight is sent: JPEG before PNG and PNG before JPEG."""
    path = f"{cast['ct1'].path}/rendered"
    peer.get(path, accept="image/png;q=0.3, image/jpeg;q=0.9").expect(200).expect_type("image/jpeg")
    peer.get(path, accept="image/png;q=0.9, image/jpeg;q=0.3").expect(200).expect_type("image/png")


@check("NEG-011", "RFC 9110 12.4.2")
def weight_zero_refuses(peer: Peer, cast: Cast) -> None:
    """A media type of weight 0 is not acceptable, even below a wildcard."""
    metadata(peer, cast, f"{JSON};q=0").expect(406)


@check("NEG-012", "8.7.3.5.1")
def quoted_type(peer: Peer, cast: Cast) -> None:
    """The type parameter of multipart/related is read when it is quoted."""
    peer.get(cast["ct1"].path, accept='multipart/related; type="application/dicom"').parts()


@check("NEG-013", "8.7.1")
def unquoted_type(peer: Peer, cast: Cast) -> None:
    """The type parameter of multipart/related is read when it is not quoted.

    8.7.1 makes the quoted and the bare value equivalent; many clients leave the quotes out.
    """
    peer.get(cast["ct1"].path, accept="multipart/related; type=application/dicom").parts()


@check("NEG-014", "8.7.1")
def types_in_any_case(peer: Peer, cast: Cast) -> None:
    """Names of media types and parameters are read in upper and lower case."""
    metadata(peer, cast, "Application/DICOM+JSON").expect(200).expect_type(JSON)
    peer.get(cast["ct1"].path, accept='Multipart/Related; Type="application/dicom"').parts()


@check("NEG-015", "8.7.3.5.1", SHOULD)
def wildcard_in_the_type(peer: Peer, cast: Cast) -> None:
    """A wildcard as type of multipart/related, as dicomweb-client sends it for frames, is read.

    The example of 8.7.3.5.1 has ``type="image/*"``; ``*/*`` is the same notation.
    """
    peer.get(f"{cast['ct1'].path}/frames/1", accept='multipart/related; type="*/*"').parts()


@check("NEG-016", "RFC 9110 5.3")
def several_accept_headers(peer: Peer, cast: Cast) -> None:
    """Several Accept header lines are one list."""
    lines = httpx.Headers([("Accept", NONSENSE), ("Accept", JSON)])
    path = f"{cast['ct1'].path}/metadata"
    peer.ask("GET", path, accept=None, headers=lines.multi_items()).expect(200).expect_type(JSON)


@check("NEG-017", "8.7.8.1")
def accept_parameter_comes_first(peer: Peer, cast: Cast) -> None:
    """The accept query parameter is looked at before the Accept header."""
    answer = metadata(peer, cast, NONSENSE, "accept=application/dicom%2Bjson")
    answer.expect(200).expect_type(JSON)


@check("NEG-018", "8.7.8.1")
def header_serves_where_the_parameter_does_not(peer: Peer, cast: Cast) -> None:
    """Where nothing in the accept query parameter is supported, the Accept header decides."""
    metadata(peer, cast, JSON, f"accept={NONSENSE}").expect(200).expect_type(JSON)


@check("NEG-019", "8.7.8.1", needs="rendered")
def accept_parameter_of_a_rendering(peer: Peer, cast: Cast) -> None:
    """The accept query parameter chooses the media type of a rendered image, as in an HTML page."""
    answer = peer.get(f"{cast['ct1'].path}/rendered", "accept=image/png", accept="image/jpeg, */*;q=0.5")
    answer.expect(200).expect_type("image/png")


@check("NEG-020", "8.7.3.5.2")
def named_transfer_syntax(peer: Peer, cast: Cast) -> None:
    """An instance asked for in Explicit VR Little Endian comes in it."""
    accept = f"{DICOM_PARTS}; transfer-syntax={ExplicitVRLittleEndian}"
    found = syntax_of(peer.get(cast["ct1"].path, accept=accept))
    ensure(found == ExplicitVRLittleEndian, f"the file is in {found}")


def _decompressed(peer: Peer, cast: Cast, name: str) -> None:
    found = syntax_of(peer.get(cast[name].path, accept=DICOM_PARTS))
    ensure(found == ExplicitVRLittleEndian, f"no transfer syntax was named, and the file is in {found}")


@check("NEG-021", "8.7.3")
def default_for_rle(peer: Peer, cast: Cast) -> None:
    """What is stored as RLE Lossless goes as Explicit VR Little Endian to who names no transfer syntax."""
    _decompressed(peer, cast, "rle")


@check("NEG-022", "8.7.3")
def default_for_jpeg_ls(peer: Peer, cast: Cast) -> None:
    """What is stored as JPEG-LS Lossless goes as Explicit VR Little Endian to who names no transfer syntax."""
    _decompressed(peer, cast, "jls")


@check("NEG-023", "8.7.3")
def default_for_jpeg_2000(peer: Peer, cast: Cast) -> None:
    """What is stored as JPEG 2000 Lossless goes as Explicit VR Little Endian to who names no transfer syntax."""
    _decompressed(peer, cast, "j2k")


@check("NEG-024", "8.7.3")
def default_for_htj2k(peer: Peer, cast: Cast) -> None:
    """What is stored as HTJ2K Lossless goes as Explicit VR Little Endian to who names no transfer syntax."""
    _decompressed(peer, cast, "htj2k")


@check("NEG-025", "8.7.3")
def default_for_deflated(peer: Peer, cast: Cast) -> None:
    """What is stored deflated goes as Explicit VR Little Endian to who names no transfer syntax."""
    _decompressed(peer, cast, "deflated")


@check("NEG-026", "8.7.3.5.2", SHOULD)
def any_transfer_syntax(peer: Peer, cast: Cast) -> None:
    """``transfer-syntax=*`` gets each instance as it is stored.

    The text lets the server choose; to decode what the client could have taken serves nobody.
    """
    for name, syntax in CODECS.items():
        found = syntax_of(peer.get(cast[name].path, accept=f"{DICOM_PARTS}; transfer-syntax=*"))
        ensure(found == syntax, f"{name} is stored in {syntax} and sent in {found}")


@check("NEG-027", "8.7.8.2")
def stored_syntax_by_name(peer: Peer, cast: Cast) -> None:
    """A compressed transfer syntax that is named is sent, or answered by 406; no other takes its place."""
    for name, syntax in CODECS.items():
        answer = peer.get(cast[name].path, accept=f"{DICOM_PARTS}; transfer-syntax={syntax}")
        if answer.expect(200, 406).status == 200:
            ensure((found := syntax_of(answer)) == syntax, f"{syntax} was asked for, and {found} was sent")


@check("NEG-028", "8.7.3")
def implicit_is_never_sent(peer: Peer, cast: Cast) -> None:
    """Implicit VR Little Endian shall not be used over the web: who asks for it alone gets 406."""
    peer.get(cast["ct1"].path, accept=f"{DICOM_PARTS}; transfer-syntax={ImplicitVRLittleEndian}").expect(406)


@check("NEG-029", "8.7.3")
def big_endian_is_never_sent(peer: Peer, cast: Cast) -> None:
    """Explicit VR Big Endian shall not be used over the web: who asks for it alone gets 406."""
    peer.get(cast["ct1"].path, accept=f"{DICOM_PARTS}; transfer-syntax={ExplicitVRBigEndian}").expect(406)


@check("NEG-030", "8.7.3")
def implicit_that_is_stored_is_not_sent(peer: Peer, cast: Cast) -> None:
    """What is stored in Implicit VR goes as Explicit VR, also to who takes any transfer syntax."""
    for accept in (DICOM_PARTS, f"{DICOM_PARTS}; transfer-syntax=*"):
        found = syntax_of(peer.get(cast["implicit"].path, accept=accept))
        ensure(found != ImplicitVRLittleEndian, f"{accept} gets Implicit VR Little Endian")


@check("NEG-031", "8.7.8.1")
def unknown_transfer_syntax(peer: Peer, cast: Cast) -> None:
    """A transfer syntax that nobody has is answered by 406."""
    peer.get(cast["ct1"].path, accept=f"{DICOM_PARTS}; transfer-syntax=1.2.3.4.5").expect(406)


@check("NEG-032", "8.7.8.1")
def list_of_transfer_syntaxes(peer: Peer, cast: Cast) -> None:
    """Of several transfer syntaxes one that can be sent is sent."""
    ranges = [f"{DICOM_PARTS}; transfer-syntax={uid}" for uid in ("1.2.3.4.5", ExplicitVRLittleEndian)]
    found = syntax_of(peer.get(cast["ct1"].path, accept=", ".join(ranges)))
    ensure(found == ExplicitVRLittleEndian, f"the file is in {found}")


@check("NEG-033", "10.4.4")
def study_is_no_single_part(peer: Peer, cast: Cast) -> None:
    """A study in a single part is answered by 406 (since 2025a)."""
    peer.get(cast["ct1"].study, accept=DICOM).expect(406)


@check("NEG-034", "10.4.4")
def series_is_no_single_part(peer: Peer, cast: Cast) -> None:
    """A series in a single part is answered by 406, even one of a single instance (since 2025a)."""
    peer.get(cast["cine"].series, accept=DICOM).expect(406)


@check("NEG-035", "10.4.4", SHOULD)
def instance_as_single_part(peer: Peer, cast: Cast) -> None:
    """A single instance is sent as application/dicom, without multipart, to who asks for that."""
    answer = peer.get(cast["ct1"].path, accept=DICOM).expect(200).expect_type(DICOM)
    ensure(read_file(answer.body).SOPInstanceUID == cast["ct1"].uid, "the file is another instance")


@check("NEG-036", "10.4.4", SHOULD)
def any_type_of_an_instance(peer: Peer, cast: Cast) -> None:
    """``*/*`` gets an instance as DICOM, in one part or in several."""
    answer = peer.get(cast["ct1"].path).expect(200)
    kind = answer.media.parameters.get("type", answer.media.name)
    ensure(kind == DICOM, f"the instance comes as {answer.headers.get('content-type')}")


@check("NEG-037", "8.7.5")
def no_accept_header(peer: Peer, cast: Cast) -> None:
    """A request without an Accept header is served with the default, or refused with 400 or 406.

    The user agent shall send the header; RFC 9110 12.5.1 takes its absence for ``*/*``.
    """
    answer = metadata(peer, cast, None).expect(200, 400, 406)
    if answer.status == 200:
        answer.expect_type(JSON)


@check("NEG-038", "8.7.3.5.3")
def charset_in_the_media_type(peer: Peer, cast: Cast) -> None:
    """A charset parameter of UTF-8 does not keep DICOM JSON from being sent."""
    metadata(peer, cast, f"{JSON}; charset=utf-8").expect(200).expect_type(JSON)


@check("NEG-039", "8.7.3.5.1")
def boundary_in_the_accept_header(peer: Peer, cast: Cast) -> None:
    """A boundary parameter in a media range, as in the standard's own example, does no harm."""
    accept = 'multipart/related; type="application/octet-stream"; boundary=**'
    peer.get(f"{cast['ct1'].path}/frames/1", accept=accept).parts()


@check("NEG-040", "8.7.8.1", SHOULD)
def each_instance_for_itself(peer: Peer, cast: Cast) -> None:
    """In a study of many transfer syntaxes the media type is chosen for each part on its own.

    With ``transfer-syntax=*`` the compressed instances come compressed and the others explicit.
    """
    accept = f"{DICOM_PARTS}; transfer-syntax=*"
    parts = peer.get(cast["rle"].study, accept=accept).parts(200, 206)
    found = {str(read_file(part.body).file_meta.TransferSyntaxUID) for part in parts}
    held = {cast.samples[name].transfer_syntax for name in CODECS} & {one.transfer_syntax for one in cast.held()}
    ensure(held <= found, f"the parts are in {sorted(found)} only")


@check("NEG-041", "8.7.8.1")
def types_of_another_resource(peer: Peer, cast: Cast) -> None:
    """A media type that exists for other resources only is not acceptable: pixels of metadata, metadata of pixels."""
    metadata(peer, cast, OCTET_PARTS).expect(406)
    peer.get(f"{cast['ct1'].path}/frames/1", accept=JSON).expect(406)


@check("NEG-042", "10.4.4", MAY)
def plain_json(peer: Peer, cast: Cast) -> None:
    """``application/json`` gets JSON as well, which older clients ask for."""
    found = metadata(peer, cast, "application/json").expect(200).json()
    ensure(isinstance(found, list) and len(found) == 1, "the answer is no array of one data set")


@check("NEG-043", "8.7.3.4")
def lossy_stays_lossy(peer: Peer, cast: Cast) -> None:
    """What exists in lossy form alone may be sent as it is to who names no transfer syntax, else as Explicit VR."""
    sample = cast["jpeg"]
    found = syntax_of(peer.get(sample.path, accept=DICOM_PARTS))
    ensure(found in (sample.transfer_syntax, ExplicitVRLittleEndian), f"the file is in {found}")


@check("NEG-044", "8.7.8.1", MUST)
def wildcard_below_a_named_type(peer: Peer, cast: Cast) -> None:
    """A wildcard at the end of a list of unsupported media types gets the default."""
    metadata(peer, cast, f"{NONSENSE}, */*;q=0.1").expect(200).expect_type(JSON)
