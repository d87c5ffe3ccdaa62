"""Retrieve studies, series, instances and frames (WADO-RS, PS3.18 10.4): parse, find, send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from zlib import crc32

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.auth import caller_of
from server.dicomweb import bulk, metadata
from server.dicomweb.files import (
    as_received,
    file_body,
    find_all,
    instance_url,
    original_of,
    version_of,
    with_version,
)
from server.dicomweb.frames import agreed_frame, found_spec, frame_as, frame_numbers, is_transcoded, known_spec
from server.dicomweb.kept import Keepings, keepings_of
from server.dicomweb.negotiation import (
    DEFLATED,
    Accept,
    Offer,
    accepted,
    agree,
    choose,
    frame_offers,
    instance_offers,
)
from server.dicomweb.respond import Made, Part, Piece, multipart, not_modified, single_part, weak
from server.dicomweb.zipped import ZIP, in_a_zip, zipped
from server.room import Room
from storage.catalog.find import StoredInstance, find_instance
from storage.encode import GENERATION


async def retrieve_frames(request: Request) -> Response:
    """Retrieve frames of an instance (PS3.18 10.4.1.1.6), in the order asked for.

    This is the path that scrolling waits for: one look whether the catalog has changed, one read, no thread.
    """
    room: Room = request.app.state.room
    caller, path, keepings = caller_of(request), request.path_params, keepings_of(request)
    uids, version = (path["study"], path["series"], path["instance"]), version_of(request)
    instance = await keepings.located.find(room, caller.scope, *uids, version)
    numbers = frame_numbers(path["frames"], instance)
    accept = accepted(request)
    offers = frame_offers(instance.transfer_syntax, known_spec(instance), has_single_part=len(numbers) == 1)
    if instance.transfer_syntax == DEFLATED and not agree(accept, offers):
        spec = await found_spec(room, keepings, instance)
        offers = frame_offers(instance.transfer_syntax, spec, has_single_part=len(numbers) == 1)
    if unchanged := not_modified(request, _frames_etag(instance, choose(accept, offers))):
        return unchanged
    offer, first = await agreed_frame(room, keepings, instance, numbers[0], accept, offers)

    def later(number: int) -> Made:
        async def make() -> AsyncIterator[bytes | memoryview]:
            yield memoryview(await frame_as(room, keepings, instance, number, offer))

        return Made(make)

    etag = _frames_etag(instance, offer)
    bodies: list[Sequence[Piece]] = [[first], *([later(number)] for number in numbers[1:])]
    if not offer.multipart:
        return await single_part(request, room, offer, bodies[0], etag=etag)
    root = f"{instance_url(caller.service_root, instance)}/frames/"
    parts = (
        Part(media_type=offer.part_type, location=with_version(f"{root}{number}", version), body=body)
        for number, body in zip(numbers, bodies, strict=True)
    )
    return await multipart(request, room, offer.name, parts, etag=etag)


def _frames_etag(instance: StoredInstance, offer: Offer) -> str:
    how = f"{offer.transfer_syntax}-{GENERATION}" if is_transcoded(instance, offer) else "frame"
    return f'"{instance.bytes_etag}-{how}"'


async def retrieve_instance(request: Request) -> Response:
    """Retrieve an instance as a Part 10 file (PS3.18 10.4.1.1.1)."""
    room: Room = request.app.state.room
    caller, path = caller_of(request), request.path_params
    uids, version = (path["study"], path["series"], path["instance"]), version_of(request)
    instance = await room.read(find_instance, caller.scope, *uids, version)
    if original_of(request):
        instance = as_received(instance)
    accept = accepted(request)
    offers = await _offers(room, keepings_of(request), instance, accept, has_single_part=True)
    offer = choose(accept, (*offers, *in_a_zip(offers), bulk.ALL))
    if offer == bulk.ALL:
        return await bulk.instance_bulk(request)
    return await send_instance(request, instance, offer)


async def send_instance(request: Request, instance: StoredInstance, offer: Offer, *, url: str = "") -> Response:
    """An instance as a Part 10 file, as was agreed; `url` where it is no instance of a study."""
    room: Room = request.app.state.room
    is_anew = offer.transfer_syntax != instance.transfer_syntax or instance.overlay_version
    how = f"-{offer.transfer_syntax}-{GENERATION}" if is_anew else ""
    etag = f'"{instance.etag}{how}"' if offer.media_type != ZIP else weak(f'"{instance.etag}{how}-zip"')
    if unchanged := not_modified(request, etag):
        return unchanged
    if offer.media_type == ZIP:
        return await zipped(request, room, [(instance, offer)], name=instance.instance_uid, etag=etag)
    body = file_body(room, instance, offer)
    if not offer.multipart:
        return await single_part(request, room, offer, body, etag=etag)
    url = url or instance_url(caller_of(request).service_root, instance)
    location = with_version(url, version_of(request), original=original_of(request))
    part = Part(media_type=offer.part_type, location=location, body=body)
    return await multipart(request, room, offer.name, [part], etag=etag)


async def retrieve_series(request: Request) -> Response:
    """Retrieve the instances of a series, each as a Part 10 file."""
    return await _retrieve_all(request, request.path_params["study"], request.path_params["series"])


async def retrieve_study(request: Request) -> Response:
    """Retrieve the instances of a study, each as a Part 10 file."""
    return await _retrieve_all(request, request.path_params["study"], None)


async def _retrieve_all(request: Request, study_uid: str, series_uid: str | None) -> Response:
    room: Room = request.app.state.room
    caller, accept = caller_of(request), accepted(request)
    is_original = original_of(request)
    of, instances = await room.read_apart(find_all, caller.scope, study_uid, series_uid)
    if is_original:
        instances = [as_received(instance) for instance in instances]
    etag = f'W/"{of.id}-{of.version}-{crc32(repr((accept, is_original)).encode()):x}"'
    if unchanged := not_modified(request, etag):
        return unchanged
    there_are = [
        await _offers(room, keepings_of(request), instance, accept, has_single_part=False) for instance in instances
    ]
    in_parts = tuple(dict.fromkeys(offer for offers in there_are for offer in offers))
    best = choose(accept, (*in_parts, *in_a_zip(in_parts), bulk.ALL))
    if best == bulk.ALL:
        return await (bulk.series_bulk if series_uid else bulk.study_bulk)(request)
    is_zip = best.media_type == ZIP
    chosen = [
        (instance, offer)
        for instance, offers in zip(instances, there_are, strict=True)
        if (offer := agree(accept, in_a_zip(offers) if is_zip else offers))
    ]
    missing = len(instances) - len(chosen)
    warning = f"{missing} of {len(instances)} instances are in no acceptable transfer syntax" if missing else ""
    if is_zip:
        return await zipped(request, room, chosen, name=series_uid or study_uid, etag=etag, warning=warning)
    parts = (
        Part(
            media_type=offer.part_type,
            location=with_version(instance_url(caller.service_root, instance), None, original=is_original),
            body=file_body(room, instance, offer),
        )
        for instance, offer in chosen
    )
    return await multipart(request, room, "application/dicom", parts, etag=etag, warning=warning)


async def _offers(
    room: Room, keepings: Keepings, instance: StoredInstance, accept: Accept, *, has_single_part: bool
) -> tuple[Offer, ...]:
    """What can be sent of an instance; a deflated one is looked into only where it is not wanted as it is."""
    offers = instance_offers(instance.transfer_syntax, known_spec(instance), has_single_part=has_single_part)
    if instance.transfer_syntax == DEFLATED and not agree(accept, offers):
        spec = await found_spec(room, keepings, instance)
        offers = instance_offers(instance.transfer_syntax, spec, has_single_part=has_single_part)
    return offers


routes = [
    Route("/studies/{study}/series/{series}/instances/{instance}/frames/{frames}", retrieve_frames),
    *metadata.routes,
    *bulk.routes,
    Route("/studies/{study}/series/{series}/instances/{instance}", retrieve_instance),
    Route("/studies/{study}/series/{series}", retrieve_series),
    Route("/studies/{study}", retrieve_study),
]
