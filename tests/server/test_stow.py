"""STOW-RS, byte by byte: which parts are stored, which are not and why, and what the answer says (PS3.18 10.5)."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx
import pytest
from pydicom import FileDataset
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from server.room import Room
from server.settings import Settings
from storage.catalog import schema as t
from storage.nativexml import from_xml
from tests import multipart, synthetic
from tests.stow import AS_STORED, STUDIES, Answer, send, store
from tests.synthetic import ct_series, new_dataset, new_uid, part10

CANNOT_UNDERSTAND = 0xC000
NOT_THIS_STUDY = 0xA900
DUPLICATE = 0x0111


def uids(datasets: Iterable[Dataset]) -> list[str]:
    return [str(dataset.SOPInstanceUID) for dataset in datasets]


def held(room: Room) -> list[tuple[str, int, bool]]:
    """UID, version and whether it is current of all that the catalog holds."""
    rows = room.query(
        lambda connection: connection.execute(
            t.instance.select().order_by(t.instance.c.instance_uid, t.instance.c.version)
        ).all()
    )
    return [(row.instance_uid, row.version, row.is_current) for row in rows]


def files_below(folder: Path) -> list[str]:
    """What lies in the store: objects and what is still being written."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != "zarr.json"
    )


# -- the good ones ---------------------------------------------------------------------------------------------


def test_every_instance_of_a_request_is_stored_and_named(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    answer = store(client, *map(part10, chest_ct))
    assert answer.status == 200
    assert list(answer.stored) == uids(chest_ct)
    root = f"http://127.0.0.1:8780{STUDIES}/{chest_ct[0].StudyInstanceUID}"
    assert answer.body["00081190"] == {"vr": "UR", "Value": [root]}
    for dataset, item in zip(chest_ct, answer.stored.values(), strict=True):
        url = f"{root}/series/{dataset.SeriesInstanceUID}/instances/{dataset.SOPInstanceUID}"
        assert item == {
            "00081150": {"vr": "UI", "Value": [dataset.SOPClassUID]},
            "00081155": {"vr": "UI", "Value": [dataset.SOPInstanceUID]},
            "00081190": {"vr": "UR", "Value": [url]},
        }
    assert "00081198" not in answer.body
    assert "0008119A" not in answer.body


def test_the_url_that_is_answered_gives_the_bytes_that_were_sent(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    sent = {str(dataset.SOPInstanceUID): part10(dataset) for dataset in chest_ct}
    for uid, item in store(client, *sent.values()).stored.items():
        url = item["00081190"]["Value"][0]
        response = client.get(url, headers=AS_STORED)
        assert response.status_code == 200
        assert response.content == sent[uid]


@pytest.mark.parametrize(
    "make", [synthetic.secondary_capture, synthetic.cine, synthetic.text_report, synthetic.pdf_document]
)
def test_objects_of_any_class_are_stored(client: httpx.Client, make: Callable[[], FileDataset]) -> None:
    dataset = make()
    assert list(store(client, part10(dataset)).stored) == uids([dataset])


def test_instances_of_several_studies_are_stored_by_one_request(client: httpx.Client) -> None:
    studies = [ct_series(2), ct_series(3)]
    answer = store(client, *(part10(dataset) for study in studies for dataset in study))
    assert answer.status == 200
    assert list(answer.stored) == uids([*studies[0], *studies[1]])
    assert "00081190" not in answer.body, "there is no one study to point to"


def test_one_object_may_be_sent_without_multipart(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    response = send(client, body=part10(chest_ct[0]), content_type="application/dicom")
    assert response.status_code == 200
    assert list(Answer(200, response.json()).stored) == uids(chest_ct[:1])


def test_two_facilities_hold_the_same_object_apart(
    client: httpx.Client, room: Room, chest_ct: list[FileDataset]
) -> None:
    for facility in ("north", "south"):
        answer = store(client, part10(chest_ct[0]), to=f"/dicomweb/f/{facility}/studies")
        assert answer.status == 200
        assert f"/dicomweb/f/{facility}/studies/" in answer.stored[chest_ct[0].SOPInstanceUID]["00081190"]["Value"][0]
    assert [one[1:] for one in held(room)] == [(1, True), (1, True)]


def test_what_a_client_says_of_retrieval_is_not_repeated(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    chest_ct[0].RetrieveURL = "https://elsewhere.example.org/studies/1"
    answer = store(client, part10(chest_ct[0]))
    assert answer.status == 200
    assert "elsewhere" not in str(answer.body)


# -- the bad ones ----------------------------------------------------------------------------------------------


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    """One element in explicit VR little endian."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    is_long = vr in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    return head + (struct.pack("<HI", 0, len(value)) if is_long else struct.pack("<H", len(value))) + value


def without(keyword: str) -> bytes:
    dataset = ct_series(1)[0]
    delattr(dataset, keyword)
    return part10(dataset)


def with_uid(uid: str, keyword: str = "StudyInstanceUID") -> bytes:
    """A CT slice with that text in place of one of its UIDs."""
    dataset = ct_series(1)[0]
    stand_in = "9" * (len(uid) + len(uid) % 2)
    dataset[keyword].value = stand_in
    return part10(dataset).replace(stand_in.encode(), uid.encode().ljust(len(stand_in), b"\0"))


def nested(levels: int) -> bytes:
    """A CT slice with a sequence in a sequence in a sequence."""
    inner = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack(
        "<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF
    )
    ends = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) + struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    opened = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    return part10(new_dataset("1.2.840.10008.5.1.4.1.1.88.11", Modality="SR")) + (
        opened + inner * levels + ends * levels + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    )


def long_value(length: int) -> bytes:
    """A slice whose last element says that it is `length` bytes long, and has eight."""
    return part10(ct_series(1)[0]) + struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, length) + b"12345678"


def deflate_bomb() -> bytes:
    """A deflated data set that inflates to 2 GiB of zeros."""
    dataset = new_dataset(
        "1.2.840.10008.5.1.4.1.1.88.11", transfer_syntax=DeflatedExplicitVRLittleEndian, Modality="SR"
    )
    whole = part10(dataset)
    meta_end = 144 + struct.unpack_from("<I", whole, 140)[0]
    plain = zlib.decompressobj(-15).decompress(whole[meta_end:])
    plain += struct.pack("<HH2sHI", 0x7FE1, 0x1010, b"OB", 0, 2 << 30)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = squeeze.compress(plain) + squeeze.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block stands alone, so one of zeros may be repeated.
    mebibyte = squeeze.compress(bytes(1 << 20)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return whole[:meta_end] + start + mebibyte * (2 << 10) + squeeze.flush()


BAD = {
    "nothing at all": lambda: b"",
    "text": lambda: b"GIF89a, or a letter, or anything else",
    "a preamble and no DICM": lambda: bytes(128) + b"DICN" + bytes(100),
    "DICM and no more": lambda: bytes(128) + b"DICM",
    "a cut in the meta information": lambda: part10(ct_series(1)[0])[:200],
    "a cut before the UIDs": lambda: part10(ct_series(1)[0])[:400],
    "no SOP Instance UID": lambda: without("SOPInstanceUID"),
    "no SOP Class UID": lambda: without("SOPClassUID"),
    "no Study Instance UID": lambda: without("StudyInstanceUID"),
    "no Series Instance UID": lambda: without("SeriesInstanceUID"),
    "a path as Study Instance UID": lambda: with_uid("../../../../../../etc/passwd"),
    "an absolute path as Series Instance UID": lambda: with_uid("/etc/passwd", "SeriesInstanceUID"),
    "SQL as SOP Instance UID": lambda: with_uid("1.2'; DROP TABLE study; --", "SOPInstanceUID"),
    "a UID of 70 characters": lambda: with_uid("1." + "2" * 68, "SOPInstanceUID"),
    "10,000 nested sequences": lambda: nested(10_000),
    "a deflate bomb": deflate_bomb,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_part_is_refused_with_a_reason_and_spoils_no_other(client: httpx.Client, room: Room, name: str) -> None:
    good = ct_series(2)
    answer = store(client, part10(good[0]), BAD[name](), part10(good[1]))
    assert answer.status == 202
    assert list(answer.stored) == uids(good)
    assert [*answer.failed.values(), *answer.unnamed_failures] == [CANNOT_UNDERSTAND]
    assert [one[0] for one in held(room)] == sorted(uids(good))


@pytest.mark.parametrize("name", BAD)
def test_where_nothing_could_be_stored_the_request_conflicts_and_leaves_nothing(
    client: httpx.Client, room: Room, name: str
) -> None:
    before = files_below(room.settings.data)
    answer = store(client, BAD[name]())
    assert answer.status == 409
    assert "00081199" not in answer.body
    assert [*answer.failed.values(), *answer.unnamed_failures] == [CANNOT_UNDERSTAND]
    assert held(room) == []
    assert files_below(room.settings.data) == before


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: long_value(0x7FFFFFF0), id="a value of 2 GiB that is not there"),
        pytest.param(lambda: long_value(0xFFFFFFFE), id="a value of 4 GiB that is not there"),
        pytest.param(lambda: part10(ct_series(1)[0])[:-300], id="pixel data cut short"),
        pytest.param(lambda: part10(ct_series(1, Rows=4000)[0]), id="more rows than pixels"),
        pytest.param(lambda: part10(ct_series(1, NumberOfFrames=65535)[0]), id="more frames than pixels"),
        pytest.param(lambda: part10(ct_series(1, Rows=0)[0]), id="no rows"),
        pytest.param(lambda: part10(ct_series(1, BitsAllocated=7)[0]), id="an odd depth"),
        pytest.param(lambda: nested(40), id="40 nested sequences"),
    ],
)
def test_what_is_readable_but_broken_is_kept_as_received_and_gives_no_frames(
    client: httpx.Client, room: Room, make: Callable[[], bytes]
) -> None:
    good, sent = ct_series(1), make()
    answer = store(client, sent, part10(good[0]))
    assert good[0].SOPInstanceUID in answer.stored
    for uid in set(answer.stored) - set(uids(good)):
        url = answer.stored[uid]["00081190"]["Value"][0]
        whole = client.get(url, headers=AS_STORED)
        assert whole.content == sent
        frame = client.get(f"{url}/frames/1", headers={"Accept": "multipart/related; type=*/*"})
        assert frame.status_code in (404, 406, 409), frame.text
    assert len(answer.stored) + len(answer.failed) + len(answer.unnamed_failures) == 2


def test_reasons_never_hold_what_identifies_a_patient(client: httpx.Client) -> None:
    bad = ct_series(1, PatientName="Secret^Name", PatientID="SECRET-ID", PatientBirthDate="19010203")[0]
    del bad.SeriesInstanceUID
    response = send(client, [part10(bad)])
    assert response.status_code == 409
    told = response.text + str(response.headers)
    assert "series instance uid" in told.lower()
    assert not re.search("secret|19010203", told, re.IGNORECASE)


# -- sent to a study -------------------------------------------------------------------------------------------


def test_an_instance_of_another_study_fails_and_the_rest_is_stored(client: httpx.Client, room: Room) -> None:
    mine, other = ct_series(2), ct_series(1)[0]
    answer = store(client, part10(mine[0]), part10(other), part10(mine[1]), to=f"{STUDIES}/{mine[0].StudyInstanceUID}")
    assert answer.status == 202
    assert list(answer.stored) == uids(mine)
    assert answer.failed == {other.SOPInstanceUID: NOT_THIS_STUDY}
    assert [one[0] for one in held(room)] == sorted(uids(mine))


def test_only_instances_of_another_study_conflict(client: httpx.Client, room: Room) -> None:
    answer = store(client, part10(ct_series(1)[0]), to=f"{STUDIES}/{new_uid()}")
    assert answer.status == 409
    assert list(answer.failed.values()) == [NOT_THIS_STUDY]
    assert held(room) == []


def test_instances_of_the_study_they_are_sent_to_are_stored(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    study = f"{STUDIES}/{chest_ct[0].StudyInstanceUID}"
    answer = store(client, *map(part10, chest_ct), to=study)
    assert answer.status == 200
    assert answer.body["00081190"]["Value"] == [f"http://127.0.0.1:8780{study}"]


# -- the same UID again ----------------------------------------------------------------------------------------


def changed(dataset: FileDataset) -> bytes:
    dataset.SeriesDescription = "Other bytes"
    return part10(dataset)


@pytest.mark.rooms("sqlite", "postgres")
def test_the_same_bytes_again_are_a_success_that_changes_nothing(
    client: httpx.Client, room: Room, chest_ct: list[FileDataset]
) -> None:
    files = [*map(part10, chest_ct)]
    store(client, *files)
    before, events = held(room), room.query(lambda connection: connection.execute(t.event.select()).all())
    answer = store(client, *files, *files)
    assert answer.status == 200
    assert list(answer.stored) == uids(chest_ct)
    assert not any("00081196" in item for item in answer.stored.values())
    assert held(room) == before
    assert room.query(lambda connection: connection.execute(t.event.select()).all()) == events


@pytest.mark.rooms("sqlite", "postgres")
def test_other_bytes_are_kept_as_a_new_version_with_a_warning(
    client: httpx.Client, room: Room, chest_ct: list[FileDataset]
) -> None:
    store(client, part10(chest_ct[0]))
    sent = changed(chest_ct[0])
    answer = store(client, sent)
    assert answer.status == 202
    (item,) = answer.stored.values()
    assert 0xB000 <= item["00081196"]["Value"][0] <= 0xBFFF
    uid = str(chest_ct[0].SOPInstanceUID)
    assert held(room) == [(uid, 1, False), (uid, 2, True)]
    whole = client.get(item["00081190"]["Value"][0], headers=AS_STORED)
    assert whole.content == sent


class TestRejectingDuplicates:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"duplicates": "reject"})

    def test_other_bytes_are_refused_and_the_first_stay(
        self, client: httpx.Client, room: Room, chest_ct: list[FileDataset]
    ) -> None:
        first = part10(chest_ct[0])
        store(client, first)
        before = files_below(room.settings.data / "store")
        answer = store(client, changed(chest_ct[0]), part10(chest_ct[1]))
        assert answer.status == 202
        assert answer.failed == {chest_ct[0].SOPInstanceUID: DUPLICATE}
        assert list(answer.stored) == uids(chest_ct[1:2])
        assert len(files_below(room.settings.data / "store")) == len(before) + 1
        assert store(client, first).status == 200


class TestKeepingTheFirst:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"duplicates": "keep-first"})

    def test_other_bytes_are_taken_with_a_warning_and_the_first_stay(
        self, client: httpx.Client, room: Room, chest_ct: list[FileDataset]
    ) -> None:
        first = part10(chest_ct[0])
        store(client, first)
        before = files_below(room.settings.data / "store")
        answer = store(client, changed(chest_ct[0]))
        assert answer.status == 202
        (item,) = answer.stored.values()
        assert "00081196" in item
        assert files_below(room.settings.data / "store") == before
        whole = client.get(item["00081190"]["Value"][0], headers=AS_STORED)
        assert whole.content == first


# -- the request itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boundary", "written"),
    [
        ("simple", "simple"),
        ("simple", '"simple"'),
        ("0f3cf5c0-70e0-41ef-baef-c6f9f65ec3e1", '"0f3cf5c0-70e0-41ef-baef-c6f9f65ec3e1"'),
        ("'()+_,-./:=?", '"\'()+_,-./:=?"'),
        ("with a space", '"with a space"'),
        ("x" * 70, "x" * 70),
        ("-" * 20, '"' + "-" * 20 + '"'),
    ],
)
def test_a_boundary_may_be_quoted_and_hold_what_rfc_2046_allows(
    client: httpx.Client, chest_ct: list[FileDataset], boundary: str, written: str
) -> None:
    body = multipart.encode(map(part10, chest_ct), boundary=boundary)
    for kind in ("application/dicom", '"application/dicom"'):
        response = send(client, body=body, content_type=f"multipart/related; boundary={written}; type={kind}")
        assert response.status_code == 200, response.text
        assert list(Answer(200, response.json()).stored) == uids(chest_ct)


def test_pixels_may_hold_what_looks_like_the_boundary(client: httpx.Client) -> None:
    dataset = synthetic.pdf_document(b"%PDF-1.4\r\n--XX\r\r\n--XY--\r\n-XX\r\n --XX--\r\n")
    sent = part10(dataset)
    (item,) = store(client, sent).stored.values()
    whole = client.get(item["00081190"]["Value"][0], headers=AS_STORED)
    assert whole.content == sent


def test_text_around_the_parts_is_skipped(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    body = b"a preamble\r\n" + multipart.encode([part10(chest_ct[0])]) + b"an epilogue\r\n--XX\r\n\r\nnot a part"
    response = send(client, body=body)
    assert response.status_code == 200
    assert list(Answer(200, response.json()).stored) == uids(chest_ct[:1])


def test_a_part_without_a_content_type_is_taken_for_what_the_request_says(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    body = b"--XX\r\n\r\n" + part10(chest_ct[0]) + b"\r\n--XX--"
    response = send(client, body=body)
    assert list(Answer(200, response.json()).stored) == uids(chest_ct[:1])


def test_a_part_of_another_type_fails_alone(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    body = multipart.encode([b"\xff\xd8\xff"], type_="image/jpeg").removesuffix(b"--XX--\r\n")
    response = send(client, body=body + multipart.encode([part10(chest_ct[0])]))
    answer = Answer(response.status_code, response.json())
    assert answer.status == 202
    assert list(answer.stored) == uids(chest_ct[:1])
    assert answer.unnamed_failures == [CANNOT_UNDERSTAND]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        pytest.param('multipart/related; type="application/dicom"', b"--XX\r\n\r\nx\r\n--XX--", id="no boundary"),
        pytest.param('multipart/related; boundary=""', b"--XX\r\n\r\nx\r\n--XX--", id="an empty boundary"),
        pytest.param(f"multipart/related; boundary={'x' * 71}", b"--XX\r\n\r\nx\r\n--XX--", id="a boundary too long"),
        pytest.param(multipart.content_type(), b"", id="no body"),
        pytest.param(multipart.content_type(), b"no boundary anywhere", id="no boundary in the body"),
        pytest.param(multipart.content_type(), b"--YY\r\n\r\nx\r\n--YY--", id="another boundary in the body"),
        pytest.param(multipart.content_type(), b"--XX--\r\n", id="no part"),
        pytest.param(multipart.content_type(), b"--XX\r\nno colon\r\n\r\nx\r\n--XX--", id="a header without a colon"),
        pytest.param(
            multipart.content_type(), b"--XX\r\nA: " + b"a" * 20_000 + b"\r\n\r\nx\r\n--XX--", id="a long header"
        ),
        pytest.param("application/dicom", b"", id="a single part that is empty"),
    ],
)
def test_a_request_that_cannot_be_read_is_a_bad_request(
    client: httpx.Client, room: Room, content_type: str, body: bytes
) -> None:
    response = send(client, body=body, content_type=content_type)
    assert response.status_code == 400
    assert len(response.text.strip().splitlines()) == 1, "one clear line says what was wrong"
    assert held(room) == []


def test_a_body_that_ends_in_the_middle_stores_nothing_of_what_is_incomplete(
    client: httpx.Client, room: Room, chest_ct: list[FileDataset]
) -> None:
    whole = multipart.encode(map(part10, chest_ct[:2]))
    before = files_below(room.settings.data / "store")
    for end in (len(whole) - 8, len(whole) - 700, len(whole) // 2 - 100, 60):
        response = send(client, body=whole[:end])
        assert response.status_code == 400, end
        assert chest_ct[1].SOPInstanceUID not in [one[0] for one in held(room)]
    left = len(files_below(room.settings.data / "store")) - len(before)
    assert left == len(held(room)), "no file without a row"


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=XX",
        "multipart/mixed; boundary=XX",
        'multipart/related; type="image/jpeg"; boundary=XX',
        'multipart/related; type="application/octet-stream"; boundary=XX',
        "image/jpeg",
        "application/json",
        "application/zip",
        "nonsense",
    ],
)
def test_a_body_of_a_type_that_is_not_read_is_unsupported(client: httpx.Client, room: Room, content_type: str) -> None:
    response = send(client, [part10(ct_series(1)[0])], content_type=content_type)
    assert response.status_code == 415
    assert held(room) == []


def test_a_body_of_no_stated_type_is_unsupported(client: httpx.Client) -> None:
    response = client.post(STUDIES, content=multipart.encode([part10(ct_series(1)[0])]))
    assert response.status_code == 415


@pytest.mark.parametrize("accept", ["application/dicom+json", "application/json", "*/*", "text/html, */*;q=0.1"])
def test_the_answer_is_dicom_json(client: httpx.Client, accept: str) -> None:
    response = send(client, [part10(ct_series(1)[0])], accept=accept)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/dicom+json"


def test_the_answer_is_xml_for_who_asks_for_it(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """PS3.18 10.5.3: the same module in the Native DICOM Model."""
    store(client, part10(chest_ct[1]), to=f"{STUDIES}/{chest_ct[1].StudyInstanceUID}")
    bodies = [part10(chest_ct[0]), part10(synthetic.cine()), b"none"]
    answers = [
        send(client, bodies, to=f"{STUDIES}/{chest_ct[0].StudyInstanceUID}", accept=accept)
        for accept in ("application/dicom+xml", "application/dicom+json")
    ]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].headers["content-type"] == "application/dicom+xml"
    assert from_xml(answers[0].content) == answers[1].json()


@pytest.mark.parametrize("accept", ["text/html", "image/png", "application/dicom+json;q=0"])
def test_an_answer_that_cannot_be_given_is_not_acceptable_and_nothing_is_stored(
    client: httpx.Client, room: Room, accept: str
) -> None:
    assert send(client, [part10(ct_series(1)[0])], accept=accept).status_code == 406
    assert held(room) == []


def test_implicit_little_endian_is_stored_as_it_came(client: httpx.Client, room: Room) -> None:
    sent = part10(new_dataset("1.2.840.10008.5.1.4.1.1.7", transfer_syntax=ImplicitVRLittleEndian, Modality="OT"))
    assert store(client, sent).status == 200
    (key,) = files_below(room.settings.data / "store")
    assert room.blobs.read(key)[: len(sent)] == sent


class TestLimitsOfLength:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_object_bytes": 100_000})

    def test_a_part_past_the_limit_is_refused_and_its_neighbours_are_stored(
        self, client: httpx.Client, room: Room, chest_ct: list[FileDataset]
    ) -> None:
        large = synthetic.pdf_document(b"%PDF" + bytes(20_000_000))
        answer = store(client, part10(chest_ct[0]), part10(large), part10(chest_ct[1]))
        assert answer.status == 202
        assert list(answer.stored) == uids(chest_ct[:2])
        assert answer.unnamed_failures == [CANNOT_UNDERSTAND]
        assert len(files_below(room.settings.data / "store")) == 2


def test_a_part_too_large_for_memory_comes_back_with_the_same_bytes(client: httpx.Client, room: Room) -> None:
    sent = part10(synthetic.pdf_document(b"%PDF" + bytes(range(256)) * 80_000))
    small = part10(ct_series(1)[0])
    answer = store(client, small, sent, small)
    assert answer.status == 200
    large = next(item for item in answer.stored.values() if item["00081150"]["Value"][0].endswith(".104.1"))
    whole = client.get(large["00081190"]["Value"][0], headers=AS_STORED)
    assert whole.content == sent
    assert [name for name in files_below(room.settings.data / "store") if name.startswith("tmp")] == []
