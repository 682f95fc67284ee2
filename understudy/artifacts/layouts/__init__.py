"""What files say of where their tensors lie: one module a format, each reads what it needs by ranged reads.

A safetensors file that lies is held: its format is strict, so the upload is not whole. The other formats have many
writers, and are read here for one purpose, to cut where tensors begin. What they say is never a matter of truth (all
bytes are proven by their digest), so one that lies, or that is not understood, is taken as opaque bytes, not held.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Protocol

from understudy.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from understudy.artifacts.cut import Layout

#: A PyTorch file is a ZIP, or an old pickle of which nothing can be said without running it.
_PYTORCH = (".pt", ".pth", ".bin", ".ckpt")
_ZIP = b"PK\x03\x04"
#: What a parser of hostile bytes may stumble over; it is the file's fault.
_STUMBLES = (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error, EOFError, NotImplementedError)


class Read(Protocol):
    """Returns exactly so many bytes of a file."""

    def __call__(self, start: int, length: int, /) -> bytes:
        """Return the ``length`` bytes from ``start``. Never asked for more than the file has."""


def look_into(path: str, size: int, read: Read) -> Layout | None:
    """Return where a file's tensors lie; None where it is none of the known formats.

    Args:
        path: of the file; its ending says which format to look for.
        size: its bytes.
        read: reads ranges of it, some tens of MB in all at most.

    Raises:
        Corrupt: the file says that it is of a format and contradicts itself. A safetensors file is then not whole;
            any other one (``holds_when_lying`` is False) is opaque bytes.
    """
    if path.endswith(".safetensors"):
        from understudy.artifacts.layouts import safetensors

        return safetensors.look_into(size, read)
    try:
        return _look_into(path, size, read)
    except _STUMBLES as error:
        message = f"cannot be read as what its name says: {type(error).__name__}"
        raise Corrupt(message) from error


def holds_when_lying(path: str) -> bool:
    """Return whether a file of this name that contradicts itself shows that its model is not whole."""
    return path.endswith(".safetensors")


def external_layouts(path: str, layout: Layout, sizes: Mapping[str, int]) -> dict[str, Layout]:
    """Return the layouts of the files beside an ONNX model that hold its tensors, by their path.

    Args:
        path: of the model.
        layout: of the model.
        sizes: of all files of the version, path to bytes. What the model names and is not there is left out, as is a
            file of which it tells what cannot be.
    """
    if not layout.external:
        return {}
    from understudy.artifacts.layouts import onnx

    return onnx.external_layouts(path, layout, sizes)


def _look_into(path: str, size: int, read: Read) -> Layout | None:
    if path.endswith(_PYTORCH):
        if size < len(_ZIP) or read(0, len(_ZIP)) != _ZIP:
            return None
        from understudy.artifacts.layouts import pytorch

        return pytorch.look_into(size, read)
    if path.endswith(".gguf"):
        from understudy.artifacts.layouts import gguf

        return gguf.look_into(size, read)
    if path.endswith(".onnx"):
        from understudy.artifacts.layouts import onnx

        return onnx.look_into(size, read)
    return None
