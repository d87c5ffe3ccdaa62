"""A server that is broken on purpose: this one, with one fault put between it and the suite."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

import httpx

from conformance.dicomweb.channel import Listen
from conformance.dicomweb.multipart import read_multipart

Rows = list[dict[str, Any]]


@dataclass(slots=True)
class Exchange:
    """What is asked, and what is answered once `reply` is there; a fault changes one or the other."""

    method: str
    path: str
    query: str
    headers: httpx.Headers
    body: bytes
    status: int = 0
    reply: httpx.Headers = field(default_factory=httpx.Headers)
    content: bytes = b""

    @property
    def accept(self) -> str:
        return ", ".join(self.headers.get_list("accept"))

    @property
    def kind(self) -> str:
        """The media type of the answer, without parameters."""
        return str(self.reply.get("content-type", "")).partition(";")[0].strip()

    def answer(self, status: int, content: bytes = b"", content_type: str = "") -> None:
        """Replace the answer."""
        self.status, self.content = status, content
        self.reply = httpx.Headers({"content-type": content_type} if content_type else {})


Change = Callable[[Exchange], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Attributes
    ----------
    asks
        Changes what is asked, before the server sees it; where it gives an answer, the server never does.
    answers
        Changes what the server has answered.
    opens
        Opens other WebSockets than the server's.
    """

    asks: Change | None = None
    answers: Change | None = None
    opens: Listen | None = None


class Broken(httpx.BaseTransport):
    """Sends requests on through a fault."""

    def __init__(self, fault: Fault, inner: httpx.BaseTransport) -> None:
        self._fault = fault
        self._inner = inner

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path, _, query = request.url.raw_path.decode("ascii").partition("?")
        exchange = Exchange(request.method, path, query, request.headers.copy(), request.read())
        if self._fault.asks:
            self._fault.asks(exchange)
        if not exchange.status:
            self._send(exchange, request.url)
            if self._fault.answers:
                self._fault.answers(exchange)
        content = b"" if request.method == "HEAD" else exchange.content
        headers = [(name, value) for name, value in exchange.reply.multi_items() if name not in _OF_THE_WAY]
        if request.method != "HEAD" and exchange.status not in (204, 304):
            headers.append(("content-length", exchange.reply.get("x-length", str(len(content)))))
        elif "content-length" in exchange.reply:
            headers.append(("content-length", exchange.reply["content-length"]))
        return httpx.Response(exchange.status, headers=headers, stream=httpx.ByteStream(content))

    def _send(self, exchange: Exchange, url: httpx.URL) -> None:
        target = exchange.path + (f"?{exchange.query}" if exchange.query else "")
        headers = [(name, value) for name, value in exchange.headers.multi_items() if name != "content-length"]
        request = httpx.Request(
            exchange.method,
            url.copy_with(raw_path=target.encode("utf-8")),
            headers=headers,
            content=exchange.body or None,
        )
        response = self._inner.handle_request(request)
        response.read()
        exchange.status, exchange.reply, exchange.content = response.status_code, response.headers, response.content
        if "content-encoding" in exchange.reply and "x-keeps-encoding" not in exchange.reply:
            del exchange.reply["content-encoding"]


_OF_THE_WAY = frozenset({"content-length", "transfer-encoding", "connection", "x-length"})


# Faults are built of these.


def asking(change: Change) -> Fault:
    return Fault(asks=change)


def answering(change: Change) -> Fault:
    return Fault(answers=change)


def turns(*pairs: tuple[int, int], where: str = "") -> Fault:
    """Statuses become others; a success without a body gets an empty one."""

    def change(exchange: Exchange) -> None:
        if re.search(where, exchange.path):
            exchange.status = dict(pairs).get(exchange.status, exchange.status)

    return answering(change)


def without_headers(*names: str) -> Fault:
    def change(exchange: Exchange) -> None:
        for name in names:
            exchange.reply.pop(name, None)

    return answering(change)


def ignores_headers(*names: str) -> Fault:
    def change(exchange: Exchange) -> None:
        for name in names:
            exchange.headers.pop(name, None)

    return asking(change)


def ignores_parameters(*names: str) -> Fault:
    """The server never sees these parameters."""

    def change(exchange: Exchange) -> None:
        kept = [one for one in exchange.query.split("&") if one.partition("=")[0] not in names]
        exchange.query = "&".join(kept)

    return asking(change)


def ignores_all_parameters_but(*names: str) -> Fault:
    def change(exchange: Exchange) -> None:
        kept = [one for one in exchange.query.split("&") if one.partition("=")[0] in names]
        exchange.query = "&".join(kept)

    return asking(change)


def asks_otherwise(pattern: str, replacement: str | Callable[[re.Match[str]], str], *, of: str = "query") -> Fault:
    """What is asked is changed by a regular expression: in the query, the path, or the accept header."""

    def change(exchange: Exchange) -> None:
        if of == "accept":
            accept = re.sub(pattern, replacement, exchange.accept)
            exchange.headers.pop("accept", None)
            exchange.headers["accept"] = accept
        else:
            setattr(exchange, of, re.sub(pattern, replacement, getattr(exchange, of)))

    return asking(change)


def refuses(
    status: int, *, accept: str = "", path: str = "", query: str = "", method: str = "", body: str = ""
) -> Fault:
    """Requests that look so are answered by a status."""

    def change(exchange: Exchange) -> None:
        if (
            re.search(accept, exchange.accept)
            and re.search(path, exchange.path)
            and re.search(query, exchange.query)
            and re.search(method, exchange.method)
            and re.search(body.encode(), exchange.body)
        ):
            exchange.answer(status, b"no\n", "text/plain")

    return asking(change)


def rows(change: Callable[[Rows], Any], *, path: str = "") -> Fault:
    """The data sets of DICOM JSON answers are changed; what `change` returns replaces them, unless it is None."""

    def apply(exchange: Exchange) -> None:
        if exchange.kind == "application/dicom+json" and exchange.content and re.search(path, exchange.path):
            found = json.loads(exchange.content)
            if isinstance(found, list):
                changed = change(found)
                exchange.content = json.dumps(found if changed is None else changed).encode()

    return answering(apply)


def datasets(change: Callable[[dict[str, Any]], Any], *, path: str = "") -> Fault:
    """Every data set of DICOM JSON answers is changed, items of sequences as well."""

    def walk(dataset: dict[str, Any]) -> None:
        for attribute in list(dataset.values()):
            if isinstance(attribute, dict) and attribute.get("vr") == "SQ":
                for item in attribute.get("Value", []):
                    walk(item)
        change(dataset)

    def each(found: Rows) -> None:
        for dataset in found:
            walk(dataset)

    return rows(each, path=path)


def attributes(change: Callable[[str, dict[str, Any]], Any], *, path: str = "") -> Fault:
    """Every attribute of DICOM JSON answers is changed."""

    def each(dataset: dict[str, Any]) -> None:
        for tag, attribute in list(dataset.items()):
            change(tag, attribute)

    return datasets(each, path=path)


def drops(*tags: str, path: str = "") -> Fault:
    """Attributes are not there."""

    def change(found: Rows) -> None:
        for dataset in found:
            for tag in tags:
                dataset.pop(tag, None)

    return rows(change, path=path)


def module(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """The Store Instances Response Module is changed."""

    def apply(exchange: Exchange) -> None:
        if exchange.method == "POST" and exchange.kind == "application/dicom+json":
            found = json.loads(exchange.content)
            change(found)
            exchange.content = json.dumps(found).encode()

    return answering(apply)


def content(pattern: bytes, replacement: bytes, *, kind: str = "", path: str = "") -> Fault:
    """The bytes of answers are changed by a regular expression."""

    def change(exchange: Exchange) -> None:
        if re.search(kind, exchange.kind) and re.search(path, exchange.path):
            exchange.content = re.sub(pattern, replacement, exchange.content, flags=re.DOTALL)

    return answering(change)


def typed(old: str, new: str, *, path: str = "") -> Fault:
    """The Content-Type of answers is changed by a regular expression."""

    def change(exchange: Exchange) -> None:
        if re.search(path, exchange.path) and "content-type" in exchange.reply:
            exchange.reply["content-type"] = re.sub(old, new, exchange.reply["content-type"])

    return answering(change)


Sent = list[tuple[dict[str, str], bytes]]


def parts(change: Callable[[Sent], Sent | None], *, path: str = "", name: str = "") -> Fault:
    """The parts of multipart answers are changed."""

    def apply(exchange: Exchange) -> None:
        if exchange.kind != "multipart/related" or not re.search(path, exchange.path):
            return
        message = read_multipart(exchange.reply["content-type"], exchange.content)
        if name and message.media.parameters.get("type") != name:
            return
        found: Sent = [(dict(part.headers), part.body) for part in message.parts]
        exchange.content = assembled(change(found) or found, message.media.parameters["boundary"])

    return answering(apply)


def assembled(found: Iterable[tuple[dict[str, str], bytes]], boundary: str) -> bytes:
    body = b""
    for headers, content in found:
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        body += f"--{boundary}\r\n{head}\r\n".encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def bodies(change: Callable[[bytes], bytes], *, path: str = "", name: str = "") -> Fault:
    """The bodies of parts are changed."""
    return parts(lambda found: [(headers, change(body)) for headers, body in found], path=path, name=name)


def part_headers(change: Callable[[dict[str, str]], Any], *, path: str = "") -> Fault:
    """The headers of parts are changed."""

    def each(found: Sent) -> None:
        for headers, _ in found:
            change(headers)

    return parts(each, path=path)


def decoded_twice(text: str) -> str:
    """A query whose values were decoded once too often before they are read."""
    pairs = (pair.partition("=") for pair in text.split("&"))
    return "&".join(f"{name}{equals}{quote(unquote(unquote(value)))}" for name, equals, value in pairs)
