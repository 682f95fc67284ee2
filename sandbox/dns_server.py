"""A name server for the sandbox: answers A questions from Route 53's records, with their TTL and by their weights.

Route 53 here is moto, which keeps records but answers no DNS. What it says is remembered for 0.2 s. UDP only.
What it cannot prove: resolvers on the way that ignore a TTL, and how long a real change takes to spread.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import threading
import time
from dataclasses import dataclass
from socketserver import BaseRequestHandler, ThreadingUDPServer
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from dnslib import QTYPE, RCODE, RR, A, DNSError, DNSRecord

_REMEMBER_SECONDS = 0.2


@dataclass(frozen=True)
class Weighted:
    """One record set of a name."""

    addresses: tuple[str, ...]
    ttl: int
    weight: int | None


class Zone:
    """The A records of one hosted zone."""

    def __init__(self, client: Any, zone: str) -> None:
        self._client = client
        self._zone = zone
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._records: dict[str, list[Weighted]] = {}

    def answer(self, name: str) -> Weighted | None:
        """Return the record set that this question gets; None when the name is not known."""
        choices = self._all().get(name.rstrip(".").lower())
        if not choices:
            return None
        weights = [1 if each.weight is None else each.weight for each in choices]
        if not any(weights):
            weights = [1] * len(choices)  # as Route 53: all at 0 are equals
        return random.choices(choices, weights)[0]

    def _all(self) -> dict[str, list[Weighted]]:
        with self._lock:
            if time.monotonic() - self._read_at > _REMEMBER_SECONDS:
                records: dict[str, list[Weighted]] = {}
                for page in self._client.get_paginator("list_resource_record_sets").paginate(HostedZoneId=self._zone):
                    for each in page["ResourceRecordSets"]:
                        if each["Type"] == "A" and "ResourceRecords" in each:
                            addresses = tuple(record["Value"] for record in each["ResourceRecords"])
                            records.setdefault(each["Name"].rstrip(".").lower(), []).append(
                                Weighted(addresses, int(each["TTL"]), each.get("Weight"))
                            )
                self._records, self._read_at = records, time.monotonic()
            return self._records


class Handler(BaseRequestHandler):
    """One question."""

    zone: Zone

    def handle(self) -> None:
        """Answer it; what is no question gets no answer."""
        data, socket = self.request
        with contextlib.suppress(DNSError, OSError):
            socket.sendto(self._reply(DNSRecord.parse(data)).pack(), self.client_address)

    def _reply(self, question: DNSRecord) -> DNSRecord:
        reply = question.reply(aa=1, ra=0)
        try:
            found = self.zone.answer(str(question.q.qname))
        except (BotoCoreError, ClientError):  # Route 53 does not answer: a name server then says so
            reply.header.rcode = RCODE.SERVFAIL
            return reply
        if found is None:
            reply.header.rcode = RCODE.NXDOMAIN
        elif question.q.qtype in (QTYPE.A, QTYPE.ANY):
            for address in found.addresses:
                reply.add_answer(RR(question.q.qname, QTYPE.A, rdata=A(address), ttl=found.ttl))
        return reply


class Server(ThreadingUDPServer):
    """One thread a question."""

    daemon_threads = True


def main(arguments: list[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.dns_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--route53-endpoint", required=True)
    parser.add_argument("--zone-id", required=True)
    given = parser.parse_args(arguments)
    client = boto3.client(
        "route53",
        region_name="us-east-1",
        endpoint_url=given.route53_endpoint,
        aws_access_key_id="understudy",
        aws_secret_access_key="loopback",  # noqa: S106 - moto takes any
        config=Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 2}),
    )
    handler = type("BoundHandler", (Handler,), {"zone": Zone(client, given.zone_id)})
    with contextlib.suppress(KeyboardInterrupt), Server((given.host, given.port), handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
