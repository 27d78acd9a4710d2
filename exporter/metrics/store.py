"""Rendered lines of many objects, kept until they change; the technique of kube-state-metrics.

Each object (a device; a site's platform) is one piece of text a family, rendered when it changes.
Pieces of 64 objects are a chunk, compressed when it changes; a scrape only puts chunks together,
as the deflate format allows (RFC 1951: a full flush ends on a byte; RFC 1952: one CRC over all).
"""

import struct
import zlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from exporter.metrics.names import Name

#: Objects a chunk: smaller ones compress worse, bigger ones are compressed anew more often.
_CHUNK_OBJECTS = 64
#: Of 20 MB, level 1 makes 1 MB in a fifth of the time of level 6, which makes 0.7 MB.
_LEVEL = 1
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x04\xff"
_LAST_BLOCK = b"\x03\x00"

#: One object's text: a piece of whole lines for each family of the store.
Pieces = tuple[bytes, ...]


class Chunk(NamedTuple):
    """Some text, plain and deflated so that chunks can be put together."""

    plain: bytes
    deflated: bytes


def chunk(plain: bytes) -> Chunk:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
    return Chunk(plain, compressor.compress(plain) + compressor.flush(zlib.Z_FULL_FLUSH))


@dataclass(frozen=True)
class Body:
    """Text of an answer, in chunks; what is computed is kept for the next scrape."""

    chunks: Sequence[Chunk]

    @cached_property
    def _deflated(self) -> bytes:
        return b"".join(part.deflated for part in self.chunks)

    @cached_property
    def _checksum(self) -> tuple[int, int]:
        checksum = size = 0
        for part in self.chunks:
            checksum = zlib.crc32(part.plain, checksum)
            size += len(part.plain)
        return checksum, size

    def plain(self, tail: bytes) -> bytes:
        return b"".join([*(part.plain for part in self.chunks), tail])

    def gzip(self, tail: bytes) -> bytes:
        checksum, size = self._checksum
        trailer = struct.pack("<II", zlib.crc32(tail, checksum), (size + len(tail)) & 0xFFFFFFFF)
        return b"".join((_GZIP_HEADER, self._deflated, chunk(tail).deflated, _LAST_BLOCK, trailer))


@dataclass
class Store:
    """Objects of one kind; not thread-safe. `sealed` is what others may read."""

    names: Sequence[Name]
    _places: dict[Hashable, int] = field(default_factory=dict)
    _free: list[int] = field(default_factory=list)
    _blocks: list[list[Pieces | None]] = field(default_factory=list)
    _chunks: list[list[Chunk]] = field(default_factory=list)
    _changed: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._chunks = [[] for _ in self.names]
        self._sealed: tuple[tuple[Chunk, ...], ...] = tuple(() for _ in self.names)

    def keys(self) -> Iterable[Hashable]:
        return self._places.keys()

    def put(self, key: Hashable, pieces: Pieces) -> None:
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = self._free_place()
        self._write(place, pieces)

    def remove(self, key: Hashable) -> None:
        """Nothing happens where the object is not there."""
        place = self._places.pop(key, None)
        if place is not None:
            self._write(place, None)
            self._free.append(place)

    def seal(self) -> bool:
        """Take over what changed; False: nothing did."""
        if not self._changed:
            return False
        for family, block in self._changed:
            pieces = self._blocks[block]
            self._chunks[family][block] = chunk(b"".join(p[family] for p in pieces if p))
        self._changed.clear()
        self._sealed = tuple(
            tuple(part for part in chunks if part.plain) for chunks in self._chunks
        )
        return True

    def chunks(self, *, openmetrics: bool) -> list[Chunk]:
        """What was sealed last, family after family; one without samples is left out."""
        found: list[Chunk] = []
        for name, chunks in zip(self.names, self._sealed, strict=True):
            if chunks:
                found += (chunk(name.header(openmetrics=openmetrics)), *chunks)
        return found

    def _write(self, place: int, pieces: Pieces | None) -> None:
        block, position = divmod(place, _CHUNK_OBJECTS)
        before = self._blocks[block][position]
        self._blocks[block][position] = pieces
        for family in range(len(self.names)):
            if (before[family] if before else b"") != (pieces[family] if pieces else b""):
                self._changed.add((family, block))

    def _free_place(self) -> int:
        if not self._free:
            first = len(self._blocks) * _CHUNK_OBJECTS
            self._blocks.append([None] * _CHUNK_OBJECTS)
            for chunks in self._chunks:
                chunks.append(Chunk(b"", b""))
            self._free.extend(reversed(range(first, first + _CHUNK_OBJECTS)))
        return self._free.pop()
