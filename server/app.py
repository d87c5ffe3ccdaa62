"""Builds the room and the ASGI app: with `room.py`, the only place that wires things together."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType
from typing import Any

import anyio
import anyio.to_thread
import sqlalchemy as sa
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest, multiprocess
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from readingroom.clock import Clock
from readingroom.errors import ReadingRoomError, Unavailable
from readingroom.model import Actor, Report
from server.archive import open_queue, open_store
from server.availability import Availability
from server.codecs import Codecs
from server.committing import Committing, Reporting
from server.dicomweb import (
    capabilities,
    changes,
    commitment,
    correction,
    nonpatient,
    performed,
    qido,
    removal,
    rendered,
    scheduled,
    stow,
    ups,
    ups_events,
    wado,
    wado_uri,
)
from server.dicomweb.ups_events import PARTING_SECONDS
from server.edge import Edge, Metrics, on_accident, on_error, on_no_route, on_outage
from server.fhir import routes as fhir
from server.fhir import sockets
from server.fhir.charges import publish_charges
from server.fhir.communication import publish_criticals
from server.fhir.diagnosticreport import publish_reports
from server.fhir.exporting import export_from
from server.fhir.hl7 import publish_messages
from server.fhir.notify import deliver_from
from server.fhir.watching import watch
from server.forwarding import Forwards
from server.gauges import measure
from server.hl7.applying import Applying
from server.hl7.channel import Hl7Channel
from server.hooks import Hooks, wanted_plugins
from server.ingest import Ingest
from server.notifying import Notifying
from server.outgoing import Destination, Outgoing, PeerArchive, WebArchive
from server.peers import Peers
from server.priors import Priors
from server.remote_archives import PeerRemote, RemoteArchive, WebRemote
from server.renditions import open_renditions
from server.reports.channels.dicom import DicomChannel, StowChannel
from server.reports.channels.fhir import FhirChannel
from server.reports.channels.mail import MailChannel
from server.reports.critical import Criticals
from server.reports.delivery import Deliveries
from server.reports.documents.storing import Documents
from server.reports.followups import follow_recommendations
from server.reports.peer_review import PeerReviewing
from server.reports.reports import Reports
from server.reports.signing import SigningKeys, read_signed
from server.reports.telling import tell_plugins
from server.room import Room
from server.senders import Senders
from server.sending import Sender
from server.settings import DimsePeer, Settings
from server.settle import register_describing
from server.tokens import Tokens, configured_clients
from server.volumes import ShownStudies
from server.web import (
    commands,
    deliveries,
    desk,
    followups,
    inbox,
    oauth,
    patients,
    peer_review,
    prices,
    reconciling,
    report_documents,
    reports,
    templates,
    worklist,
)
from server.web.viewer import viewer_routes
from server.worker import working
from server.worklist.flow import Flow
from server.worklist.patients import Patients
from server.worklist.reconciling import Reconciling
from server.worklist.reports import report_restart
from storage.catalog import schema as t
from storage.catalog.clocks import clock_of
from storage.catalog.directory import LatestDirectory
from storage.catalog.engine import begin_write, database_url, open_engine
from storage.catalog.keys import with_configured
from storage.catalog.migrate import upgrade
from storage.catalog.studies import ensure_facility

log = logging.getLogger(__name__)

_UPLOAD_THREADS = 6
_GC_OBJECTS = 20_000
"""New objects between two looks for cycles; the JSON of one header makes some 700, and has no cycles."""
_CODEC_CHILDREN = 2
"""At least so many in each worker process: one that hangs must not hold up every other frame."""

DICOMWEB: tuple[BaseRoute, ...] = (
    *wado.routes,
    *rendered.routes,
    *qido.routes,
    *stow.routes,
    *removal.routes,
    *changes.routes,
    *correction.routes,
    *ups.routes,
    *ups_events.routes,
    *commitment.routes,
    *scheduled.routes,
    *performed.routes,
    *wado_uri.routes,
    *nonpatient.routes,
    *capabilities.routes,
)


@contextmanager
def build_room(settings: Settings, *, clock: Clock | None = None, codecs: Codecs | None = None) -> Iterator[Room]:
    """Open everything that one process needs; what was opened is closed at the end, and the lease given back.

    The catalog is migrated first, and what writers that died had begun is swept away. `codecs` that are given are
    left open.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    engine = open_engine(database_url(settings.database, settings.data))
    try:
        upgrade(engine)
        with begin_write(engine) as connection:
            ensure_facility(connection, settings.facility)
        with open_store(settings) as blobs:
            clock = clock or clock_of(engine)
            upload = ThreadPoolExecutor(_UPLOAD_THREADS, thread_name_prefix="upload")
            cores = os.cpu_count() or 1
            own_codecs = Codecs(
                children=max(_CODEC_CHILDREN, -(-cores // settings.workers)),
                memory_bytes=settings.codec_memory_bytes,
                seconds=settings.codec_seconds,
            )
            decoding = codecs or own_codecs
            hooks = Hooks(
                wanted_plugins(settings),
                clock=clock,
                open_archive=lambda studies: ShownStudies(engine, blobs, decoding, studies),
            )
            queue = open_queue(engine, clock)
            flow = Flow(
                engine=engine,
                clock=clock,
                queue=queue,
                hooks=hooks,
                directory=LatestDirectory(engine),
                is_research_mode=settings.research_mode,
            )
            flow.register()
            ingest = Ingest(engine=engine, blobs=blobs, clock=clock, settings=settings, hooks=hooks, tell=flow.stored)
            register_describing(queue, blobs)
            renditions = open_renditions(settings)
            try:
                reporting = Reports(keys=SigningKeys(settings.signing_keys_path))
                room = Room(
                    settings=settings,
                    engine=engine,
                    blobs=blobs,
                    clock=clock,
                    queue=queue,
                    flow=flow,
                    peers=Peers(settings.dimse, flow.directory),
                    reports=reporting,
                    criticals=Criticals(ask=flow.ladder),
                    reconciling=Reconciling(
                        engine=engine,
                        blobs=blobs,
                        clock=clock,
                        queue=queue,
                        settings=settings.reconciling,
                        published=reporting.published,
                    ),
                    hl7=Applying(
                        engine=engine,
                        clock=clock,
                        queue=queue,
                        senders=Senders(settings.hl7, LatestDirectory(engine)),
                        profiles=settings.hl7.profiles,
                    ),
                    tokens=Tokens(engine, clock, configured_clients(settings), settings.private_networks),
                    ingest=ingest,
                    codecs=decoding,
                    hooks=hooks,
                    renditions=renditions,
                    db=anyio.CapacityLimiter(16),
                    disk=anyio.CapacityLimiter(16),
                    codec=anyio.CapacityLimiter(max(_CODEC_CHILDREN, cores)),
                    upload=upload,
                    keys=with_configured(attribute.key for attribute in settings.search_attributes),
                )
                tell_plugins(engine, queue, hooks, room.reports.keys)
                PeerReviewing(
                    engine=engine,
                    clock=clock,
                    queue=queue,
                    hooks=hooks,
                    keys=room.reports.keys,
                    settings=settings.peer_review,
                ).register()
                deliver_reports(room)
                forward_studies(room)
                fetch_priors(room)
                room.reports.signed.extend((room.criticals.follow, follow_recommendations))
                publish_criticals(room)
                flow.tried.append(room.criticals.publish)
                publish_reports(room)
                publish_charges(room)
                room.hl7.register()
                publish_messages(room)
                following = Patients(
                    engine=engine, blobs=blobs, clock=clock, queue=queue, published=room.reports.published
                )
                following.register()
                flow.came.append(following.came)
                room.reconciling.register()
                flow.reconcile.append(room.reconciling.settle)
                Documents(
                    engine=engine,
                    queue=queue,
                    ingest=ingest,
                    keys=room.reports.keys,
                    objects=settings.report_objects,
                    fonts=settings.report_fonts,
                ).register()
                committing = Committing(engine=engine, blobs=blobs, clock=clock, queue=queue)
                Reporting(committing, room.peers, settings).register()
                Notifying(engine=engine, queue=queue, peers=room.peers, settings=settings).register()
                Availability(engine=engine, queue=queue, peers=room.peers, settings=settings).register()
                watch(room)
                deliver_from(room)
                export_from(room)
                yield room
            finally:
                renditions.close()
                upload.shutdown()
                ingest.close()
                hooks.close()
                own_codecs.close()
    finally:
        engine.dispose()


def deliver_reports(room: Room) -> None:
    """Have signed reports go to their destinations; each is looked at once more before it does."""
    networks = room.settings.private_networks

    def as_pdf(report: Report) -> bytes:
        from server.reports.documents import pdf  # here: Typst takes a while, and most destinations want no PDF

        return pdf.render(report, fonts=room.settings.report_fonts)

    Deliveries(
        engine=room.engine,
        clock=room.clock,
        queue=room.queue,
        hooks=room.hooks,
        pdf=as_pdf,
        channels={
            "hl7": Hl7Channel(pdf=as_pdf, networks=networks),
            "fhir": FhirChannel(pdf=as_pdf, networks=networks),
            "stow": StowChannel(engine=room.engine, pdf=as_pdf, networks=networks),
            "dicom": DicomChannel(engine=room.engine, pdf=as_pdf, networks=networks),
            "mail": MailChannel(pdf=as_pdf),
        },
        read=lambda connection, report, number: read_signed(connection, room.reports.keys, report, number),
    ).register()


def forward_studies(room: Room) -> None:
    """Have studies go on to others, as the rules of the settings say."""
    settings = room.settings
    outgoing = Outgoing(engine=room.engine, blobs=room.blobs, codecs=room.codecs)
    sender = Sender(engine=room.engine, blobs=room.blobs, codecs=room.codecs, settings=settings)

    def peer_of(name: str) -> DimsePeer | None:
        archive = settings.archives.get(name)
        return room.peers.named(name if archive is None else archive.peer or "")

    def find(name: str) -> Destination | None:
        archive = settings.archives.get(name)
        if archive is not None and archive.url is not None:
            return WebArchive(name=name, settings=archive, outgoing=outgoing, networks=settings.private_networks)
        peer = peer_of(name)
        return None if peer is None else PeerArchive(peer=peer, sender=sender)

    def came_from(source: str, name: str) -> bool:
        peer = peer_of(name)
        return peer is not None and peer.ae == source

    Forwards(
        engine=room.engine,
        clock=room.clock,
        queue=room.queue,
        rules={rule.name: rule for rule in settings.forward},
        find=find,
        came_from=came_from,
        at_once=threading.Semaphore(max(1, settings.job_threads // 2)),
    ).register()


def fetch_priors(room: Room) -> None:
    """Have earlier studies of a patient come from the archives of the settings."""
    settings = room.settings

    def remote(name: str) -> RemoteArchive | None:
        archive = settings.archives.get(name)
        if archive is not None and archive.url is not None:
            return WebRemote(name=name, settings=archive, networks=settings.private_networks)
        peer = room.peers.named(archive.peer or "") if archive is not None else None
        return None if peer is None else PeerRemote(peer=peer, settings=settings)

    Priors(
        engine=room.engine,
        clock=room.clock,
        queue=room.queue,
        hooks=room.hooks,
        ingest=room.ingest,
        archives=settings.archives,
        remote=remote,
        came=room.flow.ask_priors,
    ).register()


def create_app(room: Room | None = None) -> ASGIApp:
    """The ASGI app over a room; without one, it opens its own from the settings at start-up (for uvicorn)."""
    settings = room.settings if room else Settings()  # type: ignore[call-arg]
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if room is not None:
            app.state.room = room
            _register(room, metrics.registry)
            yield
            return
        opened = build_room(settings)
        app.state.room = await anyio.to_thread.run_sync(opened.__enter__)
        _register(app.state.room, metrics.registry)
        gc.collect()
        gc.freeze()  # what start-up made stays; a full collection would stop everything for some 50 ms
        gc.set_threshold(_GC_OBJECTS, 20, 50)
        _note_the_end(app.state.room)
        await anyio.to_thread.run_sync(report_restart, app.state.room.engine, app.state.room.clock.now())
        worker = working(app.state.room, threads=settings.job_threads if settings.embedded_worker else 0)
        worker.__enter__()
        try:
            yield
        finally:
            await anyio.to_thread.run_sync(worker.__exit__, None, None, None)
            await anyio.to_thread.run_sync(opened.__exit__, None, None, None)

    app = Starlette(
        routes=[
            Mount("/dicomweb/f/{facility}", routes=DICOMWEB),
            Mount("/dicomweb", routes=DICOMWEB),
            *oauth.routes,
            *fhir.roots,
            Mount("/fhir/f/{facility}", routes=[*sockets.routes, *fhir.routes]),
            Mount("/fhir", routes=[*sockets.routes, *fhir.routes]),
            Mount("/ohif", routes=viewer_routes()),
            *desk.routes,
            *worklist.routes,
            *commands.routes,
            *report_documents.routes,
            *reports.routes,
            *deliveries.routes,
            *inbox.routes,
            *followups.routes,
            *templates.routes,
            *prices.routes,
            *peer_review.routes,
            *patients.routes,
            *reconciling.routes,
            Route("/", _to_viewer),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", scrape),
        ],
        exception_handlers={
            ReadingRoomError: on_error,
            HTTPException: on_no_route,
            sa.exc.OperationalError: on_outage,
            Exception: on_accident,
        },
        lifespan=lifespan,
    )
    app.state.metrics = metrics
    if room is not None:
        app.state.room = room

    async def recognise(token: str, root: str) -> Actor:
        room: Room = app.state.room
        known = room.tokens.known(token, root=root)
        return await room.read(room.tokens.check, token, root=root) if known is None else known

    return Edge(app, settings=settings, metrics=metrics, recognise=recognise)


def _register(room: Room, registry: CollectorRegistry) -> None:
    """Show on the metrics page what the room counts."""
    for collector in (room.codecs.losses, room.hooks.calls, room.hooks.seconds):
        registry.register(collector)


def _note_the_end(room: Room) -> None:
    """Have the signals that stop the server say so in the room too.

    uvicorn waits for streams, which wait for it; and it cuts off WebSockets, so it hears of the signal a moment later
    where there are any.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        before = signal.getsignal(number)

        def told(number: int, frame: FrameType | None, before: Any = before) -> None:
            room.is_stopping.set()
            if callable(before) and room.channels:
                loop.call_soon_threadsafe(loop.call_later, PARTING_SECONDS, before, number, frame)
            elif callable(before):
                before(number, frame)

        signal.signal(number, told)


async def _to_viewer(_request: Request) -> Response:
    return RedirectResponse("/ohif/")


async def healthz(_request: Request) -> Response:
    """The process answers."""
    return PlainTextResponse("ok\n")


async def readyz(request: Request) -> Response:
    """The catalog answers, so requests can be served."""
    room: Room = request.app.state.room
    try:
        await room.read_apart(lambda connection: connection.execute(sa.select(t.facility.c.id).limit(1)).all())
    except sa.exc.SQLAlchemyError as error:
        raise Unavailable(f"The catalog does not answer ({type(error).__name__}).", retry_after=5) from error
    return PlainTextResponse("ready\n")


async def scrape(request: Request) -> Response:
    """Counters and histograms for Prometheus; of all workers where PROMETHEUS_MULTIPROC_DIR is set."""
    registry = request.app.state.metrics.registry
    room: Room = request.app.state.room
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    counted = generate_latest(registry)
    with suppress(sa.exc.SQLAlchemyError):  # what else is counted is worth the more when the catalog does not answer
        gauges = CollectorRegistry()
        gauges.register(await anyio.to_thread.run_sync(measure, room, limiter=room.db))
        counted += generate_latest(gauges)
    plugins = CollectorRegistry()
    plugins.register(room.hooks.collector())
    counted += await anyio.to_thread.run_sync(generate_latest, plugins, limiter=room.db)
    return Response(counted, media_type=CONTENT_TYPE_LATEST)
