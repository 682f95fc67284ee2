"""Secrets in Prefect blocks: ``block:secret/NAME``, and the credentials blocks of prefect-aws and prefect-gcp."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import httpx
from prefect.blocks.system import Secret
from prefect.exceptions import PrefectException

from understudy.errors import InvalidConfig, Unreachable, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

_KINDS = "block:secret/NAME, block:aws-credentials/NAME or block:gcp-credentials/NAME"


def read_secret_block(name: str) -> str:
    """Return the text that ``type/name`` holds: a secret as it is, credentials as the JSON of a credentials file.

    Raises:
        InvalidConfig: there is no such block, or it holds no text of use.
        Unsupported: the package that brings the block's type is not installed.
        Unreachable: the Prefect server does not answer.
    """
    kind, _, label = name.partition("/")
    if kind not in _READERS:
        raise InvalidConfig(f"block:{name} is of a kind that is not known here", hint=f"write {_KINDS}")
    try:
        text = _READERS[kind](label)
    except ValueError:  # Prefect's word for a block that is not there
        raise InvalidConfig(
            f"the Prefect block {name} does not exist", hint="create it under Blocks in the Prefect UI"
        ) from None
    except (httpx.HTTPError, OSError, PrefectException) as error:
        raise Unreachable(
            f"the Prefect block {name} could not be read: {type(error).__name__}", hint="look at the Prefect server"
        ) from None
    if not text:
        raise InvalidConfig(f"the Prefect block {name} holds nothing of use", hint="fill it in")
    return text


def _secret(label: str) -> str:
    value: Any = Secret.load(label).get()  # type: ignore[union-attr]
    return value if isinstance(value, str) else json.dumps(value)


def _aws(label: str) -> str:
    block: Any = _class_of("prefect_aws", "AwsCredentials").load(label)
    if not block.aws_access_key_id or not block.aws_secret_access_key:
        return ""
    found = {
        "AccessKeyId": block.aws_access_key_id,
        "SecretAccessKey": block.aws_secret_access_key.get_secret_value(),
        "SessionToken": block.aws_session_token,
    }
    return json.dumps({name: value for name, value in found.items() if value})


def _gcp(label: str) -> str:
    block: Any = _class_of("prefect_gcp", "GcpCredentials").load(label)
    if block.service_account_info is not None:
        return json.dumps(block.service_account_info.get_secret_value())
    if block.service_account_file is not None:
        return str(block.service_account_file.expanduser().read_text(encoding="utf-8"))
    return ""


_READERS: dict[str, Callable[[str], str]] = {
    "secret": _secret,
    "aws-credentials": _aws,
    "gcp-credentials": _gcp,
}


def _class_of(package: str, name: str) -> Any:  # noqa: ANN401 - a block of a package that may not be there
    try:
        return getattr(import_module(package), name)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        distribution = package.replace("_", "-")
        raise Unsupported(
            f"a block of this kind needs the package {distribution}, which is not installed",
            next_command=f"pip install {distribution}",
        ) from error
