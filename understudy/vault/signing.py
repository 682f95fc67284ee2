"""Signed manifests: who wrote what a reader is about to trust, proven with public keys alone (Ed25519).

A signature covers the service, the object's key and every byte of the manifest, so a valid manifest under another name,
sequence or service does not pass. It stands in the manifest itself, as its first field: one object, written once.

    {"signature":"ed25519:<public key>:<signature>", <the manifest's other fields>}

What is signed is ``understudy-manifest-1``, the service and the key, a line each, then the manifest without that field.
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from typing import TYPE_CHECKING

from understudy.errors import Corrupt, InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: What a reader trusts: models, indexes, features and sets. All else is named by its content, or shows nothing alone.
_MANIFEST = re.compile(
    r"artifacts/[^/]+/[^/]+/[0-9]+\.json|vectors/[^/]+/[0-9]+/manifest\.json|(?:features|sets)/[^/]+/[0-9]+\.json"
)
_FIELD = re.compile(rb'\{"signature":"ed25519:([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{86}==)",')
_ATTESTED = re.compile(r"ed25519:([A-Za-z0-9+/]{43}=):([A-Za-z0-9+/]{86}==)")
_CONTEXT = "understudy-manifest-1"
_KEY_BYTES = 32
_LINE = "ed25519:"
_SHOWN = 12
_SEED_HINT = "make one with: understudy vault keygen --out FILE"


def is_manifest(key: str) -> bool:
    """Return whether a vault key is one whose object is signed."""
    return _MANIFEST.fullmatch(key) is not None


def key_id(public: bytes) -> str:
    """Return how errors name a public key: the beginning of its line in the config."""
    return f"{_LINE}{base64.b64encode(public).decode()[:_SHOWN]}"


def split(data: bytes) -> tuple[bytes, bytes | None, bytes | None]:
    """Return (the manifest without its signature, the public key, the signature); both None when it is not signed."""
    found = _FIELD.match(data)
    if found is None:
        return data, None, None
    return b"{" + data[found.end() :], base64.b64decode(found[1]), base64.b64decode(found[2])


class Signing:
    """What signs and checks the manifests of one service's vault. Safe to use from many threads.

    Attributes:
        verified: keys of the manifests that were read and bore a trusted signature.
    """

    def __init__(
        self, service: str, *, trust: tuple[str, ...] = (), private_key: Callable[[], str] | None = None
    ) -> None:
        """Take the service's name, the public keys to trust, and where the private key is to be had.

        Args:
            service: covered by every signature.
            trust: lines ``ed25519:BASE64``; empty: manifests are read whether they are signed or not.
            private_key: returns PEM (PKCS #8, not encrypted) or the 32 byte seed in base64; asked at the first
                signature, so that a reader needs no secret. None: nothing is signed.

        Raises:
            InvalidConfig: a line of ``trust`` is not a public key.
        """
        self.service = service
        self.trust = tuple(_public(line) for line in trust)
        self.verified: set[str] = set()
        self._private_key = private_key
        self._signer: Ed25519PrivateKey | None = None
        self._line = b""
        self._lock = threading.Lock()

    @property
    def signs(self) -> bool:
        """Whether new manifests are signed."""
        return self._private_key is not None

    @property
    def signer(self) -> bytes:
        """The public key that belongs to the private one. Raises InvalidConfig."""
        self.ready()
        return base64.b64decode(self._line)

    def ready(self) -> None:
        """Read the private key, if there is to be one: called before long work, so that none of it is for nothing.

        Raises:
            InvalidConfig: it cannot be had, is no key, or its public half is not trusted by this very config; or there
                is none, where only signed manifests are read: what this config would write, it would refuse to read.
        """
        with self._lock:
            if self._private_key is None and self.trust:
                raise InvalidConfig(
                    "vault.trust asks for signatures, and vault.sign_with names no key to sign with",
                    hint="set vault.sign_with where this service writes into its vault; who only reads needs no key",
                )
            if self._private_key is None or self._signer is not None:
                return
            signer = _private(self._private_key())
            public = signer.public_key().public_bytes_raw()
            if self.trust and public not in self.trust:
                message = f"vault.sign_with holds the key {key_id(public)}, which vault.trust does not name"
                line = f"{_LINE}{base64.b64encode(public).decode()}"
                raise InvalidConfig(message, hint=f"add {line} to vault.trust, at every site before the first push")
            self._line = base64.b64encode(public)
            self._signer = signer

    def sign(self, key: str, data: bytes) -> bytes:
        """Return a manifest (a JSON object with at least one field) with its signature; unchanged where none is asked.

        Raises InvalidConfig when the private key cannot be had.
        """
        self.ready()
        if self._private_key is None:
            return data
        if self._signer is None or not data.startswith(b"{"):
            message = f"{key} is not a JSON object"
            raise ValueError(message)
        signature = base64.b64encode(self._signer.sign(self._covered(key, data)))
        return b'{"signature":"ed25519:' + self._line + b":" + signature + b'",' + data[1:]

    def check(self, key: str, data: bytes) -> bytes:
        """Return a manifest without its signature, which was proven if any keys are trusted.

        Raises:
            Corrupt: unsigned, changed, signed for another name, or by a key that is not trusted.
        """
        if not self.trust:
            return split(data)[0]
        plain = self.require(key, data)
        self.verified.add(key)
        return plain

    def require(self, key: str, data: bytes) -> bytes:
        """Do as ``check``, also where no key is trusted: then only the own one counts. Raises Corrupt."""
        plain, public, signature = split(data)
        if public is None or signature is None:
            message = f"{key} is not signed, and vault.trust asks for a signature"
            raise Corrupt(
                message,
                hint="somebody else may have written it, or taken its signature off: restore it from the bucket's "
                "versions; how a vault from before vault.trust was set is signed, once, is in docs/formats.md",
            )
        if not _proven(public, signature, self._covered(key, plain)):
            message = f"{key} is not what {key_id(public)} signed: it was changed, or belongs under another name"
            raise Corrupt(message, hint="restore it from the bucket's versions")
        if public not in (self.trust or (self.signer,)):
            message = f"{key} is signed by {key_id(public)}, which vault.trust does not name"
            raise Corrupt(
                message,
                hint="if that is a key of yours, add its line to vault.trust; if not, somebody else writes into the "
                "vault: restore the object from the bucket's versions and look at who may write there",
            )
        return plain

    def attest(self, what: str, text: str) -> str | None:
        """Return the signature of a statement that is no manifest, as one line; None where none is asked for.

        Args:
            what: of which kind it is, so that a signature of one kind is none of another.
            text: what is signed, beside the kind and the service.

        Raises:
            InvalidConfig: as ``ready``.
        """
        self.ready()
        if self._signer is None:
            return None
        signature = base64.b64encode(self._signer.sign(self._stated(what, text)))
        return f"{_LINE}{self._line.decode()}:{signature.decode()}"

    def require_attested(self, key: str, what: str, text: str, signature: object) -> None:
        """Prove the signature of a statement, if any keys are trusted.

        Args:
            key: where it stands, for the sentence.
            what: as it was signed.
            text: as it was signed.
            signature: the line that ``attest`` gave, or what stands in its place.

        Raises:
            Corrupt: unsigned, changed, or signed by a key that is not trusted.
        """
        if not self.trust:
            return
        hint = "somebody else may have written it: restore it from the bucket's versions, or make it again"
        found = _ATTESTED.fullmatch(signature) if isinstance(signature, str) else None
        if found is None:
            raise Corrupt(f"{key} is not signed, and vault.trust asks for a signature", hint=hint)
        public = base64.b64decode(found[1])
        if not _proven(public, base64.b64decode(found[2]), self._stated(what, text)):
            raise Corrupt(f"{key} is not what {key_id(public)} signed", hint=hint)
        if public not in self.trust:
            raise Corrupt(f"{key} is signed by {key_id(public)}, which vault.trust does not name", hint=hint)

    def _stated(self, what: str, text: str) -> bytes:
        return f"understudy-{what}-1\n{self.service}\n{text}".encode()

    def _covered(self, key: str, plain: bytes) -> bytes:
        return f"{_CONTEXT}\n{self.service}\n{key}\n".encode() + plain


def public_line(seed: bytes) -> str:
    """Return the line for ``vault.trust`` that belongs to a private key's 32 byte seed."""
    public = _from_seed(seed).public_key().public_bytes_raw()
    return f"{_LINE}{base64.b64encode(public).decode()}"


def private_key_text(seed: bytes) -> str:
    """Return a private key as PEM (PKCS #8, not encrypted), which ``openssl pkey`` reads too."""
    from cryptography.hazmat.primitives import serialization

    encoded = _from_seed(seed).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded.decode()


def _from_seed(seed: bytes) -> Ed25519PrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(seed)


def _public(line: str) -> bytes:
    try:
        public = base64.b64decode(line.removeprefix(_LINE), validate=True) if line.startswith(_LINE) else b""
    except (binascii.Error, ValueError):
        public = b""
    if len(public) != _KEY_BYTES:
        message = f"vault.trust has {line[:60]!r}, which is no public key"
        raise InvalidConfig(message, hint="write ed25519: and the 44 letters that vault keygen printed")
    return public


def _private(text: str) -> Ed25519PrivateKey:
    """Read a private key; what is wrong with it is said without a letter of it."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = text.strip().replace("\\n", "\n")  # environment variables often carry a PEM on one line
    try:
        if text.startswith("-----BEGIN"):
            key = load_pem_private_key(text.encode(), password=None)
        else:
            key = Ed25519PrivateKey.from_private_bytes(base64.b64decode(text, validate=True))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: a parser's words may quote what it was given.
        message = "vault.sign_with does not hold an Ed25519 private key (PEM without a password, or 32 bytes in base64)"
        raise InvalidConfig(message, hint=_SEED_HINT) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidConfig("vault.sign_with holds a private key that is not Ed25519", hint=_SEED_HINT)
    return key


def _proven(public: bytes, signature: bytes, covered: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, covered)
    except (InvalidSignature, ValueError):
        return False
    return True
