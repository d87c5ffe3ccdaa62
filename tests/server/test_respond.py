"""The HTTP around what is retrieved: ranges, validators, HEAD, and answers that break off (RFC 9110)."""

from __future__ import annotations

import httpx
import pytest
from pydicom import FileDataset

from server.room import Room
from storage.catalog import schema as t
from tests.multipart import parts_of
from tests.retrieve import (
    AS_STORED_PARTS,
    JSON,
    NATIVE_FRAMES,
    OCTETS,
    OHIF_FRAMES,
    keep,
    url_of,
)
from tests.stow import AS_STORED
from tests.synthetic import ct_series

RANGES = [
    ("bytes=0-9", 206, slice(0, 10)),
    ("bytes=100-", 206, slice(100, None)),
    ("bytes=-7", 206, slice(-7, None)),
    ("bytes=5-5", 206, slice(5, 6)),
    ("bytes=0-99999999", 206, slice(0, None)),
    ("bytes=-99999999", 206, slice(0, None)),
    ("Bytes=0-9", 200, slice(None)),
    ("bytes=9-0", 200, slice(None)),
    ("bytes=0-1,3-4", 200, slice(None)),
    ("bytes=-", 200, slice(None)),
    ("bytes=a-b", 200, slice(None)),
    ("items=0-1", 200, slice(None)),
    ("bytes=0-" + "9" * 5000, 200, slice(None)),
]


@pytest.mark.rooms("sqlite", "s3")
@pytest.mark.parametrize("tail", ["", "/frames/1", "/bulkdata/7FE00010"])
def test_ranges_of_a_single_part(client: httpx.Client, tail: str) -> None:
    """RFC 9110 14; what is malformed, of another unit, or several ranges is answered in full."""
    (dataset,) = ct_series(1)
    keep(client, dataset)
    url = url_of(dataset) + tail
    accept = {"Accept": "application/dicom, application/octet-stream"}
    whole = client.get(url, headers=accept)
    assert whole.headers["accept-ranges"] == "bytes"
    for text, status, part in RANGES:
        answer = client.get(url, headers={**accept, "Range": text})
        assert (answer.status_code, answer.content) == (status, whole.content[part]), text
        if status == 206:
            start, stop, size = part.indices(len(whole.content))[0], len(answer.content), len(whole.content)
            assert answer.headers["content-range"] == f"bytes {start}-{start + stop - 1}/{size}"
        assert int(answer.headers["content-length"]) == len(answer.content)
    for text in (f"bytes={len(whole.content)}-", "bytes=999999999-", "bytes=-0"):
        answer = client.get(url, headers={**accept, "Range": text})
        assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(whole.content)}")


def test_a_range_of_a_large_instance_is_cut_from_the_pieces(client: httpx.Client) -> None:
    (dataset,) = ct_series(1, rows=1200, columns=1100)
    (file,) = keep(client, dataset)
    answer = client.get(url_of(dataset), headers={**AS_STORED, "Range": "bytes=1000-2500000"})
    assert (answer.status_code, answer.content) == (206, file[1000:2500001])


def test_a_range_holds_only_for_the_bytes_it_was_meant_for(client: httpx.Client) -> None:
    """RFC 9110 13.1.5: If-Range."""
    (dataset,) = ct_series(1)
    (file,) = keep(client, dataset)
    url, etag = url_of(dataset), client.get(url_of(dataset), headers=AS_STORED).headers["etag"]
    wanted = {**AS_STORED, "Range": "bytes=0-9"}
    assert client.get(url, headers={**wanted, "If-Range": etag}).content == file[:10]
    for other in ('"other"', f"W/{etag}", "Mon, 05 Jan 2026 10:00:00 GMT"):
        answer = client.get(url, headers={**wanted, "If-Range": other})
        assert (answer.status_code, answer.content) == (200, file)


def test_a_multipart_answer_has_no_ranges(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """Its boundary is another one each time, so no bytes of it go with those of an earlier answer."""
    (file,) = keep(client, chest_ct[0])
    answer = client.get(url_of(chest_ct[0]), headers={**AS_STORED_PARTS, "Range": "bytes=0-9"})
    assert answer.status_code == 200
    assert "accept-ranges" not in answer.headers
    assert answer.headers["etag"].startswith('W/"')
    assert parts_of(answer)[0][1] == file


RESOURCES = [
    ("study", "", AS_STORED_PARTS),
    ("series", "", AS_STORED_PARTS),
    ("instance", "", AS_STORED_PARTS),
    ("instance", "", AS_STORED),
    ("study", "/metadata", JSON),
    ("series", "/metadata", JSON),
    ("instance", "/metadata", JSON),
    ("instance", "/frames/1", OHIF_FRAMES),
    ("instance", "/frames/1", OCTETS),
    ("instance", "/bulkdata/7FE00010", OCTETS),
    ("study", "/bulkdata", NATIVE_FRAMES),
]


@pytest.mark.parametrize(("level", "tail", "accept"), RESOURCES)
def test_head_tells_what_get_would_send(
    client: httpx.Client, chest_ct: list[FileDataset], level: str, tail: str, accept: dict[str, str]
) -> None:
    """RFC 9110 9.3.2."""
    keep(client, *chest_ct)
    url = url_of(chest_ct[0], level=level) + tail
    get, head = client.get(url, headers=accept), client.head(url, headers=accept)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers.get("content-length") == get.headers.get("content-length")
    assert head.headers["content-type"].partition("boundary")[0] == get.headers["content-type"].partition("boundary")[0]
    assert head.headers["etag"] == get.headers["etag"]


@pytest.mark.parametrize(("level", "tail", "accept"), RESOURCES)
def test_what_the_client_holds_already_is_not_sent_again(
    client: httpx.Client, chest_ct: list[FileDataset], level: str, tail: str, accept: dict[str, str]
) -> None:
    """RFC 9110 13.1.2; nothing is kept without asking, and only by the client itself."""
    keep(client, *chest_ct)
    url = url_of(chest_ct[0], level=level) + tail
    answer = client.get(url, headers=accept)
    assert answer.headers["cache-control"] == "private, no-cache"
    assert "Accept" in answer.headers["vary"]
    etag = answer.headers["etag"]
    for held in (etag, f'"other", {etag}', "*", etag.removeprefix("W/")):
        again = client.get(url, headers={**accept, "If-None-Match": held})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag or again.headers["etag"] == etag.removeprefix("W/")
    assert client.get(url, headers={**accept, "If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(("level", "tail", "accept"), RESOURCES)
def test_an_unknown_parameter_is_ignored(
    client: httpx.Client, chest_ct: list[FileDataset], level: str, tail: str, accept: dict[str, str]
) -> None:
    """PS3.18 8.3: and 400 for one would crash OHIF."""
    keep(client, chest_ct[0])
    url = f"{url_of(chest_ct[0], level=level)}{tail}?limit=-1&frame=x&%zz=%%%&=&&"
    assert client.get(url, headers=accept).status_code == 200


def test_an_object_shorter_than_the_catalog_says_is_never_taken_for_a_whole_one(
    client: httpx.Client, room: Room, chest_ct: list[FileDataset]
) -> None:
    """The connection breaks off, or the answer is an error: half an image must not pass for one."""
    (dataset,) = ct_series(1, rows=900, columns=700)
    keep(client, dataset, chest_ct[0])
    for one in (dataset, chest_ct[0]):
        (key,) = room.query(
            lambda connection, uid=one.SOPInstanceUID: connection.execute(
                t.instance.select().with_only_columns(t.instance.c.object_key).where(t.instance.c.instance_uid == uid)
            ).one()
        )
        path = room.blobs.local_path(key)
        assert path is not None
        with path.open("r+b") as file:
            file.truncate(500)
    assert client.get(url_of(chest_ct[0]), headers=AS_STORED).status_code == 503
    with pytest.raises(RuntimeError, match="response already started"):
        client.get(url_of(dataset), headers=AS_STORED)
