"""A Compute Engine for the sandbox: one managed instance group whose instances are real processes on loopback.

Speaks the part of the Compute Engine v1 REST API that a failover needs; held to the vendor's own client by the contract
test. An instance is RUNNING when its ``GET /health`` answers 200, and only then a backend in the targets file that the
balancer reads. https://cloud.google.com/compute/docs/reference/rest/v1/instanceGroupManagers

What it cannot prove: quota, stock-outs, regional groups, templates, and how long a real machine takes to boot.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sandbox.process import Process, ServerDidNotStart, free_port, launch

#: As long as autohealing leaves a new instance alone: at a standby it waits for its model.
_START_SECONDS = 900.0
_WAIT_SECONDS = 10.0
_LOOK_SECONDS = 0.2
_HEALTH_SECONDS = 2.0


@dataclass
class Instance:
    """One instance and its process."""

    name: str
    number: int
    port: int
    action: str = "CREATING"
    status: str = "PROVISIONING"
    error: str = ""
    process: Process | None = None


@dataclass
class Operation:
    """One asynchronous call."""

    name: str
    kind: str
    target: str
    began: str
    done: threading.Event = field(default_factory=threading.Event)


class Refusal(Exception):
    """An error answer in Google's form."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class Manager:
    """The one group: what is to be there, what is there, and the thread that brings these together."""

    def __init__(
        self, project: str, zone: str, group: str, *, command: list[str], host: str, targets: Path, logs: Path
    ) -> None:
        self.project = project
        self.zone = zone
        self.group = group
        self.size = 0
        self._command = command
        self._host = host
        self._targets = targets
        self._logs = logs
        self._instances: dict[str, Instance] = {}
        self._operations: dict[str, Operation] = {}
        self._numbers = 0
        self._lock = threading.RLock()
        self._written: str | None = None
        self._write_targets()
        threading.Thread(target=self._look_after, name="look-after", daemon=True).start()

    # ------------------------------------------------------------------ the API

    def resize(self, size: int) -> Operation:
        """Store the new size; the instances follow."""
        with self._lock:
            operation = Operation(
                f"operation-{len(self._operations) + 1}-{time.time_ns()}", "resize", self.group, _now()
            )
            self._operations[operation.name] = operation
            self.size = size
            alive = sorted(self._alive(), key=lambda each: each.number)
            for surplus in alive[size:]:
                surplus.action, surplus.status = "DELETING", "STOPPING"
                threading.Thread(target=self._end, args=(surplus,), daemon=True).start()
            for _ in range(size - len(alive)):
                self._add()
        threading.Timer(0.05, operation.done.set).start()
        return operation

    def operation(self, name: str, *, wait: float) -> Operation:
        """Return an operation, after it is done or ``wait`` seconds."""
        with self._lock:
            found = self._operations.get(name)
        if found is None:
            raise Refusal(
                404,
                "notFound",
                f"The resource 'projects/{self.project}/zones/{self.zone}/operations/{name}' was not found",
            )
        found.done.wait(wait)
        return found

    def describe(self) -> dict[str, Any]:
        """Return the instanceGroupManagers resource."""
        with self._lock:
            actions = [each.action for each in self._instances.values()]
            names = (
                "none",
                "creating",
                "creatingWithoutRetries",
                "recreating",
                "deleting",
                "abandoning",
                "restarting",
                "refreshing",
                "verifying",
            )
            counts = {name: sum(action.lower() == name.lower() for action in actions) for name in names}
            stable = counts["none"] == self.size == len(actions)
            return {
                "kind": "compute#instanceGroupManager",
                "id": "1",
                "name": self.group,
                "zone": self.link(""),
                "baseInstanceName": self.group,
                "targetSize": self.size,
                "currentActions": counts,
                "status": {"isStable": stable},
                "selfLink": self.link(f"/instanceGroupManagers/{self.group}"),
            }

    def managed(self) -> dict[str, Any]:
        """Return the answer of listManagedInstances."""
        with self._lock:
            rows = []
            for each in sorted(self._instances.values(), key=lambda each: each.number):
                row: dict[str, Any] = {
                    "id": str(each.number),
                    "name": each.name,
                    "instance": self.link(f"/instances/{each.name}"),
                    "currentAction": each.action,
                    "instanceStatus": each.status,
                }
                if each.error:
                    row["lastAttempt"] = {
                        "errors": {"errors": [{"code": "INSTANCE_DID_NOT_START", "message": each.error}]}
                    }
                rows.append(row)
            return {"managedInstances": rows}

    def answer(self, operation: Operation) -> dict[str, Any]:
        """Return an operation's resource."""
        done = operation.done.is_set()
        return {
            "kind": "compute#operation",
            "id": operation.name.split("-")[1],
            "name": operation.name,
            "zone": self.link(""),
            "operationType": operation.kind,
            "targetLink": self.link(f"/instanceGroupManagers/{operation.target}"),
            "status": "DONE" if done else "RUNNING",
            "progress": 100 if done else 0,
            "insertTime": operation.began,
            "startTime": operation.began,
            **({"endTime": _now()} if done else {}),
            "selfLink": self.link(f"/operations/{operation.name}"),
        }

    def link(self, tail: str) -> str:
        """Return a resource's link in this zone."""
        return f"https://www.googleapis.com/compute/v1/projects/{self.project}/zones/{self.zone}{tail}"

    # ------------------------------------------------------------------ the instances

    def _alive(self) -> list[Instance]:
        return [each for each in self._instances.values() if each.action != "DELETING"]

    def _add(self) -> None:
        self._numbers += 1
        instance = Instance(f"{self.group}-{self._numbers:04d}", self._numbers, free_port(self._host))
        self._instances[instance.name] = instance
        threading.Thread(target=self._start, args=(instance,), daemon=True).start()

    def _start(self, instance: Instance) -> None:
        command = [
            part.replace("{port}", str(instance.port)).replace("{name}", instance.name) for part in self._command
        ]
        try:
            process = launch(
                command,
                name=instance.name,
                log=self._logs / f"{instance.name}.log",
                ready=lambda: self._healthy(instance),
                timeout=_START_SECONDS,
            )
        except ServerDidNotStart as error:
            with self._lock:
                instance.error, instance.status = str(error), "STOPPED"
                if instance.action == "DELETING":
                    self._instances.pop(instance.name, None)
            return
        with self._lock:
            instance.process = process
            if instance.action == "DELETING":
                threading.Thread(target=self._end, args=(instance,), daemon=True).start()
                return
            instance.action, instance.status = "NONE", "RUNNING"
            self._write_targets()

    def _end(self, instance: Instance) -> None:
        with self._lock:
            self._write_targets()
            process = instance.process
        if process is None:
            return  # still starting: its own thread ends it
        process.stop()
        with self._lock:
            self._instances.pop(instance.name, None)

    def _healthy(self, instance: Instance) -> bool:
        with urllib.request.urlopen(f"http://{self._host}:{instance.port}/health", timeout=_HEALTH_SECONDS) as answer:
            return bool(answer.status == 200)

    def _look_after(self) -> None:
        """Replace instances whose process ended, as a group with autohealing does."""
        while True:
            time.sleep(_LOOK_SECONDS)
            with self._lock:
                ended = [each for each in self._alive() if each.process is not None and not each.process.running()]
                for each in ended:
                    self._instances.pop(each.name)
                    self._add()
                if ended:
                    self._write_targets()

    def _write_targets(self) -> None:
        """Tell the balancer who serves, whole or not at all."""
        with self._lock:
            serving = [f"{self._host}:{each.port}" for each in self._instances.values() if each.status == "RUNNING"]
            text = json.dumps(serving)
            if text != self._written:
                temporary = self._targets.with_suffix(".tmp")
                temporary.write_text(text, encoding="utf-8")
                temporary.replace(self._targets)
                self._written = text


_PATH = re.compile(r"/compute/v1/projects/([^/]+)/zones/([^/]+)/(instanceGroupManagers|operations)/([^/]+)(?:/(\w+))?")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    manager: Manager

    def do_GET(self) -> None:
        """Answer GET."""
        self._answer("GET")

    def do_POST(self) -> None:
        """Answer POST."""
        self._answer("POST")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: errors are answers."""

    def _answer(self, method: str) -> None:
        if length := int(self.headers.get("Content-Length") or 0):
            self.rfile.read(length)
        try:
            status, body = 200, self._route(method)
        except Refusal as refusal:
            status = refusal.status
            body = {
                "error": {
                    "code": status,
                    "message": str(refusal),
                    "errors": [{"message": str(refusal), "domain": "global", "reason": refusal.reason}],
                }
            }
        data = json.dumps(body).encode()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def _route(self, method: str) -> dict[str, Any]:
        parts = urlsplit(self.path)
        if method == "GET" and parts.path == "/health":
            return {"status": "ok"}
        match = _PATH.fullmatch(parts.path)
        if match is None:
            raise Refusal(404, "notFound", f"{parts.path} is not served by the sandbox")
        project, zone, kind, name, verb = match.groups()
        manager = self.manager
        if (project, zone) != (manager.project, manager.zone) or (kind != "operations" and name != manager.group):
            raise Refusal(
                404, "notFound", f"The resource 'projects/{project}/zones/{zone}/{kind}/{name}' was not found"
            )
        match method, kind, verb:
            case "GET", "instanceGroupManagers", None:
                return manager.describe()
            case "POST", "instanceGroupManagers", "resize":
                return manager.answer(manager.resize(self._size(parts.query)))
            case "POST", "instanceGroupManagers", "listManagedInstances":
                return manager.managed()
            case "GET", "operations", None:
                return manager.answer(manager.operation(name, wait=0))
            case "POST", "operations", "wait":
                return manager.answer(manager.operation(name, wait=_WAIT_SECONDS))
        raise Refusal(405, "httpMethodNotAllowed", f"{method} {parts.path} is not served by the sandbox")

    def _size(self, query: str) -> int:
        text = parse_qs(query).get("size", [""])[0]
        if not text.isdigit():
            raise Refusal(
                400, "invalid", f"Invalid value for field 'size': '{text}'. Must be greater than or equal to 0"
            )
        return int(text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def main(arguments: list[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.compute_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--project", required=True)
    parser.add_argument("--zone", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--size", type=int, default=0, help="instances to start with")
    parser.add_argument("--instance-command", required=True, help="JSON list with {port} and {name}")
    parser.add_argument("--instance-host", help="address of the instances; default: --host")
    parser.add_argument("--targets", type=Path, required=True, help="JSON list of host:port for the balancer")
    parser.add_argument("--logs", type=Path, required=True)
    given = parser.parse_args(arguments)
    manager = Manager(
        given.project,
        given.zone,
        given.group,
        command=json.loads(given.instance_command),
        host=given.instance_host or given.host,
        targets=given.targets,
        logs=given.logs,
    )
    handler = type("BoundHandler", (Handler,), {"manager": manager})
    server = ThreadingHTTPServer((given.host, given.port), handler)
    server.daemon_threads = True
    if given.size:
        manager.resize(given.size)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
