"""The page that says what comes out in which transfer syntax, read from the tables of the encoders themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pydicom.uid import UID

from server.dicomweb.negotiation import LOSSY
from storage.arrays import ArraySpec
from storage.encode import TARGETS, is_lossy, keeps_bits, refusal
from storage.part10 import EXPLICIT_LITTLE
from storage.pixels import DECODABLE

_HEAD = """\
# Transcoding

Made from `storage/encode.py` by `make docs`.

Frames, instances, series and studies are retrieved in the transfer syntax that a client names (PS3.18 8.7.3):

```
Accept: multipart/related; type="image/jphc"; transfer-syntax=1.2.840.10008.1.2.4.201
Accept: application/dicom; transfer-syntax=1.2.840.10008.1.2.4.80
```

Who names none gets Explicit VR Little Endian; `transfer-syntax=*` gets what is stored, and never costs a transcoding.
A media type of frames alone (`image/jls`) gets the bitstream as stored where it is of that type, else the media type's
default transfer syntax of Table 8.7.3-5.

- Nothing is lost unless that is asked for by name: the one lossy encoding is JPEG Baseline, quality 90, of 8 bits, for
  frames. A transfer syntax that allows a loss (JPEG-LS Near-Lossless, JPEG 2000, HTJ2K, JPEG XL) holds what its
  lossless sibling would.
- An instance is never sent with a loss that it did not have. It would be another instance, with a UID of its own
  (PS3.3 C.7.6.1.1.5), and no longer what the URL names: 406.
- What is stored with a loss comes out with exactly the pixels that it is decompressed to. Lossy Image Compression
  (0028,2110) stays, and is set where the sender left it out although the transfer syntax is always lossy.
- A frame is encoded once and kept as a rendition (setting `rendition_bytes`); a codec's first frame of each kind is
  decoded again and compared before it is sent, in files every frame is. What does not come back as it was is 406.
- JPEG XL JPEG Recompression is made of JPEG Baseline alone, whose bits it keeps, and gives them back.
- RGB becomes YBR_RCT in JPEG 2000 and HTJ2K, as their component transform is called; YBR_FULL_422 is upsampled to
  YBR_FULL, Planar Configuration becomes 0. Frames of a file are a fragment each, behind a Basic Offset Table, or an
  Extended Offset Table beyond 4 GiB.
"""

_BY_SYNTAX = """
## By transfer syntax

`stored`: as it is. `exact`: the same pixels. `decoded`: the pixels that a bitstream which may be lossy is decompressed
to. `lossy`: frames alone. `406`: not acceptable.

"""

_BY_PIXELS = """
## By pixels

Whether native pixels are carried. JPEG XL from JPEG takes 8 bits, of MONOCHROME2, YBR_FULL_422 or RGB.

"""

_NAMES: Mapping[str, str] = {
    "1.2.840.10008.1.2.1": "Explicit",
    "1.2.840.10008.1.2.1.99": "Deflated",
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless SV1",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near-Lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL from JPEG",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.4.201": "HTJ2K Lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K RPCL",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frames",
}

_GREY = ArraySpec(
    transfer_syntax=EXPLICIT_LITTLE,
    rows=512,
    columns=512,
    samples=1,
    bits_allocated=16,
    bits_stored=12,
    signed=False,
    planar_configuration=0,
    photometric="MONOCHROME2",
    frames=1,
    pixel_element="7FE00010",
    pixel_vr="OW",
    encoding="native",
)
_BYTES = replace(_GREY, bits_allocated=8, bits_stored=8)
_COLOUR = replace(_BYTES, samples=3, photometric="RGB")

_KINDS: Mapping[str, ArraySpec] = {
    "grey, 8 bits": _BYTES,
    "grey, 8 bits, signed": replace(_BYTES, signed=True),
    "grey, 9 to 16 bits": _GREY,
    "grey, 9 to 16 bits, signed": replace(_GREY, signed=True),
    "grey, 32 bits": replace(_GREY, bits_allocated=32, bits_stored=32),
    "grey, 1 of 8 bits": replace(_BYTES, bits_stored=1),
    "palette, 8 or 16 bits": replace(_BYTES, photometric="PALETTE COLOR"),
    "RGB, 8 bits": _COLOUR,
    "RGB, 16 bits": replace(_COLOUR, bits_allocated=16, bits_stored=16),
    "YBR_FULL or YBR_FULL_422, 8 bits": replace(_COLOUR, photometric="YBR_FULL_422"),
    "YBR_FULL, 16 bits": replace(_COLOUR, photometric="YBR_FULL", bits_allocated=16, bits_stored=16),
    "1 bit": replace(_BYTES, bits_allocated=1, bits_stored=1),
    "float, double float": replace(_GREY, bits_allocated=32, pixel_element="7FE00008"),
    "overlays in unused bits": replace(_GREY, holds_overlays=True),
    "1 row or column": replace(_GREY, rows=1),
    "CMYK, ARGB": replace(_COLOUR, samples=4, photometric="CMYK"),
}


def transcoding_page() -> str:
    """What comes out in which transfer syntax, as Markdown."""
    stored = sorted(DECODABLE, key=lambda syntax: [*map(int, syntax.split("."))])
    by_syntax = {_named(syntax): [_outcome(syntax, target) for target in TARGETS] for syntax in stored}
    by_syntax["any other: video, JPEG 2000 Part 2, JPIP, private"] = ["406"] * len(TARGETS)
    by_pixels = {kind: [_carried(spec, target) for target in TARGETS] for kind, spec in _KINDS.items()}
    return "".join((_HEAD, _BY_SYNTAX, *_table("stored", by_syntax), _BY_PIXELS, *_table("pixels", by_pixels)))


def _table(what: str, rows: Mapping[str, Iterable[str]]) -> Iterator[str]:
    yield f"| {what} | {' | '.join(_NAMES[target] for target in TARGETS)} |\n"
    yield f"|---{'|---' * len(TARGETS)}|\n"
    for name, cells in rows.items():
        yield f"| {name} | {' | '.join(cells)} |\n"


def _named(syntax: str) -> str:
    name = UID(syntax).name
    return f"{syntax} {_NAMES.get(syntax, '') if name == syntax else name.partition(':')[0]}".strip()


def _outcome(stored: str, target: str) -> str:
    """What becomes of frames in a transfer syntax, if they are of any kind that the target carries."""
    if stored == target:
        return "stored"
    carried = [spec for kind in _KINDS.values() if not refusal(spec := replace(kind, transfer_syntax=stored), target)]
    if not carried:
        return "406"
    if all(is_lossy(spec, target) for spec in carried):
        return "lossy"
    return "decoded" if stored in LOSSY and not keeps_bits(stored, target) else "exact"


def _carried(spec: ArraySpec, target: str) -> str:
    if spec.transfer_syntax == target or not refusal(spec, target):
        return "lossy" if is_lossy(spec, target) else "yes"
    return "406"
