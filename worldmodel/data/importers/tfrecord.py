"""TFRecord files and the tf.train.Example in their records, read without TensorFlow.

A record is its length (8 bytes), a checksum of the length (4), its bytes, a checksum of them
(4), all little-endian. An Example maps names to lists of bytes or of float32.
"""

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError
from jaxtyping import Float32

from worldmodel.errors import UserError

MAX_RECORD_BYTES = 2**26  # a record is read whole: 90 times one of BAIR's
_CUT_OFF = "it is cut off"
# What is read of TensorFlow's example.proto and feature.proto; on the wire a map is its entries.
_EXAMPLE_PROTO = """
    name: "example.proto" package: "tf" syntax: "proto3"
    message_type { name: "Bytes"
        field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
    message_type { name: "Floats"
        field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
    message_type { name: "Feature"
        field { name: "bytes_list" number: 1 type: TYPE_MESSAGE type_name: ".tf.Bytes" }
        field { name: "float_list" number: 2 type: TYPE_MESSAGE type_name: ".tf.Floats" } }
    message_type { name: "Entry"
        field { name: "key" number: 1 type: TYPE_STRING }
        field { name: "value" number: 2 type: TYPE_MESSAGE type_name: ".tf.Feature" } }
    message_type { name: "Features" field { name: "feature" number: 1
        label: LABEL_REPEATED type: TYPE_MESSAGE type_name: ".tf.Entry" } }
    message_type { name: "Example"
        field { name: "features" number: 1 type: TYPE_MESSAGE type_name: ".tf.Features" } }
"""


def _example_class() -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_EXAMPLE_PROTO, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tf.Example"))


Example = _example_class()


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
            if _checksum(header[:8]) != checksum:
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
    if _checksum(record) != int.from_bytes(checksum, "little"):
        raise UserError("its checksum is wrong: the file is damaged, fetch it again")
    return record


def parse_example(record: bytes) -> dict[str, Any]:
    """The features of a tf.train.Example, by name. Raises UserError when it isn't one."""
    try:
        example = Example.FromString(record)
    except DecodeError as error:
        raise UserError(f"it is not a tf.train.Example: {error}") from None
    return {entry.key: entry.value for entry in example.features.feature}


def bytes_of(features: Mapping[str, Any], name: str) -> bytes:
    """The bytes under a name. Raises UserError when there aren't any, or several."""
    values = features[name].bytes_list.value if name in features else ()
    if len(values) != 1:
        raise UserError(f"{name!r} holds {len(values)} byte strings, not one")
    return values[0]


def floats_of(features: Mapping[str, Any], name: str, count: int) -> Float32[np.ndarray, " n"]:
    """The `count` numbers under a name. Raises UserError when there are more or fewer."""
    values = features[name].float_list.value if name in features else ()
    if len(values) != count:
        raise UserError(f"{name!r} holds {len(values)} numbers, not {count}")
    return np.array(values, np.float32)


def _checksum(data: bytes) -> int:
    """CRC-32C as TFRecord stores it: turned by 15 bits, plus a constant."""
    checksum = google_crc32c.value(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF
