"""A CA that signs a few certificates and is forgotten; needs the package `trustme`."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import trustme
from cryptography.hazmat.primitives import serialization

from bdlab.credentials import Certificate
from bdlab.settings import Secret

_ORGANIZATION, _UNIT = "bdlab", "temporary"
_CLOCK_SKEW = timedelta(minutes=1)


def subject(name: str) -> str:
    """Return the subject of the certificate for `name`, as RFC 4514 writes it."""
    return f"CN=bdlab-{name},OU={_UNIT},O={_ORGANIZATION}"


def temporary_certificates(names: Sequence[str], *, ttl_s: float) -> dict[str, Certificate]:
    """Return a certificate for each name, all by one new CA whose key is kept nowhere. They are valid for localhost and
    127.0.0.1, for servers and for clients."""
    ca = trustme.CA(organization_name=_ORGANIZATION, organization_unit_name="temporary CA")
    now = datetime.now(UTC)
    found = {}
    for name in names:
        leaf = ca.issue_cert(
            "localhost",
            "127.0.0.1",
            common_name=f"bdlab-{name}",
            organization_name=_ORGANIZATION,
            organization_unit_name=_UNIT,
            not_before=now - _CLOCK_SKEW,
            not_after=now + timedelta(seconds=ttl_s),
        )
        key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), password=None)
        # Apache Kafka reads no other form.
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        pkcs8 = Secret(key.private_bytes(*form).decode())
        pem, ca_pem = leaf.cert_chain_pems[0].bytes().decode(), ca.cert_pem.bytes().decode()
        found[name] = Certificate(pem=pem, key=pkcs8, ca_pem=ca_pem)
    return found
