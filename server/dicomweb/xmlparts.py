"""Data sets as parts of a ``multipart/related; type="application/dicom+xml"`` answer, one each (PS3.18 8.6.1.2, F)."""

from __future__ import annotations

from collections.abc import Iterable
from secrets import token_hex

from server.dicomweb.negotiation import DICOM_XML, Offer
from storage.dicomjson import MetadataJson
from storage.nativexml import to_xml

XML_PARTS = Offer(media_type=DICOM_XML, multipart=True)


class XmlParts:
    """One answer's boundary, and what is written with it."""

    def __init__(self) -> None:
        self._boundary = token_hex(16)

    @property
    def content_type(self) -> str:
        return f'multipart/related; type="{DICOM_XML}"; boundary={self._boundary}'

    def part(self, dataset: MetadataJson, location: str = "") -> bytes:
        """One part; `location` is the URL of what it represents."""
        head = f"--{self._boundary}\r\nContent-Type: {DICOM_XML}\r\n"
        if location:
            head += f"Content-Location: {location}\r\n"
        return f"{head}\r\n".encode() + to_xml(dataset) + b"\r\n"

    def end(self) -> bytes:
        """What comes after the last part."""
        return f"--{self._boundary}--\r\n".encode()

    def whole(self, datasets: Iterable[MetadataJson]) -> bytes:
        """A body that is made at once."""
        return b"".join(map(self.part, datasets)) + self.end()
