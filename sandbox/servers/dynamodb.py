"""DynamoDB Local, in memory: ``python -m sandbox.servers.dynamodb start|stop|status|reset``.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/DynamoDBLocal.html, from Maven's central repository.
**It listens on all interfaces**, and takes any credentials: it has no option for an address. Do not run it where others
reach this machine's ports. It sends no telemetry, for it is told not to.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sandbox.servers.server import HOST, Place, Server, answers, main, run

if TYPE_CHECKING:
    from pathlib import Path

_VERSION = "2.6.1"
_PROJECT = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>understudy</groupId><artifactId>dynamodb-local</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>com.amazonaws</groupId><artifactId>DynamoDBLocal</artifactId><version>{_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

#: Test function, or one param of it as pytest prints it -> why this server cannot prove it.
CANNOT_PROVE: dict[str, str] = {}


def _install(folder: Path) -> None:
    (folder / "pom.xml").write_text(_PROJECT, encoding="utf-8")
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
    run(["mvn", "-B", "-q", goal, "-DincludeScope=runtime", "-DoutputDirectory=lib"], folder)


def _command(place: Place) -> list[str]:
    lib = place.home / "lib"
    return [
        *("java", "-Xmx512m", f"-Djava.library.path={lib}", "-cp", f"{lib}/*"),
        *("com.amazonaws.services.dynamodbv2.local.main.ServerRunner", "-port", str(place.port)),
        *("-inMemory", "-sharedDb", "-disableTelemetry"),
    ]


SERVER = Server(
    name="dynamodb",
    version=_VERSION,
    tools=("mvn",),
    runs_with=("java",),
    install=_install,
    program=f"lib/DynamoDBLocal-{_VERSION}.jar",
    folder="dynamodb-local",
    command=_command,
    ready=lambda place: answers(place.port),
    variables=lambda place: {"UNDERSTUDY_DYNAMODB_LOCAL": f"http://{HOST}:{place.port}"},
)

if __name__ == "__main__":
    sys.exit(main({SERVER.name: SERVER}, program="sandbox.servers.dynamodb"))
