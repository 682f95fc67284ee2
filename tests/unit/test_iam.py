"""The policies that a config gives: what stands in them, what never does, and that they are the same each time."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import yaml

from tests.unit.example import example
from understudy.errors import InvalidConfig
from understudy.iam import aws
from understudy.iam.gcp import BINDINGS_MAX, OPERATORS_MAX
from understudy.iam.needs import IDENTITIES, needs_of
from understudy.iam.policies import policies_of, remove_stale, write_files
from understudy.settings import Settings

ALERTS = {"alerts": {"url": "route53-health-check://0fa5-1"}}
AWS_ALONE = {
    "sites.away": {"name": "aws-euw1", "cloud": "aws", "region": "eu-west-1", "project": "acme-dr"},
    "vault.url": "s3://acme-understudy/recommender",
    "components.feature_store.pairs.0.away": "dynamodb://user_features_standby",
    "components.training.pairs.0.away": "s3://acme-models-serving/",
}


def policies(identity, *, changes=None, **options):
    return policies_of(
        identity, Settings.model_validate(example(**copy.deepcopy({**ALERTS, **(changes or {})}))), **options
    )


def statement(document, sid):
    (found,) = [each for each in document["Statement"] if each["Sid"] == sid]
    return found


def bindings(granted, verb):
    return [each for each in granted.as_json()["bindings"] if each["role"].endswith(f"_{verb}")]


def many_pairs(count, *, reverse=False):
    """Return changes that give each component so many pairs, as a team that splits them by market has them."""
    markets = [f"market-{number:02d}-of-the-recommendations" for number in range(count)]
    online = ("dynamodb://features_{}", "bigtable://acme-dr/understudy/features_{}")
    buckets = ("s3://acme-models-{}/serving", "gs://acme-models-{}/serving")
    home, away = (1, 0) if reverse else (0, 1)
    features = [
        {"name": f"features-{each}", "offline": f"s3://acme-lake-{each}/features/", "every": "2m",
         "home": online[home].format(each), "away": online[away].format(each)} for each in markets
    ]  # fmt: skip
    models = [
        {
            "name": f"models-{each}",
            "every": "24h",
            "home": buckets[home].format(each),
            "away": buckets[away].format(each),
        }
        for each in markets
    ]
    changes = {"components.feature_store.pairs": features, "components.training.pairs": models}
    return changes | ({"sites.home.project": "acme"} if reverse else {})


@pytest.mark.parametrize("identity", IDENTITIES)
@pytest.mark.parametrize(
    "changes",
    [{}, AWS_ALONE, many_pairs(10), many_pairs(15, reverse=True)],
    ids=["aws to gcp", "aws alone", "ten pairs", "fifteen from gcp to aws"],
)
def test_every_policy_fits_the_clouds_own_limits(identity, changes):
    made = policies(identity, changes=changes)
    documents = made.as_json()["aws"]
    for document in documents:
        assert len(json.dumps(document, separators=(",", ":"))) <= aws.POLICY_CHARACTERS_MAX
    sids = [each["Sid"] for document in documents for each in document["Statement"]]
    assert sorted(set(sids)) == sorted(sids)
    assert all(sid.isalnum() for sid in sids)
    bindings = made.gcp.as_json()["bindings"] if made.gcp else []
    for binding in bindings:
        expression = binding["condition"]["expression"] if binding["condition"] else ""
        assert expression.count("||") + expression.count("&&") <= OPERATORS_MAX
        assert len(binding["condition"]["title"] if binding["condition"] else "") <= 100
    # Terraform tells the conditional members of one bucket and role apart by the condition's title.
    told = [(each["resource"], each["role"], (each["condition"] or {}).get("title")) for each in bindings]
    assert sorted(set(told), key=str) == sorted(told, key=str)
    for resource, role, _ in told:
        assert len([each for each in told if each[:2] == (resource, role)]) <= BINDINGS_MAX
    for role in made.gcp.roles if made.gcp else ():
        assert len(role.id) <= 64
        assert len(role.title) <= 100


def allowed(documents):
    """Return (action, resource, condition) of all that documents allow or refuse."""
    return {
        (each["Effect"], action, resource, json.dumps(each.get("Condition"), sort_keys=True))
        for document in documents
        for each in document["Statement"]
        for action in each["Action"]
        for resource in each["Resource"]
    }


def test_ten_pairs_are_split_over_policies_and_bindings_and_nothing_is_lost():
    made = policies("copies", changes=many_pairs(10))
    documents = made.as_json()["aws"]
    assert len(documents) > 1
    assert allowed([made.aws]) == allowed(documents)
    writer = bindings(policies("writer", changes=many_pairs(10)).gcp, "create")
    streams = {f"features-market-{number:02d}" for number in range(10)}
    found = [test for each in writer for test in each["condition"]["expression"].split(" || ")]
    assert streams == {next(name for name in streams if name in test) for test in found}
    titles = [each["condition"]["title"] for each in bindings(policies("writer", changes=many_pairs(20)).gcp, "create")]
    assert ["create these objects, 1 of 2", "create these objects, 2 of 2"] == titles


def test_one_statement_is_split_by_its_resources_when_it_alone_is_too_long():
    made = policies("hydrator", changes=many_pairs(70, reverse=True), account="123456789012", clouds=("aws",))
    documents = made.as_json()["aws"]
    assert allowed([made.aws]) == allowed(documents)
    assert all(len(json.dumps(each, separators=(",", ":"))) <= aws.POLICY_CHARACTERS_MAX for each in documents)
    sids = [each["Sid"] for document in documents for each in document["Statement"]]
    assert {"RebuildTables1", "RebuildTables2"} <= set(sids)
    assert sorted(set(sids)) == sorted(sids)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (many_pairs(21), "'copies' .* 21 conditional bindings .* 20"),
        (many_pairs(400, reverse=True), r"'copies' needs \d+ policies in AWS, and a role takes 10"),
    ],
    ids=["gcp", "aws"],
)
def test_what_no_split_fits_into_a_clouds_limit_is_one_sentence_that_names_the_identity(changes, words):
    clouds = ("aws",) if "sites.home.project" in changes else ("gcp",)
    with pytest.raises(InvalidConfig, match=words):
        policies("copies", changes=changes, clouds=clouds)


@pytest.mark.parametrize("url", ["dynamodb://user_features", "bigtable://acme/understudy/user_features"])
def test_a_table_is_never_granted_to_who_does_not_rebuild_it(url):
    without = {"components.feature_store.pairs.0.offline": None, "components.feature_store.pairs.0.home": url}
    assert "RebuildTables" not in json.dumps(policies("replicator").aws)
    for identity in ("replicator", "writer"):
        with pytest.raises(InvalidConfig, match="is no place of objects"):
            policies(identity, changes=without)


def test_copies_may_do_what_the_replicator_and_the_hydrator_may_and_no_more():
    for changes in ({}, AWS_ALONE):
        settings = Settings.model_validate(example(**copy.deepcopy({**ALERTS, **changes})))
        both = [*needs_of("replicator", settings), *needs_of("hydrator", settings)]
        assert both == list(needs_of("copies", settings))
    made = policies("copies", changes=AWS_ALONE).aws
    assert "arn:aws:s3:::acme-understudy/recommender/packs/*" in statement(made, "CreateObjects")["Resource"]
    assert ["arn:aws:s3:::acme-models-serving/*"] == statement(made, "WriteObjects")["Resource"]
    assert not [each for each in made["Statement"] if {"s3:DeleteObject", "route53:GetChange"} & set(each["Action"])]


@pytest.mark.parametrize("identity", IDENTITIES)
def test_no_policy_has_a_wildcard_for_an_action_nor_a_resource_that_the_config_does_not_name(identity):
    made = policies(identity, changes=AWS_ALONE)
    named = (
        "acme-understudy/recommender/", "acme-epoch/recommender/", "acme-models", "acme-lake/features/",
        "user_features", "Z01", "0fa5-1", ":::change/*",
    )  # fmt: skip
    for each in made.aws["Statement"]:
        assert not any("*" in action for action in each["Action"])
        for resource in each["Resource"]:
            bucket_itself = resource.count("/") == 0 and resource.startswith("arn:aws:s3:::acme-")
            unscoped = resource == "*" and (each["Sid"] == "ListTables" or each["Effect"] == "Deny")
            assert bucket_itself or unscoped or any(name in resource for name in named), resource


def test_the_replicator_creates_in_the_vault_and_deletes_nothing_there():
    made = policies("replicator", changes=AWS_ALONE).aws
    assert not [each for each in made["Statement"] if "s3:DeleteObject" in each["Action"]]
    create = statement(made, "CreateObjects")
    assert {"Null": {"s3:if-none-match": "false"}} == create["Condition"]
    assert "arn:aws:s3:::acme-understudy/recommender/packs/*" in create["Resource"]
    assert not [each for each in create["Resource"] if "journal" in each or "proven" in each or each.endswith("er/*")]
    assert {"Null": {"s3:if-match": "false"}} == statement(made, "ReplaceByCompareAndSet")["Condition"]
    offline = ["arn:aws:s3:::acme-understudy/recommender/offline/*"]
    assert set(offline) <= set(create["Resource"])
    parts = statement(made, "SendParts")
    assert ({"Bool": {"s3:ObjectCreationOperation": "false"}}, offline) == (parts["Condition"], parts["Resource"])
    unconditional = [each["Sid"] for each in made["Statement"] if "s3:PutObject" in each["Action"]]
    assert ["CreateObjects", "SendParts", "ReplaceByCompareAndSet"] == unconditional


def test_on_cloud_storage_the_replicator_may_delete_below_its_pointers_alone():
    made = policies("replicator").gcp
    (role,) = [each for each in made.roles if "storage.objects.delete" in each.permissions]
    assert role.id.endswith("_replace")
    (binding,) = bindings(made, "replace")
    stem = "projects/_/buckets/acme-understudy/objects/recommender/pointers/"
    parts = binding["condition"]["expression"].split(" || ")
    nouns = ("artifacts", "features", "tags", "vectors", "verified")
    assert [f'resource.name.startsWith("{stem}{noun}/")' for noun in nouns] == parts
    assert "serviceAccount:understudy-replicator@acme-dr.iam.gserviceaccount.com" == binding["member"]


def test_the_register_is_read_by_copies_and_changed_by_the_failover_alone():
    register = "arn:aws:s3:::acme-epoch/recommender/register.json"
    for identity in ("replicator", "hydrator", "pruner"):
        writers = [each for each in policies(identity).aws["Statement"] if "s3:PutObject" in each["Action"]]
        assert not [each for each in writers if register in each["Resource"]], identity
    swap = statement(policies("failover").aws, "ReplaceByCompareAndSet")
    assert ["arn:aws:s3:::acme-epoch/recommender/pointers/told/*", register] == swap["Resource"]
    assert {"Null": {"s3:if-match": "false"}} == swap["Condition"]


def test_the_failover_moves_one_name_and_one_health_check():
    made = policies("failover").aws
    move = statement(made, "MoveTheName")
    assert ["arn:aws:route53:::hostedzone/Z01"] == move["Resource"]
    names = move["Condition"]["ForAllValues:StringEquals"]["route53:ChangeResourceRecordSetsNormalizedRecordNames"]
    assert ["recommendations.example.com"] == names
    assert set(move["Condition"]["Null"]) == set(move["Condition"]["ForAllValues:StringEquals"])
    assert ["arn:aws:route53:::healthcheck/0fa5-1"] == statement(made, "MoveTheAlarm")["Resource"]
    (scale,) = bindings(policies("failover").gcp, "scale")
    assert ("projects/acme-dr", None) == (scale["resource"], scale["condition"])


def test_a_drill_is_refused_production_even_where_another_policy_grants_it():
    made = policies("drill", changes=AWS_ALONE)
    denied = [each for each in made.aws["Statement"] if each["Effect"] == "Deny"]
    assert {"NeverTouchProduction", "NeverMoveTraffic"} == {each["Sid"] for each in denied}
    objects = statement(made.aws, "NeverTouchProduction")["Resource"]
    assert {
        "arn:aws:s3:::acme-epoch/recommender/*",
        "arn:aws:s3:::acme-understudy/recommender/*",
        "arn:aws:s3:::acme-models/pointers/*",
        "arn:aws:s3:::acme-models-serving/pointers/*",
    } == set(objects)
    tables = statement(made.aws, "RebuildTables")["Resource"]
    assert ["arn:aws:dynamodb:eu-west-1:*:table/drill_user_features_standby__*"] == tables


def test_a_writer_renews_its_lease_and_appends_at_both_sites_and_does_no_more():
    made = policies("writer")
    lake, register = "arn:aws:s3:::acme-lake/features", "arn:aws:s3:::acme-epoch/recommender/register.json"
    assert [f"{lake}/log/*", f"{lake}/writers/*"] == statement(made.aws, "CreateObjects")["Resource"]
    assert [register, f"{lake}/writers/*"] == statement(made.aws, "ReplaceByCompareAndSet")["Resource"]
    verbs = {action for each in made.aws["Statement"] for action in each["Action"]}
    assert {"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket", "s3:PutObject"} == verbs
    stem = "projects/_/buckets/acme-understudy/objects/recommender/offline/user_features"
    (create,), (replace,) = bindings(made.gcp, "create"), bindings(made.gcp, "replace")
    assert f'resource.name.startsWith("{stem}/log/")' == create["condition"]["expression"]
    assert f'resource.name.startsWith("{stem}/writers/")' == replace["condition"]["expression"]


def test_the_exporter_writes_nothing_and_reads_no_backup():
    made = policies("exporter", changes=AWS_ALONE).aws
    verbs = {action for each in made["Statement"] for action in each["Action"]}
    assert {"s3:GetObject", "s3:GetObjectVersion", "s3:ListBucket"} == verbs
    vault = [each for each in statement(made, "ReadObjects")["Resource"] if "acme-understudy" in each]
    assert ["arn:aws:s3:::acme-understudy/recommender/pointers/*"] == vault
    assert {"storage.objects.get", "storage.objects.list"} == {
        permission for role in policies("exporter").gcp.roles for permission in role.permissions
    }


def test_the_operator_makes_a_register_and_kits_and_moves_one_pointer():
    made = policies("operator", changes=AWS_ALONE).aws
    stem = "arn:aws:s3:::acme-understudy/recommender"
    assert [
        "arn:aws:s3:::acme-epoch/recommender/register.json",
        f"{stem}/format.json",
        f"{stem}/kits/*",
        f"{stem}/pointers/kit.json",
    ] == statement(made, "CreateObjects")["Resource"]
    assert [f"{stem}/pointers/kit.json"] == statement(made, "ReplaceByCompareAndSet")["Resource"]
    assert [f"{stem}/kits/*"] == statement(made, "SendParts")["Resource"]


def test_the_pruner_deletes_what_is_not_kept_and_never_what_is_mutable_or_the_journal():
    deletes = statement(policies("pruner", changes=AWS_ALONE).aws, "DeleteObjects")
    stem = "arn:aws:s3:::acme-understudy/recommender"
    assert [f"{stem}/{part}/*" for part in ("artifacts", "condemned", "index", "packs", "sets")] == deletes["Resource"]
    assert ["s3:DeleteObject"] == deletes["Action"]


def test_the_pruner_copies_packs_onto_themselves_only_where_that_is_asked():
    assert "CopyOntoThemselves" not in json.dumps(policies("pruner", changes=AWS_ALONE).aws)
    copies = statement(policies("pruner", changes={**AWS_ALONE, "vault.cold_after": "30d"}).aws, "CopyOntoThemselves")
    assert ["arn:aws:s3:::acme-understudy/recommender/packs/*"] == copies["Resource"]
    assert (["s3:PutObject"], {"Null": {"s3:x-amz-copy-source": "false"}}) == (copies["Action"], copies["Condition"])
    (tier,) = bindings(policies("pruner", changes={"vault.cold_after": "30d"}).gcp, "tier")
    assert 'startsWith("projects/_/buckets/acme-understudy/objects/recommender/packs/")' in str(tier["condition"])


def test_tables_stand_in_their_own_region_account_and_partition():
    changes = {**AWS_ALONE, "sites.away.region": "cn-north-1"}
    rebuild = statement(policies("hydrator", changes=changes, account="123456789012").aws, "RebuildTables")
    assert ["arn:aws-cn:dynamodb:cn-north-1:123456789012:table/user_features_standby__*"] == rebuild["Resource"]
    assert ("aws-us-gov", "aws") == (aws.partition_of("us-gov-west-1"), aws.partition_of("us-east-1"))


def test_keys_of_kms_are_used_through_s3_alone():
    key = "arn:aws:kms:us-east-1:123456789012:key/1"
    assert "kms" not in json.dumps(policies("replicator").aws)
    use = statement(policies("replicator", kms_keys=[key]).aws, "UseKeysThroughS3")
    assert ["kms:Decrypt"] == use["Action"]  # the vault is elsewhere: here it only reads
    use = statement(policies("replicator", changes=AWS_ALONE, kms_keys=[key]).aws, "UseKeysThroughS3")
    assert (["kms:Decrypt", "kms:GenerateDataKey"], [key]) == (use["Action"], use["Resource"])
    services = use["Condition"]["StringEquals"]["kms:ViaService"]
    assert {"s3.us-east-1.amazonaws.com", "s3.eu-west-1.amazonaws.com"} == set(services)


def test_after_a_failover_the_other_site_is_the_one_that_is_filled():
    settings = Settings.model_validate(example())
    put = {need.url for need in needs_of("hydrator", settings) if need.verbs & {"put", "work"}}
    assert {"gs://acme-models-serving/", "bigtable://acme/understudy/user_features"} == put
    back = {need.url for need in needs_of("hydrator", settings, standby="home") if need.verbs & {"put", "work"}}
    assert {"s3://acme-models/", "dynamodb://user_features"} == back


def test_what_a_cloud_cannot_limit_is_said():
    assert any("storage.objects.list" in note for note in policies("replicator").notes)
    assert any("managed instance group" in note for note in policies("failover").notes)
    assert any("GRANT" in note for note in policies("hydrator").notes)


def test_google_cloud_without_a_project_is_one_sentence():
    with pytest.raises(InvalidConfig, match="no site names its project"):
        policies("replicator", changes={"sites.away.project": None})


def test_the_files_are_those_that_terraform_aws_and_gcloud_read(tmp_path):
    written = write_files([policies(identity) for identity in IDENTITIES], tmp_path)
    assert sorted(written) == written
    names = {str(path.relative_to(tmp_path)) for path in written}
    assert {f"aws/{each}.json" for each in IDENTITIES} | {f"gcp/{each}.json" for each in IDENTITIES} <= names
    role = yaml.safe_load((tmp_path / "gcp/roles/acme-dr/understudy_replicator_read.yaml").read_text())
    assert ["storage.objects.get"] == role["includedPermissions"]
    assert "2012-10-17" == json.loads((tmp_path / "aws/failover.json").read_text())["Version"]
    before = {path: path.read_bytes() for path in written}
    write_files([policies(identity) for identity in IDENTITIES], tmp_path)
    assert before == {path: path.read_bytes() for path in written}


def test_what_an_earlier_config_left_is_removed_and_nothing_of_anybody_else(tmp_path):
    both = ("aws", "gcp")
    before = [policies(identity, changes=many_pairs(10)) for identity in IDENTITIES]
    write_files(before, tmp_path)
    assert (tmp_path / "aws/copies-2.json").exists()
    others = [tmp_path / name for name in ("aws/mine.json", "gcp/roles/acme-dr/mine.yaml", "aws/copies-2.json.bak")]
    for path in others:
        path.write_text("{}", encoding="utf-8")
    now = [policies(identity, changes=AWS_ALONE) for identity in IDENTITIES]
    written = write_files(now, tmp_path)
    removed = remove_stale(now, tmp_path, clouds=both)
    assert {"aws/copies-2.json", "gcp/copies.json", "gcp/roles/acme-dr/understudy_copies_read.yaml"} <= {
        str(path.relative_to(tmp_path)) for path in removed
    }
    assert sorted([*written, *others]) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert [] == remove_stale(now, tmp_path, clouds=both)


def test_making_one_policy_again_leaves_the_files_of_the_others(tmp_path):
    write_files([policies(identity, changes=many_pairs(10)) for identity in IDENTITIES], tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    now = [policies("copies", changes=AWS_ALONE, clouds=("aws",))]
    write_files(now, tmp_path)
    removed = set(remove_stale(now, tmp_path, clouds=("aws",)))
    assert {path for path in before if path.match("aws/copies-*.json")} == removed
    assert before - removed == {path for path in tmp_path.rglob("*") if path.is_file()}


def understudy(*arguments):
    command = [sys.executable, "-m", "understudy", *arguments]
    # No proxy, no credentials, no server: the command needs the file alone.
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={"PATH": "/usr/bin:/bin"}
    )


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(example(**ALERTS)), encoding="utf-8")
    return str(path)


def test_the_command_prints_one_json_value_and_asks_no_server(config):
    done = understudy("-c", config, "--json", "iam", "--identity", "pruner", "--cloud", "gcp")
    assert (0, "") == (done.returncode, done.stderr)
    value = json.loads(done.stdout)
    assert ["pruner"] == list(value)
    assert value["pruner"]["aws"] is None
    assert "serviceAccount:understudy-pruner@acme-dr.iam.gserviceaccount.com" == value["pruner"]["gcp"]["member"]
    again = understudy("-c", config, "--json", "iam", "--identity", "pruner", "--cloud", "gcp")
    assert again.stdout == done.stdout


def test_the_command_lists_the_files_that_it_removed(config, tmp_path):
    folder = tmp_path / "policies"
    (folder / "aws").mkdir(parents=True)
    (folder / "aws/failover-7.json").write_text("{}", encoding="utf-8")
    done = understudy("-c", config, "iam", "--out", str(folder))
    assert 0 == done.returncode, done.stderr
    assert f"removed: {folder}/aws/failover-7.json" in done.stdout
    value = json.loads(understudy("-c", config, "--json", "iam", "--out", str(folder)).stdout)
    assert [] == value["removed"]
    assert f"{folder}/aws/copies.json" in value["files"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--account", "12"), 3, "'12' is no AWS account"),
        (("--kms-key", "mine"), 3, "'mine' is no ARN of a key"),
        (("--standby", "mars"), 3, "there is no site 'mars'"),
        (("--out", "/proc/none"), 3, "cannot be written"),
        (("--identity", "root"), 2, "'root' is not one of"),
    ],
)
def test_a_mistake_is_one_sentence(config, options, code, words):
    done = understudy("-c", config, "iam", *options)
    assert code == done.returncode, done.stderr
    assert words in done.stderr
    assert 1 == len(done.stderr.splitlines())
