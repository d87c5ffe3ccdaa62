"""Studies, series and instances as DICOM files, their metadata, and archives of them (PS3.18 10.4)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator

from pydicom import FileDataset, dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import MAY, SHOULD, Fault, NotApplicable, check, ensure
from conformance.dicomweb.jsonmodel import first, said
from conformance.dicomweb.multipart import Part
from conformance.dicomweb.peer import DICOM, DICOM_PARTS, JSON, Peer, read_file
from conformance.dicomweb.samples import CODECS, Sample

AS_STORED = f"{DICOM_PARTS}; transfer-syntax=*"
_PIXELS = frozenset((0x7FE00010, 0x00080005))


def files(parts: tuple[Part, ...]) -> list[FileDataset]:
    """The DICOM files of a multipart answer."""
    return [read_file(part.body) for part in parts]


def file_differences(sent: Dataset, came: Dataset, path: str = "") -> Iterator[str]:
    """Where a data set that came differs from the one that was stored, but for its pixels and character set."""
    for element in sent:
        here = f"{path}{element.tag}"
        if element.tag in _PIXELS:
            continue
        if element.tag not in came:
            yield f"{here} is not there"
        elif element.VR == "SQ":
            found = came[element.tag].value
            if len(found) != len(element.value):
                yield f"{here} has {len(found)} items, not {len(element.value)}"
                continue
            for index, (item, other) in enumerate(zip(element.value, found, strict=True)):
                yield from file_differences(item, other, f"{here}[{index}]")
        elif _plain(element.value) != _plain(came[element.tag].value):
            yield f"{here} is not what was stored"
    for element in came:
        if element.tag not in sent and element.tag not in _PIXELS and element.tag not in _ADDED:
            yield f"{path}{element.tag} was not in what was stored"


_ADDED = frozenset((0x04000561, 0xFFFCFFFC))
"""Original Attributes Sequence, of what a server has coerced, and trailing padding."""


def _plain(value: object) -> object:
    if isinstance(value, list | tuple) or type(value).__name__ == "MultiValue":
        return [_plain(one) for one in value]  # type: ignore[attr-defined]
    return value.rstrip(b"\0") if isinstance(value, bytes) else "" if value is None else str(value)


@check("WADO-001", "10.4.3.1")
def study(peer: Peer, cast: Cast) -> None:
    """A study comes with each of its instances once."""
    _ensure_instances(peer, cast["ct1"].study, [one for one in cast.held() if one.study_uid == cast["ct1"].study_uid])


@check("WADO-002", "10.4.3.1")
def series(peer: Peer, cast: Cast) -> None:
    """A series comes with each of its instances once, and no others."""
    _ensure_instances(peer, cast["ct1"].series, [cast[f"ct{number}"] for number in range(1, 6)])


@check("WADO-003", "10.4.3.1")
def instance(peer: Peer, cast: Cast) -> None:
    """An instance comes as a message of one part."""
    _ensure_instances(peer, cast["ct3"].path, [cast["ct3"]])


def _ensure_instances(peer: Peer, path: str, samples: list[Sample]) -> None:
    found = sorted(str(one.SOPInstanceUID) for one in files(peer.get(path, accept=DICOM_PARTS).parts()))
    wanted = sorted(sample.uid for sample in samples)
    ensure(found == wanted, f"{len(found)} parts hold {len(set(found))} instances, not {len(wanted)}, or others")


@check("WADO-004", "10.4.3.1")
def every_class(peer: Peer, cast: Cast) -> None:
    """Every sample can be retrieved: images, reports, presentation states, documents."""
    found = []
    for sample in cast.held():
        answer = peer.get(sample.path, accept=AS_STORED)
        if answer.status != 200 or len(answer.parts()) != 1:
            found.append(f"{sample.name} answers {answer.status}")
    ensure(not found, said(found))


@check("WADO-005", "10.4.3.3.1")
def attributes(peer: Peer, cast: Cast) -> None:
    """The file of every native sample has all attributes that were stored, private ones too, and no other."""
    found = []
    for sample in cast.held():
        if sample.transfer_syntax == ExplicitVRLittleEndian:
            (came,) = files(peer.get(sample.path, accept=DICOM_PARTS).parts())
            found += [f"{sample.name} {difference}" for difference in file_differences(sample.dataset, came)]
    ensure(not found, said(found))


@check("WADO-006", "10.4.3.3.1")
def pixels(peer: Peer, cast: Cast) -> None:
    """Pixel Data of native images comes byte for byte."""
    for name in ("ct1", "cine", "colour"):
        (came,) = files(peer.get(cast[name].path, accept=DICOM_PARTS).parts())
        ensure(came.PixelData == cast[name].dataset.PixelData, f"Pixel Data of {name} is not what was stored")


@check("WADO-007", "8.7.3")
def decoded_pixels(peer: Peer, cast: Cast) -> None:
    """Lossless compressed images that come as Explicit VR Little Endian have the pixels that were stored."""
    for name in CODECS:
        (came,) = files(peer.get(cast[name].path, accept=DICOM_PARTS).parts())
        syntax = came.file_meta.TransferSyntaxUID
        ensure(syntax == ExplicitVRLittleEndian, f"{name} comes in {syntax}")
        ensure(came.PixelData == cast.samples.frames.tobytes(), f"the pixels of {name} are not those that were stored")


@check("WADO-008", "8.7.3.1")
def parts_are_dicom(peer: Peer, cast: Cast) -> None:
    """Parts have the Content-Type application/dicom, and the message says so in its type parameter."""
    message = peer.get(cast["ct1"].series, accept=DICOM_PARTS).expect(200).multipart()
    ensure(
        message.media.parameters.get("type", "").lower() == DICOM, f"type is {message.media.parameters.get('type')!r}"
    )
    found = [part.headers.get("content-type") for part in message.parts if part.media.name != DICOM]
    ensure(not found, f"parts are {found}")


@check("WADO-009", "8.7.9")
def transfer_syntax_of_the_parts(peer: Peer, cast: Cast) -> None:
    """Where the Content-Type of a part names a transfer syntax, the file is in it."""
    found = []
    for part in peer.get(cast["rle"].study, accept=AS_STORED).parts(200, 206):
        named = part.media.parameters.get("transfer-syntax")
        syntax = read_file(part.body).file_meta.TransferSyntaxUID
        if named not in (None, syntax):
            found.append(f"{named} is said, {syntax} is sent")
    ensure(not found, said(found))


@check("WADO-010", "8.6.1.2.2", SHOULD)
def content_location(peer: Peer, cast: Cast) -> None:
    """The part of an instance says by Content-Location where the instance is."""
    for part in peer.get(cast["ct1"].series, accept=DICOM_PARTS).parts():
        location = part.headers.get("content-location", "")
        uid = str(read_file(part.body).SOPInstanceUID)
        ensure(uid in location, f"the part of {uid} has the Content-Location {location!r}")


@check("WADO-011", "PS3.10 7.1")
def file_meta_information(peer: Peer, cast: Cast) -> None:
    """The file meta information has the class and the instance of the data set, and the right length."""
    for name in ("ct1", "sr", "rle"):
        (part,) = peer.get(cast[name].path, accept=DICOM_PARTS).parts()
        came = read_file(part.body)
        meta = came.file_meta
        found = (meta.get("MediaStorageSOPClassUID"), meta.get("MediaStorageSOPInstanceUID"))
        ensure(found == (cast[name].sop_class, cast[name].uid), f"the file meta information of {name} names {found}")
        length = int.from_bytes(part.body[140:144], "little")
        first_of_set = int.from_bytes(part.body[144 + length : 146 + length], "little")
        ensure(first_of_set == 0x0008, f"the group length of the file meta information of {name} is wrong")


def _missing(peer: Peer, path: str, accept: str = DICOM_PARTS) -> None:
    peer.get(path, accept=accept).expect(404)


@check("WADO-012", "10.4.3.1")
def unknown_study(peer: Peer, cast: Cast) -> None:
    """A study that is not there is answered by 404."""
    cast.held()
    _missing(peer, f"/studies/{cast.samples.uid('nowhere')}")


@check("WADO-013", "10.4.3.1")
def unknown_series(peer: Peer, cast: Cast) -> None:
    """A series that is not there is answered by 404."""
    _missing(peer, f"{cast['ct1'].study}/series/{cast.samples.uid('nowhere')}")


@check("WADO-014", "10.4.3.1")
def unknown_instance(peer: Peer, cast: Cast) -> None:
    """An instance that is not there is answered by 404."""
    _missing(peer, f"{cast['ct1'].series}/instances/{cast.samples.uid('nowhere')}")


@check("WADO-015", "10.4.3.1")
def series_of_another_study(peer: Peer, cast: Cast) -> None:
    """A series below a study that it is not of is answered by 404."""
    _missing(peer, f"{cast['cine'].study}/series/{cast['ct1'].series_uid}")


@check("WADO-016", "10.4.3.1")
def instance_of_another_series(peer: Peer, cast: Cast) -> None:
    """An instance below a series that it is not of is answered by 404."""
    _missing(peer, f"{cast['sr'].series}/instances/{cast['ct1'].uid}")


@check("WADO-017", "10.4.3.1")
def instance_of_another_study(peer: Peer, cast: Cast) -> None:
    """An instance below a study that it is not of is answered by 404."""
    _missing(peer, f"{cast['cine'].study}/series/{cast['ct1'].series_uid}/instances/{cast['ct1'].uid}")


@check("WADO-018", "10.4.3.1")
def metadata_of_nothing(peer: Peer, cast: Cast) -> None:
    """Metadata of what is not there is answered by 404, at each level."""
    nowhere = cast.samples.uid("nowhere")
    _missing(peer, f"/studies/{nowhere}/metadata", JSON)
    _missing(peer, f"{cast['ct1'].study}/series/{nowhere}/metadata", JSON)
    _missing(peer, f"{cast['ct1'].series}/instances/{nowhere}/metadata", JSON)


@check("WADO-019", "10.4.3.1")
def metadata_of_another_parent(peer: Peer, cast: Cast) -> None:
    """Metadata below a parent of another is answered by 404."""
    _missing(peer, f"{cast['cine'].study}/series/{cast['ct1'].series_uid}/metadata", JSON)
    _missing(peer, f"{cast['sr'].series}/instances/{cast['ct1'].uid}/metadata", JSON)


@check("WADO-020", "10.4.1.1.2")
def metadata_of_a_study(peer: Peer, cast: Cast) -> None:
    """The metadata of a study has a data set for each of its instances."""
    rows = peer.get(f"{cast['ct1'].study}/metadata", accept=JSON).rows()
    wanted = {one.uid for one in cast.held() if one.study_uid == cast["ct1"].study_uid}
    found = [first(row, "00080018") for row in rows]
    ensure(len(found) == len(wanted) and set(found) == wanted, f"{len(found)} data sets, not {len(wanted)}, or others")


@check("WADO-021", "10.4.1.1.2")
def metadata_of_a_series(peer: Peer, cast: Cast) -> None:
    """The metadata of a series has a data set for each of its instances, and no others."""
    rows = peer.get(f"{cast['ct1'].series}/metadata", accept=JSON).rows()
    wanted = sorted(cast[f"ct{number}"].uid for number in range(1, 6))
    found = sorted(str(first(row, "00080018")) for row in rows)
    ensure(found == wanted, f"{len(found)} data sets, not {len(wanted)}, or others")


@check("WADO-022", "10.4.1.1.2")
def metadata_of_an_instance(peer: Peer, cast: Cast) -> None:
    """The metadata of an instance is an array of its data set alone."""
    rows = peer.get(f"{cast['ct2'].path}/metadata", accept=JSON).rows()
    ensure([first(row, "00080018") for row in rows] == [cast["ct2"].uid], f"{len(rows)} data sets, or another")


@check("WADO-023", "RFC 9110 9.3.2", SHOULD)
def head(peer: Peer, cast: Cast) -> None:
    """HEAD is answered as GET is, without a body."""
    for path, accept in ((cast["ct1"].path, DICOM_PARTS), (f"{cast['ct1'].path}/metadata", JSON)):
        answer = peer.ask("HEAD", path, accept=accept).expect(200)
        wanted = peer.get(path, accept=accept).media.name
        ensure(answer.media.name == wanted, f"HEAD has the Content-Type {answer.media.name}, GET {wanted}")


@check("WADO-024", "RFC 9110 8.8.3", SHOULD)
def entity_tag(peer: Peer, cast: Cast) -> None:
    """An instance and its metadata have an entity tag."""
    for path, accept in ((cast["ct1"].path, DICOM_PARTS), (f"{cast['ct1'].path}/metadata", JSON)):
        ensure("etag" in peer.get(path, accept=accept).expect(200).headers, f"{path[-80:]} has no ETag")


def _tagged(peer: Peer, path: str, accept: str) -> str:
    tag = peer.get(path, accept=accept).expect(200).headers.get("etag")
    if tag is None:
        raise NotApplicable("the server gives no ETag")
    return str(tag)


@check("WADO-025", "RFC 9110 13.1.2")
def not_modified(peer: Peer, cast: Cast) -> None:
    """If-None-Match with the entity tag that was given is answered by 304 without a body."""
    for path, accept in ((cast["ct1"].path, DICOM_PARTS), (f"{cast['ct1'].path}/metadata", JSON)):
        tag = _tagged(peer, path, accept)
        answer = peer.get(path, accept=accept, headers={"If-None-Match": tag}).expect(304)
        ensure(not answer.body, "304 has a body")


@check("WADO-026", "RFC 9110 13.1.2")
def modified(peer: Peer, cast: Cast) -> None:
    """If-None-Match with another entity tag is answered as without."""
    path = f"{cast['ct1'].path}/metadata"
    _tagged(peer, path, JSON)
    peer.get(path, accept=JSON, headers={"If-None-Match": '"another"'}).expect(200)


@check("WADO-027", "RFC 9110 8.8.3")
def tags_of_representations(peer: Peer, cast: Cast) -> None:
    """Two representations of one resource have two entity tags: native and compressed, file and metadata."""
    path = cast["rle"].path
    tags = {_tagged(peer, path, accept) for accept in (DICOM_PARTS, AS_STORED)}
    tags.add(_tagged(peer, f"{path}/metadata", JSON))
    ensure(len({tag.removeprefix("W/") for tag in tags}) == 3, f"the entity tags are {sorted(tags)}")


@check("WADO-028", "RFC 9110 14.2", SHOULD)
def range_of_an_instance(peer: Peer, cast: Cast) -> None:
    """A range of a single-part instance is answered by 206 with those bytes."""
    path = cast["ct1"].path
    whole = peer.get(path, accept=DICOM).expect(200).body
    answer = peer.get(path, accept=DICOM, headers={"Range": "bytes=128-131"}).expect(206)
    ensure(answer.body == b"DICM" == whole[128:132], f"bytes 128 to 131 are {answer.body[:20]!r}")
    wanted = f"bytes 128-131/{len(whole)}"
    ensure(answer.headers.get("content-range") == wanted, f"Content-Range is {answer.headers.get('content-range')!r}")


@check("WADO-029", "10.4.1.1.1", MAY)
def as_it_was_stored(peer: Peer, cast: Cast) -> None:
    """An instance asked for in any transfer syntax comes byte for byte as it was stored."""
    for name in ("ct1", "rle", "sr"):
        (part,) = peer.get(cast[name].path, accept=AS_STORED).parts()
        ensure(part.body == cast[name].file, f"{name} comes with other bytes")


@check("WADO-030", "10.4.3.1")
def partial_answers_say_so(peer: Peer, cast: Cast) -> None:
    """A study of which only some instances can be sent as asked is answered by 206, or refused by 406.

    The study has the same image in many transfer syntaxes; RLE Lossless alone is asked for.
    """
    sample = cast["rle"]
    held = [one for one in cast.held() if one.study_uid == sample.study_uid]
    answer = peer.get(sample.study, accept=f"{DICOM_PARTS}; transfer-syntax={sample.transfer_syntax}").expect(
        200, 206, 406
    )
    if answer.status == 406:
        return
    syntaxes = {str(one.file_meta.TransferSyntaxUID) for one in files(answer.parts(200, 206))}
    ensure(syntaxes == {sample.transfer_syntax}, f"the parts are in {sorted(syntaxes)}")
    count = len(answer.parts(200, 206))
    ensure(
        (answer.status == 200) == (count == len(held)), f"{count} of {len(held)} instances come with {answer.status}"
    )


@check("WADO-031", "8.7.3")
def no_part_is_implicit(peer: Peer, cast: Cast) -> None:
    """No part of a study is in Implicit VR Little Endian, whatever was stored."""
    found = {
        str(one.file_meta.TransferSyntaxUID)
        for one in files(peer.get(cast["rle"].study, accept=AS_STORED).parts(200, 206))
    }
    ensure("1.2.840.10008.1.2" not in found, "a part is in Implicit VR Little Endian")


@check("WADO-032", "10.4.4", MAY)
def archive_is_offered(peer: Peer, cast: Cast) -> None:
    """A study comes as a zip archive where that is asked for."""
    cast["ct1"]
    if why := cast.missing("zip"):
        raise Fault(why)
    peer.get(cast["ct1"].study, accept="application/zip").expect(200).expect_type("application/zip")


def _archive(peer: Peer, path: str) -> zipfile.ZipFile:
    answer = peer.get(path, accept="application/zip").expect(200).expect_type("application/zip")
    try:
        archive = zipfile.ZipFile(io.BytesIO(answer.body))
        broken = archive.testzip()
    except zipfile.BadZipFile as error:
        raise Fault(f"the archive cannot be read: {error}") from None
    ensure(broken is None, f"{broken} in the archive is broken")
    return archive


def _archived(archive: zipfile.ZipFile) -> list[FileDataset]:
    """The DICOM files of an archive, without its directory."""
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.upper().endswith("DICOMDIR")]
    return [read_file(archive.read(name)) for name in names]


@check("WADO-033", "10.4.4", needs="zip")
def archive_holds_every_instance(peer: Peer, cast: Cast) -> None:
    """A zip archive of a study, series or instance holds each instance once, as a DICOM file."""
    for path, count in ((cast["ct1"].study, 8), (cast["ct1"].series, 5), (cast["ct1"].path, 1)):
        archive = _archive(peer, path)
        found = [str(one.SOPInstanceUID) for one in _archived(archive)]
        ensure(len(found) == len(set(found)) == count, f"the archive of {count} instances holds {len(found)} files")


@check("WADO-034", "PS3.10 8.6", SHOULD, needs="zip")
def archive_has_a_directory(peer: Peer, cast: Cast) -> None:
    """A zip archive has a DICOMDIR whose records name the files in it."""
    archive = _archive(peer, cast["ct1"].study)
    ensure("DICOMDIR" in archive.namelist(), f"the archive holds {said(archive.namelist())}")
    directory = dcmread(io.BytesIO(archive.read("DICOMDIR")))
    named = {
        "/".join([record.ReferencedFileID] if isinstance(record.ReferencedFileID, str) else record.ReferencedFileID)
        for record in directory.DirectoryRecordSequence
        if "ReferencedFileID" in record
    }
    ensure(named == set(archive.namelist()) - {"DICOMDIR"}, "the records name other files than there are")


@check("WADO-035", "8.7.3", needs="zip")
def archive_is_not_implicit(peer: Peer, cast: Cast) -> None:
    """No file in a zip archive is in Implicit VR Little Endian."""
    found = {str(one.file_meta.TransferSyntaxUID) for one in _archived(_archive(peer, cast["rle"].study))}
    ensure(found and "1.2.840.10008.1.2" not in found, f"the files are in {sorted(found)}")


@check("WADO-036", "RFC 9110 8.4")
def compressed_for_the_way(peer: Peer, cast: Cast) -> None:
    """Metadata that is compressed for the way is the same metadata."""
    path = f"{cast['ct1'].series}/metadata"
    plain = peer.get(path, accept=JSON, headers={"Accept-Encoding": "identity"})
    ensure("content-encoding" not in plain.headers, f"Content-Encoding is {plain.headers.get('content-encoding')!r}")
    packed = peer.get(path, accept=JSON, headers={"Accept-Encoding": "gzip"})
    ensure(plain.rows() == packed.rows(), "the two answers differ")
