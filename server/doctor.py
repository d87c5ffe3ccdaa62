"""Looks an installation over: what works, what does not, and what to do about it."""

from __future__ import annotations

import http.client
import importlib
import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from readingroom.clock import SystemClock
from readingroom.errors import Invalid, ReadingRoomError
from server.archive import open_catalog, open_queue, open_store, sqlite_file
from server.hooks import Hooks, wanted_plugins
from server.listen import bind, is_loopback
from server.queue import Queue
from server.settings import Settings
from server.web.ohif import is_installed
from storage.catalog import schema as t
from storage.catalog.clocks import clock_of
from storage.catalog.listed import progress
from storage.catalog.migrate import head, pending

State = Literal["ok", "note", "fail"]

_LITTLE_SPACE = 5 << 30
_NO_SPACE = 200 << 20
_SLOW_FSYNC_MS = 30.0
_LONG_WAIT = timedelta(minutes=10)
_DAMAGED = "Restore a backup, or make a new catalog from the stored objects: 'readingroom reindex'."
# Packages with compiled parts: installed is not yet loadable.
_COMPILED = (
    "httptools",
    "imagecodecs",
    "numcodecs",
    "numpy",
    "obstore",
    "orjson",
    "psycopg",
    "pydantic_core",
    "uvloop",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at. `advice` says what to do, where there is something to do."""

    name: str
    state: State
    found: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Check]:
    """Every check, as it is made."""
    yield _python()
    yield _packages()
    yield from _data_folder(settings.data)
    yield from _database(settings)
    yield _store(settings)
    yield from _plugins(settings)
    yield _viewer()
    yield _reports(settings)
    yield _port(settings.host, settings.port)


def _python() -> Check:
    return Check(name="Python", state="ok", found=f"{sys.version.split()[0]} at {sys.executable}")


def _packages() -> Check:
    advice = "Run 'make install', or 'pip install --force-reinstall readingroom'."
    required = importlib.metadata.requires("readingroom") or []
    names = [match[0] for line in required if ";" not in line and (match := re.match(r"[A-Za-z0-9._-]+", line))]
    missing = [name for name in names if not _is_present(name)]
    if missing:
        return Check(name="Packages", state="fail", found=f"missing: {', '.join(missing)}", advice=advice)
    for module in _COMPILED:
        try:
            importlib.import_module(module)
        except ImportError as error:
            return Check(name="Packages", state="fail", found=f"{module} does not load: {error}", advice=advice)
    return Check(name="Packages", state="ok", found=f"all {len(names)} are installed and load")


def _is_present(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _data_folder(folder: Path) -> Iterator[Check]:
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield Check(
            name="Data folder",
            state="fail",
            found=f"{folder}: {place} is no folder that this user may write to",
            advice="Give another folder with --data, or change its owner.",
        )
        return
    note = "" if place == folder else " (not made yet)"
    yield Check(name="Data folder", state="ok", found=f"{folder.resolve()}{note}")
    yield _space(place)
    yield _flush(place)


def _space(place: Path) -> Check:
    free = shutil.disk_usage(place).free
    found = f"{free / (1 << 30):,.1f} GiB free"
    if free < _NO_SPACE:
        return Check(name="Space", state="fail", found=found, advice="Free space, or move the data folder.")
    if free < _LITTLE_SPACE:
        return Check(name="Space", state="note", found=found, advice="Soon too little: a CT study takes 0.1 to 1 GiB.")
    return Check(name="Space", state="ok", found=found)


def _flush(place: Path) -> Check:
    """Whether fsync works here, and how long it takes: everything stored waits for it."""
    took = []
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            for _ in range(5):
                file.write(os.urandom(4096))
                file.flush()
                begun = time.perf_counter()
                os.fsync(file.fileno())
                took.append((time.perf_counter() - begun) * 1000)
    except OSError as error:
        return Check(
            name="Flush to disk",
            state="fail",
            found=f"fsync fails: {error.strerror}",
            advice="Without it a power cut loses images; use a local file system (ext4, xfs, zfs).",
        )
    median = sorted(took)[2]
    if median > _SLOW_FSYNC_MS:
        return Check(
            name="Flush to disk", state="note", found=f"{median:.1f} ms", advice="Slow; an SSD takes 1 to 5 ms."
        )
    return Check(name="Flush to disk", state="ok", found=f"{median:.1f} ms")


def _database(settings: Settings) -> Iterator[Check]:
    path = sqlite_file(settings)
    if path is not None and not path.exists():
        yield Check(name="Database", state="ok", found=f"{path} (not made yet; the first start makes it)")
        return
    try:
        with open_catalog(settings) as engine:
            yield from _catalog(engine, settings, is_sqlite=path is not None)
    except sa.exc.OperationalError as error:
        yield Check(
            name="Database",
            state="fail",
            found=str(error.orig).strip().splitlines()[0],
            advice="Start the database, and check the address, user and password of the setting 'database'.",
        )
    except sa.exc.DatabaseError as error:
        yield Check(name="Database", state="fail", found=f"it is damaged: {error.orig}", advice=_DAMAGED)
    except ReadingRoomError as error:
        yield Check(name="Database", state="fail", found=error.message)


def _catalog(engine: sa.Engine, settings: Settings, *, is_sqlite: bool) -> Iterator[Check]:
    shown = engine.url.render_as_string(hide_password=True)
    missing = pending(engine)
    if missing:
        yield Check(
            name="Database",
            state="note",
            found=f"{shown} is {len(missing)} revisions behind this release",
            advice="The next start migrates it; or run 'readingroom migrate' now, after a backup.",
        )
        return
    yield Check(name="Database", state="ok", found=f"{shown} at revision {head()}")
    with engine.connect() as connection:
        yield _integrity(connection) if is_sqlite else _encoding(connection)
        yield _listing(connection)
        yield _writers(connection)
        yield _strays(connection, settings)
        yield _removed(connection, settings)
    yield _jobs(open_queue(engine, clock_of(engine)))


def _integrity(connection: sa.Connection) -> Check:
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if found != "ok":
        return Check(name="Integrity", state="fail", found=str(found), advice=_DAMAGED)
    return Check(name="Integrity", state="ok", found="SQLite finds no damage")


def _encoding(connection: sa.Connection) -> Check:
    found = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if found != "UTF8":
        advice = "Make the database with ENCODING 'UTF8': patients' names need it."
        return Check(name="Encoding", state="fail", found=str(found), advice=advice)
    return Check(name="Encoding", state="ok", found="UTF8")


def _listing(connection: sa.Connection) -> Check:
    """How far what is stored has been listed by attributes that became searchable after it came."""
    listing = [one for one in progress(connection) if one.remaining]
    if not listing:
        return Check(name="Search", state="ok", found="every searchable attribute is listed")
    done = 100 * sum(one.done for one in listing) // sum(one.total for one in listing)
    return Check(
        name="Search",
        state="note",
        found=f"{len(listing)} attributes are listed to {done} %",
        advice="A running server goes on with it; until then searches by them may miss what was stored before.",
    )


def _writers(connection: sa.Connection) -> Check:
    now = datetime.now(UTC)
    leases = connection.execute(sa.select(t.writer.c.lease_until)).scalars().all()
    expired = sum(lease < now for lease in leases)
    found = f"{len(leases) - expired} at work"
    if expired:
        found += f", {expired} ended without giving its lease back"
        return Check(name="Writers", state="note", found=found, advice="The next start tidies up after it.")
    return Check(name="Writers", state="ok", found=found)


def _jobs(queue: Queue) -> Check:
    """Whether durable work is done, and none of it has been given up."""
    tallies = queue.tallies()
    counted = {
        state: sum(one.count for one in tallies if one.state == state) for state in ("queued", "running", "dead")
    }
    found = ", ".join(f"{number:,} {state}" for state, number in counted.items())
    lag = max((one.lag for one in tallies if one.state == "queued"), default=timedelta(0))
    if counted["dead"]:
        advice = "See why with 'readingroom jobs list --state dead', then 'readingroom jobs retry' or 'drop' them."
        return Check(name="Jobs", state="note", found=found, advice=advice)
    if lag > _LONG_WAIT:
        advice = "Run 'readingroom serve', or 'readingroom work' where 'embedded_worker' is false."
        return Check(
            name="Jobs",
            state="note",
            found=f"{found}; one waits since {lag.total_seconds() / 60:,.0f} min",
            advice=advice,
        )
    return Check(name="Jobs", state="ok", found=found)


def _strays(connection: sa.Connection, settings: Settings) -> Check:
    """Files of uploads whose writer nobody knows any more; those of a known one are the sweep's."""
    place = settings.data / "tmp" if settings.store else settings.data / "store" / "tmp"
    known = set(connection.execute(sa.select(t.writer.c.id)).scalars())
    strays = [path for path in place.glob("*/*") if path.parent.name not in known]
    if strays:
        advice = f"Files of uploads that were cut off long ago; they may be deleted from {place}."
        return Check(name="Strays", state="note", found=f"{len(strays)} files", advice=advice)
    return Check(name="Strays", state="ok", found="none; 'readingroom scrub' looks for lost objects too")


def _removed(connection: sa.Connection, settings: Settings) -> Check:
    """What was deleted or rejected and still takes space."""
    wanted = sa.select(t.removal.c.state, sa.func.count()).group_by(t.removal.c.state)
    counted: dict[str, int] = {row[0]: row[1] for row in connection.execute(wanted)}
    kept = counted.get("hidden", 0) + counted.get("purging", 0)
    n = t.non_patient.c
    of_nobody = sa.select(sa.func.count()).where(n.is_current, n.state.in_(("hidden", "purging")))
    kept += connection.execute(of_nobody).scalar_one()
    days = settings.purge_after_days
    until = "for ever" if days is None else f"for {days:g} days"
    return Check(name="Removed", state="ok", found=f"{kept} instances are kept {until}" if kept else "none is kept")


def _store(settings: Settings) -> Check:
    if settings.store is None and not settings.data.exists():
        return Check(name="Store", state="ok", found="in the data folder (not made yet)")
    key, content = f"tmp/doctor-{t.new_id()}", os.urandom(64)
    try:
        with open_store(settings) as blobs:
            begun = time.perf_counter()
            blobs.put(key, content)
            is_same = blobs.read(key) == content
            blobs.delete(key)
            took = (time.perf_counter() - begun) * 1000
    except ReadingRoomError as error:
        advice = "Check the settings 'data', or 'store' and 's3_...', and that the bucket exists."
        return Check(name="Store", state="fail", found=error.message, advice=advice)
    if not is_same:
        return Check(name="Store", state="fail", found="it gives back other bytes than it was given")
    return Check(name="Store", state="ok", found=f"wrote, read and deleted an object in {took:.1f} ms")


def _plugins(settings: Settings) -> Iterator[Check]:
    """Whether the plugins that are to run can be loaded; each is started for it, and ended."""
    try:
        wanted = [one for one in wanted_plugins(settings) if one.is_enabled]
    except Invalid as error:
        yield Check(name="Plugins", state="fail", found=error.message)
        return
    if not wanted:
        yield Check(name="Plugins", state="ok", found="none is on")
        return
    hooks = Hooks(wanted, clock=SystemClock())
    try:
        states = hooks.states()
    finally:
        hooks.close()
    broken = [one for one in states if one.state == "broken"]
    advice = "The server starts without it. Put it right, and look with 'readingroom plugins check'."
    for one in broken:
        yield Check(name=f"Plugin {one.name}", state="fail", found=one.problem, advice=advice)
    if not broken:
        yield Check(name="Plugins", state="ok", found=f"{', '.join(one.name for one in states)} can be loaded")


def _viewer() -> Check:
    if is_installed():
        return Check(name="Viewer", state="ok", found="OHIF is installed")
    advice = "Install Node.js with npm, then run 'make install'. Everything else works without it."
    return Check(name="Viewer", state="note", found="OHIF is not installed", advice=advice)


def _reports(settings: Settings) -> Check:
    """Which scripts a report can be set in as PDF."""
    from server.reports.documents.fonts import PACKAGES
    from server.reports.documents.pdf import settable

    try:
        told = settable(settings.report_fonts)
    except ImportError as error:
        advice = "Run 'make install'; without it no report is shown or stored as PDF."
        return Check(name="Reports", state="fail", found=f"Typst does not load: {error}", advice=advice)
    known = ", ".join(script for script, is_settable in told.items() if is_settable)
    lacking = ", ".join(script for script, is_settable in told.items() if not is_settable)
    if not lacking:
        return Check(name="Reports", state="ok", found=f"as PDF in {known}")
    advice = f"Install Debian's {PACKAGES}, or name a folder of fonts in report_fonts, if reports need these."
    return Check(name="Reports", state="note", found=f"as PDF in {known}; no fonts for {lacking}", advice=advice)


def _port(host: str, port: int) -> Check:
    name = f"Port {port}"
    if is_loopback(host) and _is_ours(host, port):
        return Check(name=name, state="ok", found=f"a readingroom serves on {host}")
    try:
        bind(host, port).close()
    except ReadingRoomError as error:
        return Check(name=name, state="fail", found=error.message)
    return Check(name=name, state="ok", found=f"free on {host}")


def _is_ours(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=3)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
