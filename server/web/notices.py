"""Makes `ohif-notices.txt`: the licences of everything in OHIF's bundles, which the npm package does not carry.

Run by a maintainer as ``python -m server.web.notices`` when the viewer's version changes: it lets npm fetch every
package that the installed bundles name (900 MB, one minute), reads their licences and rewrites the file.
"""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from server.web.ohif import OURS, STATIC, VERSION, fetch

BUNDLED = re.compile(rb"node_modules/((?:@[\w.-]+/)?[\w.-]+)")
UNNAMED = {"@fontsource/inter", "tailwindcss"}  # in the site, but not named in a bundle
NOT_PASSED_ON = "shepherd.js"
NATIVE = ("charls", "lcms2", "libjpeg-turbo", "openjpeg", "openjph", "zstd")  # C and C++ inside the .wasm files
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)
COPYRIGHT = re.compile(
    r"^[ \t#*/]*((?:Portions )?Copyright (?:\([cC]\)|©|\d|jQuery|[A-Z](?!older|otice|icense|OLDER|OTICE))"
    r"|\([cC]\) \d|© ).*$",
    re.MULTILINE,
)
TITLE = re.compile(r"^\W*(the )?(mit|isc|bsd 3-clause) licen[cs]e\W*(\(mit\))?\W*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """What one package says of its licence; `text` is empty where it ships none."""

    package: str
    licence: str
    author: str
    text: str

    @property
    def copyright(self) -> str:
        """Who holds it: the licence's copyright lines in one, else the author."""
        lines = dict.fromkeys(line.group().strip(" #*/\t") for line in COPYRIGHT.finditer(self.text))
        return "; ".join(lines) or f"by {self.author}"

    @property
    def key(self) -> str:
        """The same for texts that differ only in layout, title and copyright line."""
        return re.sub(r"\W+", " ", self.body).strip().lower()

    @property
    def body(self) -> str:
        """The licence without the lines that name its holder."""
        return re.sub(r"\n{3,}", "\n\n", TITLE.sub("", COPYRIGHT.sub("", self.text))).strip("\n")


def bundled_packages(site: Path = STATIC) -> set[str]:
    """Names of the npm packages whose code the installed viewer holds."""
    scripts = (path for path in site.rglob("*") if path.suffix in (".js", ".css"))
    return {name.decode() for path in scripts for name in BUNDLED.findall(path.read_bytes())}


def npm_notices(names: set[str], folder: Path) -> Iterator[Notice]:
    """Fetch packages into `folder` and read the licence of each."""
    (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": dict.fromkeys(names, "*")}))
    options = ["--ignore-scripts", "--legacy-peer-deps", "--omit=dev", "--omit=optional", "--no-package-lock"]
    subprocess.run(["npm", "install", "--silent", *options], cwd=folder, check=True)
    for name in sorted(names):
        yield from notices_of(name, folder / "node_modules" / name)
    with tarfile.open(fetch(folder)) as ohif:  # not installed like the others: npm lacks some of its dependencies
        ohif.extractall(folder, filter="data")
    yield from notices_of("@ohif/app", folder / "package")


def notices_of(name: str, package: Path) -> Iterator[Notice]:
    """One notice for each licence file of a package, or one without text."""
    about = json.loads((package / "package.json").read_text())
    licence = str(about.get("license") or "see its text")
    texts = [path.read_text(errors="replace") for path in sorted(package.iterdir()) if LICENCE_FILE.match(path.name)]
    author = about.get("author") or "its authors"
    author = author if isinstance(author, str) else author["name"]
    for text in texts or [""]:
        yield Notice(package=name, licence=licence, author=author, text=text)


def native_notices() -> Iterator[Notice]:
    """Licences of the C and C++ libraries compiled into the decoders, as imagecodecs ships them."""
    for name in NATIVE:
        text = (files("imagecodecs") / "licenses" / f"LICENSE-{name}").read_text()
        yield Notice(
            package=f"{name} (compiled into a decoder)", licence="see its text", author="its authors", text=text
        )


def render(notices: list[Notice]) -> str:
    """Every licence text once, after the packages that it covers and their copyright lines."""
    covered: dict[str, list[Notice]] = defaultdict(list)
    for notice in sorted(notices, key=lambda notice: not notice.text):
        key = notice.key
        if not key:  # no text of its own: it goes with the most usual text of its licence
            key = max(covered, key=lambda text: sum(other.licence == notice.licence for other in covered[text]))
        covered[key].append(notice)
    lines = [
        f"Third-party notices of the OHIF viewer {VERSION} as installed by readingroom.",
        f"{NOT_PASSED_ON} (AGPL-3.0) is part of the npm package and is removed at install.",
    ]
    for group in sorted(covered.values(), key=lambda group: (-len(group), group[0].package)):
        entries = (f"{notice.package} ({notice.licence}) {notice.copyright}" for notice in group)
        lines += ["", "=" * 100, *sorted(entries), "", *group[0].body.splitlines()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def main() -> None:
    """Rewrite the notices that go with the viewer."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(npm_notices((bundled_packages() | UNNAMED) - {NOT_PASSED_ON}, Path(folder)))
    OURS["NOTICES.txt"].write_text(render([*found, *native_notices()]))


if __name__ == "__main__":
    main()
