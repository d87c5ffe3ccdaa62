"""Non-patient instances over HTTP: stored, retrieved, found (PS3.18 12.4, 12.5, 12.6), deleted, restored and purged."""

from __future__ import annotations

import io
from datetime import timedelta
from xml.etree import ElementTree

import httpx
import orjson
import pydicom
import pytest
import sqlalchemy as sa
from pydicom import FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from starlette.testclient import TestClient

from readingroom.clock import SetClock
from server.app import build_room, create_app
from server.ingest import Ingest
from server.purging import purge
from server.reindex import Reindexed, list_objects, prepare, record_objects, replay_side_records
from server.room import Room
from server.scrub import Scrubbed, count, scrub
from server.settings import Settings
from storage.blobs import LocalBlobs
from storage.catalog import schema as t
from tests import multipart
from tests.multipart import parts_of
from tests.nonpatient import LARGE, MADE, color_palette, hanging_protocol, read
from tests.retrieve import JSON
from tests.stow import Answer, send, store
from tests.synthetic import ct_series, new_uid, part10

ALL = pytest.mark.rooms("sqlite", "postgres", "s3")
PALETTES = "/dicomweb/color-palettes"
FILE = {"Accept": "application/dicom; transfer-syntax=*"}


def url_of(dataset: FileDataset, category: str = "color-palettes") -> str:
    return f"/dicomweb/{category}/{dataset.SOPInstanceUID}"


def kept(client: httpx.Client, dataset: FileDataset, category: str = "color-palettes") -> bytes:
    """Store an instance; gives its file."""
    file = part10(dataset)
    answer = store(client, file, to=f"/dicomweb/{category}")
    assert answer.status == 200, answer.body
    return file


# -- stored and retrieved ----------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("category", MADE)
def test_an_instance_of_each_category_is_retrieved_as_the_file_that_was_stored(
    client: httpx.Client, category: str
) -> None:
    dataset = MADE[category]()
    file = part10(dataset)
    answer = store(client, file, to=f"/dicomweb/{category}")
    url = f"http://127.0.0.1:8780{url_of(dataset, category)}"
    assert (answer.status, answer.failed) == (200, {})
    assert answer.stored[dataset.SOPInstanceUID]["00081190"] == {"vr": "UR", "Value": [url]}
    single = client.get(url, headers=FILE)
    assert (single.headers["content-type"].partition(";")[0], single.content) == ("application/dicom", file)
    ((headers, body),) = parts_of(client.get(url, headers={"Accept": 'multipart/related; type="application/dicom"'}))
    assert (headers["content-location"], body) == (url, file)


def test_the_default_is_json(client: httpx.Client) -> None:
    """PS3.18 table 12.1.3-1."""
    dataset = color_palette()
    kept(client, dataset)
    answer = client.get(url_of(dataset), headers={"Accept": "*/*"})
    assert answer.headers["content-type"] == "application/dicom+json"
    (found,) = answer.json()
    assert found["00700080"] == {"vr": "CS", "Value": ["HOT_IRON"]}
    assert found["00080018"]["Value"] == [dataset.SOPInstanceUID]
    assert client.get(url_of(dataset), headers={"Accept": "application/json"}).json() == [found]


def test_xml_comes_in_one_part_of_its_own_place(client: httpx.Client) -> None:
    dataset = hanging_protocol()
    kept(client, dataset, "hanging-protocols")
    url = f"http://127.0.0.1:8780{url_of(dataset, 'hanging-protocols')}"
    ((headers, body),) = parts_of(
        client.get(url, headers={"Accept": 'multipart/related; type="application/dicom+xml"'})
    )
    assert (headers["content-type"], headers["content-location"]) == ("application/dicom+xml", url)
    assert b"HangingProtocolName" in body
    alone = client.get(url, headers={"Accept": "application/dicom+xml"}).content
    assert ElementTree.fromstring(alone).tag == ElementTree.fromstring(body).tag


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_a_file_comes_in_explicit_little_endian_whatever_it_was_stored_in(client: httpx.Client, syntax: str) -> None:
    """PS3.18 8.7.3."""
    dataset = hanging_protocol()
    dataset.file_meta.TransferSyntaxUID = syntax
    target = io.BytesIO()
    pydicom.dcmwrite(
        target,
        dataset,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
        force_encoding=True,
    )
    url = url_of(dataset, "hanging-protocols")
    assert store(client, target.getvalue(), to=url).status == 200
    found = read(client.get(url, headers={"Accept": "application/dicom"}).content)
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert (found.HangingProtocolName, found.NumberOfScreens) == ("Knees", 2)
    accept = {"Accept": 'multipart/related; type="*/*"'}
    ((_, value),) = parts_of(client.get(f"{url}/bulkdata/{LARGE}", headers=accept))
    assert value == b"large value " * 500


def test_a_large_value_is_where_the_json_says(client: httpx.Client) -> None:
    dataset = color_palette()
    kept(client, dataset)
    (found,) = client.get(url_of(dataset), headers=JSON).json()
    uri = found[LARGE]["BulkDataURI"]
    assert uri == f"http://127.0.0.1:8780{url_of(dataset)}/bulkdata/{LARGE}"
    whole = client.get(uri)
    assert whole.content == b"large value " * 500
    part = client.get(uri, headers={"Range": "bytes=6-10"})
    assert (part.status_code, part.content) == (206, b"value")
    held = client.get(uri, headers={"If-None-Match": whole.headers["etag"]})
    assert (held.status_code, held.content) == (304, b"")
    assert client.get(uri.replace(LARGE, "7FE00010")).status_code == 404


@pytest.mark.parametrize("accept", ["application/dicom+json", "application/dicom; transfer-syntax=*"])
def test_head_and_a_held_copy_cost_no_body(client: httpx.Client, accept: str) -> None:
    dataset = color_palette()
    kept(client, dataset)
    answer = client.get(url_of(dataset), headers={"Accept": accept})
    head = client.head(url_of(dataset), headers={"Accept": accept})
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", answer.headers["etag"])
    held = client.get(url_of(dataset), headers={"Accept": accept, "If-None-Match": answer.headers["etag"]})
    assert (held.status_code, held.content) == (304, b"")


def test_what_is_not_there_or_not_acceptable_is_told(client: httpx.Client) -> None:
    dataset = color_palette()
    kept(client, dataset)
    assert client.get(f"{PALETTES}/1.2.3", headers=JSON).status_code == 404
    assert client.get(url_of(dataset, "hanging-protocols"), headers=JSON).status_code == 404
    assert client.get(url_of(dataset), headers={"Accept": "image/png"}).status_code == 406
    assert client.get(f"{url_of(dataset)}?version=2", headers=JSON).status_code == 404
    assert client.get(f"{url_of(dataset)}?version=x", headers=JSON).status_code == 400
    assert client.put(url_of(dataset)).status_code == 405


# -- what is stored where ----------------------------------------------------------------------------------------------


def test_each_goes_where_it_belongs_and_nowhere_else(client: httpx.Client) -> None:
    """One bad part spoils no other; the reason is that the data set does not match the SOP Class (A900H)."""
    palette, protocol, image = color_palette(), hanging_protocol(), ct_series(1)[0]
    files = [part10(one) for one in (palette, protocol, image)]
    mixed = store(client, *files, to=PALETTES)
    assert (mixed.status, set(mixed.stored)) == (200, {palette.SOPInstanceUID})
    assert mixed.failed == {protocol.SOPInstanceUID: 0xA900, image.SOPInstanceUID: 0xA900}
    alone = store(client, files[2], to=PALETTES)
    assert (alone.status, alone.stored) == (409, {})
    refused = send(client, files[:1])
    assert refused.status_code == 409
    assert "send it to /color-palettes" in refused.headers["warning"]
    assert Answer(409, refused.json()).failed == {palette.SOPInstanceUID: 0xA900}
    assert store(client, *files[1:]).status == 202


def test_an_instance_is_stored_under_its_own_uid_alone(client: httpx.Client) -> None:
    dataset = color_palette()
    other = store(client, part10(dataset), to=f"{PALETTES}/1.2.3")
    assert (other.status, other.failed) == (409, {dataset.SOPInstanceUID: 0xA900})
    assert store(client, part10(dataset), to=url_of(dataset)).status == 200


def test_what_names_a_study_is_stored_there_whatever_its_class(client: httpx.Client) -> None:
    dataset = color_palette(StudyInstanceUID=new_uid(), SeriesInstanceUID=new_uid())
    assert store(client, part10(dataset), to=PALETTES).failed == {dataset.SOPInstanceUID: 0xA900}
    assert store(client, part10(dataset)).status == 200


def test_no_search_of_studies_finds_it(client: httpx.Client) -> None:
    kept(client, color_palette())
    for level in ("studies", "series", "instances"):
        assert client.get(f"/dicomweb/{level}", headers=JSON).status_code == 204


@pytest.mark.parametrize("media_type", ["application/dicom+json", "application/dicom+xml"])
@pytest.mark.parametrize("is_alone", [True, False])
def test_what_an_instance_says_may_be_stored_as_json_and_xml(
    client: httpx.Client, media_type: str, is_alone: bool
) -> None:
    """PS3.18 table 12.1.3-1: these media types are for all transactions."""
    dataset = color_palette()
    del dataset[LARGE]
    kept(client, dataset)
    said = client.get(url_of(dataset), headers={"Accept": media_type}).content
    uid = new_uid()
    body = said.replace(str(dataset.SOPInstanceUID).encode(), uid.encode())
    kind = media_type
    if not is_alone:
        body, kind = multipart.encode([body], type_=media_type), multipart.content_type(type_=media_type)
    answer = send(client, to=PALETTES, body=body, content_type=kind)
    assert answer.status_code == 200, answer.text
    found = read(client.get(f"{PALETTES}/{uid}", headers=FILE).content)
    assert (found.ContentLabel, found.RedPaletteColorLookupTableData) == ("HOT_IRON", bytes(range(256)))


def test_a_body_that_cannot_be_read_is_told(client: httpx.Client) -> None:
    assert send(client, to=PALETTES, body=b"x", content_type="text/plain").status_code == 415
    assert send(client, to=PALETTES, body=b"x", content_type="application/dicom+json").status_code == 400
    assert send(client, [], to=PALETTES).status_code == 400
    assert store(client, b"no DICOM", to=PALETTES).unnamed_failures == [0xC000]
    document = orjson.dumps([{"00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.39.1"]}}])
    unnamed = send(client, to=PALETTES, body=document, content_type="application/dicom+json")
    assert unnamed.status_code == 409
    assert send(client, [], to="/dicomweb/studies", content_type="application/dicom+json").status_code == 415


# -- versions and owners -----------------------------------------------------------------------------------------------


@pytest.mark.rooms("sqlite", "postgres")
def test_the_same_bytes_are_stored_once_and_others_become_the_next_version(room: Room, client: httpx.Client) -> None:
    dataset = color_palette()
    first = kept(client, dataset)
    objects = sorted(room.blobs.keys("n/"))
    assert store(client, first, to=PALETTES).status == 200
    assert sorted(room.blobs.keys("n/")) == objects
    dataset.ContentDescription = "Hotter"
    again = store(client, part10(dataset), to=PALETTES)
    assert again.stored[dataset.SOPInstanceUID]["00081196"] == {"vr": "US", "Value": [0xB000]}
    assert client.get(url_of(dataset), headers=FILE).content == part10(dataset)
    assert client.get(f"{url_of(dataset)}?version=1", headers=FILE).content == first
    (old,) = client.get(f"{url_of(dataset)}?version=1", headers=JSON).json()
    assert old["00700081"]["Value"] == ["Hot iron"]
    assert client.get(old[LARGE]["BulkDataURI"]).status_code == 200


@pytest.mark.parametrize(("policy", "reason"), [("reject", 0x0111), ("keep-first", None)])
def test_other_bytes_are_dealt_with_as_the_policy_says(
    settings: Settings, clock: SetClock, policy: str, reason: int | None
) -> None:
    changed = settings.model_copy(update={"duplicates": policy})
    with build_room(changed, clock=clock) as room, TestClient(create_app(room), base_url="http://127.0.0.1") as client:
        dataset = color_palette()
        first = kept(client, dataset)
        dataset.ContentDescription = "Hotter"
        answer = store(client, part10(dataset), to=PALETTES)
        assert answer.failed == ({dataset.SOPInstanceUID: reason} if reason else {})
        assert client.get(url_of(dataset), headers=FILE).content == first
        assert len(list(room.blobs.keys("n/"))) == 4, "one object, with the descriptions of its folders"


def test_each_facility_has_its_own(client: httpx.Client) -> None:
    dataset = color_palette()
    file = part10(dataset)
    for facility in ("north", "south"):
        assert store(client, file, to=f"/dicomweb/f/{facility}/color-palettes").status == 200
    assert client.get(url_of(dataset), headers=JSON).status_code == 409
    own = client.get(f"/dicomweb/f/north/color-palettes/{dataset.SOPInstanceUID}", headers=JSON)
    (found,) = own.json()
    assert "/dicomweb/f/north/color-palettes/" in found[LARGE]["BulkDataURI"]
    assert client.get(f"/dicomweb/f/east/color-palettes/{dataset.SOPInstanceUID}", headers=JSON).status_code == 404


# -- found -------------------------------------------------------------------------------------------------------------


def found(client: httpx.Client, category: str, query: str = "") -> list[str]:
    """The UIDs of what a search finds."""
    answer = client.get(f"/dicomweb/{category}?{query}", headers=JSON)
    if answer.status_code == 204:
        return []
    assert answer.status_code == 200, answer.text
    return [row["00080018"]["Value"][0] for row in answer.json()]


SOUGHT = {
    "color-palettes": ["ContentLabel=HOT_*", "ContentDescription=Hot iron", "ContentCreatorName=painter^paula"],
    "defined-procedure-protocols": [
        "ProtocolName=Low*",
        "EquipmentModality=CT",
        "ContentCreatorName=mueller&fuzzymatching=true",
        "PotentialScheduledProtocolCodeSequence.CodeValue=P1",
        "ModelSpecificationSequence.ManufacturerModelName=Scanner*",
        "InstanceCreationDate=20260101-20260103&InstanceCreationTime=1200-1000",
        "InstanceCreationDate=20260102-&TimezoneOffsetFromUTC=%2B0100",
    ],
    "hanging-protocols": [
        "HangingProtocolLevel=SITE",
        "HangingProtocolName=Knees",
        "NumberOfScreens=2",
        "HangingProtocolDefinitionSequence.Modality=CT&HangingProtocolDefinitionSequence.Laterality=L",
        "0072000C.00082218.00080100=72696002",
        "HangingProtocolCreationDateTime=2026-",
    ],
    "implant-templates": [
        "ImplantName=H*p",
        "EffectiveDateTime=202601020900-202601021000&TimezoneOffsetFromUTC=%2B0000",
        "MaterialsCodeSequence.CodeMeaning=Titanium",
    ],
    "inventories": ["InventoryLevel=STUDY", "ContentDate=20260102", "TotalNumberOfStudyRecords=0"],
    "protocol-approvals": [
        "ApprovalSubjectSequence.ReferencedSOPInstanceUID=1.2.3.4,1.2.3.5",
        "ApprovalSequence.AsserterIdentificationSequence.PersonName=approver*",
        "ApprovalSequence.AssertionDateTime=-2027",
    ],
}
MISSED = {
    "color-palettes": ["ContentLabel=hot_*", "ContentLabel=COLD"],
    "defined-procedure-protocols": [
        "EquipmentModality=MR",
        "InstanceCreationDate=20260102-&InstanceCreationTime=1016-",
    ],
    "hanging-protocols": [
        "HangingProtocolDefinitionSequence.Modality=CT&HangingProtocolDefinitionSequence.Laterality=R",
        "NumberOfScreens=3",
    ],
    "implant-templates": ["EffectiveDateTime=202601021000-&TimezoneOffsetFromUTC=%2B0000"],
    "inventories": ["InventoryPurpose=Other"],
    "protocol-approvals": ["ApprovalSequence.AssertionDateTime=2027-"],
}


@pytest.mark.rooms("sqlite", "postgres")
@pytest.mark.parametrize("category", MADE)
def test_an_instance_is_found_by_what_it_says(client: httpx.Client, category: str) -> None:
    """PS3.18 table 12.6.1-2: the matching of the information models in PS3.4; and any other attribute."""
    dataset = MADE[category]()
    for name, make in MADE.items():
        kept(client, dataset if name == category else make(), name)
    uid = str(dataset.SOPInstanceUID)
    for query in ("", f"SOPInstanceUID={uid}", f"SOPClassUID={dataset.SOPClassUID}", *SOUGHT[category]):
        assert found(client, category, query) == [uid], query
    for query in ("SOPInstanceUID=1.2.3", "SOPClassUID=1.2.3", *MISSED[category]):
        assert found(client, category, query) == [], query


def test_a_row_has_the_attributes_of_its_model_and_what_was_asked_for(client: httpx.Client) -> None:
    dataset = color_palette()
    kept(client, dataset)
    (row,) = client.get(PALETTES, headers=JSON).json()
    assert list(row) == ["00080016", "00080018", "00080056", "00081190", "00700080", "00700081", "00700084"]
    assert row["00081190"]["Value"] == [f"http://127.0.0.1:8780{url_of(dataset)}"]
    (more,) = client.get(f"{PALETTES}?includefield=RedPaletteColorLookupTableDescriptor", headers=JSON).json()
    assert more.keys() - row.keys() == {"00281101"}
    (private,) = client.get(f"{PALETTES}?includefield=00091010&00090010=MADE IN CODE", headers=JSON).json()
    assert private[LARGE]["BulkDataURI"].endswith(f"{url_of(dataset)}/bulkdata/{LARGE}")
    (whole,) = client.get(f"{PALETTES}?includefield=all", headers=JSON).json()
    assert {"00281101", "00090010"} <= whole.keys()
    assert LARGE not in whole, "what is long is left to who asks for it"


def test_pages_follow_each_other_and_say_so(client: httpx.Client) -> None:
    uids = []
    for _ in range(5):
        dataset = color_palette()
        kept(client, dataset)
        uids.append(str(dataset.SOPInstanceUID))
    first = client.get(f"{PALETTES}?limit=2&ContentLabel=HOT*", headers=JSON)
    assert 'rel="next"' in first.headers["link"]
    assert "additional results" in first.headers["warning"]
    seen = []
    url: str | None = f"{PALETTES}?limit=2&ContentLabel=HOT*"
    while url:
        answer = client.get(url, headers=JSON)
        seen += [row["00080018"]["Value"][0] for row in answer.json()]
        url = answer.links["next"]["url"] if answer.links else None
    assert seen == uids
    assert found(client, "color-palettes", "offset=5") == []
    assert found(client, "color-palettes", "limit=0") == []


def test_a_search_answers_in_xml_and_says_what_it_ignored(client: httpx.Client) -> None:
    dataset = color_palette()
    kept(client, dataset)
    answer = client.get(f"{PALETTES}?Nonsense=1", headers={"Accept": 'multipart/related; type="application/dicom+xml"'})
    ((_, body),) = parts_of(answer)
    assert b"ContentLabel" in body
    assert "Nonsense" in answer.headers["warning"]
    assert client.get(PALETTES, headers={"Accept": "image/png"}).status_code == 406
    ignored = client.get(f"{PALETTES}?PriorRecordKey=x&RedPaletteColorLookupTableData=1", headers=JSON)
    assert "PriorRecordKey" in ignored.headers["warning"]
    assert "RedPaletteColorLookupTableData" in ignored.headers["warning"]


@pytest.mark.parametrize(
    "query",
    ["limit=x", "offset=-1", "NumberOfScreens=two", "ContentDate=2026-13", "fuzzymatching=maybe", "SOPClassUID=%00"],
)
def test_a_query_that_cannot_be_read_is_told(client: httpx.Client, query: str) -> None:
    answer = client.get(f"{PALETTES}?{query}", headers=JSON)
    assert answer.status_code == 400, answer.text
    assert "\n" not in answer.text.strip()


def test_the_newest_version_is_found_and_each_facility_finds_its_own(client: httpx.Client) -> None:
    dataset = color_palette()
    kept(client, dataset)
    dataset.ContentLabel = "COLD"
    store(client, part10(dataset), to=PALETTES)
    store(client, part10(color_palette()), to="/dicomweb/f/north/color-palettes")
    assert found(client, "color-palettes", "ContentLabel=COLD") == [dataset.SOPInstanceUID]
    assert len(found(client, "color-palettes")) == 2
    assert len(found(client, "f/north/color-palettes")) == 1
    assert found(client, "f/south/color-palettes") == []


# -- deleted, restored, purged -----------------------------------------------------------------------------------------


@ALL
def test_what_is_deleted_is_gone_until_it_is_restored_or_stored_again(room: Room, client: httpx.Client) -> None:
    dataset = color_palette()
    file = kept(client, dataset)
    url = url_of(dataset)
    for bring_back in (lambda: client.post(f"{url}/restore").status_code, lambda: store(client, file, to=url).status):
        assert client.delete(url).status_code == 204
        for path in (url, f"{url}?version=1", f"{url}/bulkdata/{LARGE}"):
            assert client.get(path, headers={"Accept": "*/*"}).status_code == 410
        assert client.delete(url).status_code == 410
        assert found(client, "color-palettes") == []
        assert bring_back() in (200, 204)
        assert client.get(url, headers=FILE).content == file
        assert found(client, "color-palettes") == [dataset.SOPInstanceUID]
    assert client.post(f"{url}/restore").status_code == 404
    assert client.post(f"{url}/restore?version=1").status_code == 400
    assert client.delete(f"{PALETTES}/1.2.3").status_code == 404
    assert client.delete(f"{url}?version=1").status_code == 400
    assert len([key for key in room.blobs.keys("n/") if key.endswith("c.0")]) == 1


def test_other_bytes_that_come_after_a_deletion_are_the_next_version(client: httpx.Client) -> None:
    dataset = color_palette()
    kept(client, dataset)
    client.delete(url_of(dataset))
    dataset.ContentDescription = "Hotter"
    file = kept(client, dataset)
    assert client.get(url_of(dataset), headers=FILE).content == file
    assert client.get(f"{url_of(dataset)}?version=1", headers=FILE).status_code == 200


def test_deletion_can_be_refused_and_is_a_matter_of_the_facility(
    settings: Settings, clock: SetClock, client: httpx.Client
) -> None:
    dataset = color_palette()
    for facility in ("north", "south"):
        store(client, part10(dataset), to=f"/dicomweb/f/{facility}/color-palettes")
    uid = dataset.SOPInstanceUID
    assert client.delete(f"/dicomweb/color-palettes/{uid}").status_code == 409
    assert client.delete(f"/dicomweb/f/north/color-palettes/{uid}").status_code == 204
    assert client.get(f"/dicomweb/f/north/color-palettes/{uid}", headers=JSON).status_code == 410
    assert client.get(f"/dicomweb/color-palettes/{uid}", headers=JSON).status_code == 200
    refusing = settings.model_copy(update={"deletion": "refused"})
    with build_room(refusing, clock=clock) as room, TestClient(create_app(room), base_url="http://127.0.0.1") as other:
        assert other.delete(f"/dicomweb/f/south/color-palettes/{uid}").status_code == 403


@ALL
def test_a_purge_takes_the_bytes_and_leaves_that_it_was_there(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    dataset, other = color_palette(), color_palette()
    kept(client, other)
    kept(client, dataset)
    dataset.ContentDescription = "Hotter"
    store(client, part10(dataset), to=PALETTES)
    client.delete(url_of(dataset))
    clock.advance(timedelta(days=10))
    client.delete(url_of(other))
    purged = purge(room.engine, room.blobs, clock, before=clock.now() - timedelta(days=5))
    assert purged.instances == 1
    assert len([key for key in room.blobs.keys("n/") if key.endswith("c.0")]) == 1
    assert client.get(url_of(dataset), headers=JSON).status_code == 410
    assert client.post(f"{url_of(dataset)}/restore").status_code == 410
    assert client.post(f"{url_of(other)}/restore").status_code == 204
    scrubbed = Scrubbed()
    scrub(room.engine, room.blobs, scrubbed, now=clock.now(), advance=lambda _: None)
    assert (scrubbed.objects, scrubbed.damages) == (1, [])
    file = kept(client, dataset)
    assert client.get(f"{url_of(dataset)}?version=1", headers=FILE).content == file


# -- in the store ------------------------------------------------------------------------------------------------------


def test_an_import_sorts_them_by_themselves(room: Room, client: httpx.Client) -> None:
    made = {category: make() for category, make in MADE.items()}
    files = [part10(one) for one in (*made.values(), ct_series(1)[0])]
    assert [one.result for one in room.ingest.store(files, facility="local", source="test")] == ["stored"] * 7
    for category, dataset in made.items():
        assert client.get(url_of(dataset, category), headers=JSON).status_code == 200


@ALL
def test_scrub_reads_them_and_finds_what_is_wrong(room: Room, client: httpx.Client) -> None:
    kept(client, color_palette())
    file = kept(client, hanging_protocol(), "hanging-protocols")
    with room.engine.connect() as connection:
        row = connection.execute(sa.select(t.non_patient).where(t.non_patient.c.size_bytes == len(file))).one()
    assert count(room.engine)[0] == 2

    def damages() -> dict[str, str]:
        scrubbed = Scrubbed()
        scrub(room.engine, room.blobs, scrubbed, now=room.clock.now(), advance=lambda _: None)
        assert scrubbed.objects == 2
        return {one.object_key: one.kind for one in scrubbed.damages}

    assert damages() == {}
    stray = f"{row.object_key.rpartition('/o/')[0]}/o/77/c.0"
    room.blobs.put(stray, b"nobody knows me")
    room.blobs.put(row.object_key, file[:-1] + b"!")
    assert damages() == {row.object_key: "changed", stray: "orphan"}
    room.blobs.delete(row.object_key)
    assert damages() == {row.object_key: "missing", stray: "orphan"}


def rows(engine: sa.Engine) -> list[dict[str, object]]:
    """All that is known of instances without a patient, but for the ids that each catalog makes for itself."""
    with engine.connect() as connection:
        found = connection.execute(sa.select(t.non_patient).order_by(t.non_patient.c.object_key)).all()
    return [{name: value for name, value in row._mapping.items() if name not in ("id", "array")} for row in found]


@pytest.mark.rooms("sqlite", "s3")
def test_reindex_makes_the_same_catalog_again(room: Room, client: httpx.Client, settings: Settings) -> None:
    palette = color_palette()
    kept(client, palette)
    palette.ContentDescription = "Hotter"
    store(client, part10(palette), to=PALETTES)
    store(client, part10(palette), to="/dicomweb/f/north/color-palettes")
    kept(client, hanging_protocol(), "hanging-protocols")
    store(client, part10(ct_series(1)[0]))
    expected = rows(room.engine)
    assert len(expected) == 4
    later = room.clock.now() + timedelta(hours=1)  # when no writer holds a lease any more
    prepare(room.engine, now=later, force=True)
    assert rows(room.engine) == []
    reindexed = Reindexed()
    made_again(room, reindexed)
    assert (reindexed.instances, reindexed.failures) == (5, [])
    assert rows(room.engine) == expected


def made_again(room: Room, reindexed: Reindexed) -> None:
    objects = list_objects(room.blobs, reindexed, lambda _: None)
    record_objects(
        room.engine, room.blobs, objects, reindexed, quiet=room.settings.quiet_period, advance=lambda _: None
    )
    replay_side_records(room.engine, room.blobs, reindexed)


@pytest.mark.rooms("sqlite", "s3")
def test_reindex_knows_what_was_deleted_restored_and_purged(room: Room, client: httpx.Client, clock: SetClock) -> None:
    """Of what was purged no object is left, so nothing is known of it any more."""
    made = {name: color_palette() for name in ("deleted", "restored", "followed", "purged", "purged and back")}
    for dataset in made.values():
        kept(client, dataset)
        clock.advance(timedelta(seconds=5))
    for name, dataset in made.items():
        client.delete(url_of(dataset))
        clock.advance(timedelta(seconds=5))
        if name == "restored":
            client.post(f"{url_of(dataset)}/restore")
        elif name == "followed":
            dataset.ContentDescription = "Hotter"
            kept(client, dataset)
        elif name == "deleted":
            kept(client, dataset)
        else:
            purge(room.engine, room.blobs, clock, before=clock.now())
        clock.advance(timedelta(seconds=5))
    kept(client, made["purged and back"])
    clock.advance(timedelta(seconds=5))
    client.delete(url_of(made["deleted"]))
    expected = [row for row in rows(room.engine) if row["state"] != "purged"]
    assert sorted(str(row["state"]) for row in expected) == ["hidden", "kept", "kept", "kept", "kept"]
    prepare(room.engine, now=clock.now() + timedelta(hours=1), force=True)
    reindexed = Reindexed()
    made_again(room, reindexed)
    assert reindexed.failures == []
    assert rows(room.engine) == expected


def test_a_purge_that_a_crash_cut_off_is_finished_by_the_next(
    room: Room, client: httpx.Client, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = color_palette()
    file = kept(client, dataset)
    client.delete(url_of(dataset))
    clock.advance(timedelta(days=1))

    def die(_blobs: LocalBlobs, key: str) -> None:
        raise RuntimeError(f"killed before {key} was deleted")

    monkeypatch.setattr(LocalBlobs, "delete", die)
    with pytest.raises(RuntimeError, match="killed before n/"):
        purge(room.engine, room.blobs, clock, before=clock.now())
    monkeypatch.undo()
    assert client.get(url_of(dataset), headers=JSON).status_code == 410
    assert store(client, file, to=PALETTES).status == 503
    assert purge(room.engine, room.blobs, clock, before=clock.now()).instances == 1
    assert [key for key in room.blobs.keys("n/") if key.endswith("c.0")] == []


def test_what_a_writer_that_died_had_published_is_swept_away(room: Room, settings: Settings, clock: SetClock) -> None:
    dead = Ingest(engine=room.engine, blobs=room.blobs, clock=clock, settings=settings)
    ready = dead.stage(part10(color_palette()), facility="local", source="test")
    committed = dead.stage(part10(color_palette()), facility="local", source="test")
    assert dead.commit([committed]).result()[0].result == "stored"  # type: ignore[list-item]
    dead._publish([ready], clock.now())  # type: ignore[list-item]
    assert isinstance(room.blobs, LocalBlobs)
    assert len([key for key in room.blobs.keys("n/") if key.endswith("c.0")]) == 2
    clock.advance(timedelta(minutes=10))
    room.ingest.sweep_others()
    (left,) = [key for key in room.blobs.keys("n/") if key.endswith("c.0")]
    assert left == rows(room.engine)[0]["object_key"]
