"""Certificates of an authority that was made for a test."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificates(folder: Path) -> Callable[[str], tuple[Path, Path]]:
    """A made authority, whose certificate is ``ca.pem``; it gives certificates for names, with their keys."""
    now = datetime.now(UTC)

    def made(
        name: str, issuer: x509.Name, by: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey, is_ca: bool
    ) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        )
        return built.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, root = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Made authority")]),
    )
    (folder / "ca.pem").write_bytes(made("Made authority", root, authority, authority, True))

    def give(name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / f"{name}.pem").write_bytes(made(name, root, authority, key, False))
        (folder / f"{name}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return folder / f"{name}.pem", folder / f"{name}.key"

    return give
