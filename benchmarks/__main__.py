"""`make bench`: measure this server, Orthanc and nginx in one run, and write the table and the plot."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

# Children are forked, which a process with numerical threads must not do; and the client is not to cost cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmarks import dimse, giant, made, qido, reports, stow, table, wado
from benchmarks.measure import Goal, Result, Row, Workload, compare
from benchmarks.peers import REPOSITORY, Missing, Nginx, Orthanc, Peer, Readingroom, compress
from benchmarks.phantom import SmallStudy

MEMORY = Row(title="memory (RSS) after", unit="MB", goals=(Goal(limit=250),), aims=(Goal(limit=250),))


class Bench:
    """One run: starts the peers, loads them, measures, and keeps the results.

    Parameters
    ----------
    home
        A folder for everything the peers keep.
    sizes
        The numbers of studies in the index, growing.
    only
        The names of the workloads to run; none means all but the giants.
    workers
        The worker processes that this server may use where four clients store at once.
    rounds
        How often each peer has its turn.
    """

    def __init__(self, home: Path, *, sizes: Sequence[int], only: Sequence[str], workers: int, rounds: int) -> None:
        self.home = home
        self.sizes = sizes
        self.only = only
        self.workers = workers
        self.rounds = rounds
        self.results: list[Result] = []
        self.versions: dict[str, str] = {}
        for kind in (Readingroom, Orthanc, Nginx):
            try:
                self.versions[kind.kind] = kind.version()
            except Missing as error:
                loud(f"{error}; it is left out")

    def chosen(self, workloads: Sequence[Workload]) -> list[Workload]:
        if not self.only:
            return [workload for workload in workloads if workload not in giant.WORKLOADS]
        return [workload for workload in workloads if any(workload.name.startswith(name) for name in self.only)]

    @contextlib.contextmanager
    def started(self, *peers: Peer) -> Iterator[list[Peer]]:
        """Start those peers that are there, and end them in the end."""
        running: list[Peer] = []
        try:
            for peer in peers:
                if peer.kind in self.versions:
                    try:
                        peer.start()
                        running.append(peer)
                    except Missing as error:
                        loud(f"{error}; its column is left out")
                        del self.versions[peer.kind]
            yield running
        finally:
            for peer in running:
                peer.stop()

    def measure(self, workloads: Sequence[Workload], peers: Sequence[Peer], *, suffix: str = "") -> None:
        for workload in workloads:
            for result in compare(workload, peers, self.rounds, suffix=suffix):
                self.keep(result)

    def keep(self, result: Result) -> None:
        self.results.append(result)
        print(f"{result.row.title}, {result.row.unit}")
        for name in result.kinds:
            print(f"    {name:28}{table.cell(result, name).replace('<br>', '   ')}")
            if name in result.failures:
                loud(f"{name}: {result.failures[name]}")
        for kind, words in (("orthanc", "times better than Orthanc"), ("nginx", "times nginx")):
            if ratio := result.ratio(kind):
                print(f"    {table.number(ratio)} {words}")
        print("    " + table.verdicts(result, (*result.row.goals, *result.row.aims)), flush=True)

    def keep_memory(self, peers: Sequence[Peer], what: str) -> None:
        """Add a row of the memory that each peer holds now; this server's by worker."""
        peers = [peer for peer in peers if peer.kind != "nginx"]
        values = {}
        for peer in peers:
            workers = peer.workers if isinstance(peer, Readingroom) else 1
            values[peer.name] = [peer.memory_bytes() / 1e6 / workers]
        row = Row(title=f"{MEMORY.title} {what}, a worker", unit=MEMORY.unit, goals=MEMORY.goals, aims=MEMORY.aims)
        self.keep(Result(row=row, values=values, kinds={peer.name: peer.kind for peer in peers}))

    def storing(self) -> None:
        """Measure the storing of new instances, one client with one worker, four clients with `workers`."""
        for folder, workers, workloads in (
            ("stow", 1, self.chosen(stow.WORKLOADS)),
            ("stow-parallel", self.workers, self.chosen(stow.PARALLEL_WORKLOADS)),
        ):
            if not workloads:
                continue
            home = self.home / folder
            ours = Readingroom(home / "readingroom", workers=workers)
            with self.started(ours, Orthanc(home / "orthanc")) as peers:
                self.measure(workloads, peers, suffix=f", {workers} workers" if workers > 1 else "")
                self.keep_memory(peers, "storing" if workers == 1 else "storing from 4 clients")
            shutil.rmtree(home)

    def associations(self) -> None:
        """Measure what is stored by associations, and what they cost."""
        workloads = self.chosen(dimse.WORKLOADS)
        if not workloads:
            return
        home = self.home / "dimse"
        with self.started(
            Readingroom(home / "readingroom", dimse=True), Orthanc(home / "orthanc", dimse=True)
        ) as peers:
            self.measure(workloads, peers)
        shutil.rmtree(home)

    def reading(self) -> None:
        """Load the series, then index after index, and measure every search and retrieval on each."""
        retrievals = self.chosen((*wado.WORKLOADS, *made.WORKLOADS))
        frame = self.chosen([wado.FRAME_WORKLOAD])
        home = self.home / "reading"
        ours, orthanc, nginx = Readingroom(home / "readingroom"), Orthanc(home / "orthanc"), Nginx(home / "nginx")
        loaded = 0
        for index, size in enumerate(self.sizes):
            searches = self.chosen(qido.workloads(size))
            findings = self.chosen(dimse.finding(size))
            if not (searches or findings or frame or (retrievals and not index)):
                continue
            with self.started(ours, orthanc) as peers:
                for peer in peers:
                    print(f"loading {peer.name} up to {size:,} studies", flush=True)
                    self.load(peer, loaded, size)
                if not index and (retrievals or frame) and "nginx" in self.versions:
                    keep_for_nginx(nginx, peers)
            loaded = size
            twin = home / "twin"
            shutil.rmtree(twin, ignore_errors=True)
            others = [orthanc.twin(twin, compression=True)] if "orthanc" in self.versions else []
            with self.started(ours, orthanc, *others, nginx) as peers:
                at = f", {size:,} studies"
                if not index:
                    self.measure(retrievals, peers)
                self.measure(frame, peers, suffix=at)
                self.measure(searches, peers, suffix=at)
                self.keep_memory(peers, f"reading{at}")
            for peer in (ours, orthanc):
                peer.has_dimse = True
            if findings:
                with self.started(ours, orthanc) as peers:
                    self.measure(findings, peers, suffix=at)
            for peer in (ours, orthanc):
                peer.has_dimse = False
        shutil.rmtree(home, ignore_errors=True)

    def load(self, peer: Peer, first: int, last: int) -> None:
        if not first:
            wado.load(peer)
        stow.load(peer, (SmallStudy(number=number).cast() for number in range(first, last)), a_request=100)

    def reports(self) -> None:
        """Measure how long a report takes to be set; no server has a part in it."""
        if not self.only or any(reports.NAME.startswith(name) for name in self.only):
            for result in reports.measure(self.rounds):
                self.keep(result)

    def giants(self) -> None:
        """Store the two uploads, each on a new server so that its peak is its own."""
        for workload in self.chosen(giant.WORKLOADS):
            home = self.home / workload.name
            with self.started(Readingroom(home / "readingroom")) as peers:
                for result in compare(workload, peers, 1, warm_up=False):
                    self.keep(result)
            shutil.rmtree(home)


def keep_for_nginx(nginx: Nginx, sources: Sequence[Peer]) -> None:
    """Give nginx what the other peers answer: of each thing, what the first of them says that says something."""
    connections = [source.connect() for source in sources]
    silent: Counter[str] = Counter()
    for path, accept, encoding in wado.for_nginx():
        for source, connection in zip(sources, connections, strict=True):
            reply = connection.exchange(source.get(path, accept, encoding))
            if reply.status == 200:
                nginx.keep(path, compress(reply) if encoding == "gzip" else reply)
                break
            silent[f"{source.name} answers {reply.status}"] += 1
    for connection in connections:
        connection.close()
    for what, times in silent.items():
        loud(f"{what} to {times} of the requests whose answers nginx is to serve")


def loud(text: str) -> None:
    print(f"!!! {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Run what the command line asks for; write the documentation's page and picture when everything was run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 studies only, three rounds")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="workloads whose name starts so; giant too"
    )
    parser.add_argument("--studies", default="2000,20000", help="sizes of the index")
    parser.add_argument("--workers", type=int, default=2, help="workers of this server where four clients store")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for the table and the plot; a whole run writes to docs")
    parser.add_argument("--temp", type=Path, help="folder for the data, some GB; the system's if not given")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the peers are ended as well
    sizes = [2000] if arguments.quick else sorted(int(size) for size in arguments.studies.split(","))
    rounds = 3 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory(prefix="readingroom-bench-", dir=arguments.temp) as home:
        bench = Bench(Path(home), sizes=sizes, only=arguments.only, workers=arguments.workers, rounds=rounds)
        bench.storing()
        bench.associations()
        bench.reading()
        bench.reports()
        bench.giants()
    is_whole = not arguments.quick and not arguments.only
    out = arguments.out or (REPOSITORY / "docs" if is_whole else None)
    if out:
        page = out / "reference" / "benchmarks.md"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(table.markdown(bench.results, versions=bench.versions, studies=sizes))
        table.plot(bench.results, out / "images" / "benchmarks.png")
        print(f"written: {page}")
    return 1 if any(result.failures for result in bench.results) else 0


if __name__ == "__main__":
    sys.exit(main())
