"""The commands that show jobs, try them again, drop them, and run them apart from the server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from readingroom.clock import SystemClock
from readingroom.errors import GiveUp
from server.archive import open_queue
from server.queue import Job, Queue
from storage.catalog.engine import open_engine
from tests.commands import Run
from tests.server.queue_contract import enqueue
from tests.servers import environment, free_port

PATIENCE_SECONDS = 60


@pytest.fixture
def queue(sqlite_url: str) -> Iterator[Queue]:
    """The queue of the catalog in the test's own folder."""
    engine = open_engine(sqlite_url)
    queue = open_queue(engine, SystemClock())

    @queue.on("deliver")
    def fail(job: Job) -> None:
        raise GiveUp(f"No such receiver: {job.payload['to']}.")

    yield queue
    engine.dispose()


@pytest.fixture
def dead(queue: Queue) -> list[int]:
    """The numbers of two dead letters."""
    enqueue(queue, {"to": "NORTH"}, {"to": "SOUTH"}, kind="deliver", lane="report 1")
    queue.drain()
    return [one.id for one in queue.entries(state="dead")]


def test_jobs_are_listed_with_what_went_wrong(run: Run, tmp_path: Path, queue: Queue, dead: list[int]) -> None:
    enqueue(queue, {}, kind="note")
    listed = run("jobs", "list", "--data", tmp_path).out
    assert "No such receiver: NORTH." in listed
    assert listed.splitlines()[-1] == "1 queued, 0 running, 2 dead."
    assert "note" not in run("jobs", "list", "--state", "dead", "--data", tmp_path).out
    assert "NORTH" not in run("jobs", "list", "--kind", "note", "--data", tmp_path).out
    found = json.loads(run("jobs", "list", "--state", "dead", "--limit", "1", "--json", "--data", tmp_path).out)
    (job,) = found["jobs"]
    assert (job["id"], job["lane"], job["attempt"], job["error"]) == (
        dead[0],
        "report 1",
        1,
        "No such receiver: NORTH.",
    )
    assert {(one["kind"], one["state"], one["count"]) for one in found["counts"]} == {
        ("deliver", "dead", 2),
        ("note", "queued", 1),
    }


def test_a_dead_letter_is_tried_again(run: Run, tmp_path: Path, queue: Queue, dead: list[int]) -> None:
    assert "1 jobs are tried again." in run("jobs", "retry", str(dead[0]), "--data", tmp_path).out
    assert {one.id: one.state for one in queue.entries()} == {dead[0]: "queued", dead[1]: "dead"}


def test_all_dead_letters_of_a_kind_are_tried_again(run: Run, tmp_path: Path, queue: Queue, dead: list[int]) -> None:
    assert "0 jobs" in run("jobs", "retry", "--dead", "--kind", "other", "--data", tmp_path).out
    done = json.loads(run("jobs", "retry", "--dead", "--kind", "deliver", "--json", "--data", tmp_path).out)
    assert done == {"retry": dead, "refused": {}}
    assert {one.state for one in queue.entries()} == {"queued"}


def test_dead_letters_are_dropped_and_what_is_not_there_is_told(
    run: Run, tmp_path: Path, queue: Queue, dead: list[int]
) -> None:
    done = run("jobs", "drop", *map(str, dead), "99", "--data", tmp_path, status=1)
    assert "There is no job 99" in done.out
    assert "2 jobs are dropped." in done.out
    assert queue.entries() == []


@pytest.mark.parametrize("arguments", [[], ["1", "--dead"], ["1", "--kind", "deliver"]])
def test_which_jobs_has_to_be_said(run: Run, tmp_path: Path, queue: Queue, arguments: list[str]) -> None:
    assert "Say which" in run("jobs", "drop", *arguments, "--data", tmp_path, status=1).err


def test_doctor_tells_of_dead_letters(run: Run, tmp_path: Path, queue: Queue, dead: list[int]) -> None:
    looked = run("doctor", "--data", tmp_path, "--port", str(free_port())).words
    assert "0 queued, 0 running, 2 dead" in looked
    assert "readingroom jobs list --state dead" in looked


def test_a_worker_of_a_kind_that_there_is_not_is_refused(run: Run, tmp_path: Path) -> None:
    said = run("work", "--kind", "nonsense", "--data", tmp_path, status=1).err
    assert "There are no jobs of kind nonsense" in said


def test_a_worker_apart_does_what_is_due_and_ends_when_it_is_told(tmp_path: Path, queue: Queue) -> None:
    command = [sys.executable, "-m", "server.cli", "work", "--threads", "1", "--data", str(tmp_path)]
    process = subprocess.Popen(
        command,
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "1 jobs at once" in process.stdout.readline()
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not _is_led(queue):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    assert (process.returncode, said) == (0, "")
    assert not _is_led(queue)


def _is_led(queue: Queue) -> bool:
    with queue.engine.connect() as connection:
        return connection.exec_driver_sql("SELECT 1 FROM lease WHERE name = 'timers'").first() is not None
