"""The coordinator's own certificate authority, and the server certificate that it signs."""

import ipaddress
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared.errors import CoordinatorError

CA_DAYS, SERVER_DAYS = 3650, 825
"""Ten years, and the longest that common TLS clients accept of a server."""

CLOCK_SKEW = timedelta(hours=1)


def make_authority(name: str, *, now: datetime) -> tuple[bytes, bytes]:
    """Make an authority that signs this coordinator's server certificates and nothing else: its key and certificate.

    Sites trust this certificate alone, so that no public authority can vouch for a coordinator.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    builder = (
        _builder(subject, subject, key.public_key(), now=now, days=CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return _key_pem(key), builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_server(ca_key: bytes, ca: bytes, host: str, *, now: datetime) -> tuple[bytes, bytes]:
    """Make a server's key and certificate for `host`; loopback is in it too, for the coordinator's own processes.

    Raises:
        CoordinatorError: the authority's key cannot be read.
    """
    try:
        authority = serialization.load_pem_private_key(ca_key, password=None)
        issuer = x509.load_pem_x509_certificate(ca)
    except ValueError:
        raise CoordinatorError("the authority's key or certificate is damaged. Restore it from a backup.") from None
    if not isinstance(authority, ec.EllipticCurvePrivateKey):
        raise CoordinatorError("the authority's key is none of this program's. Restore it from a backup.")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    names = [_name(text) for text in dict.fromkeys([host, "localhost", "127.0.0.1"])]
    builder = (
        _builder(subject, issuer.subject, key.public_key(), now=now, days=SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
            critical=False,
        )
    )
    return _key_pem(key), builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def expires(certificate: Path) -> datetime:
    """Say when a certificate ends.

    Raises:
        CoordinatorError: it cannot be read.
    """
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        raise CoordinatorError(f"{certificate}: no certificate can be read there. Restore it from a backup.") from None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
