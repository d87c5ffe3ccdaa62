"""Who we are to those whom reports are sent to, and whom we believe: secrets of the environment, files of TLS."""

from __future__ import annotations

import os
import ssl

from readingroom.errors import GiveUp


def secret(variable: str) -> str:
    """What a variable of the environment holds; raises `GiveUp` where it holds nothing."""
    found = os.environ.get(variable, "")
    if not found:
        raise GiveUp(f"The variable {variable} of the environment, which a destination names, is empty.")
    return found


def bearer(variable: str) -> dict[str, str]:
    """The header with the token that a variable of the environment holds; empty where none is named."""
    return {"Authorization": f"Bearer {secret(variable)}"} if variable else {}


def trust(ca: str, *, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """TLS 1.2 or later (BCP 195), with the system's authorities and those of the file `ca`.

    Parameters
    ----------
    certificate, key
        Files with our own certificate and its key, where we are to show one.
    """
    try:
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca:
            context.load_verify_locations(ca)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise GiveUp(f"A file of certificates of this destination cannot be read: {type(error).__name__}.") from None
    return context
