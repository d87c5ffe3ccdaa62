"""Transcoded frames on disk: kept, bounded, shared by workers, and never believed when they are damaged."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from server.renditions import Renditions

NAME = "ab" + "0" * 62 + "-1-1.2.840.10008.1.2.4.201"


@pytest.fixture
def renditions(tmp_path: Path) -> Iterator[Renditions]:
    kept = Renditions(tmp_path / "renditions", max_bytes=80_000)
    yield kept
    kept.close()


def held(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def read(renditions: Renditions, name: str) -> bytes | None:
    """As both ways of reading find it."""
    found = renditions.read(name)
    with suppress(BlockingIOError):  # a file system that cannot tell
        assert renditions.read_now(name) == found
    return None if found is None else bytes(found)


def test_what_is_kept_is_read_again_by_another_worker(renditions: Renditions, tmp_path: Path) -> None:
    assert read(renditions, NAME) is None
    renditions.keep(NAME, b"frame")
    renditions.flush()
    other = Renditions(tmp_path / "renditions", max_bytes=80_000)
    assert read(renditions, NAME) == read(other, NAME) == b"frame"
    assert read(other, NAME.replace("-1-", "-2-")) is None
    other.close()


@pytest.mark.parametrize("place", [0, 20, 30, -1])
def test_a_damaged_rendition_is_none(renditions: Renditions, tmp_path: Path, place: int) -> None:
    renditions.keep(NAME, b"a frame of some length")
    renditions.flush()
    path = tmp_path / "renditions" / "ab" / NAME
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert read(renditions, NAME) is None
    renditions.keep(NAME, b"made again")
    renditions.flush()
    assert read(renditions, NAME) == b"made again"


@pytest.mark.parametrize("length", [0, 3, 19, 30])
def test_a_rendition_that_was_cut_short_is_none(renditions: Renditions, tmp_path: Path, length: int) -> None:
    renditions.keep(NAME, b"a frame of some length")
    renditions.flush()
    os.truncate(tmp_path / "renditions" / "ab" / NAME, length)
    assert read(renditions, NAME) is None


def test_a_rendition_under_another_name_is_none(renditions: Renditions, tmp_path: Path) -> None:
    renditions.keep(NAME, b"the frame of somebody else")
    renditions.flush()
    folder = tmp_path / "renditions" / "ab"
    (folder / NAME).rename(folder / NAME.replace("-1-", "-2-"))
    assert read(renditions, NAME.replace("-1-", "-2-")) is None


def test_the_bound_is_kept_and_what_was_read_last_stays(tmp_path: Path) -> None:
    folder = tmp_path / "renditions"
    workers = [Renditions(folder, max_bytes=80_000, workers=2) for _ in range(2)]
    for number in range(200):
        worker = workers[number % 2]
        worker.keep(f"{number % 256:02x}-{number}", b"x" * 980)
        worker.flush()
        os.utime(folder / f"{number % 256:02x}" / f"{number % 256:02x}-{number}", (number, number))
        assert sum(held(folder).values()) <= 80_000
        if number == 50:
            assert read(worker, "00-0") is not None  # which makes it one of those read last
    left = held(folder)
    assert len(left) > 60
    assert {f"{number:02x}-{number}" for number in range(170, 200)} <= left.keys()
    assert "00-0" in left
    assert "01-1" not in left
    for worker in workers:
        worker.close()


def test_a_worker_that_starts_looks_what_is_there_already(tmp_path: Path) -> None:
    folder = tmp_path / "renditions"
    generous = Renditions(folder, max_bytes=1_000_000)
    for number in range(100):
        generous.keep(f"aa-{number}", b"x" * 2000)
    generous.close()
    strict = Renditions(folder, max_bytes=80_000)
    strict.keep(NAME, b"frame")
    strict.close()
    assert sum(held(folder).values()) <= 80_000


def test_what_is_too_large_or_not_wanted_is_not_kept(tmp_path: Path) -> None:
    for max_bytes, size in ((0, 1), (8000, 1000)):
        kept = Renditions(tmp_path / str(max_bytes), max_bytes=max_bytes)
        kept.keep(NAME, b"x" * size)
        kept.flush()
        assert kept.read(NAME) is None
        kept.close()


def test_what_a_killed_worker_left_half_written_goes_in_time(renditions: Renditions, tmp_path: Path) -> None:
    folder = tmp_path / "renditions" / "ab"
    folder.mkdir(parents=True)
    old, new = folder / f".1-{NAME}", folder / f".2-{NAME}"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    renditions.keep(NAME, b"frame")
    renditions.flush()
    assert set(held(folder)) == {new.name, NAME}


def test_all_renditions_of_one_object_are_forgotten(renditions: Renditions, tmp_path: Path) -> None:
    other = "ab" + "1" * 62 + "-1-x"
    for name in (NAME, NAME.replace("-1-", "-2-"), other):
        renditions.keep(name, b"frame")
    renditions.forget(NAME[:64])
    renditions.forget("cd" + NAME[2:64])
    assert set(held(tmp_path / "renditions")) == {other}


def test_the_folder_may_be_deleted_and_the_disk_may_fail(renditions: Renditions, tmp_path: Path) -> None:
    renditions.keep(NAME, b"frame")
    renditions.flush()
    folder = tmp_path / "renditions"
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()
    (folder / "ab").rmdir()
    folder.rmdir()
    assert renditions.read(NAME) is None
    folder.write_bytes(b"in the way")
    assert renditions.read(NAME) is None
    renditions.keep(NAME, b"frame")
    renditions.flush()
    folder.unlink()
    renditions.keep(NAME, b"frame")
    renditions.flush()
    assert not folder.exists(), "not tried again at once"
