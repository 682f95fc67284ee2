"""fake-gcs-server: Cloud Storage in memory, ``python -m sandbox.servers.fake_gcs start|stop|status|reset``.

https://github.com/fsouza/fake-gcs-server. It enforces preconditions, keeps old generations and computes CRC32C. It
takes any credentials, and its data is in memory: no bar of speed or size is measured on it.
"""

from __future__ import annotations

import sys

from sandbox.servers.server import HOST, Place, Server, answers, go_install, main

_VERSION = "v1.56.1"

_NO_RESUME = "asked how far an upload came it ends it, so that none goes on after a lost answer; proven on the sandbox"
#: Test function, or one param of it as pytest prints it -> why this server cannot prove it.
CANNOT_PROVE: dict[str, str] = {
    "test_an_object_is_moved_to_a_colder_class_and_back_where_that_is_claimed": (
        "a rewrite leaves the storage class as it is; proven on the sandbox"
    ),
    "test_a_stream_goes_on_after_a_lost_answer_to_a_part": _NO_RESUME,
    "test_a_stream_whose_last_answer_was_lost_is_there": _NO_RESUME,
    "test_a_resumable_upload_says_how_far_it_came_and_goes_on_from_there": _NO_RESUME,
    "test_reading_and_deleting_are_conditional_too": "it looks at conditions of writes alone",
    "test_googles_client_lists_old_generations_and_deletes_one": "it keeps old generations, but lists none of them",
    "test_a_wrong_checksum_in_a_header_is_refused_and_nothing_is_visible": "it does not look at checksums in headers",
    "test_chunks_of_an_unknown_size_come_in_multiples_of_256_kib": "it takes chunks of any size",
    "test_a_cancelled_upload_is_gone": "it goes on with an upload that was cancelled",
    "test_what_did_not_change_is_not_sent_again": "it does not know ifGenerationNotMatch",
}


def _command(place: Place) -> list[str]:
    address = f"{HOST}:{place.port}"
    return [
        *(str(place.home / "fake-gcs-server"), "-scheme", "http", "-backend", "memory", "-log-level", "error"),
        *("-host", HOST, "-port", str(place.port), "-external-url", f"http://{address}", "-public-host", address),
    ]


SERVER = Server(
    name="fake_gcs",
    version=_VERSION,
    tools=("go",),
    install=go_install("github.com/fsouza/fake-gcs-server", _VERSION),
    program="fake-gcs-server",
    folder="fake-gcs-server",
    command=_command,
    ready=lambda place: answers(place.port, "/storage/v1/b?project=test"),
    variables=lambda place: {"UNDERSTUDY_FAKE_GCS": f"http://{HOST}:{place.port}"},
)

if __name__ == "__main__":
    sys.exit(main({SERVER.name: SERVER}, program="sandbox.servers.fake_gcs"))
