"""Columns of untrusted Parquet files.

These functions run in the child of `worldmodel.storage.guarded`, which bounds memory and time.
pyarrow is an extra: nothing else imports this module.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldmodel.data.importers.video_file import decode_picture
from worldmodel.errors import UserError, one_line
from worldmodel.media.resize import square
from worldmodel.storage.files import opened

BATCH_ROWS = 256
PICTURE_ROWS = 16
MOST_GROUP_BYTES = 2**29  # of one column of a row group, uncompressed
MOST_FOOTER_BYTES = 2**26


def read_numbers(
    path: Path, sizes: dict[str, int], start: int, count: int | None
) -> dict[str, np.ndarray]:
    """Rows of columns of numbers.

    Args:
        sizes: of each column, how many numbers a row has; those of 1 may be lists or not.
        start, count: the first row and how many; None: all that follow.

    Returns:
        (count, size) of each, in the file's own type.

    Raises:
        UserError: the file is damaged, has no such rows or columns, or other values there.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in sizes}
    with _opened_parquet(path) as file:
        for batch in _batches(path, file, list(sizes), start, count, BATCH_ROWS):
            for name, size in sizes.items():
                parts[name].append(_numbers(batch.column(name), size, f"{path}: {name!r}"))
    return {
        name: np.concatenate(of_batches) if of_batches else np.zeros((0, sizes[name]))
        for name, of_batches in parts.items()
    }


def read_texts(path: Path, name: str) -> list[str]:
    """A whole column of texts. Raises UserError as `read_numbers`."""
    texts: list[str] = []
    with _opened_parquet(path) as file:
        for batch in _batches(path, file, [name], 0, None, BATCH_ROWS):
            column = batch.column(name)
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise UserError(f"{path}: {name!r} holds {one_line(column.type)}, not texts")
            if column.null_count:
                raise UserError(f"{path}: {name!r} lacks a value")
            column.validate(full=True)
            texts += column.to_pylist()
    return texts


def read_pictures(
    path: Path, name: str, start: int, count: int, stop: int, every: int, size: int
) -> np.ndarray:
    """Pictures of rows start, start + every, ..., below start + stop, of the `count` rows there.

    Returns:
        uint8 (T, size, size, 3): the square in the middle, scaled.

    Raises:
        UserError: as `read_numbers`, or a picture is damaged or too large.
    """
    pictures = []
    row = 0
    with _opened_parquet(path) as file:
        for batch in _batches(path, file, [name], start, count, PICTURE_ROWS):
            column = batch.column(name)
            if not pa.types.is_struct(column.type) or column.type.get_field_index("bytes") < 0:
                raise UserError(f"{path}: {name!r} holds {one_line(column.type)}, not pictures")
            contents = column.field("bytes")
            for i in range(len(column)):
                if row < stop and row % every == 0:
                    content = contents[i].as_py()
                    where = f"{path}: {name!r} in row {start + row}"
                    if not isinstance(content, bytes):
                        raise UserError(f"{where} is not a picture in this file")
                    picture = decode_picture(content, where, formats=("PNG", "JPEG"))
                    pictures.append(square(picture, size))
                row += 1
    return np.stack(pictures)


@contextmanager
def _opened_parquet(path: Path) -> Iterator[Any]:
    """A Parquet file, read by one thread. What pyarrow raises becomes a UserError."""
    pa.set_cpu_count(1)
    pa.set_memory_pool(pa.system_memory_pool())  # the others reserve gigabytes of addresses
    try:
        with opened(path) as file:
            yield pq.ParquetFile(
                file,
                pre_buffer=False,
                thrift_string_size_limit=MOST_FOOTER_BYTES,
                thrift_container_size_limit=2**20,
            )
    except MemoryError:  # which is one of pyarrow's exceptions, too
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged, or no Parquet file: {one_line(error)}") from None


def _batches(
    path: Path, file: Any, names: list[str], start: int, count: int | None, batch_rows: int
) -> Iterator[Any]:
    """Some columns of rows [start, start + count), in batches; all that follow if it is None."""
    known = file.schema_arrow.names
    for name in names:
        if known.count(name) != 1:
            raise UserError(f"{path} has {known.count(name)} columns {name!r}, not one")
    metadata = file.metadata
    stop = metadata.num_rows if count is None else start + count
    if not 0 <= start <= stop <= metadata.num_rows:
        raise UserError(f"{path} has {metadata.num_rows} rows; rows {start} to {stop} are needed")
    groups, position, end = [], 0, 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        begin, end = end, end + group.num_rows
        if begin < stop and end > start:
            position = position if groups else begin
            groups.append(number)
            _check_sizes(path, group, names)
    batches = file.iter_batches(batch_rows, row_groups=groups, columns=names, use_threads=False)
    for batch in batches if groups else ():
        low, high = max(start - position, 0), min(stop - position, len(batch))
        position += len(batch)
        if low < high:
            yield batch.slice(low, high - low)
        if position >= stop:
            return
    if position < stop:
        raise UserError(f"{path} is damaged: it holds fewer rows than it says")


def _check_sizes(path: Path, group: Any, names: list[str]) -> None:
    """Raises UserError where a column claims more memory than is given to it."""
    for i in range(group.num_columns):
        column = group.column(i)
        of_ours = any(column.path_in_schema.startswith(name) for name in names)
        if of_ours and not 0 <= column.total_uncompressed_size <= MOST_GROUP_BYTES:
            raise UserError(
                f"{path}: a row group of {one_line(column.path_in_schema)!r} takes "
                f"{column.total_uncompressed_size} bytes, more than {MOST_GROUP_BYTES}"
            )


def _numbers(column: Any, size: int, where: str) -> np.ndarray:
    """A column as (rows, size). Raises UserError."""
    column.validate(full=True)
    kind, values = column.type, column
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        if column.null_count or (lengths != size).any():
            raise UserError(f"{where} has rows that are not {size} numbers")
        values = column.flatten()
    elif size != 1:
        raise UserError(f"{where} holds {one_line(kind)}, not {size} numbers a row")
    is_number = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    if values.null_count or not any(check(values.type) for check in is_number):
        raise UserError(f"{where} holds {one_line(kind)} or lacks a value: numbers are needed")
    return values.to_numpy(zero_copy_only=False).reshape(-1, size)
