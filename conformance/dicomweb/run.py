"""Runs the suite against a server, and writes what came of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest

from conformance.dicomweb import areas
from conformance.dicomweb.cast import Cast
from conformance.dicomweb.channel import listen
from conformance.dicomweb.checks import Check
from conformance.dicomweb.peer import Peer
from conformance.dicomweb.plugin import Outcome, Plugin
from conformance.dicomweb.samples import samples_in

TIMEOUT_SECONDS = 30.0


class CannotRun(Exception):
    """The suite could not be run; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run.

    Attributes
    ----------
    headers
        Sent with every request, such as Authorization.
    verify
        Whether certificates are looked at; a path names the authority's own certificates.
    data
        A folder where the samples are kept between runs; None makes new ones.
    can_store
        Whether to store the samples, or look for them where they were stored before.
    keeps
        Whether to leave on the server what was stored.
    """

    base: str
    wado_uri: str = ""
    headers: Sequence[tuple[str, str]] = ()
    timeout: float = TIMEOUT_SECONDS
    verify: bool | Path = True
    data: Path | None = None
    can_store: bool = True
    keeps: bool = False


@dataclass(slots=True)
class Results:
    """What came of a run.

    Attributes
    ----------
    left
        Studies that were stored and could not be removed again, and work items that could not be ended.
    """

    base: str
    server: str
    outcomes: list[Outcome] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def run(options: Options, checks: Iterable[Check], told: Callable[[Outcome], None] = lambda outcome: None) -> Results:
    """Run checks against a server.

    Parameters
    ----------
    told
        Called with each outcome as it comes.

    Raises
    ------
    CannotRun
        The server cannot be reached, or the data folder not be read.
    """
    with connected(options) as client:
        return run_with(client, options, checks, told)


@contextmanager
def connected(options: Options) -> Iterator[httpx.Client]:
    """A client for the server under test: no redirects, no cookies kept, no environment's proxies."""
    verify: bool | str = options.verify if isinstance(options.verify, bool) else str(options.verify)
    with httpx.Client(
        headers=httpx.Headers(list(options.headers)),
        timeout=options.timeout,
        verify=verify,
        follow_redirects=False,
        trust_env=False,
    ) as client:
        yield client


def run_with(
    client: httpx.Client, options: Options, checks: Iterable[Check], told: Callable[[Outcome], None]
) -> Results:
    """The same, over a client that is connected already."""
    opens = partial(listen, verify=options.verify)
    peer = Peer(client, options.base, wado_uri=options.wado_uri, opens=opens)
    server = _reach(client, peer.base)
    try:
        samples = samples_in(options.data)
    except OSError as error:
        raise CannotRun(f"The folder {options.data} cannot be used: {error.strerror}.") from None
    actors = Cast(peer, samples, can_store=options.can_store)
    plugin = Plugin(peer, actors, list(checks), told)
    try:
        _pytest(plugin)
    finally:
        left = [] if options.keeps else actors.clean()
    return Results(base=peer.base, server=server, outcomes=plugin.outcomes, left=left)


def _reach(client: httpx.Client, base: str) -> str:
    """What the server calls itself; raises `CannotRun` where nobody answers."""
    if not base.startswith(("http://", "https://")):
        raise CannotRun(f"The base {base!r} is no http:// or https:// URL.")
    try:
        answer = client.get(f"{base}/studies", params={"limit": "1"}, headers={"Accept": "application/dicom+json"})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CannotRun(f"No server answers at {base}: {error}.") from None
    if answer.status_code in (401, 403):
        raise CannotRun(f"{base} answers {answer.status_code}; --header 'Authorization: ...' names who asks.")
    return str(answer.headers.get("server", ""))


def _pytest(plugin: Plugin) -> None:
    """Run pytest over the modules of `areas`, without the plugins and the settings of whoever calls."""
    folder = Path(areas.__file__).parent
    arguments = ["-c", os.devnull, "--rootdir", str(folder), "-p", "no:terminal", "-p", "no:cacheprovider"]
    arguments += ["-p", "no:logging", "-p", "no:faulthandler", "-p", "no:capture", str(folder)]
    changed = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "PYTEST_PLUGINS": ""}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        status = pytest.main(arguments, plugins=[plugin])
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    if status == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise CannotRun(f"pytest ended with {pytest.ExitCode(status).name}; no check was chosen, or it cannot start.")
