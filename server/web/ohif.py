"""Installs the OHIF viewer: fetches the built package from npm and sets it up for ``/ohif/``.

Run by ``make install`` as ``python -m server.web.ohif``. Nothing is built and nothing is fetched at run time: the
package holds a finished site that expects to live at ``/``, so its public path is rewritten once, here. What does not
belong on a reading station (service worker, scripts of other origins, onboarding tours) is left out.
"""

from __future__ import annotations

import base64
import fcntl
import fnmatch
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

VERSION = "3.13.2"
SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
HERE = Path(__file__).parent
STATIC = HERE / "static" / "ohif"
"""Where the installed viewer lies; made at install, never committed."""

PACKAGE_ROOT = PurePosixPath("package/dist")
OURS = {"app-config.js": HERE / "ohif-config.js", "NOTICES.txt": HERE / "ohif-notices.txt"}
VIEWS = HERE / "ohif-ndarray.js"
LEFT_OUT = (
    "ort/*",  # 136 MB of ONNX runtimes for an optional segmentation tool
    "*.map",
    "sw.js",
    "init-service-worker.js",
    "silent-refresh.html",  # loads a script from another origin; with it go the scripts that only it uses
    "es6-shim.min.js",
    "oidc-client.min.js",
    "polyfill.min.js",
    "google.js",
    "_headers",
    "_redirects",
    "serve.json",
)
COMPRESSED = {".css", ".html", ".js", ".json", ".jsonc", ".svg", ".txt", ".wasm", ".webapp", ".xml"}
COMPRESS_FROM_BYTES = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewrite:
    """A change to the package's files; `times` is checked, so that a part that moved is never missed in silence."""

    files: str
    pattern: bytes
    into: bytes
    times: int


REWRITES = (
    Rewrite(
        files="index.html",
        pattern=rb'<script[^>]* src="/init-service-worker\.js"></script>',
        into=b"",
        times=1,
    ),
    Rewrite(files="index.html", pattern=rb'((?:href|src|content|window\.PUBLIC_URL)=)"/', into=rb'\1"/ohif/', times=34),
    Rewrite(files="*.bundle.*.js", pattern=rb'(__webpack_require__\.p = )"/"', into=rb'\1"/ohif/"', times=8),
    Rewrite(files="app.bundle.*.js", pattern=rb"(browserImportFunction\(')/", into=rb"\1/ohif/", times=1),
    Rewrite(files="app.bundle.css", pattern=rb"url\(/", into=rb"url(/ohif/", times=5),
    Rewrite(files="*manifest*", pattern=rb'"/(?=assets/)', into=rb'"/ohif/', times=13),
    Rewrite(files="assets/browserconfig.xml", pattern=rb'"/(?=assets/)', into=rb'"/ohif/', times=4),
    # shepherd.js, which draws the onboarding tours, is under AGPL-3.0 or a paid licence: it is not passed on.
    Rewrite(
        files="app.bundle.*.js",
        pattern=rb"/\*! shepherd\.js [\d.]+ \*/\n[^\n]+\n//# sourceMappingURL=shepherd\.mjs\.map",
        into=b"const shepherd_fe = { Tour: class { addStep() {} start() {} } };",
        times=1,
    ),
    # Segmentations are read through ndarray, which compiles code; the page's policy lets no script do that.
    Rewrite(
        files="*.bundle.*.js",
        pattern=rb"(?s)function compileConstructor\(dtype, dimension\) \{.*?, order\)\n\s*\}",
        into=VIEWS.read_bytes()
        + b"function compileConstructor(dtype, dimension) {\n"
        + b"  return viewConstructor(dtype, dimension, CACHED_CONSTRUCTORS[dtype], order);\n}",
        times=3,
    ),
    Rewrite(files="app.bundle.css", pattern=rb"[^{}]*\.shepherd-[^{}]*\{[^{}]*\}", into=b"", times=47),
)


class CannotInstall(Exception):
    """The viewer cannot be installed here; the message says what is missing and what to do."""


class NotThePackage(Exception):
    """What npm delivered is not the package that this release was made for."""


def install(target: Path = STATIC) -> None:
    """Put the viewer into `target`, unless this very build is there.

    The folder changes in one step: a server that starts meanwhile sees the old viewer or the new one, whole.

    Raises
    ------
    CannotInstall
        npm is absent or cannot reach its registry.
    NotThePackage
        The package's checksum or its layout is not the one known.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_installed(target):
            return
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".ohif-") as scratch:
            say(f"fetching the OHIF viewer {VERSION} from npm (50 MB)")
            package = fetch(Path(scratch))
            built = Path(scratch, "ohif")
            build(package, built)
            (built / ".recipe").write_text(recipe())
            if target.exists():
                target.rename(Path(scratch, "old"))
            built.rename(target)
        say(f"OHIF viewer {VERSION} is ready at /ohif/")


def is_installed(target: Path = STATIC) -> bool:
    """Whether `target` holds the viewer exactly as this release makes it."""
    stamp = target / ".recipe"
    return stamp.is_file() and stamp.read_text() == recipe()


def recipe() -> str:
    """Checksum of everything that the installed viewer is made from."""
    made_from = [Path(__file__), *OURS.values(), VIEWS]
    return hashlib.sha256(b"".join(path.read_bytes() for path in made_from)).hexdigest()


def fetch(folder: Path) -> Path:
    """Let npm put the package's archive into `folder`; its checksum is the pinned one."""
    npm = shutil.which("npm")
    if npm is None:
        raise CannotInstall("npm is not on PATH. Install Node.js with npm (Debian: apt-get install npm)")
    command = [npm, "pack", f"@ohif/app@{VERSION}", "--ignore-scripts", "--prefer-offline", "--silent"]
    patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    run = subprocess.run([*command, *patience], cwd=folder, capture_output=True, text=True, check=False)
    archives = list(folder.glob("*.tgz"))
    if run.returncode or not archives:
        reason = next((line for line in reversed(run.stderr.splitlines()) if line.strip()), "it gave no reason")
        raise CannotInstall(f"npm could not fetch the package ({reason.strip()}). Check the network or npm's registry")
    found = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
    if found != SHA512:
        raise NotThePackage(f"@ohif/app {VERSION} has SHA-512 {found}, not the pinned {SHA512}")
    return archives[0]


def build(package: Path, target: Path) -> None:
    """Unpack `package` into `target` with every rewrite done, our own files added and large texts compressed."""
    done: Counter[Rewrite] = Counter()
    for name, content in wanted_files(package):
        for rewrite in REWRITES:
            if fnmatch.fnmatch(name, rewrite.files):
                content, times = re.subn(rewrite.pattern, rewrite.into, content)
                done[rewrite] += times
        write(target / name, content)
    for rewrite in REWRITES:
        if done[rewrite] != rewrite.times:
            raise NotThePackage(
                f"{rewrite.files} holds {rewrite.pattern!r} {done[rewrite]} times where {rewrite.times} were expected"
            )
    for name, source in OURS.items():
        write(target / name, source.read_bytes())
    with ThreadPoolExecutor() as threads:  # zlib works outside the interpreter's lock
        list(threads.map(compress, [path for path in target.rglob("*") if path.suffix in COMPRESSED]))


def wanted_files(package: Path) -> Iterator[tuple[str, bytes]]:
    """Name below the site's root and content of each file that is kept."""
    with tarfile.open(package) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isfile() or not path.is_relative_to(PACKAGE_ROOT) or ".." in path.parts:
                continue
            name = str(path.relative_to(PACKAGE_ROOT))
            content = archive.extractfile(member)
            if content is not None and not any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT):
                yield name, content.read()


def write(path: Path, content: bytes) -> None:
    """Write a file, making its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def compress(path: Path) -> None:
    """Lay ``path.gz`` beside a file that is worth it."""
    content = path.read_bytes()
    if len(content) >= COMPRESS_FROM_BYTES:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content, 6, mtime=0))


def say(line: str) -> None:
    """One line of progress for the person at the terminal."""
    print(f"readingroom: {line}", flush=True)


def main() -> int:
    """Install; without npm or network the server does without the viewer, except where CI=true asks for all of it."""
    try:
        install()
    except CannotInstall as error:
        say(f"the OHIF viewer is not installed: {error}, then run `make install` again.")
        say("everything else works without it; /ohif/ shows this hint.")
        return int(os.environ.get("CI") == "true")
    except NotThePackage as error:
        say(f"the OHIF viewer was refused: {error}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
