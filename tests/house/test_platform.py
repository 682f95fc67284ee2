"""The files that put Understudy on somebody's machines: images pinned, secrets nowhere, the contracts' versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import hcl2
import pytest
import yaml

from deployments.deploy import POOLS
from tests.unit.example import example
from understudy.iam.needs import IDENTITIES, needs_of
from understudy.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "deployments"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
DOCKERFILE = (DEPLOYMENTS / "Dockerfile").read_text(encoding="utf-8")
CHECKER = (
    Path(os.environ.get("UNDERSTUDY_SERVERS", Path.home() / ".cache/understudy/servers")) / "compose-check" / "cmd"
)
#: A version in numbers, so that tomorrow's image is today's.
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+(\.\d+)?([.-][\w.-]+)?")
#: The container of each server that the contracts start, and how its image writes the version.
CONTAINERS = {
    "versitygw": ("versitygw", r"versitygw:{0}"),
    "fake_gcs": ("fake-gcs", r"fake-gcs-server:{0}"),
    "bigtable": ("bigtable", r"emulator@{0}"),
    "dynamodb": ("dynamodb", r"dynamodb-local:{0}"),
    "postgres": ("pgvector", r"pgvector:[\d.]+-pg{0}"),
    "redis": ("redis-online", r"redis:{0}"),
    "toxiproxy": ("toxiproxy", r"toxiproxy:{0}"),
}


def instructions(text):
    """Return a Dockerfile's instructions, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()


def merged(values, changes):
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(values.get(name), dict)
        values[name] = merged(values[name], value) if both else value
    return values


# ---------------------------------------------------------------------- the image


def test_the_image_is_built_from_the_lock_without_the_groups_for_development():
    syncs = [line for line in instructions(DOCKERFILE) if line.startswith("RUN uv sync")]
    assert len(syncs) == 2
    for line in syncs:
        assert {"--locked", "--no-default-groups", "--extra"} <= set(line.split()), line
        assert "all" == line.split()[line.split().index("--extra") + 1]
    groups = re.search(r"default-groups = \[(.*)\]", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert groups, "without default groups --no-default-groups would say nothing"


def test_all_that_the_wheel_is_made_of_is_copied_before_the_project_is_built():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {project["project"]["readme"], "LICENSE", "pyproject.toml", *wheel["packages"], *wheel["force-include"]}
    assert "docs/runbook.md" in needed
    lines = instructions(DOCKERFILE)
    builds = [line.startswith("RUN uv sync") and "--no-install-project" not in line for line in lines].index(True)
    copied = {}
    for line in lines[:builds]:
        if line.startswith("COPY") and "--from" not in line:
            *sources, target = line.split()[1:]
            for source in sources:
                copied[source] = f"{target}{Path(source).name}" if target.endswith("/") else target
    assert [] == sorted(needed - set(copied)), "the build of the project would stop"
    assert [] == [source for source in needed if copied[source].removeprefix("./") != source], "copied elsewhere"


def test_the_image_is_pinned_runs_without_root_and_is_asked_whether_it_lives():
    lines = instructions(DOCKERFILE)
    images = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert [] == [image for image in images if not PINNED.fullmatch(image)]
    assert "USER 10001" in lines
    assert lines.index("USER 10001") < next(i for i, line in enumerate(lines) if line.startswith("ENTRYPOINT"))
    (health,) = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert "http://127.0.0.1:8080/health" in health
    (command,) = [line for line in lines if line.startswith("CMD")]
    assert "--with-healthcheck" in command
    assert "never" in command
    assert not re.search(r"(?i)(password|secret|token|key)\s*=", DOCKERFILE)


def test_everything_that_the_image_copies_is_let_through_and_a_persons_own_is_not():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" == next(line for line in ignored if line and not line.startswith("#"))
    copied = {
        name
        for line in instructions(DOCKERFILE)
        if line.startswith("COPY") and "--from" not in line
        for name in line.split()[1:-1]
    }
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    assert {"config/production.yaml", "**/secrets", "**/.env"} <= set(ignored)


# ---------------------------------------------------------------------- compose


def test_every_service_is_pinned_and_has_a_health_check():
    for name, service in SERVICES.items():
        assert PINNED.fullmatch(service["image"]), name
        health = service.get("healthcheck", {})
        # The workers' is the image's own, and a job that ends has none.
        assert "test" in health or service["image"].startswith("understudy-worker:"), name
        for line in instructions(service.get("build", {}).get("dockerfile_inline", "")):
            assert not line.startswith("FROM") or PINNED.fullmatch(line.split()[1]), line


def looks_at_processes(check):
    return re.search(r"/proc/|\b(pgrep|pidof|ps)\b", " ".join(check))


CHECKS = {
    name: service["healthcheck"]["test"]
    for name, service in SERVICES.items()
    if "test" in service.get("healthcheck", {})
}
OF_PROCESSES = {name: check for name, check in CHECKS.items() if looks_at_processes(check)}


def run_check(check):
    kind, *words = check
    command = ["sh", "-c", words[0]] if kind == "CMD-SHELL" else words
    return subprocess.run([word.replace("$$", "$") for word in command], check=False, timeout=60).returncode


def test_the_checks_that_look_at_processes_are_known():
    assert {"prefect-services"} == set(OF_PROCESSES)


@pytest.mark.parametrize("name", OF_PROCESSES)
def test_a_check_that_looks_for_a_process_finds_neither_itself_nor_the_shell_that_would_start_it(name):
    started = SERVICES[name]["command"]
    # As in the container, where tini carries the whole command in its own arguments.
    idle = [sys.executable, "-c", "print(flush=True); input()", "-g", "--", *started]
    with subprocess.Popen(idle, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as shell:
        shell.stdout.readline()
        found = run_check(OF_PROCESSES[name])
        shell.communicate(b"\n")
    assert 0 != found


@pytest.mark.parametrize("name", OF_PROCESSES)
def test_a_check_that_looks_for_a_process_finds_the_one_that_its_service_runs(name):
    arguments = SERVICES[name]["command"][-1].rpartition("exec ")[2].split()
    idle = [sys.executable, "-c", "print(flush=True); input()", *arguments]
    with subprocess.Popen(idle, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        found = run_check(OF_PROCESSES[name])
        process.communicate(b"\n")
    assert (0, True) == (found, run_check(OF_PROCESSES[name]) != 0)


def test_every_port_is_bound_to_this_machine():
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert str(port).startswith("127.0.0.1:"), f"{name}: {port}"


def test_no_secret_stands_in_the_compose_file():
    for name, service in SERVICES.items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert str(value).startswith("/run/secrets/"), f"{name}: {variable}"
            assert not re.search(r"://[^/]*:[^/]*@", str(value)), f"{name}: {variable} has a password in it"
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", ())}
    assert used == set(COMPOSE["secrets"])
    assert all(secret["file"].startswith("secrets/") for secret in COMPOSE["secrets"].values())
    assert "/secrets/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_each_pool_has_a_worker_and_the_failover_its_own():
    commands = {name: service["command"] for name, service in SERVICES.items() if name.startswith("worker")}
    served = {command[command.index("--pool") + 1]: name for name, command in commands.items()}
    assert set(POOLS) == set(served)
    assert "0" == SERVICES[served["understudy-failover"]]["environment"]["PREFECT_CLIENT_MAX_RETRIES"]


def test_each_worker_has_credentials_of_its_own():
    files = {
        name: [each["path"] for each in service["env_file"]]
        for name, service in SERVICES.items()
        if name.startswith("worker")
    }
    assert {
        "worker": ["secrets/worker.env"],
        "worker-failover": ["secrets/worker-failover.env"],
        "worker-prune": ["secrets/worker-prune.env"],
    } == files


def test_the_servers_start_after_what_they_need_and_every_volume_is_known():
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            assert needed in SERVICES, name
            assert "service_healthy" == how["condition"], name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source.startswith("./") or source in COMPOSE["volumes"], f"{name}: {volume}"


def test_prefects_server_and_its_services_share_one_database_and_one_broker():
    server, services = SERVICES["prefect-server"], SERVICES["prefect-services"]
    assert server["environment"] == services["environment"]
    assert server["image"] == services["image"]
    locked = re.search(r'name = "prefect"\nversion = "([\d.]+)"', (ROOT / "uv.lock").read_text(encoding="utf-8"))
    assert f"prefecthq/prefect:{locked[1]}-python3.12" == server["image"]
    assert "--no-services" in " ".join(server["command"])
    for name in ("PREFECT_MESSAGING_BROKER", "PREFECT_MESSAGING_CACHE"):
        assert "prefect_redis.messaging" == server["environment"][name]
    assert "redis" == server["environment"]["PREFECT_REDIS_MESSAGING_HOST"]


def test_the_variables_of_the_server_are_settings_that_prefect_reads(monkeypatch):
    from prefect.settings import Settings

    environment = {**SERVICES["prefect-server"]["environment"], "PREFECT_SERVER_DATABASE_PASSWORD": "p"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    database = settings.server.database
    assert ("postgresql+asyncpg", "postgres", 5432, "prefect", "prefect") == (
        database.driver, database.host, database.port, database.user, database.name
    )  # fmt: skip
    assert "p" == database.password.get_secret_value()
    assert "prefect_redis.messaging" == settings.server.events.messaging_broker
    assert "prefect_redis.messaging" == settings.server.events.messaging_cache
    assert "prefect_redis.ordering" == settings.server.events.causal_ordering
    assert "prefect_redis.lease_storage" == settings.server.concurrency.lease_storage
    assert "redis://redis:6379/1" == str(settings.server.docket.url)


@pytest.mark.parametrize("server", CONTAINERS)
def test_the_containers_have_the_versions_that_the_contracts_run_against(server):
    name, form = CONTAINERS[server]
    module = import_module(f"sandbox.servers.{server}")
    (version,) = {
        found.version
        for found in vars(module).values()
        if getattr(found, "version", None) and hasattr(found, "install")
    }
    service = SERVICES[name]
    text = service.get("build", {}).get("dockerfile_inline", "") or service["image"]
    wanted = version.removeprefix("v") if server in ("fake_gcs", "toxiproxy") else version
    assert re.search(form.format(re.escape(wanted)), text), f"{name} is not {version}: {text}"
    assert ["sandbox"] == service["profiles"]


def test_compose_itself_accepts_the_file():
    if not CHECKER.exists():
        pytest.skip(f"{CHECKER} is not there: go install github.com/compose-spec/compose-go/v2/cmd@latest")
    done = subprocess.run(
        [CHECKER, ROOT / "docker-compose.yml"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (0, "") == (done.returncode, done.stderr)


# ---------------------------------------------------------------------- Helm


def test_the_helm_values_start_our_image_as_the_user_it_was_made_for():
    values = yaml.safe_load((DEPLOYMENTS / "helm" / "values.yaml").read_text(encoding="utf-8"))
    worker = values["worker"]
    (entry,) = [line for line in instructions(DOCKERFILE) if line.startswith("ENTRYPOINT")]
    assert worker["command"] == yaml.safe_load(entry.removeprefix("ENTRYPOINT "))
    assert ("process", "never") == (worker["config"]["type"], worker["config"]["installPolicy"])
    for context in ("podSecurityContext", "containerSecurityContext"):
        assert (10001, True) == (worker[context]["runAsUser"], worker[context]["runAsNonRoot"])
    assert worker["containerSecurityContext"]["readOnlyRootFilesystem"]
    mounted = {each["name"]: each["mountPath"] for each in worker["extraVolumeMounts"]}
    assert {each["name"] for each in worker["extraVolumes"]} == set(mounted)
    variables = {each["name"]: each["value"] for each in worker["extraEnvVars"]}
    assert variables["UNDERSTUDY_CONFIG"].startswith(mounted["config"])
    assert mounted["state"] == variables["XDG_STATE_HOME"]


def test_the_failovers_worker_differs_in_its_pool_and_its_identity():
    values = yaml.safe_load((DEPLOYMENTS / "helm" / "values.yaml").read_text(encoding="utf-8"))
    pools = [values["worker"]["config"]["workPool"]]
    before = (values["serviceAccount"]["name"], values["worker"]["extraEnvVarsSecrets"], values["fullnameOverride"])
    changed = merged(
        values, yaml.safe_load((DEPLOYMENTS / "helm" / "values-failover.yaml").read_text(encoding="utf-8"))
    )
    pruner = yaml.safe_load((DEPLOYMENTS / "helm" / "values-prune.yaml").read_text(encoding="utf-8"))
    pools += [each["worker"]["config"]["workPool"] for each in (changed, pruner)]
    assert set(POOLS) == set(pools)
    assert 3 == len({before[2], changed["fullnameOverride"], pruner["fullnameOverride"]})
    after = (changed["serviceAccount"]["name"], changed["worker"]["extraEnvVarsSecrets"], changed["fullnameOverride"])
    assert not any(old == new for old, new in zip(before, after, strict=True))
    variables = {each["name"]: each["value"] for each in changed["worker"]["extraEnvVars"]}
    assert "0" == variables["PREFECT_CLIENT_MAX_RETRIES"]
    assert "/config/production.yaml" == variables["UNDERSTUDY_CONFIG"]


#: Whose needs each flow has: it copies as the replicator, fills as the hydrator, and so on; in one run.
DOES = {
    "replicate_artifacts": {"replicator", "hydrator"},
    "replicate_vectors": {"replicator", "hydrator"},
    "replicate_offline": {"replicator"},
    "rebuild_features": {"hydrator"},
    "verify_vault": {"replicator"},
    "prune_vault": {"pruner"},
    "plan_failover": {"failover"},
    "failover": {"failover", "hydrator"},
}


def test_each_worker_runs_as_an_identity_that_may_do_all_that_its_flows_do():
    values = yaml.safe_load((DEPLOYMENTS / "helm" / "values.yaml").read_text(encoding="utf-8"))
    runs_as = {values["worker"]["config"]["workPool"]: values["serviceAccount"]["name"]}
    for name in ("values-failover.yaml", "values-prune.yaml"):
        over = yaml.safe_load((DEPLOYMENTS / "helm" / name).read_text(encoding="utf-8"))
        runs_as[over["worker"]["config"]["workPool"]] = over["serviceAccount"]["name"]
    deployed = yaml.safe_load((DEPLOYMENTS / "prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    assert set(DOES) == {each["entrypoint"].rpartition(".")[2] for each in deployed}
    settings = Settings.model_validate(example())
    for each in deployed:
        identity = runs_as[each["work_pool"]["name"]].removeprefix("understudy-")
        assert identity in IDENTITIES
        granted = needs_of(identity, settings)
        for needed in DOES[each["entrypoint"].rpartition(".")[2]]:
            missing = [need.url for need in needs_of(needed, settings) if need not in granted]
            assert [] == missing, f"{each['entrypoint']} runs as {identity}"


def test_the_annotations_name_the_identity_that_the_worker_runs_as():
    text = (DEPLOYMENTS / "helm" / "values.yaml").read_text(encoding="utf-8")
    name = yaml.safe_load(text)["serviceAccount"]["name"]
    assert [name] * 2 == re.findall(r"(?:role/|service-account: )([\w-]+)", text)


# ---------------------------------------------------------------------- Terraform


def parsed(folder):
    blocks: dict[str, list] = {}
    for path in sorted(folder.glob("*.tf")):
        with path.open(encoding="utf-8") as file:
            for kind, found in hcl2.load(file).items():
                blocks.setdefault(kind, []).extend(found if isinstance(found, list) else [])
    return blocks


def names(blocks, kind):
    return {name.strip('"') for block in blocks.get(kind, ()) for name in block if not name.startswith("__")}


def test_every_module_is_called_with_its_own_variables():
    root = parsed(DEPLOYMENTS / "terraform")
    called = {name.strip('"'): body for block in root["module"] for name, body in block.items()}
    assert {"register", "aws_bucket", "gcs_bucket", "aws_identities", "gcp_identities", "prefect_pools"} == set(called)
    own = {"source", "for_each", "count", "depends_on", "providers"}
    for name, body in called.items():
        module = parsed(DEPLOYMENTS / "terraform" / body["source"].strip('"'))
        given = {key for key in body if not key.startswith("__")} - own
        assert given <= names(module, "variable"), name
        required = {
            key.strip('"')
            for block in module.get("variable", ())
            for key, value in block.items()
            if "default" not in value
        }
        assert required <= given, name
    text = "".join(path.read_text(encoding="utf-8") for path in (DEPLOYMENTS / "terraform").glob("*.tf"))
    assert set(re.findall(r"\bvar\.(\w+)", text)) == names(root, "variable")


def test_the_buckets_keep_versions_and_cannot_be_destroyed_by_mistake():
    for module, kind in (("aws_bucket", "aws_s3_bucket"), ("gcs_bucket", "google_storage_bucket")):
        blocks = parsed(DEPLOYMENTS / "terraform" / "modules" / module)
        (bucket,) = [block[f'"{kind}"'] for block in blocks["resource"] if f'"{kind}"' in block]
        (lifecycle,) = bucket['"this"']["lifecycle"]
        assert lifecycle["prevent_destroy"] is True
    aws = parsed(DEPLOYMENTS / "terraform" / "modules" / "aws_bucket")
    assert {"aws_s3_bucket_versioning", "aws_s3_bucket_object_lock_configuration", "aws_s3_bucket_policy"} <= names(
        aws, "resource"
    )
    gcs = (DEPLOYMENTS / "terraform" / "modules" / "gcs_bucket" / "main.tf").read_text(encoding="utf-8")
    for needed in ("versioning", "soft_delete_policy", "uniform_bucket_level_access = true"):
        assert needed in gcs


def test_the_identities_take_their_policies_from_the_files_of_understudy_iam():
    for cloud in ("aws", "gcp"):
        text = (DEPLOYMENTS / "terraform" / "modules" / f"{cloud}_identities" / "main.tf").read_text(encoding="utf-8")
        assert 'fileset(var.folder, "*.json")' in text
        assert not re.search(r"s3:|storage\.objects|Action", text), "a permission written by hand"
    pools = (DEPLOYMENTS / "terraform" / "modules" / "prefect_pools" / "main.tf").read_text(encoding="utf-8")
    assert set(POOLS) == set(re.findall(r'name\s+= "([\w-]+)"', pools))


def test_a_role_is_taken_by_principals_of_aws_and_by_a_clusters_service_accounts():
    blocks = parsed(DEPLOYMENTS / "terraform" / "modules" / "aws_identities")
    (trust,) = [each['"aws_iam_policy_document"']['"trust"'] for each in blocks["data"]]
    statements = [content for each in trust["dynamic"] for content in each['"statement"']["content"]]
    found = {each["actions"][0].strip('"'): each for each in statements}
    assert {"sts:AssumeRole", "sts:AssumeRoleWithWebIdentity"} == set(found)
    federated = found["sts:AssumeRoleWithWebIdentity"]
    assert '"Federated"' == federated["principals"][0]["type"]
    asked = {each["variable"]: (each["test"], each["values"]) for each in federated["condition"]}
    equal = '"StringEquals"'
    assert (equal, "${statement.value}") == asked['"${local.issuer}:sub"']
    assert (equal, ['"sts.amazonaws.com"']) == asked['"${local.issuer}:aud"']


LOGIC = """
module "m" {
  source             = "./m"
  folder             = "%s"
  trusted_principals = { copies = ["arn:aws:iam::1:role/w"], nobody = ["arn:aws:iam::1:role/w"] }
  oidc = {
    provider_arn = "arn:aws:iam::1:oidc-provider/oidc.eks.example.com/id/X"
    subjects     = { failover = ["system:serviceaccount:u:f"] }
  }
}
output "found" {
  value = jsonencode(module.m)
}
"""


def test_each_policy_of_an_identity_that_somebody_may_take_is_attached_to_its_role(tmp_path):
    terraform = shutil.which("terraform")
    if terraform is None:
        pytest.skip("terraform is not installed here; the files are parsed by the tests before")
    policies = tmp_path / "policies"
    policies.mkdir()
    for name in ("copies", "copies-2", "failover", "pruner"):
        (policies / f"{name}.json").write_text("{}", encoding="utf-8")
    text = (DEPLOYMENTS / "terraform" / "modules" / "aws_identities" / "main.tf").read_text(encoding="utf-8")
    # Its variables and its logic; what needs a provider stays out.
    logic = re.search(r'(variable "folder".*?)\ndata ', text, re.DOTALL)[1]
    (tmp_path / "m").mkdir()
    shown = "".join(
        f'output "{name}" {{\n  value = local.{name}\n}}\n' for name in ("identities", "policies", "issuer")
    )
    (tmp_path / "m" / "main.tf").write_text(f"{logic}\n{shown}", encoding="utf-8")
    (tmp_path / "main.tf").write_text(LOGIC % policies, encoding="utf-8")
    for command in (["init"], ["apply", "-auto-approve"]):
        done = subprocess.run(
            [terraform, *command, "-no-color"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )
        assert 0 == done.returncode, done.stdout + done.stderr
    state = json.loads((tmp_path / "terraform.tfstate").read_text(encoding="utf-8"))
    assert {
        "identities": ["copies", "failover"],
        "policies": {"copies": "copies", "copies-2": "copies", "failover": "failover"},
        "issuer": "oidc.eks.example.com/id/X",
    } == json.loads(state["outputs"]["found"]["value"])


def test_terraform_finds_nothing_to_format():
    terraform = shutil.which("terraform")
    if terraform is None:
        pytest.skip("terraform is not installed here; the files are parsed by the tests before")
    command = [terraform, "fmt", "-check", "-recursive", DEPLOYMENTS / "terraform"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (0, "") == (done.returncode, done.stdout), done.stderr


# ---------------------------------------------------------------------- the page


def test_the_page_names_every_identity_and_says_what_was_not_run():
    page = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
    assert [] == [identity for identity in IDENTITIES if f"`{identity}`" not in page]
    assert "## What was not run" in page
    for path in re.findall(r"`((?:deployments|docker-compose|\.dockerignore)[\w./-]*)`", page):
        assert (ROOT / path).exists(), path
