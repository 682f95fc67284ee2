"""versitygw: an S3 server over a folder, ``python -m sandbox.servers.versitygw start|stop|status|reset``.

https://github.com/versity/versitygw. Path-style addressing, a region of its own and keys of its own, as MinIO and most
other S3-compatible stores have. It checks signatures, checksums and preconditions. The folder must lie on a file system
with extended attributes.
"""

from __future__ import annotations

import sys

from sandbox.servers.server import HOST, Place, Server, answers, go_install, main

REGION = "eu-north-7"  # no region of AWS: whoever ignores the config's region signs for another one and is refused
_VERSION = "v1.8.0"
_ACCESS_KEY = "understudy-real"
_SECRET_KEY = "loopback-only-secret"  # noqa: S105 - of a server on loopback

#: Test function, or one param of it as pytest prints it -> why this server cannot prove it.
CANNOT_PROVE: dict[str, str] = {
    "test_an_object_is_moved_to_a_colder_class_and_back_where_that_is_claimed": (
        "it keeps one storage class and refuses a copy onto itself that changes nothing else; proven on moto"
    ),
    "test_what_was_deleted_can_be_created_again[versitygw]": (
        "in a bucket with versions it counts the mark of a deletion as an object, S3 does not; proven without versions"
    ),
    "test_a_replace_of_what_is_not_there_conflicts_unless_absence_was_expected[versitygw]": (
        "in a bucket with versions it compares If-Match with what was deleted, S3 does not; proven without versions"
    ),
    "test_an_object_called_like_the_prefix_is_not_below_it": (
        "it keeps objects as files, where models and models/a exclude each other"
    ),
}


def _command(place: Place) -> list[str]:
    objects, versions = place.data / "objects", place.data / "versions"
    for folder in (objects, versions):
        folder.mkdir(exist_ok=True)
    return [
        *(str(place.home / "versitygw"), "--quiet", "--port", f"{HOST}:{place.port}", "--region", REGION),
        *("posix", "--versioning-dir", str(versions), str(objects)),
    ]


SERVER = Server(
    name="versitygw",
    version=_VERSION,
    tools=("go",),
    install=go_install("github.com/versity/versitygw/cmd/versitygw", _VERSION),
    program="versitygw",
    command=_command,
    ready=lambda place: answers(place.port),
    variables=lambda place: {
        "UNDERSTUDY_VERSITYGW": f"http://{HOST}:{place.port}",
        "UNDERSTUDY_VERSITYGW_ACCESS_KEY": _ACCESS_KEY,
        "UNDERSTUDY_VERSITYGW_SECRET_KEY": _SECRET_KEY,
        "UNDERSTUDY_VERSITYGW_REGION": REGION,
    },
    environment={"ROOT_ACCESS_KEY": _ACCESS_KEY, "ROOT_SECRET_KEY": _SECRET_KEY},
)

if __name__ == "__main__":
    sys.exit(main({SERVER.name: SERVER}, program="sandbox.servers.versitygw"))
