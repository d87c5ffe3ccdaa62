"""What every place for objects must do: one contract, run on a local folder, moto and SeaweedFS."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from readingroom.errors import Conflict, NotFound, OutOfSpace, Unavailable
from storage.blobs import Blobs, LocalBlobs, S3Blobs, Staged, open_blobs
from tests.servers import S3, free_port


def open_s3(server: S3, data_folder: Path) -> Blobs:
    said = server.settings()
    return open_blobs(
        data_folder,
        said["store"],
        endpoint=said["s3_endpoint"],
        access_key=said["s3_access_key"],
        secret_key=said["s3_secret_key"],
    )


class BlobsContract:
    """Subclass it with a fixture `blobs`: an empty place."""

    @pytest.fixture
    def staging(self, blobs: Blobs, tmp_path: Path) -> Path:
        """A folder on the same file system as the place."""
        folder = tmp_path / "staging"
        folder.mkdir()
        return folder

    def stage(self, staging: Path, key: str, data: bytes) -> Staged:
        path = staging / os.urandom(8).hex()
        path.write_bytes(data)
        return Staged(path=path, key=key, size_bytes=len(data))

    def test_what_is_published_is_read_back_whole_and_in_ranges(self, blobs: Blobs, staging: Path) -> None:
        data = os.urandom(100_000)
        blobs.publish([self.stage(staging, "s/ab/x/a0/c.0.0", data), self.stage(staging, "s/ab/x/o/1/c.0", b"o")])
        assert blobs.read("s/ab/x/a0/c.0.0") == data
        assert bytes(blobs.read_range("s/ab/x/a0/c.0.0", 777, 5000)) == data[777:5777]
        assert blobs.size("s/ab/x/a0/c.0.0") == 100_000
        assert blobs.read("s/ab/x/o/1/c.0") == b"o"
        assert list(staging.iterdir()) == []

    def test_an_object_too_large_for_one_request_is_published_too(self, blobs: Blobs, staging: Path) -> None:
        data = os.urandom(1 << 20) * 18
        blobs.publish([self.stage(staging, "big", data)])
        assert blobs.size("big") == len(data)
        assert bytes(blobs.read_range("big", (17 << 20) - 3, 9)) == data[(17 << 20) - 3 :][:9]
        assert blobs.read("big") == data

    def test_an_empty_object_is_an_object(self, blobs: Blobs, staging: Path) -> None:
        blobs.publish([self.stage(staging, "empty", b"")])
        assert blobs.size("empty") == 0
        assert blobs.read("empty") == b""

    def test_a_range_past_the_end_gives_what_there_is(self, blobs: Blobs, staging: Path) -> None:
        blobs.publish([self.stage(staging, "k", b"0123456789")])
        assert bytes(blobs.read_range("k", 7, 10)) == b"789"
        assert bytes(blobs.read_range("k", 3, 0)) == b""

    def test_a_read_that_need_not_wait_gives_the_same_bytes_or_nothing(self, blobs: Blobs, staging: Path) -> None:
        blobs.publish([self.stage(staging, "k", b"0123456789")])
        blobs.read_range("k", 0, 10)
        assert blobs.try_read_range("k", 2, 3) in (None, b"234")

    def test_a_key_that_holds_other_bytes_is_a_conflict_and_keeps_its_own(self, blobs: Blobs, staging: Path) -> None:
        blobs.publish([self.stage(staging, "k", b"first")])
        with pytest.raises(Conflict):
            blobs.publish([self.stage(staging, "k", b"other")])
        assert blobs.read("k") == b"first"

    def test_a_publish_whose_answer_was_lost_may_be_sent_again(self, blobs: Blobs, staging: Path) -> None:
        blobs.publish([self.stage(staging, "k", b"same")])
        blobs.publish([self.stage(staging, "k", b"same")])
        assert blobs.read("k") == b"same"

    def test_what_is_absent_is_not_found(self, blobs: Blobs) -> None:
        with pytest.raises(NotFound):
            blobs.read("s/none")
        with pytest.raises(NotFound):
            blobs.read_range("s/none", 0, 1)
        with pytest.raises(NotFound):
            blobs.size("s/none")

    def test_a_small_object_is_replaced_whole(self, blobs: Blobs) -> None:
        blobs.put("s/x/zarr.json", b"{}")
        assert bytes(blobs.read_range("s/x/zarr.json", 0, 2)) == b"{}"
        blobs.put("s/x/zarr.json", b'{"longer": true}', durable=False)
        assert blobs.read("s/x/zarr.json") == b'{"longer": true}'
        assert bytes(blobs.read_range("s/x/zarr.json", 0, 99)) == b'{"longer": true}'

    def test_readers_never_see_half_of_a_replacement(self, blobs: Blobs) -> None:
        versions = [b"a" * 5000, b"b" * 9000]
        blobs.put("k", versions[0])
        with ThreadPoolExecutor(2) as pool:
            writers = [pool.submit(blobs.put, "k", versions[i % 2], durable=False) for i in range(30)]
            reads = [blobs.read("k") for _ in range(30)]
            for writer in writers:
                writer.result()
        assert set(reads) <= set(versions)

    def test_keys_are_listed_below_a_prefix(self, blobs: Blobs, staging: Path) -> None:
        for key in ("s/ab/1", "s/ab/sub/2", "s/abc/3", "x/4"):
            blobs.put(key, b"1")
        assert sorted(blobs.keys("s/ab/")) == ["s/ab/1", "s/ab/sub/2"]
        assert sorted(blobs.keys("s/ab")) == ["s/ab/1", "s/ab/sub/2", "s/abc/3"]
        assert sorted(blobs.keys()) == ["s/ab/1", "s/ab/sub/2", "s/abc/3", "x/4"]
        assert list(blobs.keys("none/")) == []

    def test_what_is_deleted_is_gone_and_may_be_deleted_again(self, blobs: Blobs, staging: Path) -> None:
        blobs.publish([self.stage(staging, "k", b"0123456789")])
        blobs.read_range("k", 0, 1)
        blobs.delete("k")
        blobs.delete("k")
        with pytest.raises(NotFound):
            blobs.size("k")
        with pytest.raises(NotFound):
            blobs.read_range("k", 0, 1)
        assert list(blobs.keys()) == []

    def test_many_threads_publish_into_one_folder(self, blobs: Blobs, staging: Path) -> None:
        groups = [[self.stage(staging, f"s/x/a0/c.{i}.{j}", b"%d %d" % (i, j)) for j in range(5)] for i in range(8)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(blobs.publish, groups))
        assert len(list(blobs.keys("s/x/a0/"))) == 40
        assert blobs.read("s/x/a0/c.7.3") == b"7 3"


class TestLocalFolder(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> Iterator[Blobs]:
        blobs = open_blobs(tmp_path / "data")
        yield blobs
        blobs.close()

    def test_an_object_is_a_file_that_others_may_map(self, blobs: Blobs, staging: Path) -> None:
        blobs.publish([self.stage(staging, "s/k", b"bytes")])
        path = blobs.local_path("s/k")
        assert path is not None
        assert path.read_bytes() == b"bytes"

    def test_every_touched_folder_is_synced_once_and_every_new_name_with_it(
        self, blobs: Blobs, staging: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        fsync = os.fsync

        def watched(fd: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{fd}"))
            fsync(fd)

        monkeypatch.setattr(os, "fsync", watched)
        blobs.publish([self.stage(staging, f"s/ab/x/a0/c.{i}", b"1") for i in range(9)])
        root = blobs.local_path("")
        assert root is not None
        assert sorted(synced) == [str(root / name) for name in ("", "s", "s/ab", "s/ab/x", "s/ab/x/a0")]

    @pytest.mark.parametrize(
        ("number", "meaning"), [(errno.ENOSPC, OutOfSpace), (errno.EDQUOT, OutOfSpace), (errno.EIO, Unavailable)]
    )
    def test_a_failed_rename_says_what_it_means(
        self,
        blobs: Blobs,
        staging: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        meaning: type[Unavailable],
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        for name in ("rename", "replace", "link", "fsync"):
            monkeypatch.setattr(os, name, fail)
        with pytest.raises(meaning) as caught:
            blobs.publish([self.stage(staging, "s/k", b"1")])
        assert type(caught.value) is meaning

    def test_a_folder_that_another_worker_made_first_is_used(self, tmp_path: Path, staging: Path) -> None:
        one, other = LocalBlobs(tmp_path / "data" / "store"), LocalBlobs(tmp_path / "data" / "store")
        one.put("s/x/1", b"1")
        other.put("s/x/2", b"2")
        assert sorted(one.keys()) == sorted(other.keys()) == ["s/x/1", "s/x/2"]

    def test_more_objects_are_read_than_may_be_open_at_once(self, tmp_path: Path) -> None:
        blobs = LocalBlobs(tmp_path / "few", open_files=3)
        for i in range(20):
            blobs.put(f"k{i}", b"%d" % i)
        before = len(os.listdir("/proc/self/fd"))
        assert [bytes(blobs.read_range(f"k{i}", 0, 9)) for i in range(20)] == [b"%d" % i for i in range(20)]
        assert len(os.listdir("/proc/self/fd")) <= before + 3
        blobs.close()
        assert len(os.listdir("/proc/self/fd")) == before


class TestMoto(BlobsContract):
    @pytest.fixture
    def blobs(self, moto: S3, tmp_path: Path) -> Iterator[Blobs]:
        blobs = open_s3(moto, tmp_path)
        yield blobs
        blobs.close()

    def test_two_prefixes_of_a_bucket_do_not_see_each_other(self, blobs: Blobs, moto: S3, tmp_path: Path) -> None:
        other = open_s3(moto, tmp_path)
        blobs.put("k", b"1")
        assert list(other.keys()) == []
        other.close()


class TestSeaweed(BlobsContract):
    @pytest.fixture
    def blobs(self, seaweed: S3, tmp_path: Path) -> Iterator[Blobs]:
        blobs = open_s3(seaweed, tmp_path)
        yield blobs
        blobs.close()


@pytest.mark.parametrize("store", ["s3://", "http://bucket/prefix", "bucket", "/srv/images"])
def test_a_store_that_is_no_s3_address_is_refused_by_name(store: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        open_blobs(tmp_path, store)


def test_a_bucket_that_does_not_answer_is_unavailable_not_lost(tmp_path: Path) -> None:
    blobs = open_s3(S3(endpoint=f"http://127.0.0.1:{free_port()}"), tmp_path)
    assert isinstance(blobs, S3Blobs)
    with pytest.raises(Unavailable):
        blobs.read("k")
    blobs.close()
