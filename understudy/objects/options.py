"""How a site wants its buckets to be read and written: who pays, which key encrypts, which storage class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What an adapter passes on with every call that takes it.

    Attributes:
        requester_pays: whoever asks agrees to pay for it.
        kms_key: the key that encrypts what is written; None leaves it to the bucket.
        classes: (prefix of keys, storage class), of which the first that fits holds; an empty class, and no fit at
            all, leaves it to the bucket.
    """

    requester_pays: bool = False
    kms_key: str | None = None
    classes: tuple[tuple[str, str], ...] = ()

    def class_of(self, key: str) -> str | None:
        """Return the storage class of a new object, None where the bucket decides."""
        return next((chosen or None for prefix, chosen in self.classes if key.startswith(prefix)), None)


#: The bucket decides all of it.
PLAIN = StoreOptions()
