"""Storing: new instances in every request, durable before the answer."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from time import perf_counter

from benchmarks import phantom
from benchmarks.client import Connection, WrongAnswer, crowd
from benchmarks.measure import Goal, Row, Sample, Workload
from benchmarks.multipart import STOW_TYPE, pack
from benchmarks.peers import Peer

_fresh = itertools.count(1000)


def store(peer: Peer, connection: Connection, body: bytes, count: int) -> None:
    """Store one body of `count` instances.

    Raises
    ------
    WrongAnswer
        Not all of them were stored.
    """
    reply = connection.exchange(peer.post("/studies", STOW_TYPE, len(body)), (body,))
    check_stored(reply.expect(200).body, count)


def check_stored(answer: bytes | memoryview, count: int) -> None:
    """Raise WrongAnswer unless the answer (PS3.18 table 10.5.3-1) names `count` stored instances and no failed one."""
    said = json.loads(bytes(answer))
    stored = said.get("00081199", {}).get("Value", [])
    failed = said.get("00081198", {}).get("Value", [])
    if len(stored) != count or failed:
        raise WrongAnswer(f"{len(stored)} of {count} instances stored, {len(failed)} failed")


def load(peer: Peer, files: Iterable[bytes], *, a_request: int) -> int:
    """Store many instances over one connection, unmeasured; give how many they were."""
    connection, count = peer.connect(), 0
    for batch in itertools.batched(files, a_request):
        store(peer, connection, pack(batch), len(batch))
        count += len(batch)
    connection.close()
    return count


def _stowing(*, clients: int, requests: int, a_request: int, compressed: bool = False) -> Callable[[Peer], Sample]:
    def run(peer: Peer) -> Sample:
        series = [phantom.ct_series(next(_fresh), requests * a_request, compressed=compressed) for _ in range(clients)]
        bodies = [[pack(batch) for batch in itertools.batched(files, a_request)] for files in series]
        spans = crowd([_client(peer, own, a_request) for own in bodies])
        seconds = max(end for _, end in spans) - min(start for start, _ in spans)
        return Sample(values=(clients * requests * a_request / seconds,), requests=clients * requests)

    return run


def _client(peer: Peer, bodies: list[bytes], a_request: int) -> Callable[[Callable[[], object]], tuple[float, float]]:
    def work(go: Callable[[], object]) -> tuple[float, float]:
        connection = peer.connect()
        heads = [peer.post("/studies", STOW_TYPE, len(body)) for body in bodies]
        go()
        started = perf_counter()
        sent = zip(heads, bodies, strict=True)
        answers = [bytes(connection.exchange(head, (body,)).expect(200).body) for head, body in sent]
        ended = perf_counter()
        for answer in answers:
            check_stored(answer, a_request)
        return started, ended

    return work


def _row(title: str, *, goal: float, aim: float) -> Row:
    goals = (Goal(limit=goal, against="orthanc"),) if goal else ()
    return Row(title=title, unit="inst/s", goals=goals, aims=(Goal(limit=aim, against="orthanc"),))


WORKLOADS = (
    Workload(
        name="stow-1",
        rows=(_row("STOW, 1 CT a request, 1 client", goal=0, aim=2),),
        run=_stowing(clients=1, requests=60, a_request=1),
    ),
    Workload(
        name="stow-20",
        rows=(_row("STOW, 20 CT a request, 1 client", goal=2, aim=2),),
        run=_stowing(clients=1, requests=6, a_request=20),
    ),
    Workload(
        name="stow-jpegls",
        rows=(_row("STOW, 20 JPEG-LS a request, 1 client", goal=0, aim=2),),
        run=_stowing(clients=1, requests=6, a_request=20, compressed=True),
    ),
)
PARALLEL_WORKLOADS = (
    Workload(
        name="stow-1x4",
        rows=(_row("STOW, 1 CT a request, 4 clients", goal=0, aim=3),),
        run=_stowing(clients=4, requests=30, a_request=1),
    ),
    Workload(
        name="stow-20x4",
        rows=(_row("STOW, 20 CT a request, 4 clients", goal=2, aim=3),),
        run=_stowing(clients=4, requests=3, a_request=20),
    ),
    Workload(
        name="stow-jpeglsx4",
        rows=(_row("STOW, 20 JPEG-LS a request, 4 clients", goal=0, aim=2),),
        run=_stowing(clients=4, requests=3, a_request=20, compressed=True),
    ),
)
