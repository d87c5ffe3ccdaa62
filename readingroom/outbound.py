"""One careful request over HTTP: to an address that is allowed, without redirects, in bounded time.

A URL may come from whoever may write to a directory or ask to be told of things, and what answers may be hostile. So an
origin is compared whole; its name is resolved once, every address of it is looked at, and the connection goes to one
that was (a name that leads elsewhere a moment later gains nothing). Redirects are refused: whoever answers does not
choose where a request goes.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from readingroom.errors import GiveUp, RetryLater, Unreachable

type Address = IPv4Address | IPv6Address
type Network = IPv4Network | IPv6Network

SECONDS = 10.0
"""How long a request may take, where nobody says otherwise."""

_LONGEST_ANSWER = 64 << 10
_LONGEST_WAIT = 3600
_PORTS = {"http": 80, "https": 443}
_WITHOUT_TLS = frozenset({"http", "mllp", "dicom"})
_LATER = frozenset({408, 409, 423, 425, 429})
"""Refusals that the next attempt may not meet; 409 and 423 may be those of a first attempt that is still at work."""
_NAT64 = IPv6Network("64:ff9b::/96")
_PLAIN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port of a URL."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of a URL; raises ValueError, with the reason, where it is none of a web service."""
        parts = urlsplit(url)
        if not _PLAIN.fullmatch(url) or "\\" in url or parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError("a URL begins with https://, a host follows, and it is of ASCII without spaces")
        if parts.username is not None or parts.password is not None or parts.fragment:
            raise ValueError("a URL has neither a user, nor a password, nor a fragment")
        return cls(parts.scheme, parts.hostname, _PORTS[parts.scheme] if parts.port is None else parts.port)

    @property
    def netloc(self) -> str:
        """Host and port, the port where it is not that of the scheme."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS.get(self.scheme) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The origin as the beginning of a URL."""
        return f"{self.scheme}://{self.netloc}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was answered to a request; names of `headers` are in small letters, and `body` is cut after 64 KiB."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def call(
    method: str,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    networks: Sequence[Network] = (),
    seconds: float = SECONDS,
) -> bytes:
    """Send a request and give the body of its answer, cut after 64 KiB.

    Parameters are those of `ask`.

    Raises
    ------
    GiveUp
        It is not sent, since the URL or what it resolves to is not allowed; or it is refused for good.
    Unreachable
        Nobody answered.
    RetryLater
        The answer says that it may be sent again.
    """
    answer = ask(method, url, body, headers, networks=networks, seconds=seconds)
    check(answer)
    return answer.body


def ask(
    method: str,
    url: str,
    body: bytes | Iterable[bytes],
    headers: Mapping[str, str],
    *,
    networks: Sequence[Network] = (),
    seconds: float = SECONDS,
    context: ssl.SSLContext | None = None,
    most: int = _LONGEST_ANSWER,
) -> Answer:
    """Send a request and give what is answered, whatever its status is.

    Parameters
    ----------
    body
        Whole, or in pieces, with a header Content-Length.
    networks
        Networks beside the public Internet where the host may be. HTTP without TLS is for these alone.
    seconds
        How long it may take to connect, and then to answer.
    context
        Whom to trust, and who we are; by default the system's authorities, and nobody.
    most
        So many bytes of the body are read.

    Raises
    ------
    GiveUp
        It is not sent, since the URL or what it resolves to is not allowed.
    Unreachable
        Nobody answered.
    """
    origin = origin_of(url)
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    addresses = allowed_addresses(origin, networks)
    connection = HTTPConnection(origin.host, origin.port, timeout=seconds)
    try:
        connection.sock = _connect(origin, addresses, seconds, context)
        with _cut_off_after(connection.sock, seconds):
            connection.request(method, target, body, {**headers, "Host": origin.netloc, "Connection": "close"})
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            try:
                content = answer.read(most)
            except (OSError, HTTPException):
                content = b""  # the request was answered, and is not to be sent again for what is missing
            return Answer(status=answer.status, headers=told, body=content)
    except (OSError, HTTPException) as error:
        raise Unreachable(f"{origin.url} did not answer: {type(error).__name__}.") from None
    finally:
        connection.close()


def check(answer: Answer) -> None:
    """Nothing where a request was taken; raises `RetryLater` or `GiveUp` where it was not."""
    if 200 <= answer.status < 300:
        return
    if answer.status in _LATER or answer.status >= 500:
        wait = answer.headers.get("retry-after", "")
        seconds = min(int(wait), _LONGEST_WAIT) if re.fullmatch("[0-9]{1,9}", wait) else 30
        raise RetryLater(f"It was answered {answer.status}.", after=timedelta(seconds=seconds))
    if 300 <= answer.status < 400:
        raise GiveUp(f"It was answered {answer.status}, and redirects are not followed.")
    raise GiveUp(f"It was refused with {answer.status}.")


def origin_of(url: str) -> Origin:
    """The origin of a URL that something is to be sent to; raises `GiveUp` where it is none."""
    try:
        return Origin.of(url)
    except ValueError as error:
        raise GiveUp(f"The URL is not right: {error}.") from None


def is_allowed(address: Address, networks: Sequence[Network]) -> bool:
    """Whether an address is of the public Internet, or of one of the networks."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_allowed(inner, networks)
    is_public = address.is_global and not address.is_multicast
    return is_public or _is_in(address, networks)


def _is_in(address: Address, networks: Sequence[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def allowed_addresses(origin: Origin, networks: Sequence[Network]) -> list[str]:
    """The addresses of a host, all of which are allowed.

    Raises
    ------
    GiveUp
        One of them is not, or is asked without TLS though it is in none of the networks.
    Unreachable
        The name cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Unreachable(f"The name of {origin.url} cannot be resolved.") from None
    addresses = [str(entry[4][0]) for entry in found]
    for text in addresses:
        address = ip_address(text.partition("%")[0])
        if not is_allowed(address, networks):
            raise GiveUp(f"{origin.url} is neither of the public Internet nor in one of the networks that are allowed.")
        if origin.scheme in _WITHOUT_TLS and not _is_in(address, networks):
            raise GiveUp(
                f"{origin.url} is asked over {origin.scheme}s alone: it is in none of the networks that are allowed."
            )
    return addresses


def open_socket(
    origin: Origin, networks: Sequence[Network], seconds: float, *, context: ssl.SSLContext | None = None
) -> socket.socket:
    """A connection for what is no HTTP: to an address that is allowed, and with TLS if its scheme says so.

    Parameters
    ----------
    context
        Whom to trust, and who we are; by default the system's authorities, and nobody.

    Raises
    ------
    GiveUp
        The address is not allowed.
    Unreachable
        Nobody takes the connection, or not with that certificate.
    """
    addresses = allowed_addresses(origin, networks)
    try:
        return _connect(origin, addresses, seconds, context)
    except ssl.SSLCertVerificationError as error:
        raise Unreachable(f"{origin.url} is not who it should be: {error.verify_message}.") from None
    except OSError as error:
        raise Unreachable(f"{origin.url} takes no connection: {type(error).__name__}.") from None


def _connect(
    origin: Origin, addresses: Sequence[str], seconds: float, context: ssl.SSLContext | None = None
) -> socket.socket:
    """A connection to the first address that takes one."""
    *others, last = dict.fromkeys(addresses)
    for address in others:
        with suppress(OSError):
            return _secured(origin, socket.create_connection((address, origin.port), timeout=seconds), context)
    return _secured(origin, socket.create_connection((last, origin.port), timeout=seconds), context)


def _secured(origin: Origin, plain: socket.socket, context: ssl.SSLContext | None) -> socket.socket:
    if origin.scheme in _WITHOUT_TLS:
        return plain
    try:
        return (context or ssl.create_default_context()).wrap_socket(plain, server_hostname=origin.host)
    except BaseException:
        plain.close()
        raise


@contextmanager
def _cut_off_after(connected: socket.socket, seconds: float) -> Iterator[None]:
    """End a connection after a while: the time-out of a socket alone would let a byte now and then go on for ever."""

    def cut() -> None:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
