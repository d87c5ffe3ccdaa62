"""The queue of a PostgreSQL catalog: procrastinate's tables and functions, for any number of hosts.

Jobs are enqueued by procrastinate's own means, its locks are our lanes and its queueing locks our keys, and its tools
show them. They are run by `server.worker`, as on SQLite, and not by procrastinate's worker: that one ends a job without
asking whether it still has it, and stops as soon as the database is away for a moment. See docs/adr/0007.

Leases are the heartbeats of workers, kept by the database's clock. A job's token is its worker and the number of
attempts before this one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import orjson
import psycopg
import sqlalchemy as sa
from procrastinate import App, SyncPsycopgConnector
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException
from procrastinate.jobs import Status
from procrastinate.sql import queries
from sqlalchemy.dialects.postgresql import ENUM, JSONB

from readingroom.clock import Clock
from readingroom.errors import Conflict, NotFound
from server.queue import LEASE, LOST, Claim, Job, Queue
from storage.catalog import schema as t
from storage.catalog.engine import after_commit, begin_write

log = logging.getLogger(__name__)

_ANY_QUEUE = "procrastinate_any_queue_v1"
_LISTEN_SECONDS = 1.0
_FOREIGN_KEY, _UNIQUE = "23503", "23505"

_jobs = sa.table(
    "procrastinate_jobs",
    sa.column("id", sa.BigInteger),
    sa.column("task_name", sa.Text),
    sa.column("priority", sa.Integer),
    sa.column("lock", sa.Text),
    sa.column("queueing_lock", sa.Text),
    sa.column("args", JSONB),
    sa.column("status", ENUM(*(one.value for one in Status), name="procrastinate_job_status", create_type=False)),
    sa.column("scheduled_at", sa.DateTime(timezone=True)),
    sa.column("attempts", sa.Integer),
    sa.column("abort_requested", sa.Boolean),
    sa.column("worker_id", sa.BigInteger),
)
_workers = sa.table("procrastinate_workers", sa.column("id", sa.BigInteger))
_c = _jobs.c


class PostgresQueue(Queue):
    """Jobs in procrastinate's tables."""

    def __init__(self, engine: sa.Engine, clock: Clock, *, lease: timedelta = LEASE) -> None:
        super().__init__(engine, clock, lease=lease)
        self._app = App(connector=SyncPsycopgConnector())  # never opened: the connections are the callers'
        self._worker: int | None = None

    def enqueue(
        self,
        connection: sa.Connection,
        kind: str,
        payload: Mapping[str, Any],
        *,
        lane: str = "",
        priority: int = 0,
        run_at: datetime | None = None,
        key: str | None = None,
    ) -> None:
        after_commit(connection, self.wake.set)
        json = orjson.dumps(payload).decode()  # as text: jsonb takes not all that JSON can hold
        told = {"delivery": t.new_id(), "payload": json, "since": self.clock.now().isoformat()}
        ahead = timedelta(0) if run_at is None else run_at - self.clock.now()
        schedule_at = self._now(connection) + ahead if ahead > timedelta(0) else None
        deferrer = self._app.configure_task(
            kind,
            connection=connection.connection.dbapi_connection,
            queue=kind,
            lock=lane or None,
            queueing_lock=key,
            priority=priority,
            schedule_at=schedule_at,
        )
        if key is None:
            with _as_database_error():
                deferrer.defer(**told)
            return
        # The row that waits is locked, so that it is not run before this transaction's changes can be seen. It may be
        # taken, or come from another transaction, at the moment between the two statements.
        while not self._enqueue_again(connection, key, json, priority, schedule_at):
            try:
                with connection.begin_nested(), _as_database_error():
                    deferrer.defer(**told)
            except AlreadyEnqueued:
                continue
            return

    def _enqueue_again(
        self, connection: sa.Connection, key: str, json: str, priority: int, schedule_at: datetime | None
    ) -> bool:
        at = sa.bindparam("at", schedule_at, sa.DateTime(timezone=True))
        values = {
            "args": _c.args.op("||")(sa.func.jsonb_build_object("payload", json)),
            "priority": sa.func.greatest(_c.priority, priority),
            "scheduled_at": sa.case(
                (_c.scheduled_at.is_(None) | at.is_(None), None), else_=sa.func.least(_c.scheduled_at, at)
            ),
        }
        waiting = _jobs.update().where(_c.queueing_lock == key, _c.status == "todo")
        return connection.execute(waiting.values(values)).rowcount == 1

    def claim(self, limit: int = 1, kinds: Collection[str] | None = None) -> list[Job]:
        known = sorted(self.handlers if kinds is None else self.handlers.keys() & kinds)
        jobs: list[Job] = []
        while known and len(jobs) < limit:
            if self._worker is None:
                with begin_write(self.engine) as connection:
                    self._worker = connection.exec_driver_sql(queries["register_worker"]).scalar_one()
            try:
                with begin_write(self.engine) as connection:
                    wanted = {"queues": known, "worker_id": self._worker}
                    row = connection.exec_driver_sql(queries["fetch_job"], wanted).one()
            except sa.exc.IntegrityError as error:
                state = getattr(error.orig, "sqlstate", None)
                if state == _FOREIGN_KEY:  # we were taken for dead, and are not: begin anew
                    self._worker = None
                elif state != _UNIQUE:  # else another worker has just begun a job in that lane
                    raise
                continue
            if row.id is None:
                break
            jobs.append(self._job(row))
        return jobs

    def _job(self, row: sa.Row[Any, Any]) -> Job:
        return Job(
            id=row.id,
            delivery=row.args["delivery"],
            kind=row.task_name,
            lane=row.lock or "",
            payload=orjson.loads(row.args["payload"]),
            priority=row.priority,
            attempt=row.attempts + 1,
            since=datetime.fromisoformat(row.args["since"]),
            claim=Claim(self, row.id, _token(row.worker_id, row.attempts)),
        )

    def keep(self, jobs: Sequence[Job]) -> None:
        if self._worker is None:
            return
        with begin_write(self.engine) as connection:
            connection.exec_driver_sql(queries["update_heartbeat"], {"worker_id": self._worker})
            running = [job.id for job in jobs]
            strays = sa.select(_c.id, _c.attempts).where(
                _c.status == "doing", _c.worker_id == self._worker, _c.id.not_in(running)
            )
            for row in connection.execute(strays).all():
                self._give_on(connection, row.id, _token(self._worker, row.attempts))

    def rescue(self) -> int:
        with begin_write(self.engine) as connection:
            silent = {"seconds_since_heartbeat": self.lease.total_seconds()}
            connection.exec_driver_sql(queries["prune_stalled_workers"], silent)
            lost = sa.select(_c.id, _c.attempts).where(
                _c.status == "doing", _c.worker_id.is_(None), _c.task_name.in_(sorted(self.handlers))
            )
            rows = connection.execute(lost.with_for_update(skip_locked=True)).all()
            for row in rows:
                self._give_on(connection, row.id, _token(None, row.attempts))
            after_commit(connection, self.wake.set)
        return len(rows)

    def _give_on(self, connection: sa.Connection, id: int, token: str) -> None:
        """Put back, or bury, a job that nobody runs any more."""
        claim = Claim(self, id, token)
        held = _hold(connection, claim)
        if held is None:
            return
        if held.attempts + 1 >= self.policy(held.task_name).attempts:
            self.bury(connection, claim, LOST)
        else:
            self.put_back(connection, claim, timedelta(0), LOST, counts=True)

    def finish(self, connection: sa.Connection, claim: Claim) -> bool:
        if _hold(connection, claim) is None:
            return False
        _end(connection, claim, "succeeded", delete_job=True)
        return True

    def put_back(self, connection: sa.Connection, claim: Claim, wait: timedelta, error: str, *, counts: bool) -> bool:
        if _hold(connection, claim) is None:
            return False
        _note(connection, claim.id, error=error)
        again = {
            "job_id": claim.id,
            "retry_at": self._now(connection) + wait,
            "new_priority": None,
            "new_queue_name": None,
            "new_lock": None,
        }
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(queries["retry_job"], again)
                if not counts:
                    connection.execute(_jobs.update().where(_c.id == claim.id).values(attempts=_c.attempts - 1))
        except sa.exc.IntegrityError:
            _end(connection, claim, "succeeded", delete_job=True)  # its key waits again already, and that one will do
        return True

    def bury(self, connection: sa.Connection, claim: Claim, error: str) -> bool:
        if _hold(connection, claim) is None:
            return False
        _note(connection, claim.id, error=error)
        _end(connection, claim, "failed", delete_job=False)
        return True

    @contextmanager
    def listening(self) -> Iterator[None]:
        is_over = threading.Event()
        listener = threading.Thread(target=self._listen, args=(is_over,), name="job listener", daemon=True)
        listener.start()
        try:
            yield
        finally:
            is_over.set()
            listener.join(2 * _LISTEN_SECONDS)
            self._leave()

    def _listen(self, is_over: threading.Event) -> None:
        _, arguments = self.engine.dialect.create_connect_args(self.engine.url)
        while not is_over.is_set():
            try:
                with psycopg.connect(**arguments, autocommit=True) as connection:
                    connection.execute(f"LISTEN {_ANY_QUEUE}")
                    self.wake.set()  # for what came while nobody listened
                    while not is_over.is_set():
                        for _ in connection.notifies(timeout=_LISTEN_SECONDS):
                            self.wake.set()
            except psycopg.OperationalError as error:
                log.warning("cannot listen for jobs, looking for them instead: %s", type(error).__name__)
                is_over.wait(_LISTEN_SECONDS)

    def _leave(self) -> None:
        """Say that this worker is gone; one that leaves jobs behind is found out by its silence."""
        if self._worker is not None:
            mine = sa.exists().where(_c.worker_id == _workers.c.id, _c.status == "doing")
            try:
                with begin_write(self.engine) as connection:
                    connection.execute(_workers.delete().where(_workers.c.id == self._worker, ~mine))
            except sa.exc.SQLAlchemyError:
                log.warning("worker %d could not say that it leaves", self._worker)
            self._worker = None

    def view(self) -> sa.FromClause:
        since = sa.func.coalesce(sa.cast(_c.args["since"].astext, sa.DateTime(timezone=True)), sa.func.now())
        state = sa.case((_c.status == "todo", "queued"), (_c.status == "doing", "running"), else_="dead")
        return (
            sa.select(
                _c.id,
                _c.args["delivery"].astext.label("delivery"),
                _c.task_name.label("kind"),
                sa.func.coalesce(_c.lock, "").label("lane"),
                _c.queueing_lock.label("key"),
                _c.priority,
                state.label("state"),
                sa.case((_c.status == "doing", _c.attempts + 1), else_=_c.attempts).label("attempt"),
                sa.func.coalesce(_c.scheduled_at, since).label("run_at"),
                since.label("since"),
                _c.args["error"].astext.label("error"),
            )
            .where(_c.status != "succeeded")
            .subquery()
        )

    def retry(self, id: int) -> None:
        with begin_write(self.engine) as connection:
            _resting(connection, id)
            _note(connection, id, since=self.clock.now().isoformat())
            values = {"status": "todo", "scheduled_at": None, "attempts": 0, "abort_requested": False}
            try:
                connection.execute(_jobs.update().where(_c.id == id).values(values))
            except sa.exc.IntegrityError:
                raise Conflict(
                    f"Job {id} need not be tried: another one with its key waits already; drop this one."
                ) from None
            after_commit(connection, self.wake.set)

    def drop(self, id: int) -> None:
        with begin_write(self.engine) as connection:
            _resting(connection, id)
            connection.execute(_jobs.delete().where(_c.id == id))

    def _now(self, connection: sa.Connection) -> datetime:
        now: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return now


def _token(worker: int | None, attempts: int) -> str:
    return f"{worker or ''}/{attempts}"


def _hold(connection: sa.Connection, claim: Claim) -> sa.Row[Any, Any] | None:
    """The row of a job that is still this claim's, locked; None where it is not."""
    worker, _, attempts = claim.token.partition("/")
    mine = sa.select(_c.task_name, _c.attempts).where(
        _c.id == claim.id,
        _c.status == "doing",
        _c.attempts == int(attempts),
        _c.worker_id.is_not_distinct_from(int(worker) if worker else None),
    )
    return connection.execute(mine.with_for_update()).one_or_none()


def _end(connection: sa.Connection, claim: Claim, status: str, *, delete_job: bool) -> None:
    told = {"job_id": claim.id, "status": status, "delete_job": delete_job}
    connection.exec_driver_sql(queries["finish_job"], told)


def _note(connection: sa.Connection, id: int, **told: str) -> None:
    """Keep something with a job."""
    noted = _c.args.op("||")(sa.cast(told, JSONB))
    connection.execute(_jobs.update().where(_c.id == id).values(args=noted))


def _resting(connection: sa.Connection, id: int) -> None:
    """Lock the row of a job that is not running."""
    status = connection.execute(sa.select(_c.status).where(_c.id == id).with_for_update()).scalar_one_or_none()
    if status is None:
        raise NotFound(f"There is no job {id}; it may be done. 'readingroom jobs list' shows those that there are.")
    if status == "doing":
        raise Conflict(f"Job {id} is running; wait until it has ended.")


@contextmanager
def _as_database_error() -> Iterator[None]:
    """What the driver raised, as everybody else who uses this connection has it."""
    try:
        yield
    except ConnectorException as error:
        if isinstance(error.__cause__, psycopg.Error):
            raise sa.exc.DBAPIError.instance(None, None, error.__cause__, psycopg.Error) from error
        raise
