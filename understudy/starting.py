"""What a fresh config looks like: between which clouds, with ``FILL-IN`` for every name that only its owner knows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from understudy.errors import InvalidConfig, Refused

Cloud = Literal["aws", "gcp"]

CONFIG = Path("config/production.yaml")
ENVIRONMENT = Path(".env.example")
_SERVICE = re.compile("[a-z][a-z0-9-]{0,62}")


@dataclass(frozen=True, slots=True)
class _Words:
    """One cloud's part of the file; ``{site}`` is home or away, ``{service}`` the service's name."""

    sites: dict[str, str]
    bucket: str
    online: str
    capacity: str
    credentials: str


_CLOUDS: dict[Cloud, _Words] = {
    "aws": _Words(
        sites={
            "home": "{name: aws-use1, cloud: aws, region: us-east-1}",
            "away": "{name: aws-usw2, cloud: aws, region: us-west-2}",
        },
        bucket="s3",
        online="dynamodb://FILL-IN-{site}-features",
        capacity="fixed://2",
        credentials="AWS: a profile or a role; else credentials: env:NAME under the site, with the text of a key file",
    ),
    "gcp": _Words(
        sites={
            "home": "{name: gcp-use4, cloud: gcp, region: us-east4, project: FILL-IN-project}",
            "away": "{name: gcp-usc1, cloud: gcp, region: us-central1, project: FILL-IN-project}",
        },
        bucket="gs",
        online="bigtable://FILL-IN-project/FILL-IN-{site}-instance/features",
        capacity="gce://us-central1-a/FILL-IN-group",
        credentials="Google Cloud: workload identity or gcloud; else credentials: file:/path of a JSON key",
    ),
}

_CONFIG_TEXT = """\
# yaml-language-server: $schema=schema.json
# One service and its standby. Write your own where it says FILL-IN: `understudy config check --offline` lists them.
# No secret stands here, only where it is: env:NAME, file:/path or block:type/name.
# {home_credentials}
# {away_credentials}
service: {service}
sites:                                  # by name; who is active is in the register, never here
  home: {home}
  away: {away}
vault:                                  # at the away site; all that is needed to run the service there
  url: {away_bucket}://FILL-IN-vault/{service}
  # sign_with: env:UNDERSTUDY_SIGNING_KEY     # understudy vault keygen makes the key and shows the line for trust
  # trust: []
register: {register}   # in neither site
components:                             # each with its own targets; remove what you do not have
  inference:
    rto: 5m
    rpo: none
    health: /health
    probe: {{path: /recommend, body: {{entity: canary}}, p95: 100ms}}
  feature_store:
    rto: 15m
    rpo: 5m
    pairs:
      - name: features
        offline: {home_bucket}://FILL-IN-lake/features/
        home: {home_online}
        away: {away_online}
        every: 2m
  vector_index:
    rto: 30m
    rpo: 1h
    pairs:
      - name: index
        home: pgvector://understudy@FILL-IN-home-host:5432/vectors?table=index
        away: pgvector://understudy@FILL-IN-away-host:5432/vectors?table=index
        password: env:UNDERSTUDY_INDEX_PASSWORD
        every: 30m
  training:
    rto: 4h
    rpo: 24h
    pairs:
      - name: models
        home: {home_bucket}://FILL-IN-models/
        away: {away_bucket}://FILL-IN-models-serving/
        every: "02:00,14:00"            # UTC; one copy a day would miss 24 h by the time that it takes
traffic:
  url: route53://FILL-IN-ZONE-ID/FILL-IN.example.com
  addresses: {{home: FILL-IN-address, away: FILL-IN-address}}   # the load balancer of each site
  ttl_max: 60s
  ramp: [10, 50, 100]
capacity: {capacity}
# alerts: {{url: "route53-health-check://FILL-IN-ID"}}
# metrics: {{otlp: "http://collector:4318", ping: "env:UNDERSTUDY_PING_URL"}}
# notify: ["block:slack-webhook/incidents"]
"""

_ENVIRONMENT_TEXT = """\
# What config/production.yaml refers to. Copy this file to .env, which Git must not know, and fill it in there:
#   cp .env.example .env && echo .env >> .gitignore && set -a && . ./.env && set +a
UNDERSTUDY_CONFIG=config/production.yaml
# the password of the role understudy at both vector databases
UNDERSTUDY_INDEX_PASSWORD=
# the private key of vault.sign_with, when the vault is signed
# UNDERSTUDY_SIGNING_KEY=
# the URL of a dead man's switch, when metrics.ping is set
# UNDERSTUDY_PING_URL=
"""


def config_text(source: Cloud, target: Cloud, service: str) -> str:
    """Return a config to fill in. Raises InvalidConfig when the service cannot be called so."""
    if not _SERVICE.fullmatch(service):
        raise InvalidConfig(f"{service!r} cannot be a service's name", hint="use lowercase letters, digits and dashes")
    home, away = _CLOUDS[source], _CLOUDS[target]
    register = 's3://FILL-IN-register/{}", cloud: aws, region: eu-west-1'
    if source == target == "gcp":
        register = 'gs://FILL-IN-register/{}", cloud: gcp, region: europe-west1'
    scale = "warm: 1, full: 4}"
    if target == "aws":
        scale = "warm: 2, full: 2}   # no adapter scales AWS instances yet: as many as always run there"
    lines = _CONFIG_TEXT.format(
        service=service,
        register=f'{{url: "{register.format(service)}}}',
        home=home.sites["home"],
        away=away.sites["away"],
        home_bucket=home.bucket,
        away_bucket=away.bucket,
        home_online=home.online.replace("{site}", "home"),
        away_online=away.online.replace("{site}", "away"),
        capacity=f'{{away: "{away.capacity}", {scale}',
        home_credentials=home.credentials,
        away_credentials=away.credentials,
    ).splitlines(keepends=True)
    return "".join(dict.fromkeys(lines[:5])) + "".join(lines[5:])


def environment_text() -> str:
    """Return the names of the secrets that the config refers to, without any."""
    return _ENVIRONMENT_TEXT


def write_files(folder: Path, files: dict[Path, str], *, force: bool) -> None:
    """Write files below a folder, all or none.

    Raises:
        Refused: one is there already, and ``force`` was not said.
        InvalidConfig: the folder cannot be written.
    """
    there = [str(path) for path in files if (folder / path).exists()]
    if there and not force:
        is_are = "is" if len(there) == 1 else "are"
        raise Refused(
            f"{' and '.join(there)} {is_are} there already; nothing was written",
            hint="write --force to overwrite, or change to another folder",
        )
    for path, text in files.items():
        place = folder / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = place.with_name(f"{place.name}.new")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(place)
        except OSError as error:
            raise InvalidConfig(f"{place} cannot be written: {error.strerror}", hint="look at the folder") from error
