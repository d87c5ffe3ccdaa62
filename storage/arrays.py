"""How the frames of an instance lie in a zarr array, and what comes back out of a chunk."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, overload

import numpy as np

from storage.part10 import EXPLICIT_BIG

Chunk = tuple[int, int]


class Chunks(Sequence[Chunk]):
    """``(offset, length)`` of every chunk in the file, held as the shard index holds them: 16 bytes each."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: np.ndarray[Any, np.dtype[np.uint64]]) -> None:
        self.pairs = pairs

    @classmethod
    def of(cls, pairs: Sequence[Chunk]) -> Chunks:
        return cls(np.array(pairs, dtype="<u8").reshape(-1, 2))

    @classmethod
    def stride(cls, start: int, length: int, count: int) -> Chunks:
        """Chunks of one length that follow each other."""
        pairs = np.empty((count, 2), dtype="<u8")
        pairs[:, 0] = np.arange(start, start + length * count, length, dtype="<u8") if length else start
        pairs[:, 1] = length
        return cls(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> Chunks: ...
    def __getitem__(self, index: int | slice) -> Chunk | Chunks:
        if isinstance(index, slice):
            return Chunks(self.pairs[index])
        offset, length = self.pairs[index].tolist()
        return offset, length

    def __iter__(self) -> Iterator[Chunk]:
        return map(tuple, self.pairs.tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Chunks({self.pairs.tolist()!r})" if len(self) < 4 else f"<{len(self)} chunks from {self[0]}>"

    def index_bytes(self) -> bytes:
        """As zarr's ``sharding_indexed`` writes them."""
        return self.pairs.tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRef:
    """Where the bytes of one zarr chunk lie: a frame, or all 1-bit frames of an instance of encoding ``bits``."""

    key: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """What all instances in one zarr array have in common; one array holds only equal specs.

    Attributes
    ----------
    encoding
        ``native`` (7FE00010, 7FE00008 or 7FE00009 as they are), ``encapsulated`` (one bitstream a frame), or
        ``bits`` (1-bit frames that do not end on a byte, so the instance is one chunk).
    framing
        ``items`` where a frame comes in several fragments and its chunk therefore spans the item headers.
    holds_overlays
        The bits above Bits Stored are overlay planes (PS3.5 8.1.2, as it was until 2004), to be cleared by who reads.
    """

    transfer_syntax: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    planar_configuration: int
    photometric: str
    frames: int
    pixel_element: Literal["7FE00010", "7FE00008", "7FE00009"]
    pixel_vr: str
    encoding: Literal["native", "encapsulated", "bits"]
    framing: Literal["none", "items"] = "none"
    holds_overlays: bool = False

    def digest(self) -> str:
        """16 hex digits that are the same for equal specs, today and in ten years."""
        fields = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(fields.encode()).hexdigest()[:16]

    @property
    def dtype(self) -> str:
        """The zarr data type of the stored values."""
        if self.pixel_element != "7FE00010":
            return f"float{self.bits_allocated}"
        return f"{'int' if self.signed else 'uint'}{max(self.bits_allocated, 8)}"

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Rows and columns, then samples where there are several."""
        return (self.rows, self.columns) if self.samples == 1 else (self.rows, self.columns, self.samples)

    @property
    def swapped(self) -> int:
        """Bytes of the words that lie in big-endian order, or 1 where bytes are as they should be."""
        if self.transfer_syntax != EXPLICIT_BIG:
            return 1
        return self.bits_allocated // 8 if self.bits_allocated > 8 else 2 if self.pixel_vr == "OW" else 1

    def chunk_key(self, slot: int) -> str:
        """Where the instance in `slot` lies below the array: ``c.7.0.0``."""
        return ".".join(("c", str(slot), *("0" for _ in self.frame_shape)))

    def zarr_json(self, slots: int, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The zarr v3 metadata of an array with `slots` instances: a shard is an instance, an inner chunk a frame."""
        shape = list(self.frame_shape)
        frames_a_chunk = self.frames if self.encoding == "bits" else 1
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        sharding = {
            "chunk_shape": [frames_a_chunk, *shape],
            "codecs": self._codecs(),
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [self.frames * slots, *shape],
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [self.frames, *shape]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": 0.0 if self.dtype.startswith("float") else 0,
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": ["frame", "row", "column", "sample"][: len(shape) + 1],
            "attributes": dict(attributes),
        }

    def _codecs(self) -> list[dict[str, Any]]:
        if self._needs_own_codec():
            return [{"name": "dicom_frame", "configuration": self.codec_configuration()}]
        endian = "big" if self.swapped > 1 else "little"
        as_they_are = {"name": "bytes", "configuration": {"endian": endian}} if self.bits_allocated > 8 else {
            "name": "bytes"
        }  # fmt: skip
        if self.samples > 1 and self.planar_configuration == 1:
            return [{"name": "transpose", "configuration": {"order": [0, 3, 1, 2]}}, as_they_are]
        return [as_they_are]

    def _needs_own_codec(self) -> bool:
        """Whether zarr's own codecs cannot make the values of the bytes."""
        return (
            self.encoding != "native"
            or self.bits_allocated == 1
            or (self.bits_stored < self.bits_allocated and (self.signed or self.holds_overlays))
            or self.photometric == "YBR_FULL_422"
            or (self.bits_allocated == 8 and self.swapped > 1)
        )

    def codec_configuration(self) -> dict[str, Any]:
        """What the ``dicom_frame`` codec is told."""
        return {
            "transfer_syntax_uid": self.transfer_syntax,
            "photometric_interpretation": self.photometric,
            "bits_allocated": self.bits_allocated,
            "bits_stored": self.bits_stored,
            "pixel_representation": int(self.signed),
            "planar_configuration": self.planar_configuration,
            "pixel_vr": self.pixel_vr,
            "framing": self.framing,
        }


def frame_bits(spec: ArraySpec) -> int:
    """Bits of one native frame as it lies in the file (PS3.3 C.7.6.3.1.2 for subsampled colour)."""
    samples = 2 if spec.photometric == "YBR_FULL_422" else spec.samples
    return spec.rows * spec.columns * samples * spec.bits_allocated


def frame_payload(spec: ArraySpec, chunk: bytes, index: int) -> bytes:
    """One frame as WADO-RS sends it (PS3.18 8.7.3.3): a bitstream, or native in little-endian order.

    Parameters
    ----------
    chunk
        The chunk that holds the frame: of the frame alone, or of the instance where ``spec.encoding`` is ``bits``.
    index
        The frame's place in the instance, from 0.
    """
    if spec.encoding == "encapsulated":
        return chunk if spec.framing == "none" else b"".join(_fragments(chunk))
    if spec.encoding == "bits":
        return _frame_of_bits(chunk, frame_bits(spec), index)
    if spec.swapped == 1:
        return chunk
    whole = len(chunk) - len(chunk) % spec.swapped
    swapped = np.frombuffer(chunk, f"u{spec.swapped}", whole // spec.swapped).byteswap().tobytes()
    return swapped[: frame_bits(spec) // 8]


def _fragments(chunk: bytes) -> Iterator[bytes]:
    at = 0
    while at + 8 <= len(chunk):
        (length,) = struct.unpack_from("<I", chunk, at + 4)
        yield chunk[at + 8 : at + 8 + length]
        at += 8 + length


def _frame_of_bits(chunk: bytes, bits: int, index: int) -> bytes:
    """Cut one frame out of packed bits and pack it anew from a byte's start (PS3.5 8.1.1)."""
    first = bits * index
    byte, last = first // 8, (first + bits + 7) // 8
    unpacked = np.unpackbits(np.frombuffer(chunk, np.uint8, last - byte, byte), bitorder="little")
    start = first % 8
    return np.packbits(unpacked[start : start + bits], bitorder="little").tobytes()
