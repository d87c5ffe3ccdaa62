"""The server under test: what is asked of it, what it answers, and the curl line that asks again."""

from __future__ import annotations

import io
import json
import shlex
import warnings
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import httpx
from pydicom import FileDataset, dcmread
from pydicom.errors import InvalidDicomError

from conformance.dicomweb.channel import Connection, Listen, listen
from conformance.dicomweb.checks import Fault
from conformance.dicomweb.multipart import Malformed, MediaType, Multipart, Part, read_media_type, read_multipart

JSON = "application/dicom+json"
DICOM = "application/dicom"
OCTETS = "application/octet-stream"
DICOM_PARTS = 'multipart/related; type="application/dicom"'
XML_PARTS = 'multipart/related; type="application/dicom+xml"'
OCTET_PARTS = 'multipart/related; type="application/octet-stream"'

_SECRET = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})
_NOISE = frozenset({"host", "connection", "user-agent", "accept-encoding", "content-length"})
_OF_THE_CLIENT = _NOISE | {"accept"}
_SHOWN = 800
_PATIENCE_SECONDS = 10.0

Query = str | Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Answer:
    """What came back; the body is decoded if it was compressed for the way."""

    request: httpx.Request
    status: int
    headers: httpx.Headers
    body: bytes
    is_read: dict[str, Any] = field(default_factory=dict)

    def expect(self, *statuses: int) -> Answer:
        """The answer itself, if its status is one of these; else a `Fault`."""
        if self.status not in statuses:
            wanted = " or ".join(map(str, statuses))
            raise Fault(f"{self.named} answers {self.status}, not {wanted}{self._reason()}")
        return self

    def expect_refusal(self) -> Answer:
        """The answer itself, if it is a client error; else a `Fault`."""
        if not 400 <= self.status < 500:
            raise Fault(f"{self.named} answers {self.status}, not a 4xx{self._reason()}")
        return self

    def expect_no_failure(self) -> Answer:
        """The answer itself, if it is no server error; else a `Fault`."""
        if self.status >= 500:
            raise Fault(f"{self.named} answers {self.status}{self._reason()}")
        return self

    def expect_type(self, name: str) -> Answer:
        """The answer itself, if its Content-Type is this; else a `Fault`."""
        if self.media.name != name:
            raise Fault(f"{self.named} answers with the Content-Type {self.headers.get('content-type')!r}, not {name}")
        return self

    @property
    def named(self) -> str:
        """The request in short."""
        return f"{self.request.method} {self.request.url.raw_path.decode('ascii')[-160:]}"

    @property
    def media(self) -> MediaType:
        """The Content-Type; a `Fault` where it cannot be read."""
        try:
            return read_media_type(self.headers.get("content-type", ""))
        except Malformed as error:
            raise Fault(f"{self.named} answers without a Content-Type that can be read: {error}") from None

    def json(self) -> Any:
        """The body as JSON (RFC 8259): UTF-8, no byte order mark, no name twice, no NaN."""
        if "json" not in self.is_read:
            try:
                self.is_read["json"] = json.loads(
                    self.body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
                )
            except ValueError as error:
                raise Fault(f"{self.named} answers no valid JSON: {error}") from None
        return self.is_read["json"]

    def rows(self) -> list[dict[str, Any]]:
        """The data sets of a DICOM JSON answer; none where the answer is 204."""
        if self.status == 204:
            return []
        found = self.expect(200).json()
        if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
            raise Fault(f"{self.named} answers JSON that is no array of objects")
        return found

    def multipart(self) -> Multipart:
        """The body as a multipart/related message."""
        if "multipart" not in self.is_read:
            try:
                self.is_read["multipart"] = read_multipart(self.headers.get("content-type", ""), self.body)
            except Malformed as error:
                raise Fault(f"{self.named}: {error}") from None
        found: Multipart = self.is_read["multipart"]
        return found

    def parts(self, *statuses: int) -> tuple[Part, ...]:
        """The parts of a successful multipart answer; at least one."""
        found = self.expect(*(statuses or (200,))).multipart().parts
        if not found:
            raise Fault(f"{self.named} answers {self.status} with a multipart message without a part")
        return found

    def curl(self, body: str = "BODY") -> str:
        """A command line that asks the same again; `body` names the file that holds what was sent."""
        words = ["curl", "-i"]
        if self.request.method == "HEAD":
            words.append("--head")
        elif self.request.method != "GET":
            words += ["-X", self.request.method]
        sent = [(name, value) for name, value in self.request.headers.items() if name not in _NOISE]
        if not any(name == "accept" for name, _ in sent):
            sent.append(("accept", ""))
        for name, value in sent:
            shown = "..." if name in _SECRET else value
            words += ["-H", f"{name.title()}: {shown}" if value else f"{name.title()}:"]
        if self.request.content:
            words += ["--data-binary", f"@{body}"]
        words += ["--path-as-is", "--globoff", _url_of(self.request)]
        return shlex.join(words)

    def described(self) -> str:
        """Status, headers, and the beginning of the body."""
        lines = [f"HTTP {self.status}", *(f"{name}: {value}" for name, value in self.headers.multi_items())]
        text = self.body[:_SHOWN].decode("utf-8", "backslashreplace")
        if "\0" in text or text.count("\\x") > 20:
            text = f"({len(self.body)} bytes) {self.body[:64]!r}"
        elif len(self.body) > _SHOWN:
            text += f" ... ({len(self.body)} bytes)"
        return "\n".join([*lines, "", text])

    def _reason(self) -> str:
        text = " ".join(self.body[:200].decode("utf-8", "replace").split())
        is_text = self.status >= 400 and text.isprintable()
        return f" ({text[:120]})" if is_text and text else ""


def read_file(body: bytes) -> FileDataset:
    """A DICOM file (PS3.10 7): preamble, prefix, file meta information and the data set, all read at once."""
    if body[128:132] != b"DICM":
        raise Fault(f"there is no DICOM file: no DICM after 128 bytes of preamble, but {body[:16]!r} at the beginning")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, of odd values: what is odd is for the checks to say
            dataset = dcmread(io.BytesIO(body))
            dataset.walk(lambda within, element: None)
    except (InvalidDicomError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise Fault(f"the DICOM file cannot be read: {error}") from None
    if not dataset.file_meta.get("TransferSyntaxUID"):
        raise Fault("the DICOM file names no Transfer Syntax UID in its file meta information")
    return dataset


class Peer:
    """Asks the server under test, and remembers what was asked.

    Parameters
    ----------
    base
        The service root, such as ``http://127.0.0.1:8780/dicomweb``.
    wado_uri
        Where WADO-URI is answered; by default ``/wado`` below the root, or beside it.
    opens
        Opens the WebSockets that event reports come over.
    patience_seconds
        How long to wait for an event report.
    """

    def __init__(
        self,
        client: httpx.Client,
        base: str,
        *,
        wado_uri: str = "",
        opens: Listen = listen,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self.client = client
        self.base = base.rstrip("/")
        self.wado_uri = wado_uri
        self.patience_seconds = patience_seconds
        self._opens = opens
        self.asked: list[Answer] = []

    def listen(self, url: str) -> AbstractContextManager[Connection]:
        """Open a WebSocket, with the headers that every request has; raises `Fault` where none opens."""
        headers = [(name, value) for name, value in self.client.headers.items() if name not in _OF_THE_CLIENT]
        return self._opens(url, headers)

    def get(
        self, path: str, query: Query = "", *, accept: str | None = "*/*", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """GET what is below the root, or an absolute URL; `accept` None sends no Accept header at all."""
        return self.ask("GET", path, query, accept=accept, headers=(headers or {}).items())

    def search(self, path: str, *, accept: str = JSON, **keys: str) -> Answer:
        """Search: keys are keywords, or tags with an x before them (x00100020)."""
        query = {name[1:] if name[:1] == "x" else name: value for name, value in keys.items()}
        return self.get(path, query, accept=accept)

    def post(
        self, path: str, content_type: str | None, body: bytes, *, accept: str | None = JSON, query: Query = ""
    ) -> Answer:
        """POST a body."""
        headers = [("Content-Type", content_type)] if content_type is not None else []
        return self.ask("POST", path, query, accept=accept, headers=headers, body=body)

    def ask(
        self,
        method: str,
        path: str,
        query: Query = "",
        *,
        accept: str | None = "*/*",
        headers: Iterable[tuple[str, str]] = (),
        body: bytes | None = None,
    ) -> Answer:
        """Send a request whose target stays as it is written here."""
        text = query if isinstance(query, str) else urlencode(query, quote_via=quote, safe="*?,-")
        root = self.base if not path.startswith(("http://", "https://")) else ""
        split = urlsplit(root + path)
        target = split.path or "/"
        if split.query or text:
            target += "?" + "&".join(filter(None, (split.query, text)))
        url = httpx.URL(f"{split.scheme}://{split.netloc}").copy_with(raw_path=target.encode("utf-8"))
        sent = [*headers] if accept is None else [("Accept", accept), *headers]
        request = self.client.build_request(method, url, headers=httpx.Headers(sent), content=body)
        if accept is None and not any(name.lower() == "accept" for name, _ in headers):
            request.headers.pop("accept", None)
        try:
            response = self.client.send(request)
        except httpx.DecodingError as error:
            raise Fault(f"{method} {target} answers a body that its Content-Encoding does not fit: {error}") from None
        except httpx.TransportError as error:
            raise Fault(f"{method} {target[:160]} got no answer: {type(error).__name__} {error}") from None
        answer = Answer(request=request, status=response.status_code, headers=response.headers, body=response.content)
        self.asked.append(answer)
        return answer


def _url_of(request: httpx.Request) -> str:
    authority = request.url.netloc.decode("ascii")
    return f"{request.url.scheme}://{authority}{request.url.raw_path.decode('ascii')}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a name twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")
