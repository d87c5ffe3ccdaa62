"""What is counted when somebody asks, and so is the same whichever process is asked: jobs, what is to be listed,
how soon critical results are told, follow-ups, what has no price, and how reports and studies get to where they go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from readingroom.model import Scope
from server.queue import Tally
from server.reports.critical import MEASURED, Measured, measure_criticals
from server.room import Room
from storage.catalog.charges import count_unpriced
from storage.catalog.deliveries import count_deliveries
from storage.catalog.escalations import timings_of
from storage.catalog.follow_ups import count_follow_ups
from storage.catalog.forwards import count_forwards
from storage.catalog.listed import Progress, progress


class Gauges(Collector):
    """Gauges of a room, as they were when this was made."""

    def __init__(
        self,
        tallies: Sequence[Tally],
        listing: Sequence[Progress],
        criticals: Sequence[Measured],
        follow_ups: tuple[int, int],
        unpriced: Sequence[tuple[str, int]],
        deliveries: Sequence[tuple[str, int, float]],
        forwards: Sequence[tuple[str, str, int, float]],
    ) -> None:
        self._tallies = tallies
        self._listing = listing
        self._criticals = criticals
        self._follow_ups = follow_ups
        self._unpriced = unpriced
        self._deliveries = deliveries
        self._forwards = forwards

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
        yield _family(
            "readingroom_criticals",
            "Critical results that nobody has read back yet, and of those the ones that are past their time",
            ("category", "state"),
            (
                ((str(one.category), state), getattr(one, state))
                for one in self._criticals
                for state in ("open", "overdue")
            ),
        )
        yield _family(
            "readingroom_critical_seconds",
            f"From a signature until its critical result was read back, over {MEASURED.days} days",
            ("category", "quantile"),
            (
                ((str(one.category), quantile), seconds)
                for one in self._criticals
                for quantile, seconds in (("0.5", one.p50_seconds), ("0.95", one.p95_seconds))
                if seconds is not None
            ),
        )
        yield _family(
            "readingroom_follow_ups",
            "Follow-ups that reports recommend and nobody has closed, and of those the ones that are past their day",
            ("state",),
            (((state,), count) for state, count in zip(("open", "overdue"), self._follow_ups, strict=True)),
        )
        yield _family(
            "readingroom_charges_unpriced",
            "Readings that were charged, and that no published list has a price for",
            ("facility",),
            (((facility,), count) for facility, count in self._unpriced),
        )
        yield _family(
            "readingroom_deliveries",
            "Versions of reports by how far they have come on their way",
            ("state",),
            (((state,), count) for state, count, _ in self._deliveries),
        )
        yield _family(
            "readingroom_delivery_age_seconds",
            "For how long the oldest delivery in a state has been there that is not done",
            ("state",),
            (((state,), age) for state, _, age in self._deliveries if state in ("queued", "sent")),
        )
        yield _family(
            "readingroom_forwards",
            "Studies that go on to others, by how far they have come, but for those that are done",
            ("destination", "state"),
            (((destination, state), count) for destination, state, count, _ in self._forwards),
        )
        yield _family(
            "readingroom_forward_age_seconds",
            "For how long the oldest study has been waiting to go to a destination",
            ("destination",),
            (((destination,), age) for destination, state, _, age in self._forwards if state == "queued"),
        )


def measure(room: Room) -> Gauges:
    """Count what there is now."""
    now = room.clock.now()
    criticals = measure_criticals(room.query(timings_of, Scope(), now - MEASURED), now)
    deliveries = [
        (state, count, max((now - oldest).total_seconds(), 0.0))
        for state, count, oldest in room.query(count_deliveries)
    ]
    forwards = [
        (destination, state, count, max((now - oldest).total_seconds(), 0.0))
        for destination, state, count, oldest in room.query(count_forwards)
    ]
    return Gauges(
        room.queue.tallies(),
        room.query(progress),
        criticals,
        room.query(count_follow_ups, now),
        room.query(count_unpriced),
        deliveries,
        forwards,
    )


def _family(
    name: str, help: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
