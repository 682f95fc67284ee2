"""Signs the manifests of a vault that is there already: once when signing begins, and again when a key is replaced.

Once a vault bears signatures, a manifest without one is taken for what a stranger wrote, or took the signature off,
until a person names it.

The one place where a manifest is written a second time: by compare-and-set, its content as it was.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import Corrupt, InvalidConfig, NotFound, Refused
from understudy.vault.documents import DOCUMENT_BYTES_MAX
from understudy.vault.seal import Damaged, seal, unseal
from understudy.vault.signing import is_manifest, key_id, split

if TYPE_CHECKING:
    from collections.abc import Collection

    from understudy.objects.interface import ObjectInfo
    from understudy.vault.signing import Signing
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.vault")


@dataclass(frozen=True, slots=True, kw_only=True)
class Countersigned:
    """What was found, and what was done about it.

    Attributes:
        signer: the key that signs.
        total: manifests in the vault.
        unsigned: of these, keys of those that had no signature.
        others: keys of those that another trusted key had signed.
        unnamed: unsigned ones beside signed ones, which are signed only when a person names them.
        written: whether they were signed; else it was only looked at.
    """

    signer: str
    total: int
    unsigned: tuple[str, ...]
    others: tuple[str, ...]
    unnamed: tuple[str, ...]
    written: bool

    @property
    def sentence(self) -> str:
        """What was found and done, as a person reads it."""
        count = len(self.unsigned) + len(self.others)
        if not count:
            return f"all {self.total} manifests are signed by {self.signer}"
        what = f"{len(self.unsigned)} unsigned, {len(self.others)} of other trusted keys"
        if self.written:
            return f"{count} of {self.total} manifests signed by {self.signer} ({what})"
        would = f"{count - len(self.unnamed)} of {self.total} manifests would be signed by {self.signer} ({what})"
        if not self.unnamed:
            return would
        return f"{would}; {len(self.unnamed)} lack a signature that others have, and are to be named with --key"

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self) | {"sentence": self.sentence}


def countersign(vault: Vault, *, write: bool, keys: Collection[str] = ()) -> Countersigned:
    """Sign every manifest that the configured key has not signed; content and key of each stay as they are.

    What an untrusted key signed, or what was changed after it was signed, is never signed over. What is unsigned beside
    signed manifests is signed only if it is named: else whoever takes a signature off could have a forgery signed.

    Args:
        vault: opened with a private key.
        write: False only looks.
        keys: of unsigned manifests that a person vouches for; one that ends in ``/`` stands for all below it.

    Raises:
        InvalidConfig: no key is configured.
        NotFound: a key that was named is of no unsigned manifest.
        Refused: some are unsigned beside signed ones, and not named; nothing was written.
        Corrupt: a manifest is damaged or bears a signature that is not trusted; nothing was written.
        Conflict: somebody changed a manifest meanwhile; those before it are signed, the others are then to be named.
    """
    signing = vault.signing
    if signing is None or not signing.signs:
        raise InvalidConfig(
            "vault.sign_with is not set, so there is no key to sign with",
            hint="set it to the reference of the private key",
            next_command="understudy vault keygen --out FILE",
        )
    signer = signing.signer
    total = 0
    unsigned: list[ObjectInfo] = []
    others: list[ObjectInfo] = []
    for info in vault.store.list():
        if not is_manifest(info.key):
            continue
        total += 1
        public = _signed_by(vault, signing, info)
        if public is None:
            unsigned.append(info)
        elif public != signer:
            others.append(info)
    unnamed = _unnamed(vault, [info.key for info in unsigned], keys, first_time=len(unsigned) == total)
    if write and unnamed:
        more = f" (and {len(unnamed) - 1} more)" if len(unnamed) > 1 else ""
        raise Refused(
            f"{unnamed[0]}{more} has no signature, though others in {vault.url} have one",
            hint="somebody may have taken it off to have other content signed: restore it from the bucket's versions; "
            "if you know who wrote it and what it says, name it with --key KEY",
            next_command="understudy vault sign",
        )
    if write:
        for info in (*unsigned, *others):
            plain, _, _ = split(_read(vault, info))
            vault.store.replace(info.key, seal(signing.sign(info.key, plain)), expected=info.token)
            logger.info("%s signed by %s", info.key, key_id(signer))
    return Countersigned(
        signer=key_id(signer),
        total=total,
        unsigned=tuple(info.key for info in unsigned),
        others=tuple(info.key for info in others),
        unnamed=unnamed,
        written=write,
    )


def _unnamed(vault: Vault, unsigned: list[str], names: Collection[str], *, first_time: bool) -> tuple[str, ...]:
    """Return the unsigned manifests that a person must name and did not. Raises NotFound for a name of none."""
    left = set(unsigned)
    for name in names:
        meant = {key for key in unsigned if key == name or (name.endswith("/") and key.startswith(name))}
        if not meant:
            raise NotFound(f"{name!r} names no unsigned manifest in {vault.url}", next_command="understudy vault sign")
        left -= meant
    return () if first_time else tuple(key for key in unsigned if key in left)


def _signed_by(vault: Vault, signing: Signing, info: ObjectInfo) -> bytes | None:
    """Return the public key that signed a manifest, None for none. Raises Corrupt when it does not hold."""
    data = _read(vault, info)
    _, public, _ = split(data)
    if public is not None:
        signing.require(info.key, data)
    return public


def _read(vault: Vault, info: ObjectInfo) -> bytes:
    if info.size > DOCUMENT_BYTES_MAX:
        message = f"{info.key} in {vault.url} has {info.size} bytes, which no manifest has"
        raise Corrupt(message, hint="restore it from the bucket's versions")
    try:
        return unseal(vault.store.get(info.key))
    except Damaged as damage:
        message = f"{info.key} in {vault.url} holds other bytes than were written: {damage}"
        raise Corrupt(message, hint="restore it from the bucket's versions") from damage
