"""Secrets in Prefect blocks, through the references of a config."""

from __future__ import annotations

import json
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prefect.blocks.system import Secret

from tasks.house import read_secret_block  # its import registers the reader
from understudy.clouds import aws
from understudy.errors import InvalidConfig, Unsupported
from understudy.secrets import resolve

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(240)]


def test_a_secret_block_holds_a_text_or_the_json_of_credentials():
    Secret(value="a secret's text").save("planted-text", overwrite=True)
    assert "a secret's text" == resolve("block:secret/planted-text").reveal()
    Secret(value={"AccessKeyId": "AKIAX", "SecretAccessKey": "secret-text"}).save("planted-json", overwrite=True)
    text = resolve("block:secret/planted-json").reveal()
    assert ("AKIAX", "secret-text", None) == aws.read_credentials(text, "block:secret/planted-json")


def test_a_block_that_is_not_there_or_of_another_kind_is_one_sentence():
    with pytest.raises(InvalidConfig, match="the Prefect block secret/nobody does not exist"):
        read_secret_block("secret/nobody")
    with pytest.raises(InvalidConfig, match=r"write block:secret/NAME|Write block:secret/NAME"):
        read_secret_block("json/settings")


@pytest.mark.parametrize(("kind", "package"), [("aws-credentials", "prefect-aws"), ("gcp-credentials", "prefect-gcp")])
def test_a_credentials_block_without_its_package_says_which_one(kind, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(Unsupported) as caught:
        read_secret_block(f"{kind}/understudy")
    assert f"a block of this kind needs the package {package}, which is not installed" == caught.value.message
    assert f"pip install {package}" == caught.value.next_command


def test_credentials_blocks_are_read_as_the_text_of_a_credentials_file():
    pytest.importorskip("prefect_aws", reason="prefect-aws is not installed: its block is proven where it is")
    from prefect_aws import AwsCredentials

    AwsCredentials(aws_access_key_id="AKIAX", aws_secret_access_key="secret-text").save("planted", overwrite=True)
    found = aws.read_credentials(resolve("block:aws-credentials/planted").reveal(), "the block")
    assert ("AKIAX", "secret-text", None) == found
    gcp = pytest.importorskip("prefect_gcp", reason="prefect-gcp is not installed: its block is proven where it is")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    info = {"type": "service_account", "client_email": "a@acme.example", "token_uri": "https://token.example"}
    info |= {"private_key": key.decode(), "project_id": "acme"}
    gcp.GcpCredentials(service_account_info=info).save("planted", overwrite=True)
    assert info == json.loads(resolve("block:gcp-credentials/planted").reveal())
