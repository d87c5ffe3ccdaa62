"""Rendered resources and thumbnails of studies, series, instances and frames (PS3.18 10.4.1.1.3, 10.4.1.1.4).

One part shows one thing: of a series, the middle of the middle image. A study in one part is refused where that would
hide some of it (10.4.4). A client that asks for multipart gets all that can be rendered as it accepts: a picture of
every frame, every report, every document.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from readingroom.errors import Invalid, NotAcceptable, NotFound
from server.auth import Caller, caller_of
from server.dicomweb.bulk import Value, body_of
from server.dicomweb.documents import check_charset, document, document_offers, guarded
from server.dicomweb.files import find_all, instance_url, version_of
from server.dicomweb.frames import frame_numbers
from server.dicomweb.kept import Keepings, keepings_of
from server.dicomweb.look import Asked, check_for_state, parse_rendering, parse_thumbnail
from server.dicomweb.negotiation import COMPRESSED, Accept, Offer, accepted, agree, choose
from server.dicomweb.pictures import Shot, card_for, is_image, is_video, moving, references_of, still
from server.dicomweb.respond import Made, Part, Piece, multipart, not_modified, read_pieces, single_part, size_of
from server.rendering.encoding import GIF, JP2, JPEG, MP4, PNG, STILL
from server.rendering.look import Look
from server.rendering.state import RENDERED, Reference
from server.room import Room
from storage.catalog.find import StoredInstance, find_instance

_AHEAD_BYTES = 8 << 20
"""So much of a multipart answer is made before its status is sent, to tell of what cannot be rendered."""

_STILL = tuple(Offer(media_type=media_type) for media_type in STILL)
_MULTI_FRAME = tuple(Offer(media_type=media_type) for media_type in (JPEG, PNG, GIF, JP2, MP4))
_MOVING = tuple(Offer(media_type=media_type) for media_type in (GIF, MP4))
_MOVES = frozenset({GIF, MP4})

Shots = tuple[Shot, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An instance to be rendered, or some of its frames.

    Attributes
    ----------
    shots
        What there is to be seen of an image, in order; of a presentation state, the images that it shows.
    offers
        What it can be rendered as, in one part.
    chosen
        The shot that stands for all.
    is_moving
        The shots follow each other in time or space, and may be sent as one moving picture.
    """

    instance: StoredInstance
    shots: Shots
    offers: tuple[Offer, ...]
    chosen: int = 0
    is_moving: bool = False

    def in_one(self, offer: Offer) -> Shots:
        """The shots of a single part: the chosen one, or all where they move."""
        if self.is_moving and offer.media_type in _MOVES:
            return self.shots
        return self.shots[self.chosen : self.chosen + 1]

    def in_parts(self, offer: Offer) -> list[Shots]:
        """The shots of each part of a multipart answer."""
        if not self.shots or (self.is_moving and offer.media_type in _MOVES):
            return [self.shots]
        return [(shot,) for shot in self.shots]


async def rendered(request: Request) -> Response:
    """Retrieve a rendered study, series or instance, or rendered frames."""
    asked = parse_rendering(request.scope["query_string"])
    accept = accepted(request)
    found, numbers = await _instances(request)
    targets = await targets_of(request, found, numbers, asked)
    singles = _in_one_part(request, found, targets, numbers)
    in_parts = tuple(replace(offer, multipart=True) for target in targets for offer in target.offers)
    if not in_parts:
        raise NotAcceptable(_nothing(found))
    offer = choose(accept, (*singles, *dict.fromkeys(in_parts)))
    if not offer.multipart:
        target = _representative([target for target in targets if offer in target.offers])
        answer = await single(request, target, asked.look, offer)
    else:
        answer = await _in_parts(request, found, targets, asked.look, accept)
    if asked.warning:
        answer.headers.append("warning", f'299 readingroom "{asked.warning}"')
    return answer


def _in_one_part(
    request: Request, found: Sequence[StoredInstance], targets: Sequence[Target], numbers: list[int] | None
) -> tuple[Offer, ...]:
    """What can be sent in a single part: of a list of frames and of a study (10.4.4), nothing that leaves some out."""
    offers = dict.fromkeys(offer for target in targets for offer in target.offers)
    is_study = "series" not in request.path_params
    if is_study and len(found) > 1:
        return ()
    if (is_study and any(target.is_moving for target in targets)) or (numbers and len(numbers) > 1):
        return tuple(offer for offer in offers if offer.media_type in _MOVES)
    return tuple(offers)


async def thumbnail(request: Request) -> Response:
    """Retrieve the thumbnail of a study, series, instance or frame: always one picture."""
    look = parse_thumbnail(request.scope["query_string"])
    offer = choose(accepted(request), _STILL)
    found, numbers = await _instances(request)
    targets = await targets_of(request, found, numbers, Asked(look=look))
    pictured = [target for target in targets if target.shots]
    target = _representative(pictured) if pictured else Target(instance=found[0], shots=(), offers=_STILL)
    target = replace(target, is_moving=False)
    return await single(request, target, look, offer)


async def _instances(request: Request) -> tuple[list[StoredInstance], list[int] | None]:
    """The instances of a path, and the frames that it names."""
    room: Room = request.app.state.room
    scope, path = caller_of(request).scope, request.path_params
    if "instance" not in path:
        _, instances = await room.read_apart(find_all, scope, path["study"], path.get("series"))
        return instances, None
    uids = path["study"], path["series"], path["instance"]
    instance = await keepings_of(request).located.find(room, scope, *uids, version_of(request))
    return [instance], frame_numbers(path["frames"], instance) if "frames" in path else None


async def targets_of(
    request: Request, instances: Sequence[StoredInstance], numbers: list[int] | None, asked: Asked
) -> list[Target]:
    """What can be rendered of the instances; those of which nothing can are left out."""
    state = await _state_by_name(request, instances, asked)
    targets = []
    for instance in instances:
        if is_image(instance):
            targets.append(_image_target(instance, numbers, state))
        elif instance.sop_class in RENDERED:
            if len(instances) == 1:
                check_for_state(asked.look)
            shots = await _shots_of_state(request, instance)
            if shots:
                targets.append(Target(instance=instance, shots=shots, offers=_STILL))
        elif is_video(instance) and numbers is None:
            names = COMPRESSED[instance.transfer_syntax]
            targets.append(Target(instance=instance, shots=(), offers=tuple(Offer(media_type=n) for n in names)))
        elif offers := document_offers(instance):
            targets.append(Target(instance=instance, shots=(), offers=offers))
    return targets


def _image_target(instance: StoredInstance, numbers: list[int] | None, state: StoredInstance | None) -> Target:
    count = instance.frame_count
    wanted = numbers or range(1, count + 1)
    is_moving = len(wanted) > 1
    return Target(
        instance=instance,
        shots=tuple(Shot(instance, number, state) for number in wanted),
        offers=_MULTI_FRAME if is_moving else _STILL,
        chosen=0 if numbers else count // 2,
        is_moving=is_moving,
    )


async def _state_by_name(request: Request, instances: Sequence[StoredInstance], asked: Asked) -> StoredInstance | None:
    """The presentation state that the query names; 400 where it is none, or not for these images (PS3.18 9.5.2.3)."""
    if asked.state is None:
        return None
    room: Room = request.app.state.room
    caller, study = caller_of(request), request.path_params["study"]
    try:
        state = await room.read(find_instance, caller.scope, study, *asked.state)
    except NotFound:
        raise Invalid(f"There is no presentation state {asked.state[1]} in series {asked.state[0]}.") from None
    if state.sop_class not in RENDERED:
        raise Invalid(f"Instance {asked.state[1]} is no presentation state that is rendered.")
    named = {reference.instance_uid for reference in await _references(request, state)}
    if any(is_image(instance) and instance.instance_uid not in named for instance in instances):
        raise Invalid(f"Presentation state {asked.state[1]} is not for this image.")
    return state


async def _references(request: Request, state: StoredInstance) -> list[Reference]:
    return await references_of(request.app.state.room, keepings_of(request), state)


async def _shots_of_state(request: Request, state: StoredInstance) -> Shots:
    """The frames that a presentation state shows, as far as they are here."""
    room: Room = request.app.state.room
    named = await _references(request, state)
    scope = caller_of(request).scope
    held: dict[str, StoredInstance] = {}
    for series_uid in dict.fromkeys(reference.series_uid for reference in named):
        try:
            _, images = await room.read_apart(find_all, scope, state.study_uid, series_uid)
        except NotFound:
            continue
        held |= {image.instance_uid: image for image in images if is_image(image)}
    return tuple(
        Shot(image, number, state)
        for reference in named
        if (image := held.get(reference.instance_uid))
        for number in reference.frames or range(1, image.frame_count + 1)
        if number <= image.frame_count
    )


def _nothing(instances: Sequence[StoredInstance]) -> str:
    """Why there is nothing to be seen, in the words for one instance or for many."""
    classes = ", ".join(sorted({instance.sop_class for instance in instances})[:5])
    if all(instance.sop_class in RENDERED for instance in instances):
        return "None of the images that this presentation state shows is here."
    return f"There is nothing here that can be rendered: no image, report or document, but instances of {classes}."


def _representative(targets: Sequence[Target]) -> Target:
    """The middle image of the longest series of images; where there are none, the first of what there is."""
    images = [target for target in targets if target.shots and target.shots[0].instance is target.instance]
    if not images:
        return targets[0]
    counts = Counter(target.instance.series_uid for target in images)
    longest = max(counts, key=counts.__getitem__)
    series = [target for target in images if target.instance.series_uid == longest]
    return series[len(series) // 2]


async def single(request: Request, target: Target, look: Look, offer: Offer) -> Response:
    """One target in one part; of a multi-frame image its chosen frame, or all where the media type moves."""
    room: Room = request.app.state.room
    shots = target.in_one(offer)
    etag = _etag([(target.instance, shots, offer)], look)
    if unchanged := not_modified(request, etag):
        return unchanged
    if offer.media_type.startswith("text/"):
        check_charset(request)
    body = await _body(request, target.instance, shots, look, offer)
    return guarded(await single_part(request, room, offer, body, etag=etag), offer)


async def _in_parts(
    request: Request,
    found: Sequence[StoredInstance],
    targets: Sequence[Target],
    look: Look,
    accept: Accept,
) -> Response:
    """All targets that the client accepts, a part for each picture; 206 with a Warning where some are left out."""
    room: Room = request.app.state.room
    planned: list[tuple[StoredInstance, Shots, Offer]] = []
    for target in targets:
        offer = agree(accept, tuple(replace(offer, multipart=True) for offer in target.offers))
        if offer is None:
            continue
        planned += [(target.instance, shots, offer) for shots in target.in_parts(offer)]
    etag = _etag(planned, look)
    if unchanged := not_modified(request, etag):
        return unchanged
    if any(offer.media_type.startswith("text/") for *_, offer in planned):
        check_charset(request)
    missing = len(found) - len({instance.id for instance, *_ in planned})
    parts, failures = await _parts(request, planned, look)
    missing += len({uid for uid, _ in failures})
    warning = f"{missing} of {len(found)} instances are left out, in whole or in part" if missing else ""
    if failures:
        warning += f"; {failures[0][1].message}"
    return await multipart(request, room, planned[0][2].name, parts, etag=etag, warning=warning.replace('"', "'"))


async def _parts(
    request: Request, planned: Sequence[tuple[StoredInstance, Shots, Offer]], look: Look
) -> tuple[Iterator[Part], list[tuple[str, Invalid]]]:
    """The parts, and what could not be rendered of those that were made ahead.

    What fails after that breaks the answer off: status and warning are out.
    """
    root = caller_of(request).service_root
    ahead: list[Part] = []
    failures: list[tuple[str, Invalid]] = []
    size = at = 0
    while at < len(planned) and size < _AHEAD_BYTES and request.method != "HEAD":
        instance, shots, offer = planned[at]
        at += 1
        try:
            body = await _body(request, instance, shots, look, offer)
        except Invalid as error:
            failures.append((instance.instance_uid, error))
            continue
        ahead.append(_part(root, instance, shots, offer, body))
        size += size_of(body) or 0
    if failures and not ahead and at == len(planned):
        raise failures[0][1]
    return chain(ahead, (_later(request, root, *plan, look) for plan in planned[at:])), failures


def _later(request: Request, root: str, instance: StoredInstance, shots: Shots, offer: Offer, look: Look) -> Part:
    async def make() -> AsyncIterator[bytes | memoryview]:
        async for piece in read_pieces(request.app.state.room, await _body(request, instance, shots, look, offer)):
            yield piece

    return _part(root, instance, shots, offer, [Made(make)])


def _part(root: str, instance: StoredInstance, shots: Shots, offer: Offer, body: Sequence[Piece]) -> Part:
    location = f"{instance_url(root, instance)}/rendered"
    if len(shots) == 1 and shots[0].instance is instance:
        location = f"{instance_url(root, instance)}/frames/{shots[0].number}/rendered"
    return Part(media_type=offer.part_type, location=location, body=body)


async def _body(request: Request, instance: StoredInstance, shots: Shots, look: Look, offer: Offer) -> Sequence[Piece]:
    """The bytes of one part."""
    room: Room = request.app.state.room
    keepings: Keepings = keepings_of(request)
    if len(shots) > 1:
        return [await moving(room, keepings, shots, look, offer.media_type)]
    if shots:
        return [await still(room, keepings, shots[0], look, offer.media_type)]
    if look.is_anonymous:
        return [await card_for(room, instance, look, offer.media_type)]
    if is_video(instance):
        value = Value(location="", offers=(), instance=instance, path="7FE00010")
        return await body_of(room, keepings, value, offer)
    caller: Caller = caller_of(request)
    return await document(room, keepings, caller.scope, caller.service_root, instance, look, offer)


def _etag(planned: Sequence[tuple[StoredInstance, Shots, Offer]], look: Look) -> str:
    """A validator of all that the answer depends on."""
    seen = [
        (
            instance.etag,
            offer.name,
            [(shot.instance.etag, shot.number, shot.state and shot.state.etag) for shot in shots],
        )
        for instance, shots, offer in planned
    ]
    return f'"{zlib.crc32(repr((seen, look)).encode()):08x}-{planned[0][0].etag}"'


_INSTANCE = "/studies/{study}/series/{series}/instances/{instance}"

routes = [
    Route(f"{place}/{name}", view)
    for place in (f"{_INSTANCE}/frames/{{frames}}", _INSTANCE, "/studies/{study}/series/{series}", "/studies/{study}")
    for name, view in (("rendered", rendered), ("thumbnail", thumbnail))
]
