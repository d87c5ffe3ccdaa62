"""The `dicom_frame` codec: zarr readers decode a chunk that is a DICOM frame's bitstream as received.

Found by zarr (format 3) through the entry-point group ``zarr.codecs`` and by zarr format 2 and kerchunk readers
through ``numcodecs.codecs``. It only decodes: DICOM frames are written as they were received.
"""

from __future__ import annotations

import asyncio
from collections.abc import Buffer, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numcodecs.abc
import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec

from readingroom.errors import Invalid, NotDicom, Refused
from storage.objects import ArraySpec
from storage.pixels import NATIVE, decode_chunk

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec as ChunkSpec
    from zarr.core.buffer import Buffer as ZarrBuffer
    from zarr.core.buffer import NDBuffer
    from zarr.core.common import JSON
    from zarr.core.dtype.wrapper import TBaseDType, TBaseScalar, ZDType
    from zarr.core.metadata.v3 import ChunkGridMetadata

CODEC_NAME = "dicom_frame"

_PIXEL_ELEMENTS: Mapping[str, Literal["7FE00008", "7FE00009"]] = {"OF": "7FE00008", "OD": "7FE00009"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameEncoding:
    """The codec's configuration: what a decoder must know of a frame besides the shape of its chunk.

    The names are those of the DICOM attributes. `pixel_vr` tells float pixels (``OF``, ``OD``) and big-endian words
    (``OW``) apart; `framing` is ``items`` where the chunk spans the item headers of several fragments.
    """

    transfer_syntax_uid: str
    photometric_interpretation: str
    bits_allocated: int
    bits_stored: int
    pixel_representation: int
    planar_configuration: int
    pixel_vr: str
    framing: Literal["none", "items"]

    @classmethod
    def read(cls, configuration: Mapping[str, Any]) -> Self:
        """Check a configuration from outside: all keys, no others, each of its type."""
        kinds = {field.name: int if field.type == "int" else str for field in fields(cls)}
        if wrong := kinds.keys() ^ configuration.keys():
            raise Invalid(f"the {CODEC_NAME} codec takes exactly {', '.join(kinds)}; wrong or missing: {sorted(wrong)}")
        for name, kind in kinds.items():
            if not isinstance(configuration[name], kind) or isinstance(configuration[name], bool):
                raise Invalid(
                    f"{name} of the {CODEC_NAME} codec is {configuration[name]!r}, not of type {kind.__name__}"
                )
        if configuration["framing"] not in ("none", "items"):
            raise Invalid(f"framing of the {CODEC_NAME} codec is {configuration['framing']!r}, not 'none' or 'items'")
        if configuration["bits_allocated"] not in (1, 8, 16, 32, 64):
            raise Invalid(
                f"bits_allocated of the {CODEC_NAME} codec is {configuration['bits_allocated']}, not 1, 8, 16, 32 or 64"
            )
        return cls(**configuration)

    def spec(self, chunk_shape: tuple[int, ...]) -> ArraySpec:
        """Give the spec of a chunk of shape ``(frames, rows, columns[, samples])``."""
        if len(chunk_shape) not in (3, 4):
            raise Invalid(f"a chunk of frames is (frames, rows, columns[, samples]), not {chunk_shape}")
        frames, rows, columns, samples = (*chunk_shape, 1)[:4]
        is_native = self.transfer_syntax_uid in NATIVE
        is_packed = is_native and self.bits_allocated == 1 and frames > 1
        return ArraySpec(
            transfer_syntax=self.transfer_syntax_uid,
            rows=rows,
            columns=columns,
            samples=samples,
            bits_allocated=self.bits_allocated,
            bits_stored=self.bits_stored,
            signed=bool(self.pixel_representation),
            planar_configuration=self.planar_configuration,
            photometric=self.photometric_interpretation,
            frames=frames,
            pixel_element=_PIXEL_ELEMENTS.get(self.pixel_vr, "7FE00010"),
            pixel_vr=self.pixel_vr,
            encoding="bits" if is_packed else "native" if is_native else "encapsulated",
            framing=self.framing,
        )

    def decode(self, chunk: Buffer, shape: tuple[int, ...]) -> NDArray[Any]:
        """Decode a chunk, which must fill exactly `shape`."""
        values = decode_chunk(chunk, self.spec(shape))
        if values.shape != shape:
            raise NotDicom(f"the chunk decodes to {values.shape}, its array says {shape}")
        return values


@dataclass(frozen=True)
class DicomFrame(ArrayBytesCodec):
    """A DICOM frame's bitstream as a chunk of shape ``(1, rows, columns[, samples])``, for zarr format 3.

    Values are those of `storage.pixels.decode_frame`. Native 1-bit frames that do not end on a byte are one chunk of
    all frames of their instance.
    """

    encoding: FrameEncoding

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        return cls(FrameEncoding.read(cast(Mapping[str, Any], data.get("configuration") or {})))

    def to_dict(self) -> dict[str, JSON]:
        return {"name": CODEC_NAME, "configuration": cast("JSON", asdict(self.encoding))}

    def validate(
        self,
        *,
        shape: tuple[int, ...],
        dtype: ZDType[TBaseDType, TBaseScalar],
        chunk_grid: ChunkGridMetadata,
    ) -> None:
        expected = np.dtype(self.encoding.spec(shape).dtype)
        if dtype.to_native_dtype() != expected:
            raise Invalid(
                f"frames of this {CODEC_NAME} codec hold {expected}, the array says {dtype.to_native_dtype()}"
            )

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ChunkSpec) -> int:
        raise NotImplementedError("the length of a bitstream does not follow from the shape of its frame")

    def _decode_sync(self, chunk_data: ZarrBuffer, chunk_spec: ChunkSpec) -> NDBuffer:
        values = self.encoding.decode(chunk_data.as_numpy_array(), chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)

    async def _decode_single(self, chunk_data: ZarrBuffer, chunk_spec: ChunkSpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ChunkSpec) -> ZarrBuffer | None:
        raise Refused("DICOM frames are written as received; this codec does not encode")

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ChunkSpec) -> ZarrBuffer | None:
        return self._encode_sync(chunk_data, chunk_spec)


class DicomFrameV2(numcodecs.abc.Codec):
    """The same as a numcodecs compressor, for zarr format 2 and kerchunk references.

    A numcodecs codec never learns the shape of its chunk, so ``frames``, ``rows``, ``columns`` and ``samples`` are
    part of its configuration.
    """

    codec_id = CODEC_NAME

    def __init__(self, *, frames: int = 1, rows: int, columns: int, samples: int = 1, **configuration: Any) -> None:
        self.encoding = FrameEncoding.read(configuration)
        self.shape = (frames, rows, columns) if samples == 1 else (frames, rows, columns, samples)

    def get_config(self) -> dict[str, Any]:
        sizes = dict(zip(("frames", "rows", "columns", "samples"), self.shape, strict=False))
        return {"id": self.codec_id, **sizes, **asdict(self.encoding)}

    def decode(self, buf: Buffer, out: NDArray[Any] | None = None) -> NDArray[Any]:
        values = self.encoding.decode(buf, self.shape)
        if out is None:
            return values
        np.copyto(np.frombuffer(out, values.dtype).reshape(values.shape), values)
        return out

    def encode(self, buf: Buffer) -> Buffer:
        raise Refused("DICOM frames are written as received; this codec does not encode")
