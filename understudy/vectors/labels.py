"""What stands beside an index (in PostgreSQL, the table's comment): its owner's words, and its last rebuild's."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: By these the owner names the model that made the vectors; they stand in the manifest's first level too.
MODEL_LABELS = ("model", "model_version", "model_digest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    """What a rebuild writes beside the labels of the source; None where no rebuild has written.

    Attributes:
        sequence: the vault's state that is served.
        digest: of its layout and rows.
        vault: URL of the vault.
        ef_search: the least effort of a search that found enough; 0 without a graph.
        recall: what it found then, against exact search.
    """

    sequence: int | None = None
    digest: str | None = None
    vault: str | None = None
    ef_search: int | None = None
    recall: float | None = None

    @classmethod
    def read(cls, labels: Mapping[str, Any]) -> Rebuilt:
        """Find it among an index's labels."""
        return cls(**{field.name: labels.get(field.name) for field in fields(cls)})

    def beside(self, labels: Mapping[str, Any]) -> dict[str, Any]:
        """Return an owner's labels with these."""
        return {**labels, **asdict(self)}


def of_owner(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labels without what a rebuild wrote."""
    ours = {field.name for field in fields(Rebuilt)}
    return {name: value for name, value in labels.items() if name not in ours}


def worth_telling(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return those labels that a report repeats, where they are there."""
    return {name: labels[name] for name in ("recall", "ef_search", "model_digest") if name in labels}
