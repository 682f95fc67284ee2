"""What a config may say of a site's buckets, and what each identity is granted for it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.unit.example import example
from understudy.iam.policies import policies_of
from understudy.objects.options import PLAIN, StoreOptions
from understudy.settings import Settings

ARN = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
CLOUD_KEY = "projects/acme/locations/us/keyRings/ring/cryptoKeys/vault"
HOME, AWAY = "sites.home.storage", "sites.away.storage"


@pytest.mark.parametrize(
    ("place", "storage", "words"),
    [
        (HOME, {"kms_key": CLOUD_KEY}, "is no key of aws; write an ARN of AWS KMS"),
        (AWAY, {"kms_key": ARN}, "is no key of gcp; write projects/P/locations/L/keyRings/R/cryptoKeys/K"),
        (HOME, {"packs_class": "GLACIER"}, "GLACIER cannot be read for hours; write a class that can"),
        (HOME, {"served_class": "DEEP_ARCHIVE"}, "cannot be read for hours"),
        (HOME, {"served_class": "standard"}, '"standard" is no storage class'),
        (AWAY, {"requester_payed": True}, "Extra inputs"),
        ("register.storage", {"kms_key": CLOUD_KEY}, "is no key of aws"),
    ],
)
def test_what_a_cloud_does_not_know_is_refused_in_one_sentence(place: str, storage: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Settings.model_validate(example(**{place: storage}))


def test_who_pays_in_google_cloud_must_be_named() -> None:
    away = {"name": "gcp", "cloud": "gcp", "region": "us-central1", "storage": {"requester_pays": True}}
    with pytest.raises(ValidationError, match="this site's project pays, and there is none; write project: ID"):
        Settings.model_validate(example(**{"sites.away": away}))


def test_the_first_class_that_fits_holds_and_an_empty_one_is_the_buckets_own() -> None:
    options = StoreOptions(classes=(("pointers/", ""), ("", "NEARLINE")))
    assert (None, "NEARLINE", None) == (
        options.class_of("pointers/m.json"),
        options.class_of("m/1/x"),
        PLAIN.class_of("x"),
    )


def test_a_key_of_the_config_is_granted_through_s3_alone() -> None:
    settings = Settings.model_validate(example(**{HOME: {"kms_key": ARN}}))
    document = policies_of("replicator", settings).aws
    assert document is not None
    [statement] = [each for each in document["Statement"] if each["Sid"] == "UseKeysThroughS3"]
    assert [ARN] == statement["Resource"]
    alias = policies_of("replicator", Settings.model_validate(example(**{HOME: {"kms_key": "alias/vault"}})))
    assert any("alias/vault is no ARN, which a policy needs" in note for note in alias.notes)
    assert all(each["Sid"] != "UseKeysThroughS3" for each in (alias.aws or {})["Statement"])


def test_google_cloud_grants_paying_and_notes_who_uses_the_key() -> None:
    settings = Settings.model_validate(example(**{AWAY: {"kms_key": CLOUD_KEY, "requester_pays": True}}))
    made = policies_of("hydrator", settings)
    assert made.gcp is not None
    [role] = [role for role in made.gcp.roles if role.id == "understudy_hydrator_pay"]
    assert ("acme-dr", ("serviceusage.services.use",)) == (role.project, role.permissions)
    assert any(CLOUD_KEY in note and "cloudkms.cryptoKeyEncrypterDecrypter" in note for note in made.notes)


def test_the_count_of_transfers_is_granted_where_it_is_kept_and_nowhere_else() -> None:
    limited = Settings.model_validate(example(limits={"transfer_month": "20TB"}))
    plain = Settings.model_validate(example())

    def granted(settings: Settings, identity: Any, standby: Any = "away") -> bool:
        found = policies_of(identity, settings, standby=standby).gcp
        return found is not None and any("pointers/transfer/" in each.expression for each in found.bindings)

    assert (True, False) == (granted(limited, "replicator"), granted(plain, "replicator"))
    assert (False, True) == (granted(limited, "hydrator"), granted(limited, "hydrator", "home"))
