"""Sends STOW-RS requests and reads their answers (PS3.18 10.5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import httpx

from tests import multipart

STUDIES = "/dicomweb/studies"

AS_STORED = {"Accept": "application/dicom; transfer-syntax=*"}
"""Asks for one instance with the bytes that were sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A Store Instances Response, with what was stored and what was not by SOP Instance UID."""

    status: int
    body: dict[str, Any]

    @property
    def stored(self) -> dict[str, dict[str, Any]]:
        return {item["00081155"]["Value"][0]: item for item in self._items("00081199")}

    @property
    def failed(self) -> dict[str, int]:
        return {item["00081155"]["Value"][0]: item["00081197"]["Value"][0] for item in self._items("00081198")}

    @property
    def unnamed_failures(self) -> list[int]:
        """The reasons for parts whose SOP Instance UID could not be read (Other Failures Sequence)."""
        return [item["00081197"]["Value"][0] for item in self._items("0008119A")]

    def _items(self, tag: str) -> list[dict[str, Any]]:
        if tag not in self.body:
            return []
        assert self.body[tag]["vr"] == "SQ"
        items: list[dict[str, Any]] = self.body[tag]["Value"]
        assert items, f"{tag} is there and empty"
        return items


def send(
    client: httpx.Client,
    parts: Iterable[bytes] = (),
    *,
    to: str = STUDIES,
    body: bytes | None = None,
    content_type: str | None = None,
    accept: str = "application/dicom+json",
) -> httpx.Response:
    return client.post(
        to,
        content=multipart.encode(parts) if body is None else body,
        headers={"Content-Type": content_type or multipart.content_type(), "Accept": accept},
    )


def store(client: httpx.Client, *parts: bytes, to: str = STUDIES) -> Answer:
    response = send(client, parts, to=to)
    assert response.headers["content-type"] == "application/dicom+json"
    return Answer(response.status_code, response.json())
