"""Installing the viewer: what is taken from npm, what is refused, and what the installed site holds."""

from __future__ import annotations

import gzip
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from server.web import ohif
from server.web.notices import bundled_packages
from tests.conftest import absent


@pytest.fixture
def site() -> Path:
    """The viewer as `make install` leaves it."""
    if not ohif.is_installed():
        absent("the OHIF viewer (make install)")
    return ohif.STATIC


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An npm that does nothing until the test writes its script; nothing else is on the PATH."""
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(ohif, "install", lambda target=tmp_path / "site", install=ohif.install: install(target))
    return npm


def package_of(folder: Path, **files: bytes) -> Path:
    """An archive as `npm pack` makes it."""
    path = folder / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_without_npm_the_server_goes_on_and_the_reason_is_told(
    npm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    npm.unlink()
    assert ohif.main() == 0
    assert "apt-get install npm" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    assert ohif.main() == 1


def test_without_a_network_npm_s_own_reason_is_told(npm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    npm.write_text("#!/bin/sh\necho 'npm error network unreachable' >&2\nexit 1\n")
    assert ohif.main() == 0
    assert "npm error network unreachable" in capsys.readouterr().out


def test_a_package_with_another_checksum_is_refused(
    npm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npm.write_text("#!/bin/sh\necho tampered > ohif-app.tgz\n")
    assert ohif.main() == 1
    assert "not the pinned" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["bin"]


def test_a_package_of_another_layout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ohif.NotThePackage, match=r"index\.html"):
        ohif.build(package_of(tmp_path, **{"index.html": b"<html></html>"}), tmp_path / "site")


def test_an_archive_cannot_write_outside_the_site(tmp_path: Path) -> None:
    package = package_of(tmp_path, **{"../../../escaped.js": b"", "kept.js": b""})
    assert [name for name, _ in ohif.wanted_files(package)] == ["kept.js"]


def test_the_viewer_s_arrays_are_those_of_ndarray_and_compile_nothing(npm_folder: Path) -> None:
    """The package that the viewer is built from, beside the same package with our views put in."""
    (rewrite,) = [rewrite for rewrite in ohif.REWRITES if b"compileConstructor" in rewrite.pattern]
    package = npm_folder / "node_modules" / "ndarray" / "ndarray.js"
    rewritten, times = re.subn(rewrite.pattern, rewrite.into, package.read_bytes())
    assert times == 1
    assert b"new Function" not in rewritten
    (package.parent / "rewritten.js").write_bytes(rewritten)
    command = ["node", "views.mjs", str(package.parent / "rewritten.js")]
    run = subprocess.run(command, cwd=npm_folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    compared = json.loads(run.stdout)
    assert compared["compared"] > 5000
    dimensions = range(-1, 5)
    assert compared["kinds"] == sorted(
        f"{of} {n}" for of in ("uint8", "float32", "array", "generic") for n in dimensions
    )


def test_what_is_installed_is_not_fetched_again(npm: Path, tmp_path: Path) -> None:
    npm.unlink()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / ".recipe").write_text(ohif.recipe())
    ohif.install()


def test_another_recipe_is_installed_anew(npm: Path, tmp_path: Path) -> None:
    npm.unlink()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / ".recipe").write_text("an older release's")
    with pytest.raises(ohif.CannotInstall):
        ohif.install()
    assert (tmp_path / "site").is_dir()  # the older viewer stays


def test_the_site_lives_below_its_prefix_and_loads_nothing_from_elsewhere(site: Path) -> None:
    page = (site / "index.html").read_text()
    addresses = re.findall(r'(?:src|href|content)="((?:https?:)?/[^"]*)"', page)
    assert addresses
    assert all(address.startswith("/ohif/") for address in addresses)
    for path in [*site.glob("*.bundle.*.js"), *site.glob("*.css")]:
        content = path.read_bytes()
        assert b'__webpack_require__.p = "/"' not in content, path.name
        assert not re.search(rb"url\(/(?!ohif/)", content), path.name


def test_what_does_not_belong_on_a_reading_station_is_left_out(site: Path) -> None:
    names = {path.relative_to(site).as_posix() for path in site.rglob("*")}
    assert not [name for name in names if name.endswith(".map") or name.startswith(("ort/", "sw.js", "google"))]
    bundle = next(site.glob("app.bundle.*.js")).read_bytes()
    assert b"class shepherd_" not in bundle
    assert b"const shepherd_fe = { Tour: class" in bundle


def test_the_compressed_files_are_those_beside_them(site: Path) -> None:
    packed = sorted(site.rglob("*.gz"), key=lambda path: path.stat().st_size)
    assert len(packed) > 50
    for path in packed[::5]:
        assert gzip.decompress(path.read_bytes()) == path.with_suffix("").read_bytes(), path.name


def test_every_bundled_package_has_its_notice(site: Path) -> None:
    notices = (site / "NOTICES.txt").read_text()
    missing = [name for name in bundled_packages(site) if f"\n{name} (" not in notices]
    assert not missing


def test_the_settings_name_no_server_but_this_one(site: Path) -> None:
    settings = (site / "app-config.js").read_text()
    assert "://" not in settings
    assert settings.count("`${window.location.origin}/dicomweb`") == 2
    assert "routerBasename: '/ohif'," in settings
