"""Coders of weights beside each other: bytes and CPU. ``python -m bench.coders [--mb 64] [--finetune DIR]``.

Every coder gets the same blocks of at most 4 MiB of whole rows, one after another, in one thread, and must give them
back bit for bit. CPU is the process's own, the median of ``--repeats`` runs, in seconds a GB of plain bytes; on a
machine that does other work it is good to some 20 %. "saved" is what a coder is worth on any link: MB that need not be
sent for each CPU second of coding and decoding.

The first versions and the nudges are normal noise (``bench.model``), the adapter too; ``--finetune`` adds a real
fine-tune (``bench.finetune``). Peers that know no base get the integer difference to it, folded so that its sign stands
last (zigzag), where the name says so; that costs what numpy takes for it, and is part of their figures.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import struct
import sys
import time
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import zstandard

from bench.model import Change, from_bf16, tensor_values, to_bf16

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_BLOCK = 4 << 20
_SEED, _WIDTH = 20, 1536
_WORDS = {"BF16": "<u2", "F16": "<u2", "F32": "<u4"}


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows of a tensor, with those of the version before where there is one; ``columns`` words in a row."""

    raw: bytes
    base: bytes | None
    dtype: str
    columns: int

    def words(self) -> NDArray[Any]:
        """Return the words."""
        return np.frombuffer(self.raw, dtype=_WORDS[self.dtype])


@dataclass(frozen=True, slots=True)
class Data:
    """What is coded. ``bar`` is the most that issue 5 allows of it, in percent of the plain bytes, where it says so."""

    name: str
    blocks: list[Block]
    bar: float | None = None

    def size(self) -> int:
        """Return the plain bytes."""
        return sum(len(block.raw) for block in self.blocks)


class Coder(Protocol):
    """Frames, or None where the coder declines and the block is stored as it is."""

    name: str
    takes_base: bool

    def encode(self, block: Block) -> bytes | None:
        """Return the frame."""

    def decode(self, frame: bytes, block: Block) -> bytes:
        """Return the plain bytes; of the block, only what a reader has."""


class _Ours:
    def __init__(self, way: str, *, takes_base: bool, dense: bool = False) -> None:
        from understudy.coding import delta, native, planes

        self.takes_base = takes_base
        self.name = f"{'delta' if takes_base else 'planes'}, {way}{', dense' if dense else ''}"
        self._way, self._dense, self._delta, self._planes, self._native = way, dense, delta, planes, native

    def choose(self) -> None:
        """Take the native or the numpy way from here on."""
        for module in (self._delta, self._planes, self._native):
            if hasattr(module, "way"):
                setattr(module, "way", self._native.WAYS[self._way])  # noqa: B010 - the protocol has no such attribute

    def encode(self, block: Block) -> bytes | None:
        self.choose()
        if block.base is not None:
            return self._delta.encode(block.raw, block.base, block.dtype, block.columns, dense=self._dense)
        return self._planes.encode(block.raw, int(_WORDS[block.dtype][-1]), dense=self._dense)

    def decode(self, frame: bytes, block: Block) -> bytes:
        self.choose()
        if block.base is not None:
            return self._delta.decode(frame, block.base, len(block.raw))
        return self._planes.decode(frame, len(block.raw))


def fold(block: Block) -> NDArray[Any]:
    """Return the integer difference of words to the base's, zigzag; the words themselves without a base."""
    if block.base is None:
        return block.words()
    base = np.frombuffer(block.base, dtype=_WORDS[block.dtype])
    signed = (block.words() - base).view(base.dtype.str.replace("u", "i"))
    return ((signed << 1) ^ (signed >> (8 * base.itemsize - 1))).view(base.dtype)


def unfold(folded: NDArray[Any], block: Block) -> bytes:
    """Undo ``fold``."""
    if block.base is None:
        return folded.tobytes()
    base = np.frombuffer(block.base, dtype=_WORDS[block.dtype])
    return (((folded >> 1) ^ (0 - (folded & 1)).astype(folded.dtype)) + base).astype(base.dtype).tobytes()


class _Blosc:
    def __init__(self, *, takes_base: bool) -> None:
        self._blosc = importlib.import_module("blosc2")
        self.takes_base = takes_base
        self.name = f"blosc2 shuffle + zstd-1{' of the difference' if takes_base else ''}"

    def encode(self, block: Block) -> bytes:
        blosc = self._blosc
        folded = fold(block)
        return blosc.compress2(
            folded,
            typesize=folded.itemsize,
            codec=blosc.Codec.ZSTD,
            clevel=1,
            filters=[blosc.Filter.SHUFFLE],
            nthreads=1,
        )

    def decode(self, frame: bytes, block: Block) -> bytes:
        return unfold(np.frombuffer(self._blosc.decompress2(frame, nthreads=1), dtype=_WORDS[block.dtype]), block)


class _Pcodec:
    def __init__(self, *, takes_base: bool) -> None:
        self._pco = importlib.import_module("pcodec")
        self.takes_base = takes_base
        self.name = f"pcodec{' of the difference' if takes_base else ''}"

    def encode(self, block: Block) -> bytes:
        # Of single tensors its float modes find nothing; bf16 is a type it does not have.
        return self._pco.standalone.simple_compress(fold(block), self._pco.ChunkConfig())

    def decode(self, frame: bytes, block: Block) -> bytes:
        return unfold(self._pco.standalone.simple_decompress(frame), block)


class _Torchless(types.ModuleType):
    """Stands where torch would: zipnn imports it and needs nothing of it for bytes."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"script": staticmethod(lambda function: function)})


class _Zipnn:
    """ZipNN's own delta is the XOR of two files of equal length."""

    def __init__(self, *, takes_base: bool) -> None:
        for name in ("torch", "safetensors.torch"):
            if name not in sys.modules:
                sys.modules[name] = _Torchless(name)
        made = importlib.import_module("zipnn").ZipNN
        names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
        self._made = {
            dtype: made(bytearray_dtype=name, input_format="byte", threads=1) for dtype, name in names.items()
        }
        self.takes_base = takes_base
        self.name = f"zipnn{' of the XOR' if takes_base else ''}"

    def encode(self, block: Block) -> bytes:
        return bytes(self._made[block.dtype].compress(bytearray(_xor(block.raw, block.base))))

    def decode(self, frame: bytes, block: Block) -> bytes:
        return _xor(bytes(self._made[block.dtype].decompress(frame)), block.base)


def _xor(data: bytes, base: bytes | None) -> bytes:
    if base is None:
        return data
    return (np.frombuffer(data, np.uint8) ^ np.frombuffer(base, np.uint8)).tobytes()


class _Planed:
    """What BitX does, near enough: the XOR, its bytes apart, each plane by zstd."""

    name = "XOR, planes, zstd-3 (as BitX)"
    takes_base = True

    def encode(self, block: Block) -> bytes:
        width = int(_WORDS[block.dtype][-1])
        planes = np.frombuffer(_xor(block.raw, block.base), np.uint8).reshape(-1, width).T
        frames = [zstandard.ZstdCompressor(level=3).compress(plane.tobytes()) for plane in planes]
        return b"".join([struct.pack(f"<{width}I", *map(len, frames)), *frames])

    def decode(self, frame: bytes, block: Block) -> bytes:
        width = int(_WORDS[block.dtype][-1])
        planes, place = np.empty((len(block.raw) // width, width), np.uint8), 4 * width
        for plane, length in enumerate(struct.unpack_from(f"<{width}I", frame)):
            plain = zstandard.ZstdDecompressor().decompress(frame[place : place + length])
            planes[:, plane] = np.frombuffer(plain, np.uint8)
            place += length
        return _xor(planes.tobytes(), block.base)


class _Zstd:
    """Level 3; with a base, its bytes are what zstd's --patch-from is given."""

    def __init__(self, *, takes_base: bool) -> None:
        self.takes_base = takes_base
        self.name = "zstd-3 with the base before it (as --patch-from)" if takes_base else "zstd-3"

    def _history(self, block: Block) -> zstandard.ZstdCompressionDict | None:
        if block.base is None:
            return None
        return zstandard.ZstdCompressionDict(block.base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)

    def encode(self, block: Block) -> bytes:
        if block.base is None:
            return zstandard.ZstdCompressor(level=3).compress(block.raw)
        size = len(block.raw) + len(block.base)
        how = zstandard.ZstdCompressionParameters.from_level(
            3, source_size=size, window_log=max(10, size.bit_length()), enable_ldm=True
        )
        compressor = zstandard.ZstdCompressor(dict_data=self._history(block), compression_params=how)
        return compressor.compress(block.raw)

    def decode(self, frame: bytes, block: Block) -> bytes:
        history = self._history(block)
        reader = zstandard.ZstdDecompressor(dict_data=history, max_window_size=1 << 27)
        return reader.decompress(frame, max_output_size=len(block.raw))


def coders() -> tuple[list[Coder], list[str]]:
    """Return the coders that can be had here, and a sentence for each of the others."""
    from understudy.coding import native

    found: list[Coder] = []
    missing = [] if "native" in native.WAYS else ["ours, native: understudy_native is not built (see native/)"]
    for base in (False, True):
        if "native" in native.WAYS:
            found += [_Ours("native", takes_base=base), _Ours("native", takes_base=base, dense=True)]
        found.append(_Ours("numpy", takes_base=base))
    for name, made in (("blosc2", _Blosc), ("pcodec", _Pcodec), ("zipnn", _Zipnn)):
        try:
            found += [made(takes_base=base) for base in (False, True)]
        except ImportError as error:
            missing.append(f"{name}: not installed ({error})")
    return [*found, _Planed(), _Zstd(takes_base=False), _Zstd(takes_base=True)], missing


def blocks(raw: bytes, base: bytes | None, dtype: str, columns: int) -> Iterator[Block]:
    """Yield a tensor in blocks of whole rows."""
    row = columns * int(_WORDS[dtype][-1])
    step = max(1, _BLOCK // row) * row
    for start in range(0, len(raw), step):
        end = start + step
        yield Block(raw[start:end], None if base is None else base[start:end], dtype, columns)


def synthetic(name: str, dtype: str, change: Change | None, megabytes: int, bar: float | None = None) -> Data:
    """Return tensors of normal weights, and what ``change`` makes of them; the first version where it is None."""
    found: list[Block] = []
    shape, number = (_WIDTH, _WIDTH), 2
    while sum(len(block.raw) for block in found) < megabytes << 20:
        tensor = f"model.layers.{number}.self_attn.q_proj.weight"
        first, after = (
            np.concatenate(list(tensor_values(number, tensor, shape, seed=_SEED, change=each)))
            for each in (Change(), change or Change())
        )
        base, raw = (_cast(values, dtype) for values in (first, _moved(first, after, dtype, change)))
        found += blocks(raw, None if change is None else base, dtype, _WIDTH)
        number += 1
    return Data(name, found, bar)


def _moved(first: NDArray[Any], after: NDArray[Any], dtype: str, change: Change | None) -> NDArray[Any]:
    """Return the values after the change, which is added to the base as the dtype has it."""
    if change is None or dtype == "BF16":
        return after
    added = after - from_bf16(to_bf16(first))
    return added + (first.astype(np.float16).astype(np.float32) if dtype == "F16" else first)


def _cast(values: NDArray[Any], dtype: str) -> bytes:
    if dtype == "BF16":
        return to_bf16(values).tobytes()
    return values.astype("<f2" if dtype == "F16" else "<f4").tobytes()


def stored(name: str, after: Path, before: Path | None, megabytes: int, bar: float | None = None) -> Data:
    """Return the tensors of floats of a safetensors file, evenly chosen where they are more than is asked for."""
    found: list[Block] = []
    olds = dict(_tensors(before)) if before else {}
    for tensor, (dtype, shape, raw) in _tensors(after):
        if dtype not in _WORDS:
            continue
        columns = shape[-1] if shape else 1
        found += blocks(raw, olds[tensor][2] if before else None, dtype, columns)
    every = max(1, -(-sum(len(block.raw) for block in found) // (megabytes << 20)))
    return Data(name, found[::every], bar)


def _tensors(path: Path) -> Iterator[tuple[str, tuple[str, list[int], bytes]]]:
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            start, end = entry["data_offsets"]
            yield name, (entry["dtype"], entry["shape"], data[8 + length + start : 8 + length + end])


def all_data(megabytes: int, finetune: Path | None) -> Iterator[Callable[[], Data]]:
    """Yield what makes each kind of data, one at a time, so that one is held at once."""
    from sandbox.model import WEIGHTS, packaged_files

    yield lambda: synthetic("first, bf16, normal", "BF16", None, megabytes, 67.5)
    yield lambda: synthetic("first, fp16, normal", "F16", None, megabytes)
    yield lambda: stored("first, fp32, MiniLM", packaged_files()[WEIGHTS], None, 2 * megabytes)
    for percent, bar in ((1.5, 30.5), (0.6, None), (0.3, None)):
        yield lambda percent=percent, bar=bar: synthetic(
            f"nudge of {percent} % of sigma, bf16", "BF16", Change(percent), megabytes, bar
        )
    yield lambda: synthetic("nudge of 0.5 % of sigma, fp16", "F16", Change(0.5), megabytes)
    yield lambda: synthetic("nudge of 0.5 % of sigma, fp32", "F32", Change(0.5), megabytes)
    # 3 % of the model, of which q and v are 15 %.
    yield lambda: synthetic("LoRA rank 16 merged, bf16", "BF16", Change(adapters=True), megabytes, 20.0)
    yield lambda: synthetic("LoRA rank 16 merged, fp16", "F16", Change(adapters=True), megabytes)
    yield lambda: synthetic("LoRA rank 16 merged, fp32", "F32", Change(adapters=True), megabytes)
    if finetune:
        for dtype, bar in (("fp32", 40.0), ("bf16", 15.0)):
            pair = finetune / f"tuned.{dtype}.safetensors", finetune / f"base.{dtype}.safetensors"
            yield lambda dtype=dtype, pair=pair, bar=bar: stored(f"real fine-tune, {dtype}", *pair, 2 * megabytes, bar)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one coder over one kind of data: percent of the plain bytes, CPU seconds a GB to code and to decode."""

    percent: float
    encode: float
    decode: float

    @property
    def saved(self) -> float:
        """MB that are not sent, for each CPU second."""
        return 10 * (100 - self.percent) / max(1e-9, self.encode + self.decode)


def measure(coder: Coder, data: Data, repeats: int) -> Figures:
    """Code and decode all blocks; exits when one does not come back."""
    size, percents, encodes, decodes = data.size(), 0.0, [], []
    for _ in range(repeats):
        started = time.process_time()
        frames = [coder.encode(block) for block in data.blocks]
        coded = time.process_time()
        plain = [
            block.raw if frame is None else coder.decode(frame, block)
            for frame, block in zip(frames, data.blocks, strict=True)
        ]
        decoded = time.process_time()
        if any(block.raw != got for block, got in zip(data.blocks, plain, strict=True)):
            sys.exit(f"{coder.name} did not give back: {data.name}")
        pairs = zip(frames, data.blocks, strict=True)
        percents = 100 * sum(len(block.raw if frame is None else frame) for frame, block in pairs) / size
        encodes.append((coded - started) / size * 1e9)
        decodes.append((decoded - coded) / size * 1e9)
    return Figures(percents, statistics.median(encodes), statistics.median(decodes))


def main() -> int:
    """Print the table; 1 when a coder of ours missed a bar."""
    parser = argparse.ArgumentParser(prog="python -m bench.coders", description=__doc__)
    parser.add_argument("--mb", type=int, default=64, help="MiB of each kind of synthetic data, twice that of real")
    parser.add_argument("--finetune", type=_path, help="folder that bench.finetune wrote")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="kinds of data whose name has this in it")
    parser.add_argument("--coder", default="", help="coders whose name has this in it")
    options = parser.parse_args()
    able, missing = coders()
    failed = False
    print(f"{'data, coder':52}  % of raw  code s/GB  decode s/GB  saved MB/s")
    for made in all_data(options.mb, options.finetune):
        data = made()
        if options.only not in data.name:
            continue
        bar = "" if data.bar is None else f", bar {data.bar:g} %"
        print(f"{data.name} ({data.size() / 1e6:.0f} MB{bar})")
        with_base = data.blocks[0].base is not None
        for coder in able:
            if coder.takes_base != with_base or options.coder not in coder.name:
                continue
            got = measure(coder, data, options.repeats)
            ours = isinstance(coder, _Ours)
            missed = ours and data.bar is not None and got.percent > data.bar
            failed = failed or missed
            print(
                f"  {coder.name:50}  {got.percent:8.2f}  {got.encode:9.2f}  {got.decode:11.2f}  {got.saved:10.0f}"
                f"{'  MISSED' if missed else ''}",
                flush=True,
            )
    for sentence in missing:
        print(f"not measured: {sentence}")
    return 1 if failed else 0


def _path(text: str) -> Path:
    from pathlib import Path

    return Path(text)


if __name__ == "__main__":
    sys.exit(main())
