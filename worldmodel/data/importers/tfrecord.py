"""TFRecord files and the tf.train.Example in their records, read without TensorFlow.

A record is its length (8 bytes), a checksum of the length (4), its bytes, a checksum of them
(4), all little-endian. An Example maps names to lists of bytes or of float32.
"""

import functools
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt32

from worldmodel.errors import UserError

MAX_RECORD_BYTES = 2**26  # a record is read whole: 90 times one of BAIR's
_CUT_OFF = "it is cut off"
_LANES = 4096  # numpy works on so many parts of a record at once: the fastest of those tried
# CRC-32C: the polynomial, and four bytes that bring a checksum from 0 to its start, all ones.
_POLYNOMIAL = 0x82F63B78
_START = struct.pack("<I", 0x641F6454)
_LENGTH, _FIXED64, _FIXED32, _VARINT = 2, 1, 5, 0  # wire types of protocol buffers


def record_spans(path: Path) -> list[tuple[int, int]]:
    """Where the records of a file lie: first byte and length of each, by the headers alone.

    Raises:
        UserError: a header is damaged, or the file ends too early.
    """
    size = path.stat().st_size
    spans = []
    position = 0
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(12)
            where = f"{path}, record {len(spans)}"
            if len(header) < 12:
                raise UserError(f"{where}: {_CUT_OFF}. Fetch the file again")
            length, checksum = struct.unpack("<QI", header)
            if _masked(crc32c(header[:8])) != checksum:
                raise UserError(
                    f"{where}: the checksum of its length is wrong. The file is damaged or no "
                    "TFRecord file: fetch it again"
                )
            if length > MAX_RECORD_BYTES:
                raise UserError(
                    f"{where}: it claims {length} bytes, more than {MAX_RECORD_BYTES}: no "
                    "trajectory is so long"
                )
            if length + 16 > size - position:
                raise UserError(f"{where}: {_CUT_OFF}. Fetch the file again")
            spans.append((position + 12, length))
            position += length + 16
    return spans


def read_record(path: Path, span: tuple[int, int]) -> bytes:
    """The record at `span`, as `record_spans` gives it. Raises UserError when it is damaged."""
    start, length = span
    with path.open("rb") as file:
        file.seek(start)
        record, checksum = file.read(length), file.read(4)
    if len(record) < length or len(checksum) < 4:
        raise UserError(f"{_CUT_OFF}. Fetch the file again")
    if _masked(crc32c(record)) != int.from_bytes(checksum, "little"):
        raise UserError("its checksum is wrong: the file is damaged, fetch it again")
    return record


def parse_example(record: bytes) -> dict[str, memoryview]:
    """The features of a tf.train.Example by name, for `bytes_of` and `floats_of`.

    Raises:
        UserError: it isn't one.
    """
    features = {}
    for all_features in _parts(memoryview(record), 1):
        for entry in _parts(all_features, 1):
            try:
                name = bytes(next(_parts(entry, 1), b"")).decode()
            except UnicodeDecodeError:
                raise UserError("a feature's name is not UTF-8") from None
            features[name] = next(_parts(entry, 2), memoryview(b""))
    return features


def bytes_of(features: dict[str, memoryview], name: str) -> memoryview:
    """The bytes under a name. Raises UserError when there aren't any, or several."""
    values = [v for part in _parts(_feature(features, name), 1) for v in _parts(part, 1)]
    if len(values) != 1:
        raise UserError(f"{name!r} holds {len(values)} byte strings, not one")
    return values[0]


def floats_of(features: dict[str, memoryview], name: str, count: int) -> Float32[np.ndarray, " n"]:
    """The `count` numbers under a name. Raises UserError when there are more or fewer."""
    packed = b"".join(
        value
        for part in _parts(_feature(features, name), 2)
        # Written one by one or, by most, packed into one.
        for value in _parts(part, 1, wires=(_LENGTH, _FIXED32))
    )
    if len(packed) != 4 * count:
        raise UserError(f"{name!r} holds {len(packed) / 4:g} numbers, not {count}")
    return np.frombuffer(packed, "<f4").astype(np.float32)


def _feature(features: dict[str, memoryview], name: str) -> memoryview:
    if name not in features:
        raise UserError(f"it has no {name!r}")
    return features[name]


def _parts(
    message: memoryview, number: int, wires: tuple[int, ...] = (_LENGTH,)
) -> Iterator[memoryview]:
    """The parts of a protobuf message under a field number; all others are passed over."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        wire = tag & 7
        if wire == _VARINT:
            _, position = _varint(message, position)
            continue
        if wire == _LENGTH:
            size, position = _varint(message, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise UserError("it is not a tf.train.Example")
        if size > len(message) - position:
            raise UserError("it is not a tf.train.Example: a part is longer than the whole")
        if tag >> 3 == number and wire in wires:
            yield message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number in 7 bits a byte, and the position behind it."""
    value = 0
    for i, byte in enumerate(message[position : position + 10]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise UserError("it is not a tf.train.Example: a number does not end")


def _masked(checksum: int) -> int:
    """As TFRecord stores checksums: turned by 15 bits, plus a constant."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """The CRC-32C of RFC 3720, at about 250 MB a second.

    The checksum is linear, so the data is cut into lanes whose checksums numpy finds together;
    they are joined in pairs. Zeros in front change nothing, so all lanes are as long.
    """
    data = _START + data
    num_lanes = min(_LANES, 1 << max(0, len(data).bit_length() - 8))
    steps = -(-len(data) // (2 * num_lanes))
    lanes = np.frombuffer(data.rjust(2 * num_lanes * steps, b"\0"), "<u2").reshape(num_lanes, steps)
    table = _table()
    checksums = np.zeros(num_lanes, np.uint32)
    for pairs_of_bytes in np.ascontiguousarray(lanes.T):
        checksums = table[(checksums ^ pairs_of_bytes) & 0xFFFF] ^ (checksums >> 16)
    while len(checksums) > 1:
        checksums = _apply(_zeros(steps), checksums[0::2]) ^ checksums[1::2]
        steps *= 2
    return int(checksums[0]) ^ 0xFFFFFFFF


@functools.cache
def _table() -> UInt32[np.ndarray, "65536"]:
    """What 16 bits of data do to a checksum."""
    table = np.arange(2**16, dtype=np.uint32)
    for _ in range(16):
        table = (table >> 1) ^ (table & 1) * np.uint32(_POLYNOMIAL)
    return table


@functools.lru_cache(64)
def _zeros(num_pairs: int) -> UInt32[np.ndarray, "32"]:
    """What pairs of zero bytes do to each of a checksum's bits."""
    if num_pairs == 1:
        bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
        return _table()[bits & 0xFFFF] ^ (bits >> 16)
    half = _zeros(num_pairs // 2)
    both = _apply(half, half)
    return _apply(_zeros(1), both) if num_pairs % 2 else both


def _apply(
    operator: UInt32[np.ndarray, "32"], checksums: UInt32[np.ndarray, " n"]
) -> UInt32[np.ndarray, " n"]:
    """An operator, given by what becomes of each bit, on many checksums."""
    bits = checksums[:, None] >> np.arange(32, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(bits * operator, axis=1)
