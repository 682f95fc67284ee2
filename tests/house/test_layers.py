"""The layers beyond what import-linter can say."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path

from understudy.opening import VENDORS

ROOT = Path(__file__).parents[2]
PURE = sorted([*ROOT.glob("understudy/**/plan.py"), *ROOT.glob("understudy/**/decide.py")])
IMPURE_MODULES = {
    "os",
    "socket",
    "subprocess",
    "time",
    "random",
    "requests",
    "boto3",
    "google",
    "psycopg",
    "threading",
    "pathlib",
}
VENDOR_SDK = {
    "s3": "boto3",
    "gcs": "google",
    "dynamodb": "boto3",
    "bigtable": "google",
    "redis": "redis",
    "pgvector": "psycopg",
    "route53": "boto3",
    "gce": "google",
}


def imported(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def vendor_of(path: Path) -> str | None:
    """Return the vendor whose file this is, whole (``pgvector``) or a part of it (``pgvector_catalog``)."""
    vendor = path.stem.partition("_")[0]
    return vendor if vendor in VENDOR_SDK else None


def test_the_failover_flow_imports_the_scheduled_flows_hydrate_and_rebuild_tasks():
    tasks_of_failover = imported(ROOT / "flows" / "failover.py")
    for flow, task in {
        "replicate_artifacts": "tasks.artifacts.hydrate_artifacts",
        "replicate_vectors": "tasks.vectors.rebuild_index",
        "rebuild_features": "tasks.features.rebuild_features",
    }.items():
        assert task in imported(ROOT / "flows" / f"{flow}.py"), flow
        assert task in tasks_of_failover, task


def test_plans_and_decisions_do_no_io_and_read_no_clock():
    assert [] != PURE
    for path in PURE:
        roots = {name.split(".")[0] for name in imported(path)}
        assert set() == roots & IMPURE_MODULES, path
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bopen\(|datetime\.now\(|\.utcnow\(|\bprint\(", text), path


def test_a_vendor_file_is_imported_by_opening_alone():
    vendors = {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path
        for path in ROOT.glob("understudy/*/*.py")
        if vendor_of(path)
    }
    assert {"understudy.objects.s3", "understudy.objects.gcs", "understudy.vectors.pgvector"} <= set(vendors)
    for path in [*ROOT.glob("understudy/**/*.py"), *ROOT.glob("tasks/*.py"), *ROOT.glob("flows/*.py")]:
        for name in imported(path) & set(vendors):
            found = vendors[name]
            whole = found.stem == vendor_of(found)
            assert path.name == "opening.py" if whole else vendor_of(path) == vendor_of(found), f"{path}: {name}"


def test_an_sdk_is_imported_by_its_vendors_files_and_its_cloud_alone():
    allowed = {
        "boto3": {"s3", "dynamodb", "route53", "aws"},
        "botocore": {"s3", "dynamodb", "route53", "aws"},
        "google": {"gcs", "bigtable", "gce", "gcp"},
        "redis": {"redis"},
        "psycopg": {"pgvector", "pgvector_catalog", "pgvector_definition", "pgvector_green", "pgvector_reading"},
    }
    for path in ROOT.glob("understudy/**/*.py"):
        for root in {name.split(".")[0] for name in imported(path)} & set(allowed):
            assert path.stem in allowed[root], f"{path} imports {root}"


def test_no_file_is_called_utils_or_the_like():
    banned = {"utils", "util", "helpers", "helper", "common", "core", "base", "misc"}
    found = [
        path
        for top in ("understudy", "tasks", "flows", "sandbox")
        for path in ROOT.glob(f"{top}/**/*.py")
        if path.stem in banned
    ]
    assert [] == found


def test_every_vendor_known_to_opening_has_a_contract_run():
    contracts = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "contracts").glob("*.py"))
    without = [
        vendor.scheme
        for vendor in VENDORS
        if not re.search(rf"\b{vendor.adapter.partition(':')[2]}\b", contracts)
        and f"{vendor.scheme}://" not in contracts
    ]
    assert [] == without


def test_every_vendor_in_the_table_is_the_adapter_that_its_opener_imports():
    for vendor in VENDORS:
        module, _, name = vendor.adapter.partition(":")
        assert isinstance(getattr(import_module(f"understudy.{module}"), name), type)
        assert name in inspect.getsource(vendor.open)
        assert vendor.form.startswith(f"{vendor.scheme}://")


def test_every_adapter_of_the_product_is_in_the_table():
    known = {f"understudy.{vendor.adapter.partition(':')[0]}" for vendor in VENDORS}
    files = {
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
        for path in ROOT.glob("understudy/*/*.py")
        if path.stem in VENDOR_SDK or path.stem in {"file", "fixed"}
    }
    assert files == known


def test_the_flows_hold_no_logic_of_their_own():
    for path in ROOT.glob("flows/*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert set() == roots - {"__future__", "prefect", "tasks", "understudy", "typing", "datetime"}, path
