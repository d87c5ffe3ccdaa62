"""Objects of a site that wait for their way to the centre: kept in a folder from the moment that somebody was told so.

The folder is all there is. An object is one file, whose name says when its turn is and which instance it is::

    coming/      what has not come whole; nobody was told of it, and at the start it is swept away
    waiting/     0-01764035112345678901-5f0c7c1b-1.2.826.0.1.3680043.8.498.5.dcm: rank, time, chance, SOP Instance UID
    refused/     what the centre does not take, each beside a .txt that says why
    again/       what an operator wants to be tried again
    state.json   how it went last; for people, nothing hangs on it

A file gets its name in `waiting` after its bytes are on the disk, and whoever has sent it hears of success after that
name is there too. It is removed only after the centre has said that it has it: so whatever dies, and whenever, an
object is in the folder or at the centre, or for a moment in both.
"""

from __future__ import annotations

import fcntl
import heapq
import logging
import os
import secrets
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from readingroom.clock import Clock
from readingroom.errors import Conflict, OutOfSpace, ReadingRoomError
from server.staging import Outcome, SentTo, Spool, disk_errors, scan_file
from storage.blobs import sync_folder
from storage.catalog.studies import Identity, identity
from storage.objects import scan

log = logging.getLogger(__name__)

FOLDERS = ("coming", "waiting", "refused", "again")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Held:
    """An object that waits; in the order of these is their turn."""

    name: str
    path: Path
    size: int

    @property
    def is_first(self) -> bool:
        """Whether it goes before all that are not."""
        return self.name.startswith("0-")

    @property
    def instance_uid(self) -> str:
        """The SOP Instance UID."""
        return self.name.split("-", 3)[3].removesuffix(".dcm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An object that the centre does not take."""

    name: str
    size: int
    reason: str


class Outbox:
    """The folder, held by one process. For any thread.

    Parameters
    ----------
    most_bytes
        What may wait; more is refused, so that it stays where it is.
    least_free_bytes
        What stays free of the disk.
    first_aes, first_modalities
        What comes from these, or is of these, goes before everything else.

    Raises
    ------
    Conflict
        Another process has it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Clock,
        most_bytes: int,
        least_free_bytes: int = 0,
        first_aes: Collection[str] = (),
        first_modalities: Collection[str] = (),
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._most_bytes, self._least_free_bytes = most_bytes, least_free_bytes
        self._first_aes, self._first_modalities = frozenset(first_aes), frozenset(first_modalities)
        for name in FOLDERS:
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._held_by_us = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._held_by_us, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._held_by_us)
            raise Conflict(f"Another process has the spool {folder}.") from None
        for left in (folder / "coming").iterdir():
            left.unlink()
        self._changed = threading.Condition()
        self._waiting = list(held_in(folder / "waiting"))
        heapq.heapify(self._waiting)
        self._alone: set[str] = set()
        self._bytes = sum(one.size for one in self._waiting)

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._held_by_us)

    # -- what comes --------------------------------------------------------------------------------------------------

    def open_spool(self) -> Spool:
        """Where an object can be written as it comes; raises `OutOfSpace` where there is no room for any."""
        self._require_room(0)
        return Spool.open(self._folder / "coming")

    def keep(self, body: bytearray | Spool, *, facility: str, source: str, sent_to: SentTo | None = None) -> Outcome:
        """Keep an object; when this returns without an error it is on the disk, with its name."""
        known = Identity()
        spool = body if isinstance(body, Spool) else None
        try:
            found = scan_file(body.path) if isinstance(body, Spool) else scan(body)
            known = identity(found)
            if sent_to is not None:
                sent_to.check(known)
            self._require_room(found.size)
            if spool is None:
                assert not isinstance(body, Spool)
                spool = self.open_spool()
                spool.write(body)
            modality = (found.metadata.get("00080060", {}).get("Value") or [""])[0]
            self._place(spool, known["instance_uid"], source in self._first_aes or modality in self._first_modalities)
        except ReadingRoomError as error:
            return Outcome(**known, error=error)
        finally:
            if spool is not None:
                spool.discard()
        return Outcome(**known, result="stored")

    def _place(self, spool: Spool, instance_uid: str, is_first: bool) -> None:
        # The scan lets no UID pass that may not stand in a path.
        moment = int(self._clock.now().timestamp() * 1e9)
        name = f"{0 if is_first else 1}-{moment:020}-{secrets.token_hex(4)}-{instance_uid}.dcm"
        path = self._folder / "waiting" / name
        with disk_errors():
            spool.finish(b"")
            os.rename(spool.path, path)
            sync_folder(path.parent)
        self._add(Held(name=name, path=path, size=spool.size))

    def _require_room(self, size: int) -> None:
        if self._bytes + size >= self._most_bytes:
            raise OutOfSpace(f"The spool has {self._bytes:,} bytes; {self._most_bytes:,} are the most.")
        if self._least_free_bytes:
            with disk_errors():
                found = os.statvfs(self._folder)
            if found.f_bavail * found.f_frsize - size < self._least_free_bytes:
                raise OutOfSpace("The disk of the spool is full.")

    def _add(self, held: Held) -> None:
        with self._changed:
            heapq.heappush(self._waiting, held)
            self._bytes += held.size
            self._changed.notify()

    # -- what goes ---------------------------------------------------------------------------------------------------

    def take(self, *, most_instances: int, most_bytes: int, seconds: float, only_first: bool = False) -> Sequence[Held]:
        """Those whose turn it is, for somebody who tells with `done`, `refuse` or `give_back` what became of each.

        Parameters
        ----------
        most_instances, most_bytes
            How many they are at most, but for one that is larger by itself.
        seconds
            How long to wait where none is there; then none is given.
        only_first
            Whether only what goes before everything else may go now.
        """
        with self._changed:
            if not self._has_one(only_first):
                self._changed.wait(seconds)
            taken: list[Held] = []
            size = 0
            while self._has_one(only_first):
                one = self._waiting[0]
                is_alone = one.name in self._alone
                if taken and (
                    is_alone
                    or len(taken) >= most_instances
                    or size + one.size > most_bytes
                    or one.is_first != taken[0].is_first
                ):
                    break
                taken.append(heapq.heappop(self._waiting))
                size += one.size
                if is_alone:
                    break
            return taken

    def wake(self) -> None:
        """Let nobody wait any longer in `take`."""
        with self._changed:
            self._changed.notify_all()

    def _has_one(self, only_first: bool) -> bool:
        return bool(self._waiting) and (not only_first or self._waiting[0].is_first)

    def done(self, held: Held) -> None:
        """The centre has it."""
        held.path.unlink(missing_ok=True)  # where that is lost in a crash, it goes once more
        self._forget(held)

    def refuse(self, held: Held, reason: str) -> None:
        """The centre does not take it: it is put aside, with the reason."""
        aside = self._folder / "refused" / held.name
        with suppress(OSError):  # a disk that is full holds up nothing
            aside.with_suffix(".txt").write_text(f"{self._clock.now():%Y-%m-%dT%H:%M:%SZ} {reason}\n", encoding="utf-8")
        try:
            os.rename(held.path, aside)
            sync_folder(aside.parent)
        except OSError as error:
            log.error("%s cannot be put aside: %s", held.path, error.strerror)
        self._forget(held)

    def give_back(self, held: Held, *, alone: bool = False) -> None:
        """It waits again; `alone`: from now on it goes without others, for one of them may be what was refused."""
        with self._changed:
            if alone:
                self._alone.add(held.name)
            heapq.heappush(self._waiting, held)
            self._changed.notify()

    def _forget(self, held: Held) -> None:
        with self._changed:
            self._bytes -= held.size
            self._alone.discard(held.name)

    def take_up(self) -> int:
        """Let go again what an operator has put into `again`; says how many."""
        found = list(held_in(self._folder / "again"))
        for one in found:
            path = self._folder / "waiting" / one.name
            os.rename(one.path, path)
            self._add(Held(name=one.name, path=path, size=one.size))
        if found:
            sync_folder(self._folder / "waiting")
        return len(found)

    def tell(self, state: dict[str, Any]) -> None:
        """Note how it goes, for `readingroom edge status`; a disk that is full is no reason to stop."""
        new = self._folder / "state.json.new"
        with suppress(OSError):
            new.write_bytes(orjson.dumps(state, option=orjson.OPT_UTC_Z))
            os.replace(new, self._folder / "state.json")


# -- what anybody may see, beside the process that has it --------------------------------------------------------------


def held_in(folder: Path) -> Iterator[Held]:
    """The objects in one of the folders."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".dcm") and entry.name.count("-") >= 3:
                with suppress(FileNotFoundError):  # it has gone meanwhile
                    yield Held(name=entry.name, path=folder / entry.name, size=entry.stat().st_size)


def refused_in(folder: Path) -> list[Refused]:
    """What the centre does not take, the oldest first."""
    found = []
    for one in sorted(held_in(folder / "refused")):
        try:
            reason = one.path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        except OSError:
            reason = ""
        found.append(Refused(name=one.name, size=one.size, reason=reason))
    return found


def state_of(folder: Path) -> dict[str, Any]:
    """How it went last."""
    try:
        found = orjson.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def try_again(folder: Path, names: Collection[str]) -> int:
    """Let refused objects be tried again, by name; says how many there were."""
    done = 0
    for name in names:
        aside = folder / "refused" / name
        if aside.is_file():
            os.rename(aside, folder / "again" / name)
            aside.with_suffix(".txt").unlink(missing_ok=True)
            done += 1
    return done


def is_held(folder: Path) -> bool:
    """Whether a process has that spool now."""
    try:
        fd = os.open(folder / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False
