"""What is counted when somebody asks, and so is the same whichever process is asked: jobs, and what is to be listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from server.queue import Tally
from server.room import Room
from storage.catalog.listed import Progress, progress


class Gauges(Collector):
    """Gauges of a room, as they were when this was made."""

    def __init__(self, tallies: Sequence[Tally], listing: Sequence[Progress]) -> None:
        self._tallies = tallies
        self._listing = listing

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The families, for a registry."""
        yield _family(
            "readingroom_jobs",
            "Jobs that wait, run, or are dead letters",
            ("kind", "state"),
            (((one.kind, one.state), one.count) for one in self._tallies),
        )
        yield _family(
            "readingroom_job_lag_seconds",
            "For how long the oldest job that waits has been due",
            ("kind",),
            (((one.kind,), one.lag.total_seconds()) for one in self._tallies if one.state == "queued"),
        )
        yield _family(
            "readingroom_search_listing_remaining",
            "Stored studies, series or instances still to be listed by an attribute that has become searchable",
            ("attribute",),
            (((one.name,), one.remaining) for one in self._listing),
        )


def measure(room: Room) -> Gauges:
    """Count what there is now."""
    return Gauges(room.queue.tallies(), room.query(progress))


def _family(
    name: str, help: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
