"""What each identity asks of each endpoint of a config: data to data, in our words.

An identity is who runs something, with credentials of its own:

- ``replicator`` reads the active site and creates in the vault; it can delete nothing there but its own pointers.
- ``hydrator`` reads the vault and fills the standby: its serving bucket and its online store.
- ``copies`` is both in one: what the scheduled flows run as, which copy and then fill in the same run.
- ``pruner`` reads the vault and what both sites serve, and deletes versions, sets, packs and index that are not kept.
- ``failover`` does what the hydrator does, and claims the epoch, writes the journal, moves DNS, capacity and alerts.
- ``drill`` reads the vault and fills places of its own; it can claim no epoch and moves nothing of production.
- ``writer`` is the service itself, at both sites: it renews its lease and appends to the offline store.
- ``exporter`` reads pointers, the register and plans for ``understudy metrics``, and writes nothing.
- ``operator`` writes the first register, keeps the break-glass kit beside the vault, and may ask how buckets keep what
  is in them, which ``config check`` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from understudy.settings import Access, Settings, SiteRole, StoredAccess, other, split_url

if TYPE_CHECKING:
    from collections.abc import Callable

Identity = Literal["replicator", "hydrator", "copies", "pruner", "failover", "drill", "writer", "exporter", "operator"]
IDENTITIES: tuple[Identity, ...] = get_args(Identity)

#: Of a bucket: ``list`` (and its clock), ``list_versions`` to pin many files at once, ``inspect`` whether it keeps
#: versions, ``survey`` how it keeps what is in it (versions, replication, soft delete), ``read``, ``read_versions``;
#: ``create`` where nothing is, ``parts`` of a create that is sent in several (they show nothing), ``replace`` by
#: compare-and-set, ``put`` over whatever is there, ``tier`` to copy an object onto itself, ``delete``. Of
#: anything else: ``look`` changes nothing, ``work`` is all that its adapter does.
Verb = Literal[
    "list",
    "list_versions",
    "inspect",
    "survey",
    "read",
    "read_versions",
    "create",
    "parts",
    "replace",
    "put",
    "tier",
    "delete",
    "look",
    "work",
]

REGISTER = "register.json"
#: Where a drill fills and proves what it restores; production never reads there.
DRILL_PREFIX = "drill/"
DRILL_TABLES = "drill_"

_ROLES: tuple[SiteRole, ...] = ("home", "away")
#: What a vault holds for ever once it is written: ``docs/formats.md``.
_REPLICATED = ("artifacts/", "features/", "format.json", "index/", "packs/", "probe/", "sets/", "vectors/")
_STREAMED = "offline/"
#: Beside the register: what was told to whom; ``understudy.notices``.
_TOLD = "pointers/told/"
_KITS, _NEWEST_KIT = "kits/", "pointers/kit.json"
_LOG = ("log/", "writers/")
#: Where ``limits.transfer_month`` is kept.
_TRANSFERRED = "pointers/transfer/"
#: Watermarks, tags of versions, and what verifications of the vault found.
_WATERMARKS = ("pointers/artifacts/", "pointers/features/", "pointers/tags/", "pointers/vectors/", "pointers/verified/")


@dataclass(frozen=True, slots=True)
class Need:
    """What one identity asks of one endpoint.

    Attributes:
        url: as in the config; its scheme says which cloud grants it.
        access: region and project of the endpoint.
        verbs: what is asked.
        below: keys, or prefixes that end in ``/``, below the URL's own prefix; ``""`` is all of it.
        deny: refused even where another policy grants it.
    """

    url: str
    access: Access
    verbs: frozenset[Verb]
    below: tuple[str, ...] = ("",)
    deny: bool = False

    @property
    def scheme(self) -> str:
        """The URL's scheme."""
        return split_url(self.url)[0]

    @property
    def bucket(self) -> str:
        """The bucket, table, zone, project or check that the URL names first."""
        return split_url(self.url)[1]

    @property
    def path(self) -> str:
        """What the URL names below that, without a slash at either end."""
        return split_url(self.url)[2].strip("/")

    @property
    def kms_key(self) -> str:
        """The key that the config names for what is written there; empty where it names none."""
        return (self.access.storage.kms_key or "") if isinstance(self.access, StoredAccess) else ""

    @property
    def payer(self) -> bool:
        """Whether whoever asks pays for it."""
        return isinstance(self.access, StoredAccess) and self.access.storage.requester_pays

    def full_keys(self) -> tuple[str, ...]:
        """Return whole keys, and prefixes that end in ``/`` (or are empty: the whole bucket), sorted."""
        stem = f"{self.path}/" if self.path else ""
        return tuple(sorted(stem + key for key in self.below))


def needs_of(identity: Identity, settings: Settings, *, standby: SiteRole = "away") -> tuple[Need, ...]:
    """Return what an identity needs while ``standby`` is the site that is not active.

    Args:
        identity: who.
        settings: the config.
        standby: the site that is filled; after a failover it is the other one.
    """
    return tuple(_NEEDS[identity](settings, standby))


def outside_the_clouds(settings: Settings) -> tuple[str, ...]:
    """Return the config's endpoints that no cloud's policy governs, each with what does instead."""
    words = []
    for component in settings.components.values():
        for pair in component.pairs:
            for url in (pair.home, pair.away):
                scheme = split_url(url)[0]
                if scheme == "pgvector":
                    words.append(f"{url}: by the database's own user and its GRANTs")
                elif scheme in ("redis", "rediss"):
                    words.append(f"{url}: by the server's own user and its ACL")
                elif scheme == "file":
                    words.append(f"{url}: by the file system")
    words += [f"{url}: by the file system" for url in (settings.vault.url, settings.register_.url) if _is_file(url)]
    return tuple(sorted(set(words)))


def _replicator(settings: Settings, standby: SiteRole) -> list[Need]:
    vault, access, source = settings.vault.url, settings.sites.away, other(standby)
    needs = [
        _need(vault, access, "list", "read", "read_versions"),
        _need(vault, access, "create", below=_REPLICATED),
        _need(vault, access, "create", "parts", below=(_STREAMED,)),
        _need(vault, access, "create", "replace", below=_WATERMARKS),
        _need(settings.register_.url, settings.register_, "read", below=(REGISTER,)),
    ]
    site = settings.site(source)
    verbs: tuple[Verb, ...] = ("list", "list_versions", "read", "read_versions")
    needs += [_need(url, site, *verbs) for url in _models(settings, source)]
    needs += [_need(url, site, "list", "read") for url in _offline(settings, source)]
    return [*needs, *_count_of_transfers(settings)]


def _hydrator(settings: Settings, standby: SiteRole) -> list[Need]:
    site = settings.site(standby)
    needs = [
        _need(settings.vault.url, settings.sites.away, "list", "read", "read_versions"),
        _need(settings.vault.url, settings.sites.away, "create", "replace", below=(f"pointers/proven/{standby}/",)),
        _need(settings.register_.url, settings.register_, "read", below=(REGISTER,)),
    ]
    needs += [_need(url, site, "list", "inspect", "read", "read_versions", "put") for url in _models(settings, standby)]
    needs += [_need(url, site, "work") for url in _online(settings, standby)]
    return [*needs, *(_count_of_transfers(settings) if standby == "home" else ())]


def _count_of_transfers(settings: Settings) -> list[Need]:
    """Return what keeps the month's budget; reading it is granted with the vault."""
    if settings.limits.transfer_month is None:
        return []
    return [_need(settings.vault.url, settings.sites.away, "create", "replace", below=(_TRANSFERRED,))]


def _copies(settings: Settings, standby: SiteRole) -> list[Need]:
    return [*_replicator(settings, standby), *_hydrator(settings, standby)]


def _pruner(settings: Settings, standby: SiteRole) -> list[Need]:
    del standby  # the vault is where it is, whoever is active
    vault, access = settings.vault.url, settings.sites.away
    return [
        _need(vault, access, "list", "inspect", "read", "read_versions"),
        _need(vault, access, "create", below=("condemned/", "index/", "packs/", "retired/")),
        _need(vault, access, "replace", below=("condemned/prune.lock",)),
        _need(vault, access, "delete", below=("artifacts/", "condemned/", "index/", "packs/", "sets/")),
        *([_need(vault, access, "tier", below=("packs/",))] if settings.vault.cold_after else []),
        _need(settings.register_.url, settings.register_, "read", below=(REGISTER,)),
        *(
            _need(url, settings.site(role), "list", "read", "read_versions", below=("pointers/",))
            for role in _ROLES
            for url in _models(settings, role)
        ),
    ]


def _failover(settings: Settings, standby: SiteRole) -> list[Need]:
    register, where = settings.register_.url, settings.register_
    capacity = settings.capacity.away if standby == "away" else settings.capacity.home
    return [
        *_hydrator(settings, standby),
        _need(settings.vault.url, settings.sites.away, "create", below=("journal/",)),
        _need(register, where, "list", below=("journal/", "plans/", _TOLD)),
        _need(register, where, "read", below=("journal/", "plans/")),
        _need(register, where, "replace", below=(REGISTER,)),
        _need(register, where, "create", below=("journal/",)),
        _need(register, where, "put", below=("plans/",)),
        _need(register, where, "read", "read_versions", "create", "replace", below=(_TOLD,)),
        _need(settings.traffic.url, settings.traffic, "work"),
        *([_need(capacity, settings.site(standby), "work")] if capacity else []),
        *([_need(settings.alerts.url, settings.alerts, "work")] if settings.alerts else []),
    ]


def _drill(settings: Settings, standby: SiteRole) -> list[Need]:
    site = settings.site(standby)
    needs = [
        _need(settings.vault.url, settings.sites.away, "list", "read", "read_versions"),
        _need(settings.register_.url, settings.register_, "read", below=(REGISTER,)),
        _need(settings.traffic.url, settings.traffic, "look"),
    ]
    needs += [
        _need(url, site, "list", "read", "read_versions", "put", below=(DRILL_PREFIX,))
        for url in _models(settings, standby)
    ]
    needs += [_need(_drill_table(url), site, "work") for url in _online(settings, standby)]
    needs += [
        _refuse(settings.register_.url, settings.register_, "put", "delete"),
        _refuse(settings.vault.url, settings.sites.away, "put", "delete"),
        _refuse(settings.traffic.url, settings.traffic, "work"),
        *([_refuse(settings.alerts.url, settings.alerts, "work")] if settings.alerts else []),
    ]
    for role in _ROLES:
        needs += [
            _refuse(url, settings.site(role), "put", "delete", below=("pointers/",)) for url in _models(settings, role)
        ]
    return needs


def _writer(settings: Settings, standby: SiteRole) -> list[Need]:
    """Return what both sites' instances need: a failover does not wait for policies."""
    del standby
    register, where = settings.register_.url, settings.register_
    needs = [
        _need(register, where, "list", below=(REGISTER,)),
        _need(register, where, "read", "replace", below=(REGISTER,)),
    ]
    component = settings.components.get("feature_store")
    stem = settings.vault.url.rstrip("/")
    stores = [(url, settings.sites.home) for url in _offline(settings, "home")]
    stores += [(f"{stem}/{_STREAMED}{p.name}/", settings.sites.away) for p in (component.pairs if component else ())]
    for url, site in stores:
        needs += [
            _need(url, site, "list", "read", "create", below=_LOG),
            _need(url, site, "read_versions", "replace", below=("writers/",)),
        ]
    return needs


def _exporter(settings: Settings, standby: SiteRole) -> list[Need]:
    del standby  # it shows both sites
    register, where = settings.register_.url, settings.register_
    return [
        _need(settings.vault.url, settings.sites.away, "list", "read", "read_versions", below=("pointers/",)),
        _need(register, where, "list", "read", below=("plans/", REGISTER)),
    ]


def _operator(settings: Settings, standby: SiteRole) -> list[Need]:
    del standby  # the register and the vault are where they are
    vault, access = settings.vault.url, settings.sites.away
    return [
        _need(vault, access, "list", "read", "read_versions", below=("format.json", _KITS, _NEWEST_KIT)),
        _need(vault, access, "create", below=("format.json", _KITS, _NEWEST_KIT)),
        _need(vault, access, "parts", below=(_KITS,)),
        _need(vault, access, "replace", below=(_NEWEST_KIT,)),
        _need(vault, access, "survey"),
        *(_need(url, settings.site(role), "survey") for role in _ROLES for url in _models(settings, role)),
        _need(settings.register_.url, settings.register_, "list", "read", "create", below=(REGISTER,)),
    ]


_NEEDS: dict[Identity, Callable[[Settings, SiteRole], list[Need]]] = {
    "replicator": _replicator,
    "hydrator": _hydrator,
    "copies": _copies,
    "pruner": _pruner,
    "failover": _failover,
    "drill": _drill,
    "writer": _writer,
    "exporter": _exporter,
    "operator": _operator,
}


def _need(url: str, access: Access, *verbs: Verb, below: tuple[str, ...] = ("",)) -> Need:
    return Need(url, access, frozenset(verbs), below)


def _refuse(url: str, access: Access, *verbs: Verb, below: tuple[str, ...] = ("",)) -> Need:
    return Need(url, access, frozenset(verbs), below, deny=True)


def _models(settings: Settings, role: SiteRole) -> list[str]:
    component = settings.components.get("training")
    return [pair.home if role == "home" else pair.away for pair in component.pairs] if component else []


def _online(settings: Settings, role: SiteRole) -> list[str]:
    component = settings.components.get("feature_store")
    return [pair.home if role == "home" else pair.away for pair in component.pairs] if component else []


def _offline(settings: Settings, role: SiteRole) -> list[str]:
    """Return the offline stores at a site; at the away site they are the vault's own copies, which it reads anyway."""
    component = settings.components.get("feature_store")
    return [pair.offline or pair.home for pair in component.pairs] if component and role == "home" else []


def _drill_table(url: str) -> str:
    stem, _, table = url.rpartition("/")
    return f"{stem}/{DRILL_TABLES}{table}"


def _is_file(url: str) -> bool:
    return split_url(url)[0] == "file"
