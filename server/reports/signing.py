"""Signatures of reports: made with a key that the database does not have, and looked at whenever a report is read.

What is signed are the very bytes that are kept: a change of one of them, were it made in the database itself, is found.
Each signature also covers the digest of the version before, so none can be taken out or put in between.

The keys are Ed25519 (RFC 8037) in a JSON Web Key Set, a file that only the server's user may read. The first of them
signs; those behind it are good for what they have signed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from readingroom.errors import ReadingRoomError, Unavailable
from readingroom.model import Report
from storage.catalog.reports import SignedVersion, StoredReport, find_version, list_versions

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey
    from joserfc.jws import JWSRegistry

# joserfc is loaded by what needs it: a start does not.
_ALGORITHM = "Ed25519"  # of RFC 9864
_TYPE = "readingroom-report+jws"


class Tampered(ReadingRoomError):
    """What is kept of this report is not what was signed."""


class SigningKeys:
    """The keys in a file; it is made, with a new key, when the first report is signed. For any thread.

    Parameters
    ----------
    path
        Of the key set. Servers that share a catalog share this file too.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._known: tuple[float, tuple[OKPKey, ...]] | None = None

    def sign(self, content: bytes, before: SignedVersion | None) -> str:
        """The signature over the content of a version, given the version before it."""
        from joserfc import jws

        key = self._keys(make=True)[0]
        header = {"alg": _ALGORITHM, "typ": _TYPE, "kid": key.kid, "prev": digest_of(before)}
        return jws.detach_content(jws.serialize_compact(header, content, key, registry=_registry()))

    def verify(self, version: SignedVersion, before: SignedVersion | None) -> None:
        """Make sure that a version is what was signed, and follows the one before.

        Raises
        ------
        Tampered
            It is not.
        Unavailable
            The key that has signed it is not in the file.
        """
        from joserfc import jws
        from joserfc.errors import JoseError

        what = f"Version {version.number} of report {version.report}"
        header = _header(version.signature)
        key = next((one for one in self._keys() if one.kid == header.get("kid")), None)
        if key is None:
            raise Unavailable(f"{what} cannot be checked: the key that has signed it is not in {self.path.name}.")
        try:
            jws.deserialize_compact(version.signature, key, registry=_registry(), payload=version.content)
        except (JoseError, ValueError) as error:
            raise Tampered(f"{what} is not what was signed.") from error
        if header.get("prev") != digest_of(before):
            raise Tampered(f"{what} does not follow the version that it was signed after.")
        shown = version.shown
        told = (shown.id, shown.number, shown.status, shown.kind, shown.signed_at)
        if told != (version.report, version.number, version.status, version.kind, version.signed_at):
            raise Tampered(f"{what} is kept under a number, state or time that is not the one that was signed.")

    def rotate(self) -> str:
        """Put a new key before the others; returns its id. Servers that run notice by themselves."""
        with self._lock:
            keys = [_new_key(), *self._load()]
            self._write(keys)
            return str(keys[0].kid)

    def _keys(self, *, make: bool = False) -> tuple[OKPKey, ...]:
        with self._lock:
            found = self._load()
            if not found and make:
                self._make()
                found = self._load()
            return found

    def _load(self) -> tuple[OKPKey, ...]:
        from joserfc.jwk import OKPKey

        try:
            changed = self.path.stat().st_mtime
            if self._known is None or self._known[0] != changed:
                told = orjson.loads(self.path.read_bytes())
                self._known = changed, tuple(OKPKey.import_key(one) for one in told["keys"])
        except FileNotFoundError:
            return ()
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{self.path} is no set of signing keys; put back the copy that was kept.") from error
        return self._known[1]

    def _make(self) -> None:
        """Write the first key; where another process has done so at this moment, that one counts."""
        self._write([_new_key()], is_first=True)

    def _write(self, keys: Sequence[OKPKey], *, is_first: bool = False) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".keys-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(orjson.dumps({"keys": [key.as_dict(private=True) for key in keys]}))
                file.flush()
                os.fsync(file.fileno())
            if is_first:
                try:
                    os.link(name, self.path)
                except FileExistsError:
                    return
            else:
                os.replace(name, self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)  # a signature is worth nothing without the key that has made it
            finally:
                os.close(folder)
        finally:
            Path(name).unlink(missing_ok=True)


def read_signed(connection: sa.Connection, keys: SigningKeys, report: str, number: int) -> Report:
    """One signed version, looked at.

    Raises
    ------
    NotFound
        There is none.
    Tampered
        It is not what was signed.
    """
    version = find_version(connection, report, number)
    before = find_version(connection, report, number - 1) if number > 1 else None
    keys.verify(version, before)
    return version.shown


def read_history(connection: sa.Connection, keys: SigningKeys, report: StoredReport) -> list[SignedVersion]:
    """All signed versions of a report, looked at, the first one first.

    Raises
    ------
    Tampered
        One is not what was signed, is missing, or the report says another state than the last one.
    """
    found = list_versions(connection, report.id)
    before = None
    for version in found:
        keys.verify(version, before)
        before = version
    last = (before.number, before.status) if before else (0, None)
    if last[0] != report.number or (before and last[1] != report.status):
        raise Tampered(f"Report {report.id} is kept as {report.status}, which is not what was signed last.")
    return found


def digest_of(version: SignedVersion | None) -> str:
    """SHA-256 of what was signed; empty where there is nothing."""
    return "" if version is None else hashlib.sha256(version.content).hexdigest()


def _registry() -> JWSRegistry:
    """One algorithm, and a header of our own: `prev`."""
    from joserfc.jws import JWSRegistry

    return JWSRegistry(algorithms=[_ALGORITHM], strict_check_header=False)


def _header(signature: str) -> Mapping[str, Any]:
    head = signature.partition(".")[0]
    try:
        told = orjson.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (binascii.Error, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _new_key() -> OKPKey:
    from joserfc.jwk import OKPKey

    return OKPKey.generate_key("Ed25519", auto_kid=True)
