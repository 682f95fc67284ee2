from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from understudy.clouds import aws, gcp
from understudy.errors import Denied, InvalidConfig, Unreachable
from understudy.objects.gcs import GcsStore
from understudy.settings import Access


@pytest.mark.parametrize(
    "text",
    [
        '{"AccessKeyId": "AK", "SecretAccessKey": "SK", "SessionToken": "T"}',
        '{"Credentials": {"AccessKeyId": "AK", "SecretAccessKey": "SK", "SessionToken": "T"}}',
        '{"access_key_id": "AK", "secret_access_key": "SK", "session_token": "T"}',
        "[default]\naws_access_key_id = AK\naws_secret_access_key = SK\naws_session_token = T\n",
        "[other]\naws_access_key_id=AK\naws_secret_access_key=SK\naws_session_token=T",
    ],
)
def test_aws_credentials_are_read_in_the_forms_that_aws_writes(text: str) -> None:
    assert ("AK", "SK", "T") == aws.read_credentials(text, "env:X")


@pytest.mark.parametrize("text", ["", "secret-without-form", "{}", "[]", '"x"', "[default]\naws_access_key_id = AK"])
def test_what_holds_no_credentials_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(InvalidConfig, match="env:X holds no AWS credentials") as caught:
        aws.read_credentials(text, "env:X")
    assert "secret-without-form" not in str(caught.value)


def test_configured_keys_are_the_ones_that_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEYS", '{"AccessKeyId": "AKCONFIGURED", "SecretAccessKey": "SK"}')
    client = aws.client("s3", Access(region="eu-west-1", credentials="env:SOME_KEYS"))
    url = client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
    assert "AKCONFIGURED" in url
    assert "https://s3.eu-west-1.amazonaws.com" == client.meta.endpoint_url


def test_a_sandbox_on_loopback_never_sees_a_real_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKREAL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "SKREAL")
    for endpoint, real in (("http://127.0.0.1:9", False), ("https://s3.example.com", True)):
        client = aws.client("s3", Access(endpoints={"s3": endpoint}))
        url = client.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": "k"})
        assert real == ("AKREAL" in url)


def test_an_unknown_service_is_named() -> None:
    with pytest.raises(Exception, match="s4"):
        aws.client("s4", Access())


def service_account(mail: str, token: str) -> dict[str, str]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {"type": "service_account", "client_email": mail, "token_uri": token, "private_key": pem}


def test_google_credentials_of_a_service_account_and_of_a_workload_at_aws_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mail = "replicator@project.iam.gserviceaccount.com"
    account = service_account(mail, "https://oauth2.googleapis.com/token")
    monkeypatch.setenv("SOME_KEY", json.dumps(account))
    access = Access(cloud="gcp", credentials="env:SOME_KEY")
    assert mail == gcp.credentials(access, "gcs").service_account_email
    workload = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/aws",
        "subject_token_type": "urn:ietf:params:aws:token-type:aws4_request",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {
            "environment_id": "aws1",
            "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity",
        },
    }
    monkeypatch.setenv("SOME_KEY", json.dumps(workload))
    assert gcp.credentials(access, "gcs").scopes


def test_broken_google_credentials_are_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = '{"type": "external_account", "credential_source": {"executable": {"command": "x"}}}'
    for text in ("not json", "[]", "{}", '{"type": "service_account"}', '{"type": "unknown"}', runs):
        monkeypatch.setenv("SOME_KEY", text)
        with pytest.raises(InvalidConfig, match="env:SOME_KEY"):
            gcp.storage_client(Access(cloud="gcp", credentials="env:SOME_KEY"))


class RefusingTokens(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}'
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.mark.slow
def test_a_token_that_is_refused_is_no_dead_site(monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(("127.0.0.1", 0), RefusingTokens)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    token = f"http://127.0.0.1:{server.server_port}/token"
    account = service_account("replicator@project.iam.gserviceaccount.com", token)
    monkeypatch.setenv("SOME_KEY", json.dumps(account))
    access = Access(cloud="gcp", credentials="env:SOME_KEY", endpoints={"gcs": "http://127.0.0.1:9"})
    with pytest.raises(Denied, match="refuses a token"):
        GcsStore("bucket", client=gcp.storage_client(access)).get("x")
    server.shutdown()
    server.server_close()
    with pytest.raises(Unreachable, match="token server"):
        GcsStore("bucket", client=gcp.storage_client(access)).get("x")
