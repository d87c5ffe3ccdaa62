"""Serves the installed OHIF viewer below ``/ohif/``, with the headers that keep it to its own origin."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from readingroom.errors import NotFound, Unavailable
from server.status import http_status
from server.web.ohif import STATIC

MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".jsonc": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".wasm": "application/wasm",
    ".webapp": "application/manifest+json",
    ".woff2": "font/woff2",
    ".xml": "application/xml",
}
HASHED_NAME = re.compile(r"(?:^|\.)[0-9a-f]{16}\.")
INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)

ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Not object-src 'none': the viewer shows a PDF in an <object>, which begins empty ('self') and then gets a blob:.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'{scripts}; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "frame-src 'self' blob:; media-src 'self' blob:; manifest-src 'self'; object-src 'self' blob:; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'self'"
)
NOT_INSTALLED = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Viewer · readingroom</title>
<h1>The viewer is not installed</h1>
<p>The server works; only the OHIF viewer is missing. It comes from npm when readingroom is installed.</p>
<p>Install Node.js with npm, run <code>make install</code>, and start the server again.</p>
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asset:
    """A file of the viewer as it goes out."""

    path: Path
    media_type: str
    cache_control: str
    stat: os.stat_result
    gzip_stat: os.stat_result | None

    @classmethod
    def of(cls, file: os.DirEntry[str], packed: os.DirEntry[str] | None) -> Asset:
        """The asset that is a file, with the compressed one beside it where there is one."""
        return cls(
            path=Path(file.path),
            media_type=MEDIA_TYPES[_suffix(file.name)],
            cache_control="public, max-age=31536000, immutable" if HASHED_NAME.search(file.name) else "no-cache",
            stat=file.stat(),
            gzip_stat=packed.stat() if packed else None,
        )

    def response(self, request: Request, headers: Mapping[str, str]) -> Response:
        """The file, compressed if the client takes that; 304 if it holds it already."""
        packed = self.gzip_stat if accepts_gzip(request) else None
        path, stat = (compressed(self.path), packed) if packed else (self.path, self.stat)
        sent = {
            **headers,
            "ETag": f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"',
            "Cache-Control": self.cache_control,
            # A script that starts a worker goes out with another policy than the same script in a page.
            "Vary": "Accept-Encoding, Sec-Fetch-Dest",
        }
        if packed:
            sent["Content-Encoding"] = "gzip"
        if sent["ETag"] in [
            tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
        ]:
            return Response(status_code=304, headers=sent)
        return FileResponse(path, headers=sent, media_type=self.media_type, stat_result=stat)


def compressed(path: Path) -> Path:
    """Where the compressed form of `path` lies."""
    return path.with_name(f"{path.name}.gz")


def accepts_gzip(request: Request) -> bool:
    """Whether Accept-Encoding names gzip and does not refuse it."""
    for offer in request.headers.get("accept-encoding", "").split(","):
        coding, _, weight = offer.replace(" ", "").partition(";q=")
        if coding.lower() in ("gzip", "*"):
            return weight.strip("0.") != "" or not weight
    return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1]


def _files(folder: Path | str, below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """The files of a folder, with their paths below it; by one look at each, for there are hundreds."""
    if not below and not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path, f"{below}{entry.name}/")
            else:
                yield f"{below}{entry.name}", entry


def viewer_routes(static_dir: Path = STATIC) -> list[BaseRoute]:
    """Routes to mount at ``/ohif``.

    The files are listed once, when the application is built, and a request only ever picks from that list: no path
    that a client sends is resolved on disk. A path that names no file is one of the viewer's own pages and gets
    ``index.html``.

    Parameters
    ----------
    static_dir
        Where `server.web.ohif` put the viewer. Without it every page says how to install it.
    """
    files = dict(_files(static_dir))
    assets = {
        name: Asset.of(file, files.get(f"{name}.gz")) for name, file in files.items() if _suffix(name) in MEDIA_TYPES
    }
    page = assets.get("index.html")
    scripts = INLINE_SCRIPT.findall(page.path.read_bytes()) if page else []
    hashes = "".join(f" 'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts)
    headers = ISOLATION | {"Content-Security-Policy": CONTENT_SECURITY_POLICY.format(scripts=hashes)}
    # The JPEG-LS, JPEG 2000 and HTJ2K decoders compile code; they live in workers, which get a policy of their own.
    in_worker = ISOLATION | {"Content-Security-Policy": CONTENT_SECURITY_POLICY.format(scripts=" 'unsafe-eval'")}

    async def viewer(request: Request) -> Response:
        if page is None:
            return HTMLResponse(NOT_INSTALLED, status_code=http_status(Unavailable()), headers=headers)
        name = request.path_params["path"]
        asset = assets.get(name)
        if asset is None and PurePosixPath(name).suffix in MEDIA_TYPES:
            raise NotFound("The viewer has no such file.")
        is_worker = request.headers.get("sec-fetch-dest") in ("worker", "sharedworker")
        return (asset or page).response(request, in_worker if is_worker else headers)

    return [Route("/{path:path}", viewer)]
