"""WADO-URI, the URI Service (PS3.18 chapter 9)."""

from __future__ import annotations

from conformance.dicomweb.areas.rendering import GIF, JPEG, PNG, ensure_close, grey, picture, windowed
from conformance.dicomweb.cast import Cast, uri_query
from conformance.dicomweb.checks import MAY, SHOULD, Fault, check, ensure
from conformance.dicomweb.peer import DICOM, Answer, Peer, read_file


def wado(peer: Peer, cast: Cast, name: str, *, without: str = "", accept: str = "*/*", **parameters: str) -> Answer:
    """Ask for a sample; a parameter may be left out."""
    query = uri_query(cast[name], **parameters)
    query.pop(without, None)
    return peer.get(peer.wado_uri, query, accept=accept)


@check("URI-001", "9.3", MAY)
def is_offered(peer: Peer, cast: Cast) -> None:
    """The URI Service is there."""
    cast["ct1"]
    if why := cast.missing("uri"):
        raise Fault(why)
    picture(wado(peer, cast, "ct1").expect(200))


@check("URI-002", "9.3", needs="uri")
def default_type(peer: Peer, cast: Cast) -> None:
    """Without a contentType an image comes as image/jpeg."""
    picture(wado(peer, cast, "ct1").expect(200).expect_type(JPEG))


@check("URI-003", "9.4", needs="uri")
def file(peer: Peer, cast: Cast) -> None:
    """contentType=application/dicom gets the instance as a DICOM file."""
    answer = wado(peer, cast, "ct1", contentType=DICOM).expect(200).expect_type(DICOM)
    ensure(read_file(answer.body).SOPInstanceUID == cast["ct1"].uid, "another instance is retrieved")


@check("URI-004", "8.7.3", needs="uri")
def file_is_explicit(peer: Peer, cast: Cast) -> None:
    """A DICOM file comes in Explicit VR Little Endian where no transfer syntax is named."""
    for name in ("rle", "implicit"):
        found = read_file(wado(peer, cast, name, contentType=DICOM).expect(200).body).file_meta.TransferSyntaxUID
        ensure(found == "1.2.840.10008.1.2.1", f"{name} comes in {found}")


@check("URI-005", "9.1.2.1.1", needs="uri")
def no_request_type(peer: Peer, cast: Cast) -> None:
    """A request without requestType is answered by 400."""
    wado(peer, cast, "ct1", without="requestType").expect(400)


@check("URI-006", "9.1.2.1.1", needs="uri")
def other_request_type(peer: Peer, cast: Cast) -> None:
    """A requestType other than WADO is answered by 400."""
    wado(peer, cast, "ct1", requestType="XDS").expect(400)


@check("URI-007", "9.1.2.1.4", needs="uri")
def no_object(peer: Peer, cast: Cast) -> None:
    """A request without objectUID is answered by 400."""
    wado(peer, cast, "ct1", without="objectUID").expect(400)


@check("URI-008", "9.1.2.1.2", needs="uri")
def no_study_or_series(peer: Peer, cast: Cast) -> None:
    """A request without studyUID or seriesUID, which are mandatory, is answered by 400."""
    wado(peer, cast, "ct1", without="studyUID").expect(400)
    wado(peer, cast, "ct1", without="seriesUID").expect(400)


@check("URI-009", "9.4.3", needs="uri")
def unknown_object(peer: Peer, cast: Cast) -> None:
    """An instance that is not there is answered by 404 by the URI Service too."""
    wado(peer, cast, "ct1", objectUID=cast.samples.uid("nowhere")).expect(404)


@check("URI-010", "9.4.3", needs="uri")
def object_of_another_study(peer: Peer, cast: Cast) -> None:
    """An instance of another study or series than is named is answered by 404."""
    wado(peer, cast, "ct1", studyUID=cast["cine"].study_uid).expect(404)
    wado(peer, cast, "ct1", seriesUID=cast["sr"].series_uid).expect(404)


@check("URI-011", "9.1.2.2.1", needs="uri")
def unknown_type(peer: Peer, cast: Cast) -> None:
    """A contentType that is not supported is answered by 406."""
    wado(peer, cast, "ct1", contentType="image/x-nobody-has-this", accept="image/x-nobody-has-this").expect(406)


@check("URI-012", "9.1.2.2.1", SHOULD, needs="uri")
def png(peer: Peer, cast: Cast) -> None:
    """contentType=image/png gets a PNG."""
    picture(wado(peer, cast, "ct1", contentType=PNG).expect(200).expect_type(PNG))


@check("URI-013", "9.1.2.2.1", MAY, needs="uri")
def gif(peer: Peer, cast: Cast) -> None:
    """contentType=image/gif gets a GIF."""
    picture(wado(peer, cast, "ct1", contentType=GIF).expect(200).expect_type(GIF))


@check("URI-014", "9.5.1.2.4", SHOULD, needs="uri")
def rows_and_columns(peer: Peer, cast: Cast) -> None:
    """rows and columns bound the picture, which keeps its proportions."""
    found = picture(wado(peer, cast, "ct1", rows="64", columns="48").expect(200)).size
    ensure(found == (48, 64), f"24 x 32 in 48 columns and 64 rows is {found}")


@check("URI-015", "9.5.1.2.6", SHOULD, needs="uri")
def window(peer: Peer, cast: Cast) -> None:
    """windowCenter and windowWidth show the values as the linear function of PS3.3 says."""
    answer = wado(peer, cast, "ct1", contentType=PNG, windowCenter="-500", windowWidth="800")
    ensure_close(grey(answer), windowed(cast, -500, 800))


@check("URI-016", "9.5.1.2.5", SHOULD, needs="uri")
def region(peer: Peer, cast: Cast) -> None:
    """region shows that part of the image."""
    parameters = {"region": "0.5,0.5,1.0,1.0", "windowCenter": "-500", "windowWidth": "800"}
    found = grey(wado(peer, cast, "ct1", contentType=PNG, **parameters))
    ensure_close(found, windowed(cast, -500, 800)[16:32, 12:24])


@check("URI-017", "9.5.1.2.1", SHOULD, needs="uri")
def frame_number(peer: Peer, cast: Cast) -> None:
    """frameNumber chooses a frame."""
    found = grey(wado(peer, cast, "cine", contentType=PNG, frameNumber="3", windowCenter="2048", windowWidth="4096"))
    wanted = ((cast.samples.frames[2] - 2047.5) / 4095 + 0.5) * 255
    ensure_close(found, wanted)


@check("URI-018", "9.5.2.1", SHOULD, needs="uri")
def frame_past_the_end(peer: Peer, cast: Cast) -> None:
    """A frameNumber past the last, or that is no positive integer, is answered by 400."""
    wado(peer, cast, "cine", frameNumber="9").expect(400)
    wado(peer, cast, "cine", frameNumber="0").expect(400)
    wado(peer, cast, "cine", frameNumber="x").expect(400)


@check("URI-019", "8.3", SHOULD, needs="uri")
def wrong_values(peer: Peer, cast: Cast) -> None:
    """Values that cannot be are answered by 400: a window without a number, a quality of 0, no rows at all."""
    wado(peer, cast, "ct1", windowCenter="x", windowWidth="y").expect(400)
    wado(peer, cast, "ct1", imageQuality="0").expect(400)
    wado(peer, cast, "ct1", rows="0", columns="0").expect(400)


@check("URI-020", "9.4.1.2.1", needs="uri")
def anonymize(peer: Peer, cast: Cast) -> None:
    """anonymize=yes is done or refused, but the identified instance is never sent as if it were anonymous."""
    answer = wado(peer, cast, "ct1", contentType=DICOM, anonymize="yes").expect_no_failure()
    if answer.status == 200:
        found = read_file(answer.body)
        ensure(found.get("PatientID") != cast["ct1"].dataset.PatientID, "the instance comes with its Patient ID")


@check("URI-021", "9.4.1.2.3", SHOULD, needs="uri")
def transfer_syntax(peer: Peer, cast: Cast) -> None:
    """transferSyntax chooses the transfer syntax of the file, or is refused."""
    wanted = cast["rle"].transfer_syntax
    answer = wado(peer, cast, "rle", contentType=DICOM, transferSyntax=wanted).expect(200, 400, 406)
    if answer.status == 200:
        found = read_file(answer.body).file_meta.TransferSyntaxUID
        ensure(found == wanted, f"{wanted} is asked for, and {found} is sent")


@check("URI-022", "8.3", needs="uri")
def wrong_uids(peer: Peer, cast: Cast) -> None:
    """A UID that is none is answered by 400 or 404."""
    wado(peer, cast, "ct1", objectUID="not.a.uid").expect(400, 404)
