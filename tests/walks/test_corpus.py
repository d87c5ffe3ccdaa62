"""Every real file of the corpus goes in over STOW-RS and comes out as it was: whole, frame by frame, value by value."""

from __future__ import annotations

import hashlib
import io
import sqlite3
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from tests import multipart
from tests.corpus import Entry, each_file
from tests.servers import Live
from tests.storage.test_objects import NON_PATIENT, OPAQUE, REFUSED
from tests.stow import AS_STORED, Answer, send

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

FRAMES_AS_STORED = {"Accept": 'multipart/related; type="*/*"; transfer-syntax=*'}
FRAMES_AT_ONCE = 100
NEVER_SENT = (ImplicitVRLittleEndian, ExplicitVRBigEndian)
"""Over the web these go as Explicit VR Little Endian (PS3.18 8.7.3.5); the store and `export` have them as received."""

DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
"""PS3.18 has no media type for such a bitstream, so it goes inflated."""

NATIVE = (*NEVER_SENT, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.base, timeout=60) as client:
        yield client


def store_file(client: httpx.Client, entry: Entry) -> dict[str, Any]:
    """Store one file and give what the answer says of it."""
    category = NON_PATIENT.get(entry.name)
    response = send(client, [entry.read()], to=f"/dicomweb/{category or 'studies'}")
    answer = Answer(response.status_code, response.json())
    # Files of the corpus share SOP Instance UIDs: then a new version is kept, with a warning.
    assert answer.status in (200, 202), response.text
    (item,) = answer.stored.values()
    assert category or (answer.status == 202) == ("00081196" in item)
    return item


@each_file()
def test_a_file_comes_back_with_the_same_bytes_or_is_refused_for_the_reason_listed(
    corpus: object, client: httpx.Client, live: Live, entry: Entry
) -> None:
    if entry.name in REFUSED:
        response = send(client, [entry.read()])
        assert response.status_code == 409
        assert REFUSED[entry.name] in response.headers["warning"]
        return
    item = store_file(client, entry)
    url = item["00081190"]["Value"][0]
    whole = client.get(url, headers=AS_STORED)
    assert whole.status_code == 200
    dataset = pydicom.dcmread(entry.path)
    if dataset.file_meta.TransferSyntaxUID in NEVER_SENT:
        assert pydicom.dcmread(io.BytesIO(whole.content)).file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    else:
        assert hashlib.sha256(whole.content).digest() == hashlib.sha256(entry.read()).digest()
    is_in_study = entry.name not in NON_PATIENT
    (metadata,) = client.get(f"{url}/metadata" if is_in_study else url).json()
    assert metadata["00080018"]["Value"] == [dataset.SOPInstanceUID]
    if is_in_study:
        assert opaque_reason(live, dataset.SOPInstanceUID) == expected_reason(entry, dataset)
    for uri in bulk_data_uris(metadata):
        assert client.get(uri, headers={"Accept": "multipart/related; type=*/*"}).status_code == 200, uri


@each_file()
def test_the_frames_of_a_file_are_the_bitstreams_in_it(corpus: object, client: httpx.Client, entry: Entry) -> None:
    if entry.name in REFUSED or entry.name in NON_PATIENT:
        return
    url = store_file(client, entry)["00081190"]["Value"][0]
    expected = [] if has_no_frames(entry) else frames_in(pydicom.dcmread(entry.path))
    got: list[bytes] = []
    for first in range(0, len(expected), FRAMES_AT_ONCE):
        numbers = range(first + 1, min(first + FRAMES_AT_ONCE, len(expected)) + 1)
        response = client.get(f"{url}/frames/{','.join(map(str, numbers))}", headers=FRAMES_AS_STORED)
        assert response.status_code == 200, response.text
        got += [data for _, data in multipart.parts_of(response)]
    assert [hashlib.sha256(frame).hexdigest() for frame in got] == [
        hashlib.sha256(frame).hexdigest() for frame in expected
    ]
    beyond = client.get(f"{url}/frames/{len(expected) + 1}", headers=FRAMES_AS_STORED)
    assert beyond.status_code in (404, 406), "there is no frame past the last"


def has_no_frames(entry: Entry) -> bool:
    """Whether nobody could tell the frames apart; what is deflated is opaque in the store, and still has frames."""
    return OPAQUE.get(entry.name, "the data set is deflated") != "the data set is deflated"


def expected_reason(entry: Entry, dataset: Dataset) -> str:
    has_pixels = any(keyword in dataset for keyword in PIXELS)
    return OPAQUE.get(entry.name, "" if has_pixels else "no pixel data")


def opaque_reason(live: Live, instance_uid: str) -> str:
    """Why the current version of an instance is not a shard; empty where it is."""
    with sqlite3.connect(f"file:{live.data / 'catalog.sqlite'}?mode=ro", uri=True) as catalog:
        statement = "SELECT opaque_reason FROM instance WHERE instance_uid = ? AND is_current"
        (reason,) = catalog.execute(statement, [instance_uid]).fetchone()
    catalog.close()
    return str(reason)


def bulk_data_uris(dataset: dict[str, Any]) -> Iterator[str]:
    for element in dataset.values():
        if "BulkDataURI" in element:
            yield element["BulkDataURI"]
        elif element["vr"] == "SQ":
            for item in element.get("Value", []):
                yield from bulk_data_uris(item)


def frames_in(dataset: Dataset) -> list[bytes]:
    """The frames of a data set as pydicom finds them: bitstreams, or native pixels in little endian."""
    element = next((dataset[keyword] for keyword in PIXELS if keyword in dataset), None)
    if element is None:
        return []
    count = int(dataset.get("NumberOfFrames") or 1)
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax not in NATIVE:
        extended = None
        if "ExtendedOffsetTable" in dataset:
            extended = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths)
        bitstreams = generate_frames(element.value, number_of_frames=count, extended_offsets=extended)
        return [zlib.decompress(one, -15) for one in bitstreams] if syntax == DEFLATED_FRAMES else [*bitstreams]
    samples = 2 if "422" in dataset.PhotometricInterpretation else dataset.SamplesPerPixel
    bits = dataset.Rows * dataset.Columns * samples * dataset.BitsAllocated
    raw = element.value
    if syntax == ExplicitVRBigEndian:
        word = max(dataset.BitsAllocated // 8, 2 if element.VR == "OW" else 1)
        raw = b"".join(raw[at : at + word][::-1] for at in range(0, len(raw), word))
    if bits % 8 == 0:
        return [raw[bits // 8 * index : bits // 8 * (index + 1)] for index in range(count)]
    # A frame of single bits begins where the one before ended; it is sent from a byte of its own.
    text = "".join(f"{byte:08b}"[::-1] for byte in raw)
    cut = [text[bits * index : bits * (index + 1)].ljust((bits + 7) // 8 * 8, "0") for index in range(count)]
    return [bytes(int(one[at : at + 8][::-1], 2) for at in range(0, len(one), 8)) for one in cut]


@each_file()
def test_a_stored_object_is_still_a_dicom_file(corpus: object, client: httpx.Client, live: Live, entry: Entry) -> None:
    """What lies in the store opens in any DICOM reader, and begins with the file that was received."""
    if entry.name in REFUSED:
        return
    store_file(client, entry)
    uid = pydicom.dcmread(entry.path, stop_before_pixels=True).SOPInstanceUID
    with sqlite3.connect(f"file:{live.data / 'catalog.sqlite'}?mode=ro", uri=True) as catalog:
        table = "non_patient" if entry.name in NON_PATIENT else "instance"
        statement = f"SELECT object_key, size_bytes FROM {table} WHERE instance_uid = ? AND is_current"
        key, size = catalog.execute(statement, [uid]).fetchone()
    catalog.close()
    stored = (live.data / "store" / key).read_bytes()
    assert stored[:size] == entry.read()
    assert pydicom.dcmread(io.BytesIO(stored)).SOPInstanceUID == uid
