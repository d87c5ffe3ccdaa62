"""Rendered images, documents and thumbnails (PS3.18 10.4.1.1.3, 10.4.1.1.4, 8.3.5)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from conformance.dicomweb.cast import Cast
from conformance.dicomweb.checks import MAY, SHOULD, Fault, check, ensure
from conformance.dicomweb.multipart import Part
from conformance.dicomweb.peer import Answer, Peer

JPEG, PNG, GIF = "image/jpeg", "image/png", "image/gif"
JPEG_PARTS = 'multipart/related; type="image/jpeg"'
_FORMATS = {"JPEG": JPEG, "PNG": PNG, "GIF": GIF}


def picture(answer: Answer | Part) -> Image.Image:
    """The image of a single-part answer, or of a part; its format has to be what the Content-Type says."""
    try:
        image = Image.open(io.BytesIO(answer.body))
        image.load()
    except (OSError, ValueError) as error:
        raise Fault(f"the image cannot be read: {error}") from None
    said = answer.media.name
    ensure(_FORMATS.get(image.format or "") == said, f"the Content-Type is {said}, and the image is {image.format}")
    return image


def rendered(peer: Peer, cast: Cast, name: str, query: str = "", accept: str = PNG, below: str = "") -> Answer:
    """Ask for a sample rendered."""
    return peer.get(f"{cast[name].path}{below}/rendered", query, accept=accept)


def grey(answer: Answer) -> np.ndarray:
    """The grey values of a picture."""
    return np.asarray(picture(answer.expect(200)).convert("L")).astype(int)


def windowed(cast: Cast, center: float, width: float) -> np.ndarray:
    """The first CT image as a linear window shows it in 8 bits (PS3.3 C.11.2.1.2.1)."""
    dataset = cast.samples["ct1"].dataset
    stored = np.frombuffer(dataset.PixelData, "<i2").reshape(dataset.Rows, dataset.Columns)
    values = stored * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    shown = ((values - (center - 0.5)) / (width - 1) + 0.5) * 255
    return np.asarray(np.clip(shown, 0, 255))


def ensure_close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Two pictures differ by rounding only."""
    ensure(found.shape == wanted.shape, f"the picture is {found.shape}, not {wanted.shape}")
    worst = float(np.abs(found - wanted).max())
    ensure(worst <= 2, f"grey values differ by up to {worst:.0f}")


@check("REND-001", "10.4.1.1.3")
def is_offered(peer: Peer, cast: Cast) -> None:
    """An image can be retrieved rendered."""
    picture(rendered(peer, cast, "ct1", accept=JPEG).expect(200))


@check("REND-002", "8.7.4", needs="rendered")
def default_type(peer: Peer, cast: Cast) -> None:
    """A still image comes as image/jpeg to who takes anything, and is one."""
    answer = rendered(peer, cast, "ct1", accept="*/*").expect(200).expect_type(JPEG)
    picture(answer)


@check("REND-003", "8.7.4", SHOULD, needs="rendered")
def png(peer: Peer, cast: Cast) -> None:
    """A still image comes as image/png to who asks for that, and is one."""
    picture(rendered(peer, cast, "ct1", accept=PNG).expect(200).expect_type(PNG))


@check("REND-004", "8.7.4", MAY, needs="rendered")
def gif(peer: Peer, cast: Cast) -> None:
    """A still image comes as image/gif to who asks for that, and is one."""
    picture(rendered(peer, cast, "ct1", accept=GIF).expect(200).expect_type(GIF))


@check("REND-005", "8.3.5.1.3", needs="rendered")
def size_of_the_image(peer: Peer, cast: Cast) -> None:
    """Without a viewport the picture has the rows and columns of the image."""
    for name in ("ct1", "colour", "rle"):
        dataset = cast[name].dataset
        parts_or_one = rendered(peer, cast, name, below="/frames/1")
        found = picture(parts_or_one.expect(200)).size
        ensure(found == (dataset.Columns, dataset.Rows), f"{name} of {dataset.Columns} x {dataset.Rows} is {found}")


@check("REND-006", "8.3.5.1.4", needs="rendered")
def window(peer: Peer, cast: Cast) -> None:
    """window=center,width,linear shows the values as the linear function of PS3.3 says."""
    ensure_close(grey(rendered(peer, cast, "ct1", "window=-500,800,linear")), windowed(cast, -500, 800))


@check("REND-007", "8.3.5.1.4", SHOULD, needs="rendered")
def window_of_the_image(peer: Peer, cast: Cast) -> None:
    """Without a window parameter the window of the image is used."""
    ensure_close(grey(rendered(peer, cast, "ct1")), windowed(cast, 40, 400))


@check("REND-008", "8.3.5.1.4", SHOULD, needs="rendered")
def exact_window(peer: Peer, cast: Cast) -> None:
    """window=center,width,linear-exact shows the values as LINEAR_EXACT of PS3.3 says."""
    dataset = cast["ct1"].dataset
    values = np.frombuffer(dataset.PixelData, "<i2").reshape(dataset.Rows, dataset.Columns) - 1024.0
    wanted = np.clip(((values + 500) / 400 + 0.5) * 255, 0, 255)
    ensure_close(grey(rendered(peer, cast, "ct1", "window=-500,400,linear-exact")), wanted)


@check("REND-009", "8.3.5.1.4", SHOULD, needs="rendered")
def sigmoid_window(peer: Peer, cast: Cast) -> None:
    """window=center,width,sigmoid shows the values as SIGMOID of PS3.3 says."""
    dataset = cast["ct1"].dataset
    values = np.frombuffer(dataset.PixelData, "<i2").reshape(dataset.Rows, dataset.Columns) - 1024.0
    wanted = 255 / (1 + np.exp(-4 * (values + 500) / 400))
    ensure_close(grey(rendered(peer, cast, "ct1", "window=-500,400,sigmoid")), wanted)


@check("REND-010", "8.3.5.1.3", needs="rendered")
def viewport(peer: Peer, cast: Cast) -> None:
    """viewport=vw,vh scales the picture to fit, with its proportions."""
    found = picture(rendered(peer, cast, "ct1", "viewport=48,64").expect(200)).size
    ensure(found == (48, 64), f"24 x 32 in a viewport of 48 x 64 is {found}")


@check("REND-011", "8.3.5.1.3", SHOULD, needs="rendered")
def source_region(peer: Peer, cast: Cast) -> None:
    """viewport=vw,vh,sx,sy,sw,sh shows that region of the image."""
    found = grey(rendered(peer, cast, "ct1", "viewport=12,16,12,16,12,16&window=-500,800,linear"))
    ensure_close(found, windowed(cast, -500, 800)[16:32, 12:24])


@check("REND-012", "8.3.5.1.3", SHOULD, needs="rendered")
def flips(peer: Peer, cast: Cast) -> None:
    """A negative width or height of the region flips the picture."""
    wanted = windowed(cast, -500, 800)
    found = grey(rendered(peer, cast, "ct1", "viewport=24,32,0,0,-24,32&window=-500,800,linear"))
    ensure_close(found, wanted[:, ::-1])
    found = grey(rendered(peer, cast, "ct1", "viewport=24,32,0,0,24,-32&window=-500,800,linear"))
    ensure_close(found, wanted[::-1])


@check("REND-013", "8.3.5.1.2", SHOULD, needs="rendered")
def quality(peer: Peer, cast: Cast) -> None:
    """A lower quality makes a smaller JPEG."""
    high = rendered(peer, cast, "ct1", "viewport=384,512&quality=95", JPEG).expect(200)
    low = rendered(peer, cast, "ct1", "viewport=384,512&quality=5", JPEG).expect(200)
    ensure(len(low.body) < len(high.body), f"quality 5 has {len(low.body)} bytes, quality 95 {len(high.body)}")


def _refused(peer: Peer, cast: Cast, *queries: str) -> None:
    found = [
        f"{query} is answered by {status}"
        for query in queries
        if (status := rendered(peer, cast, "ct1", query).status) != 400
    ]
    ensure(not found, "; ".join(found))


@check("REND-014", "8.3.5.1.4", needs="rendered")
def wrong_windows(peer: Peer, cast: Cast) -> None:
    """A window without a number, without a width above 0, or with an unknown function is answered by 400."""
    _refused(peer, cast, "window=a,b,linear", "window=40", "window=40,400,square", "window=40,-400,linear")


@check("REND-015", "8.3.5.1.3", needs="rendered")
def wrong_viewports(peer: Peer, cast: Cast) -> None:
    """A viewport without two sizes, or with one that is no positive integer, is answered by 400."""
    _refused(
        peer, cast, "viewport=100", "viewport=wide,high", "viewport=-5,10", "viewport=0,0", "viewport=10,10,x,y,z,w"
    )


@check("REND-016", "8.3.5.1.2", needs="rendered")
def wrong_qualities(peer: Peer, cast: Cast) -> None:
    """A quality that is not an integer from 1 to 100 is answered by 400."""
    _refused(peer, cast, "quality=0", "quality=101", "quality=good")


@check("REND-017", "8.3.5.1.5", SHOULD, needs="rendered")
def wrong_profile(peer: Peer, cast: Cast) -> None:
    """An iccprofile that is none of the defined terms is answered by 400."""
    _refused(peer, cast, "iccprofile=sepia")


@check("REND-018", "8.3.5.1.5", SHOULD, needs="rendered")
def profile(peer: Peer, cast: Cast) -> None:
    """iccprofile=srgb puts an ICC profile into the picture, iccprofile=no none."""
    with_one = picture(rendered(peer, cast, "colour", "iccprofile=srgb", PNG, "/frames/1").expect(200))
    without = picture(rendered(peer, cast, "colour", "iccprofile=no", PNG, "/frames/1").expect(200))
    found: list[Any] = [one.info.get("icc_profile") for one in (with_one, without)]
    ensure(found[0] and not found[1], f"profiles of {len(found[0] or b'')} and {len(found[1] or b'')} bytes")


@check("REND-019", "8.3.5.1.1", SHOULD, needs="rendered")
def annotation(peer: Peer, cast: Cast) -> None:
    """annotation=patient,technique writes into the picture; no annotation parameter writes nothing."""
    plain = grey(rendered(peer, cast, "ct1", "viewport=384,512"))
    written = grey(rendered(peer, cast, "ct1", "viewport=384,512&annotation=patient,technique"))
    ensure(plain.shape == written.shape and not np.array_equal(plain, written), "the two pictures are the same")


@check("REND-020", "8.3", needs="rendered")
def unknown_parameters(peer: Peer, cast: Cast) -> None:
    """A parameter that nobody knows is ignored."""
    ensure_close(grey(rendered(peer, cast, "ct1", "sepia=strong")), grey(rendered(peer, cast, "ct1")))


@check("REND-021", "10.4.1.1.3", needs="rendered")
def frame(peer: Peer, cast: Cast) -> None:
    """A frame of a multi-frame image is rendered alone; two frames are two pictures."""
    found = [
        picture(rendered(peer, cast, "cine", accept=PNG, below=f"/frames/{number}").expect(200)) for number in (1, 3)
    ]
    ensure(found[0].size == found[1].size == (18, 16), f"the pictures are {found[0].size} and {found[1].size}")


@check("REND-022", "10.4.3.1", needs="rendered")
def frame_past_the_end(peer: Peer, cast: Cast) -> None:
    """A frame past the last is not rendered: 404, or 400."""
    rendered(peer, cast, "cine", below="/frames/9").expect(400, 404)


@check("REND-023", "10.4.1.1.3", SHOULD, needs="rendered")
def frames(peer: Peer, cast: Cast) -> None:
    """Several frames come as a message with a picture for each."""
    parts = rendered(peer, cast, "cine", accept=JPEG_PARTS, below="/frames/1,3").parts()
    ensure(len(parts) == 2 and all(picture(part).size == (18, 16) for part in parts), f"{len(parts)} pictures")


@check("REND-024", "10.4.1.1.3", SHOULD, needs="rendered")
def series(peer: Peer, cast: Cast) -> None:
    """A series comes rendered as a message with a picture for each image."""
    parts = peer.get(f"{cast['ct1'].series}/rendered", accept=JPEG_PARTS).parts(200, 206)
    ensure(len(parts) == 5 and all(picture(part).size == (24, 32) for part in parts), f"{len(parts)} pictures, not 5")


@check("REND-025", "10.4.1.1.3", SHOULD, needs="rendered")
def study(peer: Peer, cast: Cast) -> None:
    """A study comes rendered as a message with a picture for each image."""
    parts = peer.get(f"{cast['ct1'].study}/rendered", accept=JPEG_PARTS).parts(200, 206)
    ensure(len(parts) >= 5 and all(part.media.name == JPEG for part in parts), f"{len(parts)} pictures")


@check("REND-026", "10.4.4", SHOULD, needs="rendered")
def study_is_no_single_part(peer: Peer, cast: Cast) -> None:
    """A study rendered in a single part is answered by 406 (since 2025a; the note of Table 10.4.4-1 says "should")."""
    peer.get(f"{cast['ct1'].study}/rendered", accept=JPEG).expect(406)


@check("REND-027", "10.4.3.1", needs="rendered")
def rendered_of_nothing(peer: Peer, cast: Cast) -> None:
    """What is not there is not rendered: 404 at each level, and below another parent."""
    nowhere = cast.samples.uid("nowhere")
    peer.get(f"/studies/{nowhere}/rendered", accept=JPEG_PARTS).expect(404)
    peer.get(f"{cast['ct1'].series}/instances/{nowhere}/rendered", accept=JPEG).expect(404)
    peer.get(f"{cast['sr'].series}/instances/{cast['ct1'].uid}/rendered", accept=JPEG).expect(404)


@check("REND-028", "8.7.4", SHOULD, needs="rendered")
def document(peer: Peer, cast: Cast) -> None:
    """An encapsulated PDF comes rendered as application/pdf."""
    answer = rendered(peer, cast, "pdf", accept="application/pdf").expect(200).expect_type("application/pdf")
    ensure(answer.body.startswith(b"%PDF-"), f"the body begins with {answer.body[:8]!r}")


@check("REND-029", "8.7.4", SHOULD, needs="rendered")
def report(peer: Peer, cast: Cast) -> None:
    """A structured report comes rendered as text/html, with its text."""
    answer = rendered(peer, cast, "sr", accept="text/html").expect(200).expect_type("text/html")
    ensure(b"nobody was ill" in answer.body, "the text of the report is not in the page")


@check("REND-030", "8.7.4", SHOULD, needs="rendered")
def report_is_safe(peer: Peer, cast: Cast) -> None:
    """A report that comes as a page brings no script of its own."""
    answer = rendered(peer, cast, "sr", accept="text/html").expect(200).expect_type("text/html")
    ensure(b"<script" not in answer.body.lower(), "the page has a script")


@check("REND-031", "10.4.1.1.4", SHOULD)
def thumbnail_is_offered(peer: Peer, cast: Cast) -> None:
    """An image has a thumbnail."""
    answer = peer.get(f"{cast['ct1'].path}/thumbnail", accept=JPEG).expect(200, 302)
    ensure("location" in answer.headers or answer.media.name == JPEG, "there is neither a picture nor a place of one")


@check("REND-032", "10.4.3.3.4", needs="thumbnail")
def thumbnails(peer: Peer, cast: Cast) -> None:
    """A study, a series, an instance and a frame have one picture each as thumbnail."""
    sample = cast["cine"]
    for path in (sample.study, sample.series, sample.path, f"{sample.path}/frames/2"):
        picture(peer.get(f"{path}/thumbnail", accept=JPEG).expect(200))


@check("REND-033", "10.4.1.2", SHOULD, needs="thumbnail")
def thumbnail_in_a_viewport(peer: Peer, cast: Cast) -> None:
    """viewport=vw,vh bounds a thumbnail."""
    width, height = picture(peer.get(f"{cast['ct1'].path}/thumbnail", "viewport=12,16", accept=JPEG).expect(200)).size
    ensure(width <= 12 and height <= 16, f"the thumbnail is {width} x {height}")


@check("REND-034", "10.4.3.1", needs="thumbnail")
def thumbnail_of_nothing(peer: Peer, cast: Cast) -> None:
    """What is not there has no thumbnail: 404."""
    peer.get(f"/studies/{cast.samples.uid('nowhere')}/thumbnail", accept=JPEG).expect(404)
    peer.get(f"{cast['sr'].series}/instances/{cast['ct1'].uid}/thumbnail", accept=JPEG).expect(404)


@check("REND-035", "10.4.1.1.3", SHOULD, needs="rendered")
def presentation_state(peer: Peer, cast: Cast) -> None:
    """A presentation state comes rendered as the images that it refers to, in its window."""
    answer = peer.get(f"{cast['gsps'].path}/rendered", accept=f'multipart/related; type="{PNG}", {PNG};q=0.5').expect(
        200
    )
    pictures = (
        [picture(part) for part in answer.parts()] if answer.media.name == "multipart/related" else [picture(answer)]
    )
    ensure(pictures and all(one.width > 0 for one in pictures), "there is no picture")


@check("REND-036", "RFC 9110 13.1.2", SHOULD, needs="rendered")
def not_modified(peer: Peer, cast: Cast) -> None:
    """A picture has an entity tag of its own for each look, and is answered by 304 to who has it."""
    one, other = (
        rendered(peer, cast, "ct1", f"window={window}").expect(200) for window in ("40,400,linear", "0,99,linear")
    )
    tag = one.headers.get("etag")
    ensure(tag and tag != other.headers.get("etag"), f"the entity tags are {tag!r} and {other.headers.get('etag')!r}")
    path = f"{cast['ct1'].path}/rendered"
    peer.get(path, "window=40,400,linear", accept=PNG, headers={"If-None-Match": str(tag)}).expect(304)


@check("REND-037", "10.4.1.1.3", needs="rendered")
def colour(peer: Peer, cast: Cast) -> None:
    """A colour image comes rendered in its colours."""
    found = np.asarray(picture(rendered(peer, cast, "colour", below="/frames/1").expect(200)).convert("RGB")).astype(
        int
    )
    dataset = cast["colour"].dataset
    shape = (dataset.Rows, dataset.Columns, 3)
    wanted = np.frombuffer(dataset.PixelData, "u1")[: np.prod(shape)].reshape(shape)
    ensure(found.shape == wanted.shape and np.abs(found - wanted).max() <= 2, "the colours are others")


@check("REND-038", "10.4.1.1.3", needs="rendered")
def compressed_images(peer: Peer, cast: Cast) -> None:
    """Images of every lossless syntax come rendered alike: their pixels are the same."""
    found = {
        name: grey(rendered(peer, cast, name, "window=2048,4096,linear", below="/frames/2"))
        for name in ("rle", "jls", "j2k", "htj2k")
    }
    differ = [name for name, pixels in found.items() if not np.array_equal(pixels, found["rle"])]
    ensure(not differ, f"{', '.join(differ)} differ from rle")
    wanted = np.clip(((cast.samples.frames[1] - 2047.5) / 4095 + 0.5) * 255, 0, 255)
    ensure_close(found["rle"], wanted)
