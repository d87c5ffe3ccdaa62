"""The commands as an operator types them: what they print, and how they end."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from typer.main import get_command

from readingroom.clock import SystemClock
from readingroom.errors import Refused
from readingroom.model import LOCAL_OPERATOR, Scope
from server import cli
from server.archive import open_archive
from server.listen import bind, is_loopback
from server.removing import remove
from server.settings import Settings
from storage.catalog import schema as t
from storage.catalog.engine import begin_write, open_engine
from storage.catalog.keys import configured_key
from storage.catalog.listed import list_stored, sync_keys
from storage.catalog.migrate import head
from tests.commands import Run
from tests.servers import REPOSITORY, environment, free_port
from tests.synthetic import ct_series, part10, secondary_capture

COMMANDS = (
    "serve",
    "work",
    "jobs list",
    "jobs retry",
    "jobs drop",
    "deliveries list",
    "deliveries show",
    "deliveries repeat",
    "forwards list",
    "forwards retry",
    "forwards drop",
    "demo",
    "dimse",
    "send",
    "find",
    "get",
    "hl7 serve",
    "hl7 check",
    "hl7 inbox retry",
    "hl7 inbox replay",
    "hl7 inbox list",
    "hl7 inbox show",
    "hl7 inbox drop",
    "edge status",
    "edge retry",
    "import",
    "export",
    "doctor",
    "scrub",
    "reindex",
    "restore",
    "correct",
    "history",
    "purge",
    "migrate",
    "zarr path",
    "conformance dicomweb",
    "directory import",
    "directory check",
    "directory export",
    "facility add",
    "facility list",
    "facility show",
    "facility check",
    "readers list",
    "readers gaps",
    "fhir reindex",
    "clients add",
    "clients list",
    "clients remove",
    "clients new-key",
    "plugins list",
    "plugins check",
    "plugins run",
    "plugins new",
    "reports rotate-key",
    "reports verify",
    "templates import",
    "templates list",
    "templates remove",
    "prices import",
    "prices check",
    "prices show",
    "statement",
)


def start(*arguments: str | Path, log: Path) -> subprocess.Popen[bytes]:
    # What a shell runs in the background ignores Ctrl-C, and so would all that these tests start there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "server.cli", *map(str, arguments)],
                env=environment(),
                cwd=REPOSITORY,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
    finally:
        signal.signal(signal.SIGINT, before)


def wait_for(pattern: str, log: Path, process: subprocess.Popen[bytes]) -> re.Match[str]:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        found = re.search(pattern, log.read_text())
        if found:
            return found
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{pattern!r} never came:\n{log.read_text()}")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, slice_ in enumerate(ct_series(4)):
        (folder / f"{number}.dcm").write_bytes(part10(slice_))
    return folder


# -- help and errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_every_option_says_what_it_is_for(command: str) -> None:
    found = get_command(cli.app)
    for name in command.split():
        found = found.commands[name]  # type: ignore[attr-defined]
    assert len(found.help or "") > 40
    for parameter in found.params:
        if getattr(parameter, "help", None) is not None or parameter.name != "help":
            assert parameter.help, f"{command}: {parameter.name}"  # type: ignore[attr-defined]


def test_every_command_is_known_here() -> None:
    def below(group: Any, name: str = "") -> Iterator[str]:
        for sub, one in group.commands.items():
            known = f"{name} {sub}".strip()
            yield from below(one, known) if hasattr(one, "commands") else [known]

    assert set(below(get_command(cli.app))) == set(COMMANDS)


def test_help_shows_an_example(run: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "import", "-h"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert "readingroom import /mnt/cd" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "1.2.3", "out"], "There is no catalog .*catalog.sqlite. Name the folder"),
        (["import", "nowhere"], "There is no file or folder nowhere"),
        (["import", ".", "--facility", "no spaces please"], "facility: String should match pattern"),
        (["serve", "--workers", "0"], "workers: Input should be greater than or equal to 1"),
        (["serve", "--host", "0.0.0.0"], "Will not listen on 0.0.0.0: this release has no TLS"),
        (["serve", "--config", "nowhere.toml"], "There is no settings file nowhere.toml"),
        (["migrate", "--database", "nonsense"], "'database' is no address of a database"),
        (["migrate", "--database", "postgresql://u:secret@127.0.0.1:1/x"], "database does not do as it is told"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_clear_line(run: Run, arguments: Sequence[str], says: str, tmp_path: Path) -> None:
    data = ["--data", str(tmp_path / "data")]
    done = run(*arguments, *data, status=1, cwd=tmp_path)
    assert re.search(says, " ".join(done.err.split())), done.err
    assert "secret" not in done.err
    assert not (tmp_path / "data" / "catalog.sqlite").exists()


def test_a_wrong_setting_in_the_file_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "room.toml").write_text("prot = 8780\n")
    assert "prot: Extra inputs" in run("migrate", "--config", tmp_path / "room.toml", status=1).err
    (tmp_path / "room.toml").write_text("port = \n")
    assert "is no TOML" in run("migrate", "--config", tmp_path / "room.toml", status=1).err


def test_a_list_in_the_environment_that_is_no_json_is_named(run: Run, tmp_path: Path) -> None:
    done = run("migrate", "--data", tmp_path, env={"READINGROOM_CORS_ORIGINS": "http://x"}, status=1)
    assert "cors_origins" in done.err
    assert "JSON" in done.err


def test_options_win_over_the_environment_and_that_over_the_file(run: Run, tmp_path: Path) -> None:
    for name in ("option", "variable", "file"):
        (tmp_path / name).mkdir()
    config = tmp_path / "room.toml"
    config.write_text(f'data = "{tmp_path / "file"}"\n')
    run("migrate", "--config", config)
    assert (tmp_path / "file" / "catalog.sqlite").exists()
    env = {"READINGROOM_DATA": str(tmp_path / "variable")}
    run("migrate", "--config", config, env=env)
    assert (tmp_path / "variable" / "catalog.sqlite").exists()
    run("migrate", "--config", config, "--data", tmp_path / "option", env=env)
    assert (tmp_path / "option" / "catalog.sqlite").exists()


# -- the day's work --------------------------------------------------------------------------------------------------


def test_a_study_goes_in_is_looked_over_and_comes_out_again(run: Run, images: Path, tmp_path: Path) -> None:
    data = ["--data", str(tmp_path / "data")]
    (images / "note.txt").write_text("no DICOM")
    assert "4 stored, 1 skipped as no DICOM in" in run("import", images, *data).out
    assert "4 identical" in run("import", images, *data).out
    study = ct_study(images)
    assert "Wrote 4 files" in run("export", study, tmp_path / "out", *data).out
    exported = sorted(path.read_bytes() for path in (tmp_path / "out").rglob("*.dcm"))
    assert exported == sorted(path.read_bytes() for path in images.glob("*.dcm"))

    assert "Read 4 objects" in run("scrub", *data).out
    (damaged,) = list((tmp_path / "data" / "store" / "s").rglob("c.2.0.0"))
    content = bytearray(damaged.read_bytes())
    content[500] ^= 1
    damaged.write_bytes(content)
    report = json.loads(run("scrub", "--json", *data, status=1).out)
    assert report["objects"] == 4
    assert [(one["kind"], one["object_key"].rpartition("/")[2]) for one in report["damages"]] == [
        ("changed", "c.2.0.0")
    ]
    assert "changed" in run("scrub", *data, status=1).out
    assert "another sha256 than it came with" in run("export", study, tmp_path / "out2", *data, status=1).err


def test_what_was_corrected_is_told_exported_and_taken_back(run: Run, images: Path, tmp_path: Path) -> None:
    data = ["--data", str(tmp_path / "data")]
    run("import", images, *data)
    study = ct_study(images)
    mine = ["--study", study, *data]
    assert "Nothing has been corrected" in run("history", *mine).out
    done = run(
        "correct",
        *mine,
        "--reason",
        "wrong patient",
        "PatientName=Right^Rita=理",
        "PatientID=R2",
        "--remove",
        "StudyID",
    )
    assert "version 1" in done.out
    assert "Nothing had to change" in run("correct", *mine, "--reason", "again", "PatientID=R2").out
    told = run("history", *mine).words
    for word in ("wrong patient", "local-operator", "PatientID RR-0001 R2", "Phantom^Ada", "Right^Rita=理", "(absent)"):
        assert word in told

    def exported(name: str, *options: str) -> list[bytes]:
        run("export", study, tmp_path / name, *options, *data)
        return sorted(path.read_bytes() for path in (tmp_path / name).rglob("*.dcm"))

    received = sorted(path.read_bytes() for path in images.iterdir())
    for path in exported("corrected"):
        dataset = pydicom.dcmread(io.BytesIO(path))
        assert (dataset.PatientID, "StudyID" in dataset) == ("R2", False)
    assert exported("received", "--original") == received
    assert "version 2" in run("correct", *mine, "--reason", "it was right", "--back-to", "0").out
    assert exported("again") == received


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["PatientID"], "write KEYWORD=VALUE"),
        ([], "Say what to change"),
        (["PatientID=R2", "--back-to", "0"], "and not both"),
        (["StudyInstanceUID=1.2"], "StudyInstanceUID cannot be changed"),
        (["Modality=CT"], "Modality is changed for a whole series"),
        (["--series", "1.2", "Modality=CT"], "There is no"),
        (["--instance", "1.2", "ImageComments=x"], "give --series as well"),
        (["--back-to", "3"], "no version 3"),
    ],
)
def test_a_correction_that_cannot_be_says_why(
    run: Run, images: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    data = ["--data", str(tmp_path / "data")]
    run("import", images, *data)
    mine = ["--study", ct_study(images), "--reason", "because", *data]
    assert says in run("correct", *mine, *options, status=1).err


def test_what_was_deleted_is_restored_or_purged(run: Run, images: Path, tmp_path: Path) -> None:
    data = ["--data", str(tmp_path / "data")]
    run("import", images, *data)
    study = ct_study(images)

    def delete() -> None:
        with open_archive(Settings(data=tmp_path / "data")) as (engine, blobs):
            remove(engine, blobs, SystemClock(), LOCAL_OPERATOR, Scope(), study)

    assert "Nothing was removed there" in run("restore", "--study", study, *data, status=1).err
    delete()
    assert "was removed" in run("export", study, tmp_path / "out", *data, status=1).err
    assert "There is no study" in run("zarr", "path", study, *data, status=1).err
    assert "Restored 4 instances." in run("restore", "--study", study, *data).out
    assert "Wrote 4 files" in run("export", study, tmp_path / "out", *data).out
    delete()
    looked = run("doctor", *data, "--port", str(free_port())).words
    assert "Removed 4 instances are kept for ever" in looked
    assert "Say how long" in run("purge", *data, status=1).err
    assert "Purged 0 instances" in run("purge", "--days", "1", *data).out
    assert "Purged 4 instances of 1 studies" in run("purge", "--days", "0", *data).out
    assert "has been purged" in run("restore", "--study", study, *data, status=1).err
    assert "give --series as well" in run("restore", "--study", study, "--instance", "1.2", *data, status=1).err
    assert "Read 0 objects" in run("scrub", *data).out
    assert "4 stored" in run("import", images, *data).out


def ct_study(images: Path) -> str:
    return str(pydicom.dcmread(images / "0.dcm").StudyInstanceUID)


def test_what_failed_is_in_the_table_and_in_the_report(run: Run, images: Path, tmp_path: Path) -> None:
    (images / "broken.dcm").write_bytes(bytes(128) + b"DICM")
    report = tmp_path / "report.json"
    done = run("import", images, "--data", tmp_path / "data", "--report", report, status=1)
    assert "4 stored, 1 failed" in done.out
    assert "broken.dcm" in done.out
    told = json.loads(report.read_text())
    assert told["complete"] is True
    assert told["results"] == {"stored": 4}
    assert [Path(one["name"]).name for one in told["failures"]] == ["broken.dcm"]
    assert told["failures"][0]["reason"]


def test_an_interrupted_import_says_what_is_stored_and_goes_on(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(600):
        (folder / f"{number:03}.dcm").write_bytes(part10(secondary_capture(InstanceNumber=number)))
    log = tmp_path / "log"
    data = tmp_path / "data"
    process = start("import", folder, "--data", data, "--report", tmp_path / "report.json", log=log)
    give_up = time.monotonic() + 60
    while len(list(data.glob("store/s/*/*/*/a0/c.*"))) <= 64:  # the second group has begun, and seven are to come
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130, log.read_text()
    assert "Interrupted" in log.read_text()
    told = json.loads((tmp_path / "report.json").read_text())
    assert told["complete"] is False
    stored = told["results"]["stored"]
    assert 0 < stored < 600
    done = run("import", folder, "--data", data)
    found = re.search(r"([\d,]+) identical, ([\d,]+) stored", done.out)
    assert found
    identical, rest = (int(number.replace(",", "")) for number in found.groups())
    assert identical >= stored
    assert identical + rest == 600


def test_the_catalog_is_made_again(run: Run, images: Path, tmp_path: Path) -> None:
    data = ["--data", str(tmp_path / "data")]
    run("import", images, *data)
    assert "not empty" in run("reindex", *data, status=1).err
    assert "Recorded 4 instances" in run("reindex", "--force", *data).out
    (tmp_path / "data" / "catalog.sqlite").unlink()
    assert "Recorded 4 instances" in run("reindex", *data).out
    assert "4 identical" in run("import", images, *data).out


def test_migrate_says_what_it_did(run: Run, tmp_path: Path) -> None:
    assert f"at revision {head()}: ran 0001" in run("migrate", "--data", tmp_path).out
    assert f"at revision {head()}: nothing to do" in run("migrate", "--data", tmp_path).out


def test_zarr_path_prints_python_that_runs(run: Run, images: Path, tmp_path: Path) -> None:
    run("import", images, "--data", tmp_path / "data")
    printed = run("zarr", "path", ct_study(images), "--data", tmp_path / "data").out
    code = "\n".join(line.strip() for line in printed.splitlines() if line.startswith("    "))
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(volume.shape, volume[:, 16, 12])"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.stdout.strip() == "(4, 32, 24) [1064 1065 1066 1067]", done.stderr


def test_the_demo_is_loaded_once(run: Run, tmp_path: Path) -> None:
    first = run("demo", "--data", tmp_path).out
    assert re.search(r"Demo studies: 2\d\d stored", first)
    begun = time.monotonic()
    assert "there already" in run("demo", "--data", tmp_path).out
    assert time.monotonic() - begun < 20  # nothing is made or read again


# -- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_finds_a_new_installation_well_and_makes_nothing(run: Run, tmp_path: Path) -> None:
    done = run("doctor", "--data", tmp_path / "data", "--port", str(free_port()))
    assert "not made yet" in done.words
    assert "FAIL" not in done.words
    assert not (tmp_path / "data").exists()


def test_doctor_starts_the_plugins_and_says_which_cannot_be_loaded(run: Run, tmp_path: Path) -> None:
    given = ("doctor", "--data", tmp_path / "data", "--port", str(free_port()))
    assert "Plugins none is on" in run(*given).words
    (tmp_path / "fine.py").write_text("from readingroom import *\n@hookimpl\ndef metrics(): return ()\n")
    (tmp_path / "bad.py").write_text("raise RuntimeError('no GPU')\n")
    config = tmp_path / "room.toml"
    fine, bad = (f'[plugins.{name}]\nmodule = "{tmp_path / name}.py"\n' for name in ("fine", "bad"))
    config.write_text(fine)
    assert "fine can be loaded" in run(*given, "--config", config).words
    config.write_text(fine + bad)
    looked = run(*given, "--config", config, status=1).words
    assert "FAIL Plugin bad" in looked
    assert "no GPU" in looked
    config.write_text(f'plugins_folder = "{tmp_path / "gone"}"\n')
    assert "There is no folder" in run(*given, "--config", config, status=1).words


def test_doctor_looks_at_what_is_there(run: Run, images: Path, tmp_path: Path) -> None:
    run("import", images, "--data", tmp_path / "data")
    done = run("doctor", "--data", tmp_path / "data", "--port", str(free_port()))
    for line in ("SQLite finds no damage", "0 at work", "wrote, read and deleted an object", "free on 127.0.0.1"):
        assert line in done.words


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: (data / "catalog.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000), "damaged"),
        (lambda data: (data / "catalog.sqlite").write_bytes(b"no database at all" * 100), "not a database"),
    ],
    ids=["damaged", "no database"],
)
def test_doctor_says_what_to_do_about_a_broken_catalog(
    run: Run, images: Path, tmp_path: Path, spoil: object, says: str
) -> None:
    data = tmp_path / "data"
    run("import", images, "--data", data)
    spoil(data)  # type: ignore[operator]
    done = run("doctor", "--data", data, "--port", str(free_port()), status=1)
    assert re.search(says, done.words)
    assert "readingroom reindex" in done.words


def test_doctor_tells_how_far_a_new_attribute_is_listed(run: Run, images: Path, tmp_path: Path) -> None:
    run("import", images, "--data", tmp_path / "data")
    engine = open_engine(f"sqlite:///{tmp_path / 'data' / 'catalog.sqlite'}")
    sync_keys(engine, [configured_key("ConvolutionKernel")])
    assert (
        "1 attributes are listed to 0 %" in run("doctor", "--data", tmp_path / "data", "--port", str(free_port())).words
    )
    while list_stored(engine):
        pass
    engine.dispose()
    assert "every searchable attribute" in run("doctor", "--data", tmp_path / "data", "--port", str(free_port())).words


def test_doctor_tells_what_a_crash_left(run: Run, tmp_path: Path) -> None:
    run("migrate", "--data", tmp_path)
    (tmp_path / "store" / "tmp" / "unknown").mkdir(parents=True)
    (tmp_path / "store" / "tmp" / "unknown" / "part").touch()
    engine = open_engine(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    with begin_write(engine) as connection:
        ended = {"host": "elsewhere", "pid": 1, "lease_until": datetime(2026, 1, 1, tzinfo=UTC)}
        connection.execute(t.writer.insert().values(id="0" * 32, **ended))
    engine.dispose()
    done = run("doctor", "--data", tmp_path, "--port", str(free_port()))
    assert "0 at work, 1 ended without giving its lease back The next start tidies up" in done.words
    assert "Strays 1 files" in done.words


def test_doctor_says_that_the_catalog_is_behind_and_export_does_not_touch_it(run: Run, tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    engine.connect().close()
    engine.dispose()
    done = run("doctor", "--data", tmp_path, "--port", str(free_port()))
    assert f"{int(head())} revisions behind" in done.words
    assert "run 'readingroom migrate'" in run("export", "1.2.3", tmp_path / "out", "--data", tmp_path, status=1).err


def test_doctor_says_that_the_viewer_is_not_installed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.doctor.is_installed", lambda: False)
    done = run("doctor", "--data", tmp_path, "--port", str(free_port()))
    assert "note Viewer OHIF is not installed Install Node.js with npm" in done.words


def test_doctor_says_that_the_database_does_not_answer(run: Run, tmp_path: Path) -> None:
    url = "postgresql://u:secret@127.0.0.1:1/x"
    done = run("doctor", "--data", tmp_path, "--database", url, "--port", str(free_port()), status=1)
    assert "Start the database" in done.words
    assert "secret" not in done.words


def test_doctor_says_that_the_data_folder_cannot_be(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("doctor", "--data", tmp_path / "file" / "data", "--port", str(free_port()), status=1)
    assert "no folder that this user may write to" in done.words


def test_doctor_tells_a_taken_port_from_our_own(run: Run, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert "is taken" in run("doctor", "--data", tmp_path, "--port", port, status=1).words


# -- serve -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "ending"), [(1, signal.SIGINT), (1, signal.SIGTERM), (2, signal.SIGTERM)])
def test_the_server_says_where_it_is_and_stops_cleanly(
    run: Run, tmp_path: Path, workers: int, ending: signal.Signals
) -> None:
    log, data = tmp_path / "log", tmp_path / "data"
    process = start("serve", "--data", data, "--port", "0", "--workers", str(workers), log=log)
    try:
        root = wait_for(r"DICOMweb +(http://127\.0\.0\.1:\d+)/dicomweb", log, process)[1]
        wait_for("Ctrl-C stops it", log, process)
        assert httpx.get(f"{root}/healthz").text == "ok\n"
        assert httpx.get(f"{root}/readyz").text == "ready\n"
        assert httpx.get(f"{root}/dicomweb/studies").status_code in (200, 204)
        assert "a readingroom serves" in run("doctor", "--data", data, "--port", root.rpartition(":")[2]).out
        for _ in range(20):
            httpx.get(f"{root}/readyz")
        counted = re.search(r'requests_total{.*"readyz".*} (\d+)', httpx.get(f"{root}/metrics").text)
        assert counted
        assert int(counted[1]) == 21, "one worker counted what another answered, or nobody did"
        process.send_signal(ending)
        # After SIGTERM uvicorn ends as a process that was asked to; a supervisor takes it for a clean stop.
        assert process.wait(30) in (0, -ending), log.read_text()
    finally:
        process.kill()
    assert "GET /" not in log.read_text()
    assert "Traceback" not in log.read_text()
    assert list((data / "store" / "tmp").iterdir()) == []


def test_a_taken_port_is_told(run: Run, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run("serve", "--data", tmp_path, "--port", str(port), status=1)
    assert f"Port {port} on 127.0.0.1 is taken" in done.err
    assert f"--port {port + 1}" in done.err


def test_a_server_that_cannot_start_ends_with_a_clear_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store should be")
    done = run("serve", "--data", tmp_path, "--port", "0", status=1)
    assert "File exists" in done.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "images.example.org", "127.0.0.1.example.org"])
def test_only_loopback_is_bound(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(Refused, match="no TLS"):
        bind(host, 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_every_loopback_address_may_be_bound(host: str) -> None:
    if host == "::1" and not os.path.exists("/proc/sys/net/ipv6"):
        pytest.skip("this machine has no IPv6")
    bind(host, 0).close()
