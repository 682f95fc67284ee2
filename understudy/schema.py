"""The JSON Schema of the config, for editors, and the tables of config/README.md: both made from ``settings``.

``python -m understudy.schema`` writes config/schema.json and the tables anew. The schema (2020-12) accepts what the
loader accepts, and ``${NAME}`` wherever the environment may fill something in. What concerns two settings at once, such
as warm beside full, is the loader's alone.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema

from understudy.opening import VENDORS, third_parties
from understudy.settings import PAIR_NOUNS, URL_NOUNS, ComponentName, Settings
from understudy.urls import PATTERNS

if TYPE_CHECKING:
    from understudy.opening import Noun

DIALECT = "https://json-schema.org/draft/2020-12/schema"
VARIABLE = r"\$\{[A-Z][A-Z0-9_]*\}"
#: Between these lines of config/README.md stand the tables.
BEGIN, END = "<!-- begin: made by python -m understudy.schema -->", "<!-- end -->"

_SAID = ("description", "default")
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))
_WHAT_COMPONENTS_ARE = {
    "inference": "what answers: its times are those of the whole service, and it is probed",
    "feature_store": "features: an online store at both sites, filled from the offline one",
    "vector_index": "vector indexes",
    "training": "model files",
    "evaluation": "kept for what evaluates models; nothing is copied for it yet",
}


def written(span: timedelta) -> str:
    """Return a duration as the config writes it: ``15s``, ``10m``, ``100ms``."""
    seconds = span.total_seconds()
    if seconds != int(seconds):
        return f"{round(seconds * 1000)}ms"
    for size, unit in _UNITS:
        if seconds and seconds % size == 0:
            return f"{int(seconds) // size}{unit}"
    return "0s"


def build() -> dict[str, Any]:
    """Return the JSON Schema of a config, with the vendors that are known to this installation."""
    schema = Settings.model_json_schema(schema_generator=_Generator)
    definitions = schema["$defs"]
    for definition in [*definitions.values(), schema]:
        definition.get("properties", {}).pop("_source", None)
        for name, described in definition.get("properties", {}).items():
            definition["properties"][name] = _with_variables(described)
    owners = {"vault": "VaultSettings", "register": "RegisterSettings", "traffic": "Traffic", "capacity": "Capacity"}
    for (owner, name), noun in URL_NOUNS.items():
        _name_vendors(definitions[owners.get(owner, "Alerts")]["properties"], name, noun)
    components = {}
    for name in ComponentName.__args__:  # type: ignore[attr-defined]
        components[name] = {
            "$ref": f"#/$defs/{_component(definitions, name)}",
            "description": _WHAT_COMPONENTS_ARE[name],
        }
    schema["properties"]["components"] |= {"properties": components, "additionalProperties": False}
    schema["properties"]["components"].pop("propertyNames", None)
    del definitions["Component"], definitions["Pair"]
    for definition in definitions.values():
        definition.pop("title", None)
    return {
        "$schema": DIALECT,
        "title": "An Understudy config",
        "$comment": "Made by python -m understudy.schema; not written by hand.",
        **{name: value for name, value in schema.items() if name not in ("title", "$defs")},
        "$defs": dict(sorted(definitions.items())),
    }


class _Generator(GenerateJsonSchema):
    """Writes defaults as the config writes them, and no titles, which only repeat a setting's name."""

    def encode_default(self, dft: Any) -> Any:  # noqa: ANN401 - any default
        if isinstance(dft, timedelta):
            return written(dft)
        if hasattr(type(dft), "model_fields"):
            return {}
        return super().encode_default(dft)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401 - pydantic's core schema
        del schema
        return False


def _with_variables(described: dict[str, Any]) -> dict[str, Any]:
    """Accept ``${NAME}`` where it stands for a whole value, and a number that the environment gives as text."""
    if described.get("type") in ("integer", "number", "boolean"):
        kept: dict[str, Any] = {name: described.pop(name) for name in _SAID if name in described}
        return {"anyOf": [described, {"type": "string", "pattern": f"^([0-9]+|{VARIABLE})$"}], **kept}
    if described.get("type") == "string" and "pattern" in described:
        described["pattern"] = f"{described['pattern']}|^{VARIABLE}$"
    if "enum" in described:
        kept = {name: described.pop(name) for name in _SAID if name in described}
        return {"anyOf": [described, {"type": "string", "pattern": f"^{VARIABLE}$"}], **kept}
    if "items" in described:
        described["items"] = _with_variables(described["items"])
    if "anyOf" in described:
        described["anyOf"] = [_with_variables(one) for one in described["anyOf"]]
    return described


def _name_vendors(properties: dict[str, Any], name: str, noun: Noun) -> None:
    """Turn a setting that is any URL into one of the vendors that keep a noun."""
    known = [vendor for vendor in VENDORS if vendor.noun == noun]
    patterns = [f"{re.escape(vendor.scheme)}://{PATTERNS.get((noun, vendor.scheme), '.*')}" for vendor in known]
    patterns += [f"{re.escape(scheme)}://.*" for found, scheme in sorted(third_parties()) if found == noun]
    patterns = [pattern.replace(r"\-", "-") for pattern in patterns]
    text = {
        **_plain(properties[name]),
        "pattern": f"^({'|'.join([*patterns, VARIABLE])})$",
        "examples": [vendor.form for vendor in known],
    }
    rest = {"description": properties[name].get("description", "")}
    if "anyOf" in properties[name]:
        properties[name] = {"anyOf": [text, {"type": "null"}], "default": None, **rest}
    else:
        properties[name] = text | rest


def _plain(described: dict[str, Any]) -> dict[str, Any]:
    text = next((one for one in described.get("anyOf", []) if one.get("type") == "string"), described)
    return {name: value for name, value in text.items() if name in ("type", "not")}


def _component(definitions: dict[str, Any], name: str) -> str:
    """Add what one component looks like, its pairs with the vendors of its noun; return the definition's name."""
    title = "".join(part.capitalize() for part in name.split("_"))
    whole = json.loads(json.dumps(definitions["Component"]))
    pair = json.loads(json.dumps(definitions["Pair"]))
    if noun := PAIR_NOUNS.get(name):
        _name_vendors(pair["properties"], "home", noun)
        _name_vendors(pair["properties"], "away", noun)
        _name_vendors(pair["properties"], "offline", "objects")
    if name == "feature_store" and not _keep_both("features", "objects"):
        pair["required"].append("offline")
        pair["properties"]["offline"] = _given(pair["properties"]["offline"])
    definitions[f"{title}Pair"] = pair
    whole["properties"]["pairs"]["items"] = {"$ref": f"#/$defs/{title}Pair"}
    definitions[title] = whole
    return title


def _keep_both(one: Noun, other: Noun) -> bool:
    """Whether some scheme keeps both nouns."""
    known = {*((vendor.noun, vendor.scheme) for vendor in VENDORS), *third_parties()}
    return any((other, scheme) in known for noun, scheme in known if noun == one)


def _given(described: dict[str, Any]) -> dict[str, Any]:
    """Return a setting that may be null as one that must be given."""
    return {**described["anyOf"][0], "description": described["description"]}


def text() -> str:
    """Return config/schema.json."""
    return json.dumps(build(), indent=1, ensure_ascii=False) + "\n"


def tables() -> str:
    """Return the tables of config/README.md: every setting, whether it must be given, and what it is."""
    schema = build()
    lines: list[str] = []
    _table(schema, schema, "", lines, set())
    return "\n".join(lines).strip() + "\n"


def _table(schema: dict[str, Any], node: dict[str, Any], path: str, lines: list[str], seen: set[str]) -> None:
    rows, below = [], []
    for name, described in node["properties"].items():
        target = _target(described)
        rows.append(_row(name, described, node))
        if target and target not in seen:
            seen.add(target)
            below.append((name, schema["$defs"][target]))
        elif name == "components":
            below.append((name, described))
    if path == "components":
        below = [("COMPONENT", _of_any_component(schema["$defs"]))]
    lines += [f"### `{path}`" if path else "### The whole", "", "| setting | default | what it is |", "|---|---|---|"]
    lines += [*rows, ""]
    for name, child in below:
        place = f"{path}.{name}" if path else name
        _table(schema, child, place + ("[]" if name == "pairs" else ""), lines, seen)


def _of_any_component(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return what all components look like, with a pair of any noun."""
    pair = definitions["FeatureStorePair"]["properties"]
    for name in ("home", "away"):
        pair[name]["examples"] = [vendor.form for vendor in VENDORS if vendor.noun in PAIR_NOUNS.values()]
    pair["offline"]["default"] = None
    required = definitions["FeatureStorePair"]["required"]
    definitions["FeatureStorePair"]["required"] = [name for name in required if name != "offline"]
    whole: dict[str, Any] = definitions["FeatureStore"]
    return whole


def _target(described: dict[str, Any]) -> str | None:
    candidates = [described, described.get("items", {}), *described.get("anyOf", [])]
    for one in candidates:
        if "$ref" in one:
            return str(one["$ref"]).rpartition("/")[2]
    return None


def _row(name: str, described: dict[str, Any], node: dict[str, Any]) -> str:
    text = next((one for one in described.get("anyOf", []) if "examples" in one), described)
    default = "**must be given**"
    if name not in node.get("required", []):
        value = described.get("default")
        default = f"`{json.dumps(value)}`" if value not in (None, {}, [], "") else ""
    forms = text.get("examples", []) if "://" in str(text.get("examples", "")) else []
    said = described.get("description", "") + (f": {', '.join(f'`{form}`' for form in forms)}" if forms else "")
    allowed = described.get("enum") or next((one["enum"] for one in described.get("anyOf", []) if "enum" in one), None)
    if allowed:
        said += f" ({', '.join(f'`{one}`' for one in allowed)})"
    return f"| `{name}` | {default} | {said.replace('|', chr(92) + '|')} |"


def page(found: str) -> str:
    """Return config/README.md with its tables made anew."""
    before, _, rest = found.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables()}{END}{after}"


def main(folder: str = "config") -> None:
    """Write both files anew."""
    place = Path(folder)
    (place / "schema.json").write_text(text(), encoding="utf-8")
    readme = place / "README.md"
    readme.write_text(page(readme.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
