"""A config that unit tests change one thing of."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE: dict[str, Any] = {
    "service": "recommender",
    "sites": {
        "home": {"name": "aws-use1", "cloud": "aws", "region": "us-east-1"},
        "away": {"name": "gcp-usc1", "cloud": "gcp", "region": "us-central1", "project": "acme-dr"},
    },
    "vault": {"url": "gs://acme-understudy/recommender"},
    "register": {"url": "s3://acme-epoch/recommender", "region": "eu-west-1"},
    "components": {
        "inference": {"rto": "5m", "rpo": "none"},
        "feature_store": {
            "rto": "15m",
            "rpo": "5m",
            "pairs": [
                {
                    "name": "user_features",
                    "offline": "s3://acme-lake/features/",
                    "home": "dynamodb://user_features",
                    "away": "bigtable://acme/understudy/user_features",
                    "every": "2m",
                }
            ],
        },
        "vector_index": {
            "rto": "30m",
            "rpo": "1h",
            "pairs": [
                {
                    "name": "products",
                    "home": "pgvector://u@10.0.0.1:5432/db?table=products",
                    "away": "pgvector://u@10.8.0.1:5432/db?table=products",
                    "every": "30m",
                }
            ],
        },
        "training": {
            "rto": "4h",
            "rpo": "24h",
            "pairs": [
                {
                    "name": "models",
                    "home": "s3://acme-models/",
                    "away": "gs://acme-models-serving/",
                    "every": "02:00,14:00",
                }
            ],
        },
    },
    "traffic": {
        "url": "route53://Z01/recommendations.example.com",
        "addresses": {"home": "192.0.2.1", "away": "192.0.2.2"},
    },
    "capacity": {"away": "gce://us-central1-a/recommender-mig", "warm": 1, "full": 2},
}


def example(**changes: Any) -> dict[str, Any]:
    """Return the config with dotted settings changed: ``example(**{"components.feature_store.rpo": "5"})``."""
    document = copy.deepcopy(EXAMPLE)
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        node = document
        for part in path:
            node = node[int(part)] if isinstance(node, list) else node[part]
        node[last] = value
    return document


def example_in_folders(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the config with vault, register and both sites' models in folders below ``folder``, which are made."""
    places = {
        "vault.url": "vault",
        "register.url": "register",
        "components.training.pairs.0.home": "home",
        "components.training.pairs.0.away": "away",
    }
    for name in places.values():
        (folder / name).mkdir(exist_ok=True)
    urls = {dotted: f"file://{folder}/{name}" for dotted, name in places.items()}
    return example(**{**urls, **changes})
