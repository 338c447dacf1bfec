"""TLS certificates of this home's own making: an authority of its own, and what it vouches for.

    <folder>/ca.pem         the authority's certificate: whoever connects verifies with it; nothing secret
    <folder>/ca.key         its private key
    <folder>/<which>.pem    private key, certificate and the authority's certificate of one server, in one file, so that
                            a crash never leaves a key beside another key's certificate
    <folder>/<which>.json   what that certificate says, so that looking whether it still serves costs no library

The authority (EC P-256) is made once and lasts ten years; a server's certificate lasts 90 days, and is made anew when a
third of that is left or when it lacks a name. Only then is the library `cryptography` imported (a fifth of a second,
18 MB): no agent, and no command, ever does.

Not covered: revoking a certificate (the key of the only server is on the authority's own disk), and a second authority
beside the first: who moves <folder> away gets a new one, and has to invite every member anew.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import ipaddress
import json
import re
import ssl
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh import platform
from mesh.errors import DiskFull, EnvironmentUnfit

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DAY_S = 86_400
AUTHORITY_S = 3_652 * DAY_S
CERTIFICATE_S = 90 * DAY_S

RENEW_SHARE = 1 / 3
"""Of a certificate's time: with less left it is made anew, so that a home that sleeps for a month wakes up in time."""

CLOCKS_DIFFER_S = 3_600
"""A certificate is valid this long before it was made: the clock of who verifies it may be behind."""

CHARS_MAX = 64
"""Of a common name (X.509's upper bound)."""


def authority(folder: Path) -> Path:
    """The authority's certificate, as those who connect need it."""
    return folder / "ca.pem"


def combined(folder: Path, which: str = "server") -> Path:
    """Key and certificates of one server in one file: it serves as both of them, to nats-server and to Python."""
    return folder / f"{which}.pem"


def fingerprint(path: Path) -> str:
    """SHA-256 of the first certificate in a PEM file, of its DER form, in hexadecimal. EnvironmentUnfit for none."""
    try:
        found = re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", path.read_text("ascii"), re.DOTALL)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(found[0] if found else "")).hexdigest()
    except (OSError, ValueError):
        raise EnvironmentUnfit(
            f"{path} must be a certificate, but it can not be read as one: put a copy back, or move the folder "
            f"{path.parent} away so that it is made anew; members then have to be invited again."
        ) from None


def prepare(folder: Path, names: Collection[str], *, which: str = "server", now_s: float | None = None) -> bool:
    """Make what is missing or will soon be over; was anything made?

    names: host names and addresses for which the certificate has to hold; now_s: seconds since 1970.
    EnvironmentUnfit for a folder that can not be used, DiskFull.
    """
    now_s = time.time() if now_s is None else now_s
    if authority(folder).exists() and renew_in_s(folder, names, which=which, now_s=now_s) > 0:
        return False
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not authority(folder).exists():
            _make_authority(folder, now_s)
        _make_certificate(folder, which, names, now_s)
        platform.sync_folder(folder)
    except OSError as error:
        import errno

        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"There is no room for certificates in {folder}: free some space.") from None
        raise EnvironmentUnfit(
            f"The folder {folder} must be yours to read and write, for certificates: {error.strerror}."
        ) from None
    return True


def renew_in_s(
    folder: Path, names: Collection[str] = (), *, which: str = "server", now_s: float | None = None
) -> float:
    """Seconds until a certificate has to be made anew; 0 or less when that is due, or when it lacks one of `names`."""
    now_s = time.time() if now_s is None else now_s
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        note = json.loads((folder / f"{which}.json").read_bytes())
        same = note["sha256"] == hashlib.sha256(combined(folder, which).read_bytes()).hexdigest()
        from_s, until_s = float(note["from_s"]), float(note["until_s"])
        if same and note["authority"] == fingerprint(authority(folder)) and {*names} <= {*note["names"]}:
            return until_s - RENEW_SHARE * CERTIFICATE_S - now_s if from_s <= now_s else 0.0
    return 0.0


def names_in(folder: Path, which: str = "server") -> list[str]:
    """Names and addresses for which a certificate holds; none when there is none."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return [str(name) for name in json.loads((folder / f"{which}.json").read_bytes())["names"]]
    return []


def _make_authority(folder: Path, now_s: float) -> None:
    """The key first: without the certificate the next call makes both anew."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"Ramify mesh {dt.datetime.fromtimestamp(now_s, dt.UTC):%Y-%m-%d}")
    builder = (
        _builder(name, name, key, now_s - DAY_S, now_s + AUTHORITY_S)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    platform.write_private(folder / "ca.key", _key_text(key))
    platform.write_private(authority(folder), _signed(builder, key))


def _make_certificate(folder: Path, which: str, names: Collection[str], now_s: float) -> None:
    """The note last: without it the certificate is made anew."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    above, above_key = _authority(folder)
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = sorted({*names})
    from_s, until_s = now_s - CLOCKS_DIFFER_S, now_s + CERTIFICATE_S
    builder = (
        _builder(_name(f"Ramify {which}"), above.subject, key, from_s, until_s)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in wanted]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(above_key.public_key()), critical=False
        )
    )  # fmt: skip
    content = _key_text(key) + _signed(builder, above_key) + authority(folder).read_bytes()
    platform.write_private(combined(folder, which), content)
    note = {
        "names": wanted, "from_s": from_s, "until_s": until_s,
        "sha256": hashlib.sha256(content).hexdigest(), "authority": fingerprint(authority(folder)),
    }  # fmt: skip
    platform.write_private(folder / f"{which}.json", json.dumps(note, indent=1).encode())


def _authority(folder: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        key: Any = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate(authority(folder).read_bytes())
        if certificate.public_key() != key.public_key():
            raise ValueError("the key is another one's")
        return certificate, key
    except (OSError, ValueError) as error:
        raise EnvironmentUnfit(
            f"ca.pem and ca.key in {folder} must be a certificate and its key, but they can not be used "
            f"({str(error).rstrip('.')}): put a copy back, or move the folder away so that both are made anew; members "
            "then have to be invited again."
        ) from None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, from_s: float, until_s: float
) -> x509.CertificateBuilder:
    from cryptography import x509

    moment = dt.datetime.fromtimestamp
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(from_s, dt.UTC))
        .not_valid_after(moment(until_s, dt.UTC))
    )


def _signed(builder: x509.CertificateBuilder, key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import hashes, serialization

    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _key_text(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives import serialization as form

    return key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())


def _usage(**wanted: bool) -> x509.KeyUsage:
    from cryptography import x509

    known = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in known})


def _name(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text[:CHARS_MAX])])


def _general_name(text: str) -> x509.GeneralName:
    from cryptography import x509

    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    return x509.DNSName(text)
