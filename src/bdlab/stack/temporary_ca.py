"""A CA that signs a few certificates and is forgotten; needs the package `cryptography`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bdlab.credentials import Certificate, Issued
from bdlab.settings import Secret

_HOSTS = ("localhost",)
_ADDRESSES = ("127.0.0.1",)
_SKEW = timedelta(minutes=1)


def subject(name: str) -> str:
    """Return the subject of the certificate for `name`, as RFC 4514 writes it."""
    return f"CN=bdlab-{name}"


def temporary_certificates(names: Sequence[str], *, ttl_s: float) -> dict[str, Issued]:
    """Return a certificate for each name, all by one new CA whose key is kept nowhere.

    They are valid for localhost and 127.0.0.1, for servers and for clients.
    """
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _signed("bdlab temporary CA", authority_key.public_key(), authority_key, ttl_s=ttl_s)
    ca_pem = authority.public_bytes(serialization.Encoding.PEM).decode("ascii")
    found = {}
    for name in names:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _signed(
            f"bdlab-{name}", key.public_key(), authority_key, ttl_s=ttl_s, issuer=authority, usages=usages
        )
        found[name] = Issued(
            certificate=Certificate(
                pem=certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
                key=Secret(
                    key.private_bytes(
                        serialization.Encoding.PEM,
                        serialization.PrivateFormat.PKCS8,
                        serialization.NoEncryption(),
                    ).decode("ascii")
                ),
            ),
            ca_pem=ca_pem,
        )
    return found


def _signed(
    name: str,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePrivateKey,
    *,
    ttl_s: float,
    issuer: x509.Certificate | None = None,
    usages: Sequence[x509.ObjectIdentifier] = (),
) -> x509.Certificate:
    """Return a certificate for `name`: without `issuer` that of a CA, which signs itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    is_authority = issuer is None
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(seconds=ttl_s))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_authority,
                key_cert_sign=is_authority,
                crl_sign=is_authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if not is_authority:
        names = [
            *(x509.DNSName(host) for host in _HOSTS),
            *(x509.IPAddress(ip_address(each)) for each in _ADDRESSES),
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False).add_extension(
            x509.ExtendedKeyUsage(usages), critical=False
        )
    return builder.sign(signer, hashes.SHA256())
