"""STOW-RS of metadata and bulk data apart, in JSON and in XML (PS3.18 10.5): what is composed, and what is refused."""

from __future__ import annotations

import copy
import itertools
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import imagecodecs
import orjson
import pydicom
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydicom import FileDataset
from pydicom.dataelem import DataElement
from pydicom.uid import JPEGLSLossless

from readingroom.errors import NotDicom, ReadingRoomError
from server.dicomweb import stow_metadata
from server.room import Room
from server.settings import Settings
from storage.compose import BulkPart, compose
from storage.nativexml import to_xml
from storage.objects import scan
from tests import multipart, synthetic
from tests.corpus import Entry, each_file
from tests.retrieve import OHIF_FRAMES, compressed, jpeg_ls, read, url_of
from tests.server.test_stow import files_below, held
from tests.storage.test_nativexml import public
from tests.stow import AS_STORED, STUDIES, Answer, store
from tests.synthetic import ct_series

JSON, XML = "application/dicom+json", "application/dicom+xml"
OCTETS = "application/octet-stream"
CANNOT_UNDERSTAND, WRONG_SYNTAX = 0xC000, 0xC122
ANY_PARTS = {"Accept": 'multipart/related; type="*/*"; transfer-syntax=*'}

Metadata = dict[str, Any]
Bulk = tuple[str, str, bytes]  # Content-Location, Content-Type and the bytes


def body_of(instances: Iterable[Metadata], bulk: Iterable[Bulk] = (), *, media_type: str = JSON) -> bytes:
    """The request's body: metadata parts, then bulk data parts."""
    documents = [orjson.dumps(list(instances))] if media_type == JSON else [to_xml(one) for one in instances]
    pieces = [f"--XX\r\nContent-Type: {media_type}\r\n\r\n".encode() + document + b"\r\n" for document in documents]
    for location, kind, data in bulk:
        head = f"--XX\r\nContent-Type: {kind}\r\nContent-Location: {location}\r\n\r\n"
        pieces.append(head.encode() + data + b"\r\n")
    return b"".join(pieces) + b"--XX--\r\n"


def post(
    client: httpx.Client, body: bytes, *, media_type: str = JSON, to: str = STUDIES, accept: str = JSON
) -> httpx.Response:
    return client.post(
        to, content=body, headers={"Content-Type": multipart.content_type(type_=media_type), "Accept": accept}
    )


def send(
    client: httpx.Client, *instances: Metadata, bulk: Iterable[Bulk] = (), media_type: str = JSON, to: str = STUDIES
) -> Answer:
    response = post(client, body_of(instances, bulk, media_type=media_type), media_type=media_type, to=to)
    return Answer(response.status_code, response.json())


def apart(dataset: FileDataset, location: str = "bulk/1") -> tuple[Metadata, list[Bulk]]:
    """A data set as metadata and bulk data: its pixel data or its document."""
    bulk: list[Bulk] = []

    def named(element: DataElement) -> str:
        bulk.append((location, OCTETS, element.value))
        return location

    metadata: Metadata = dataset.to_json_dict(bulk_data_threshold=8, bulk_data_element_handler=named)
    return metadata, bulk


def reasons(response: httpx.Response) -> str:
    return response.headers.get("warning", "")


# -- the good ones ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("media_type", [JSON, XML])
def test_instances_are_composed_of_metadata_and_bulk_data(
    client: httpx.Client, chest_ct: list[FileDataset], media_type: str
) -> None:
    sent = [apart(dataset, f"bulk/{n}") for n, dataset in enumerate(chest_ct)]
    bulk = [one for _, parts in sent for one in parts]
    answer = send(client, *(metadata for metadata, _ in sent), bulk=bulk, media_type=media_type)
    assert answer.status == 200
    assert list(answer.stored) == [dataset.SOPInstanceUID for dataset in chest_ct]
    for dataset in chest_ct:
        found = read(client.get(url_of(dataset), headers=AS_STORED).content)
        assert found == dataset
        assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert found.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID


@pytest.mark.parametrize("make", [synthetic.text_report, synthetic.pdf_document, synthetic.secondary_capture])
def test_objects_of_any_class_are_composed(client: httpx.Client, make: Any) -> None:
    dataset = make()
    metadata, bulk = apart(dataset)
    assert send(client, metadata, bulk=bulk).status == 200
    assert read(client.get(url_of(dataset), headers=AS_STORED).content) == dataset


@pytest.mark.parametrize(
    ("named", "location"),
    [
        ("bulk/1", "bulk/1"),
        ("bulk/1", "http://127.0.0.1:8780/dicomweb/bulk/1"),
        ("http://127.0.0.1:8780/dicomweb/bulk/1", "bulk/1"),
        ("/somewhere/else", "http://127.0.0.1:8780/somewhere/else"),
        ("http://other.example/a?b=c", "http://other.example/a?b=c"),
        ("urn:uuid:5f0ff8f6-3b8f-4e35-9d12-0d8b2a0c9e1d", "urn:uuid:5f0ff8f6-3b8f-4e35-9d12-0d8b2a0c9e1d"),
    ],
)
def test_names_of_bulk_data_are_absolute_or_relative(client: httpx.Client, named: str, location: str) -> None:
    (dataset,) = ct_series(1)
    metadata, ((_, kind, data),) = apart(dataset, named)
    assert send(client, metadata, bulk=[(location, kind, data)]).status == 200


def test_inline_binary_needs_no_part(client: httpx.Client) -> None:
    (dataset,) = ct_series(1, rows=4, columns=4)
    assert send(client, dataset.to_json_dict()).status == 200
    assert read(client.get(url_of(dataset), headers=AS_STORED).content) == dataset


def test_bulk_data_may_come_before_the_metadata(client: httpx.Client) -> None:
    (dataset,) = ct_series(1)
    metadata, bulk = apart(dataset)
    _, first, second = body_of([metadata], bulk).removesuffix(b"--XX--\r\n").split(b"--XX\r\n")
    assert post(client, b"--XX\r\n" + second + b"--XX\r\n" + first + b"--XX--\r\n").status_code == 200


def test_bulk_data_that_two_instances_name_goes_into_both(client: httpx.Client) -> None:
    series = ct_series(2)
    both = [apart(dataset, "shared")[0] for dataset in series]
    assert send(client, *both, bulk=[("shared", OCTETS, series[0].PixelData)]).status == 200
    for dataset in series:
        assert read(client.get(url_of(dataset), headers=AS_STORED).content).PixelData == series[0].PixelData


def test_native_pixel_data_may_come_frame_by_frame(client: httpx.Client) -> None:
    dataset = synthetic.cine(frames=4, rows=30, columns=30)
    metadata, ((location, kind, data),) = apart(dataset)
    frames = [data[at : at + 1800] for at in range(0, len(data), 1800)]
    bulk = [(f"{location}/frames/{n}", kind, frame) for n, frame in enumerate(frames, 1)]
    assert send(client, metadata, bulk=reversed(bulk)).status == 200
    assert read(client.get(url_of(dataset), headers=AS_STORED).content).PixelData == data


def test_a_value_longer_than_memory_is_given_goes_by_the_disk(
    client: httpx.Client, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stow_metadata, "_IN_MEMORY", 1000)
    monkeypatch.setattr(stow_metadata, "_POUR", 100)
    series = ct_series(3)
    sent = [apart(dataset, f"bulk/{n}") for n, dataset in enumerate(series)]
    assert send(client, *(m for m, _ in sent), bulk=itertools.chain(*(parts for _, parts in sent))).status == 200
    for dataset in series:
        assert read(client.get(url_of(dataset), headers=AS_STORED).content) == dataset
    assert all("/tmp/" not in name for name in files_below(room.settings.data)), "no spool is left"


# -- compressed pixel data -------------------------------------------------------------------------------------


def lossless_cine(frames: int = 3) -> tuple[FileDataset, list[bytes]]:
    """A JPEG-LS object and its bitstreams."""
    dataset = compressed(synthetic.cine(frames=frames, rows=16, columns=16), JPEGLSLossless, jpeg_ls)
    return dataset, list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=frames))


@pytest.mark.parametrize("name", ["frames/{n}", "bulk/1", "bulk/1/frames/{n}"])
def test_compressed_frames_are_encapsulated(client: httpx.Client, name: str) -> None:
    """A part each: under one name in their order, or named as frames (Figure 8.6-1)."""
    dataset, frames = lossless_cine()
    location = {"frames/{n}": "instances/1/bulkdata/7FE00010"}.get(name, "bulk/1")
    metadata, _ = apart(dataset, location)
    root = "instances/1/" if name == "frames/{n}" else ""
    kind = f"image/jls; transfer-syntax={JPEGLSLossless}"
    bulk = [(root + name.format(n=n), kind, frame) for n, frame in enumerate(frames, 1)]
    assert send(client, metadata, bulk=bulk).status == 200
    found = read(client.get(url_of(dataset), headers=AS_STORED).content)
    assert found.file_meta.TransferSyntaxUID == JPEGLSLossless
    assert list(pydicom.encaps.generate_frames(found.PixelData, number_of_frames=3)) == frames
    (first, *_) = multipart.parts_of(client.get(f"{url_of(dataset)}/frames/3,1", headers=OHIF_FRAMES))
    assert first[1] == frames[2]


@pytest.mark.parametrize(
    ("encode", "kind", "syntax", "photometric"),
    [
        (lambda x: imagecodecs.jpeg8_encode(x, level=90), "image/jpeg", "50", "YBR_FULL_422"),
        (lambda x: imagecodecs.ljpeg_encode(x[..., 0]), "image/jpeg", "57", "MONOCHROME2"),
        (imagecodecs.jpegls_encode, "image/jls", "80", "RGB"),
        (lambda x: imagecodecs.jpegls_encode(x, level=3), "image/x-jls", "81", "RGB"),
        (lambda x: imagecodecs.jpeg2k_encode(x, codecformat="J2K", reversible=True), "image/jp2", "90", "YBR_RCT"),
        (lambda x: imagecodecs.jpeg2k_encode(x[..., 1], codecformat="J2K", level=30), "image/jp2", "91", "MONOCHROME2"),
        (lambda x: imagecodecs.htj2k_encode(x, reversible=True), "image/jphc", "201", "YBR_RCT"),
    ],
)
def test_what_the_codestream_says_need_not_be_said_again(
    client: httpx.Client, encode: Any, kind: str, syntax: str, photometric: str
) -> None:
    """PS3.18 10.5.1.4: the Image Pixel Description may be left out of compressed single frames; so may the syntax."""
    dataset = synthetic.secondary_capture(rows=16, columns=20)
    metadata, _ = apart(dataset)
    metadata = {key: element for key, element in metadata.items() if not key.startswith("0028")}
    metadata["7FE00010"] = {"vr": "OB", "BulkDataURI": "jpeg-image"}
    answer = send(client, metadata, bulk=[("jpeg-image", kind, bytes(encode(dataset.pixel_array)))])
    assert answer.status == 200
    found = read(client.get(url_of(dataset), headers=AS_STORED).content)
    assert found.file_meta.TransferSyntaxUID == f"1.2.840.10008.1.2.4.{syntax}"
    assert (found.Rows, found.Columns, found.BitsAllocated, found.BitsStored) == (16, 20, 8, 8)
    assert found.PhotometricInterpretation == photometric


def test_an_available_transfer_syntax_says_which_of_a_media_type_it_is(client: httpx.Client) -> None:
    """(0008,3002) tells what the parts do not, and is no part of the object."""
    dataset, frames = lossless_cine(1)
    metadata, _ = apart(dataset)
    metadata["00083002"] = {"vr": "UI", "Value": ["1.2.840.10008.1.2.4.81"]}
    assert send(client, metadata, bulk=[("bulk/1", "image/jls", frames[0])]).status == 200
    found = read(client.get(url_of(dataset), headers=AS_STORED).content)
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.81"
    assert "AvailableTransferSyntaxUID" not in found


# -- text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "name", "kept"),
    [
        (["ISO_IR 100"], "Müller^Jörg", True),
        (["ISO_IR 192"], "Müller^Jörg=山田^太郎=やまだ^たろう", True),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", True),
        (["ISO 2022 IR 6", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", True),
        (["GB18030"], "Wang^XiaoDong=王^小东", True),
        (None, "Müller^Jörg", False),
        (["ISO_IR 100"], "Müller^Jörg=山田^太郎", False),
        (["ISO_IR 144"], "Müller^Jörg", False),
    ],
)
def test_text_keeps_its_character_set_where_that_has_its_characters(
    client: httpx.Client, terms: list[str] | None, name: str, kept: bool
) -> None:
    (dataset,) = ct_series(1, rows=2, columns=2)
    metadata = dataset.to_json_dict()
    metadata.pop("00080005", None)
    if terms:
        metadata["00080005"] = {"vr": "CS", "Value": [term or None for term in terms]}
    groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), name.split("="), strict=False))
    metadata["00100010"]["Value"] = [groups]
    assert send(client, metadata).status == 200
    (found,) = client.get(f"{url_of(dataset)}/metadata").json()
    assert found["00100010"]["Value"] == [groups]
    assert found["00080005"]["Value"] == (metadata["00080005"]["Value"] if kept else ["ISO_IR 192"])


# -- what is refused -------------------------------------------------------------------------------------------


def wrong(change: str) -> tuple[Metadata, list[Bulk]]:
    """A good instance with one thing wrong."""
    (dataset,) = ct_series(1)
    metadata, ((location, kind, data),) = apart(dataset)
    bulk = [(location, kind, data)]
    if change == "no bulk data":
        bulk = []
    elif change == "bulk data of another name":
        bulk = [("bulk/2", kind, data)]
    elif change == "too short":
        bulk = [(location, kind, data[:-2])]
    elif change == "too long":
        bulk = [(location, kind, data + bytes(2))]
    elif change == "twice":
        bulk *= 2
    elif change == "a PNG":
        bulk = [(location, "image/png", data)]
    elif change == "Big Endian":
        bulk = [(location, f"{OCTETS}; transfer-syntax=1.2.840.10008.1.2.2", data)]
    elif change == "JPEG that is RLE":
        bulk = [(location, "image/jpeg; transfer-syntax=1.2.840.10008.1.2.5", data)]
    elif change == "JPEG that is none":
        bulk = [(location, "image/jpeg", data)]
    elif change == "a compressed palette":
        metadata["00281201"] = {"vr": "OW", "BulkDataURI": "palette"}
        bulk.append(("palette", "image/jpeg", data))
    elif change == "a bad tag":
        metadata["Rows"] = {"vr": "US", "Value": [1]}
    elif change == "a bad VR":
        metadata["00280010"]["vr"] = "XX"
    elif change == "a bad number":
        metadata["00280010"]["Value"] = [70000]
    elif change == "a number of another kind":
        metadata["00280010"]["Value"] = ["many"]
    elif change == "no list":
        metadata["00280010"]["Value"] = 32
    elif change == "no object":
        metadata["00280010"] = [32]
    elif change == "values and bulk data":
        metadata["7FE00010"]["Value"] = [1]
    elif change == "bytes as values":
        metadata["00281201"] = {"vr": "OW", "Value": [1, 2]}
    elif change == "no base64":
        metadata["00281201"] = {"vr": "OW", "InlineBinary": "!"}
    elif change == "a name that is a number":
        metadata["00100010"]["Value"] = [7]
    elif change == "an item that is a number":
        metadata["00082218"] = {"vr": "SQ", "Value": [7]}
    elif change == "a sequence as bulk data":
        metadata["00082218"] = {"vr": "SQ", "BulkDataURI": location}
    return metadata, bulk


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ("no bulk data", CANNOT_UNDERSTAND, "No part has the Content-Location 'bulk/1'"),
        ("too short", CANNOT_UNDERSTAND, "has 1534 bytes, and the image that is described 1536"),
        ("too long", CANNOT_UNDERSTAND, "has 1538 bytes, and the image that is described 1536"),
        ("twice", CANNOT_UNDERSTAND, "came in 2 parts"),
        ("a PNG", WRONG_SYNTAX, "image/png is not read"),
        ("Big Endian", WRONG_SYNTAX, "cannot be in transfer syntax '1.2.840.10008.1.2.2'"),
        ("JPEG that is RLE", WRONG_SYNTAX, "image/jpeg cannot be in transfer syntax"),
        ("JPEG that is none", CANNOT_UNDERSTAND, "no JPEG"),
        ("a compressed palette", WRONG_SYNTAX, "is no pixel data of the image"),
        ("a bad tag", CANNOT_UNDERSTAND, "'Rows' is no tag"),
        ("a bad VR", CANNOT_UNDERSTAND, "VR 'XX'"),
        ("a bad number", CANNOT_UNDERSTAND, "(0028,0010) has a value that is none of US"),
        ("a number of another kind", CANNOT_UNDERSTAND, "(0028,0010) has a value that is none of US"),
        ("no list", CANNOT_UNDERSTAND, "(0028,0010) has a Value that is no list"),
        ("no object", CANNOT_UNDERSTAND, "(0028,0010) is no object"),
        ("values and bulk data", CANNOT_UNDERSTAND, "BulkDataURI and Value"),
        ("bytes as values", CANNOT_UNDERSTAND, "(0028,1201) has a value that is none of OW"),
        ("no base64", CANNOT_UNDERSTAND, "(0028,1201) has a value that is none of OW"),
        ("a name that is a number", CANNOT_UNDERSTAND, "(0010,0010) has a value that is none of PN"),
        ("an item that is a number", CANNOT_UNDERSTAND, "(0008,2218) has an item that is no object"),
        ("a sequence as bulk data", CANNOT_UNDERSTAND, "(0008,2218) is a sequence"),
    ],
)
def test_a_faulty_instance_fails_alone_and_with_a_reason(
    client: httpx.Client, room: Room, change: str, code: int, reason: str
) -> None:
    metadata, bulk = wrong(change)
    good, (part,) = apart(ct_series(1)[0], "good")
    response = post(client, body_of([metadata, good], [*bulk, part]))
    answer = Answer(response.status_code, response.json())
    assert answer.status == 202
    assert answer.failed == {metadata["00080018"]["Value"][0]: code}
    assert list(answer.stored) == good["00080018"]["Value"]
    assert reason in reasons(response)
    assert len(held(room)) == 1
    assert all("/tmp/" not in name for name in files_below(room.settings.data))


def test_bulk_data_that_nothing_names_is_told(client: httpx.Client) -> None:
    good, bulk = apart(ct_series(1)[0])
    response = post(client, body_of([good], [*bulk, ("lost", OCTETS, b"1234")]))
    answer = Answer(response.status_code, response.json())
    assert (answer.status, answer.unnamed_failures) == (202, [CANNOT_UNDERSTAND])
    assert "No metadata names the bulk data" in reasons(response)
    body = body_of([good], bulk).replace(b"--XX--", b"--XX\r\nContent-Type: image/jpeg\r\n\r\nabc\r\n--XX--")
    response = post(client, body)
    assert response.status_code == 202
    assert "has no Content-Location" in reasons(response)


def test_a_missing_frame_is_named(client: httpx.Client) -> None:
    dataset, frames = lossless_cine()
    metadata, _ = apart(dataset)
    bulk = [(f"bulk/1/frames/{n}", "image/jls", frame) for n, frame in enumerate(frames, 1)]
    for some, reason in [
        (bulk[:2], "came in 2 parts; of 3 compressed frames each is one"),
        (bulk[1:], "Frame 1 of 'bulk/1' came 0 times"),
        ([*bulk, bulk[2]], "Frame 3 of 'bulk/1' came 2 times"),
    ]:
        response = post(client, body_of([metadata], some))
        assert response.status_code == 409
        assert reason in reasons(response)


def test_an_instance_without_a_uid_fails_without_a_name(client: httpx.Client) -> None:
    for key in ("00080016", "00080018", "0020000D", "0020000E"):
        metadata, bulk = apart(ct_series(1)[0])
        del metadata[key]
        response = post(client, body_of([metadata], bulk))
        assert response.status_code == 409, key
        assert "UID" in reasons(response)
        answer = Answer(409, response.json())
        assert len(answer.failed) + len(answer.unnamed_failures) == 1


def test_an_instance_of_another_study_is_refused(client: httpx.Client) -> None:
    sent = [apart(ct_series(1)[0], f"bulk/{n}") for n in range(2)]
    study = sent[0][0]["0020000D"]["Value"][0]
    bulk = [one for _, parts in sent for one in parts]
    answer = send(client, *(metadata for metadata, _ in sent), bulk=bulk, to=f"{STUDIES}/{study}")
    assert answer.status == 202
    assert answer.failed == {sent[1][0]["00080018"]["Value"][0]: 0xA900}


def test_an_xml_document_that_is_broken_fails_alone(client: httpx.Client) -> None:
    metadata, bulk = apart(ct_series(1)[0])
    body = body_of([metadata], bulk, media_type=XML)
    for broken in (b"<NativeDicomModel>", b"", b"<!DOCTYPE a [<!ENTITY b 'c'>]><NativeDicomModel/>"):
        part = f"--XX\r\nContent-Type: {XML}\r\n\r\n".encode() + broken + b"\r\n"
        response = post(client, part + body, media_type=XML)
        answer = Answer(response.status_code, response.json())
        assert (answer.status, len(answer.stored), answer.unnamed_failures) == (202, 1, [CANNOT_UNDERSTAND])


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"--XX--\r\n", 400),
        (b"nonsense", 400),
        (f"--XX\r\nContent-Type: {JSON}\r\n\r\n[{{\r\n--XX--\r\n".encode(), 400),
        (f"--XX\r\nContent-Type: {JSON}\r\n\r\n[]\r\n--XX--\r\n".encode(), 400),
        (f"--XX\r\nContent-Type: {JSON}\r\n\r\n{'[' * 2000}\r\n--XX--\r\n".encode(), 400),
        (f"--XX\r\nContent-Type: {JSON}\r\n\r\n[7, null, []]\r\n--XX--\r\n".encode(), 409),
        (f"--XX\r\nContent-Type: {JSON}\r\n\r\n{{}}\r\n--XX--\r\n".encode(), 409),
    ],
)
def test_a_body_that_cannot_be_read_is_a_bad_request(client: httpx.Client, body: bytes, status: int) -> None:
    response = post(client, body)
    assert response.status_code == status
    assert "\n" not in response.text.strip()


def test_metadata_past_its_bound_is_too_large(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stow_metadata, "_MAX_METADATA_BYTES", 1000)
    metadata, bulk = apart(ct_series(1)[0])
    response = post(client, body_of([metadata], bulk))
    assert response.status_code == 413


def test_a_long_frame_has_to_say_what_it_is(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.compose._MOST_LOOKED_INTO", 10)
    dataset, frames = lossless_cine(1)
    metadata, _ = apart(dataset)
    response = post(client, body_of([metadata], [("bulk/1", "image/jls", frames[0])]))
    assert response.status_code == 409
    assert "name its transfer syntax" in reasons(response)
    kind = f"image/jls; transfer-syntax={JPEGLSLossless}"
    assert send(client, metadata, bulk=[("bulk/1", kind, frames[0])]).status == 200


def test_sequences_too_deep_are_refused(client: httpx.Client) -> None:
    metadata, bulk = apart(ct_series(1)[0])
    for _ in range(70):
        metadata["00082218"] = {"vr": "SQ", "Value": [{"00082218": metadata.pop("00082218", {"vr": "SQ"})}]}
    response = post(client, body_of([metadata], bulk))
    assert response.status_code == 409
    assert "nested deeper" in reasons(response)


_JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.just("bulk/1"),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=5,
)
_ELEMENTS = st.fixed_dictionaries(
    {"vr": st.sampled_from("AE AT CS DS FD IS LO OB OW PN SQ SS UI UL UN US UT UV XX".split())},
    optional={"Value": _JSON_VALUES, "BulkDataURI": _JSON_VALUES, "InlineBinary": _JSON_VALUES},
)


@given(
    changes=st.dictionaries(
        st.sampled_from("00020010 00080005 00083002 00100010 00280008 00280010 00082218 7FE00010 00091001".split()),
        st.one_of(_ELEMENTS, _JSON_VALUES),
        max_size=3,
    )
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_any_metadata_makes_a_file_or_a_reason(changes: Metadata) -> None:
    metadata, ((_, _, data),) = apart(ct_series(1, rows=2, columns=600)[0])
    metadata = copy.deepcopy(metadata) | changes

    def find(uri: str, _is_pixel_data: bool) -> list[BulkPart]:
        if uri != "bulk/1":
            raise NotDicom("no such part")
        return [BulkPart(name="it", length=len(data), read=lambda at, length: data[at : at + length])]

    with suppress(ReadingRoomError):
        composed = compose(metadata, find)
        file = b"".join(composed.pieces())
        assert len(file) == composed.size_bytes
        scan(file)


# -- there and back --------------------------------------------------------------------------------------------


def taken_apart(client: httpx.Client, url: str) -> tuple[Metadata, list[Bulk]]:
    """The metadata of a stored instance, and all the bulk data that it names."""
    (metadata,) = client.get(f"{url}/metadata").json()
    bulk: list[Bulk] = []
    for uri in stow_metadata._uris(metadata):
        answer = client.get(uri, headers=ANY_PARTS)
        assert answer.status_code == 200, (uri, answer.text)
        for headers, body in multipart.parts_of(answer):
            bulk.append((headers["content-location"], headers["content-type"], body))
    return metadata, bulk


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """One archive for all files; each has facilities of its own, since many share their UIDs."""
    from starlette.testclient import TestClient

    from server.app import build_room, create_app

    with (
        build_room(Settings(data=tmp_path_factory.mktemp("archive"))) as room,
        TestClient(create_app(room), base_url="http://127.0.0.1:8780") as client,
    ):
        yield client


WRONG_LENGTH = {"mr/pydicom__MR_small_padded.dcm", "mr/pydicom__MR_truncated.dcm"}
PADDED = {"sc/deid-data__ctbrain1.dcm": "a value of an odd length gets the pad byte that it lacks"}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@each_file()
def test_what_is_retrieved_apart_can_be_stored_apart(archive: httpx.Client, corpus: object, entry: Entry) -> None:
    """Every object of the corpus, copied from one facility to another: the same metadata, the same bulk data."""
    media_type = XML if zlib.crc32(entry.name.encode()) % 2 else JSON
    source, target = (f"/dicomweb/f/{name}{zlib.crc32(entry.name.encode())}/" for name in ("source", "target"))
    answer = store(archive, entry.read(), to=f"{source}studies")
    if answer.status != 200:
        return
    (item,) = answer.stored.values()
    url = item["00081190"]["Value"][0]
    metadata, bulk = taken_apart(archive, url)
    body = body_of([metadata], bulk, media_type=media_type)
    response = post(archive, body, media_type=media_type, to=f"{target}studies")
    if entry.name in WRONG_LENGTH:
        assert response.status_code == 409
        assert "and the image that is described 8192" in reasons(response)
        return
    assert response.status_code == 200, reasons(response)
    copy, again = taken_apart(archive, url.replace(source, target))
    if any(kind.startswith("image/") for _, kind, _ in bulk):
        metadata["7FE00010"]["vr"] = "OB"  # what is encapsulated is (PS3.5 A.4), whatever came
    copy = orjson.loads(orjson.dumps(copy).replace(target.encode(), source.encode()))
    if entry.name not in PADDED:
        assert public(copy) == public(metadata) if media_type == XML else copy == metadata
    assert b"".join(body for _, _, body in again) == b"".join(body for _, _, body in bulk)
