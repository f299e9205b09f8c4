"""Whether the file of a film ends before the film does, by the lengths that its container notes.

FFmpeg reads a file that was cut off as if it ended there. How many frames a file declares doesn't
tell: sound films show fewer, when they were trimmed without re-encoding, when the camera
dropped some, or when a picture stays for long. But every container says how long its parts are.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

# Some writers count a header too many or pad the end.
AVI_TOLERANCE = 16  # bytes
EBML_HEADER = bytes.fromhex("1a45dfa3")
MATROSKA_SEGMENT = bytes.fromhex("18538067")
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
OGG_TAIL = 2**17  # bytes; a page has at most 65,307
MOST_PARTS = 2**20  # that are looked at, of an untrusted file


def is_cut_off(path: Path) -> bool:
    """Whether the file is shorter than it says.

    False where its kind doesn't say, as MPEG's program streams. Raises OSError.
    """
    with path.open("rb") as file:
        head = file.read(200)
        size = file.seek(0, 2)
        for is_kind, is_cut in _KINDS:
            if is_kind(head):
                return is_cut(file, size)
    return False


def _leads_beyond(
    file: BinaryIO, size: int, length_of: Callable[[bytes], int | None], *, start: int = 0
) -> bool:
    """Whether a chain of parts is longer than its file.

    Args:
        length_of: gives the length of a part by its first 24 bytes, of which the end of the file
            may leave fewer; None: it doesn't say, or there are no more.
        start: of the first part.
    """
    position = start
    for _ in range(MOST_PARTS):
        file.seek(position)
        length = length_of(file.read(24))
        if length is None:
            return False
        position += length
        if position > size:
            return True
    return False


def _riff_length(head: bytes) -> int | None:
    """AVI: one RIFF list, or several beyond a gigabyte."""
    length = int.from_bytes(head[4:8], "little")
    # Nobody came back to write the length: a recording that was stopped hard, or a pipe.
    if len(head) < 8 or head[:4] != b"RIFF" or length in (0, 2**32 - 1):
        return None
    return 8 + length + length % 2


def _box_length(head: bytes) -> int | None:
    """MP4 and QuickTime: boxes, each its length and its name."""
    if len(head) < 8 or not head[4:8].isalnum():
        return None  # the end, or padding behind it
    length = int.from_bytes(head[:4], "big")
    if length == 1:
        length = int.from_bytes(head[8:16], "big")
    return None if length < 8 else length  # 0: to the end of the file


def _object_length(head: bytes) -> int | None:
    """WMV: objects, each a name of 16 bytes and its length."""
    length = int.from_bytes(head[16:24], "little")
    return None if length < 24 else length


def _tag_length(head: bytes) -> int | None:
    """FLV: tags, each followed by its length in 4 bytes."""
    if len(head) < 8:
        return None if len(head) in (0, 4) else 8  # some writers leave out the last length
    return 4 + 11 + int.from_bytes(head[5:8], "big")


def _segment_is_cut(file: BinaryIO, size: int) -> bool:
    """Matroska and WebM: a header and a segment."""
    file.seek(4)
    length = _ebml_length(file)
    if length is None:
        return False
    file.seek(length, 1)
    if file.read(4) != MATROSKA_SEGMENT:
        return False
    length = _ebml_length(file)
    return length is not None and file.tell() + length > size


def _ebml_length(file: BinaryIO) -> int | None:
    """A number of 1 to 8 bytes, as many as its first byte has leading zeros plus one; None: not
    known, all ones."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    count = 9 - first[0].bit_length()
    marker = 1 << (7 * count)
    number = int.from_bytes(first + file.read(count - 1), "big") - marker
    return None if number == marker - 1 else number


def _gif_is_cut(file: BinaryIO, size: int) -> bool:
    """GIF: blocks, which are made of blocks of up to 255 bytes. Some lack the last byte."""
    file.seek(10)
    flags = file.read(3)
    if len(flags) < 3:
        return True
    _skip_colours(file, flags[0])
    for _ in range(MOST_PARTS):
        kind = file.read(1)
        if kind == b"\x2c":  # a picture
            head = file.read(9)
            if len(head) < 9:
                return True
            _skip_colours(file, head[8])
        elif kind != b"\x21":  # no extension either: the end, or what nobody knows
            return file.tell() > size
        file.seek(1, 1)
        while length := file.read(1):
            if not length[0]:
                break
            file.seek(length[0], 1)
        else:
            return True
    return False


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, 1)


def _pages_are_cut(file: BinaryIO, size: int) -> bool:
    """Ogg: pages, each with a table of its parts."""
    file.seek(max(0, size - OGG_TAIL))
    tail = file.read()
    last = tail.rfind(b"OggS")
    if last < 0:
        return False
    table = tail[last + 26 : last + 27]
    sizes = tail[last + 27 : last + 27 + (table[0] if table else 0)]
    return not table or len(sizes) < table[0] or last + 27 + len(sizes) + sum(sizes) > len(tail)


def _is_transport_stream(head: bytes) -> bool:
    return head[:1] == b"G" == head[188:189] or _has_times(head)


def _has_times(head: bytes) -> bool:
    """Whether 4 bytes stand before each packet, as Blu-ray and camcorders write them."""
    return head[4:5] == b"G" == head[196:197]


def _packets_are_cut(file: BinaryIO, size: int) -> bool:
    """MPEG's transport streams: packets, as many as there are."""
    file.seek(0)
    return size % (192 if _has_times(file.read(200)) else 188) != 0


_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
# How a kind of file begins, and how to tell whether one is cut off.
_KINDS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], bool]], ...] = (
    (
        lambda head: head[:4] == b"RIFF",
        lambda file, size: _leads_beyond(file, size + AVI_TOLERANCE, _riff_length),
    ),
    (lambda head: head[:4] == EBML_HEADER, _segment_is_cut),
    (lambda head: head[:3] == b"GIF", _gif_is_cut),
    (
        lambda head: head[:16] == ASF_HEADER,
        lambda file, size: _leads_beyond(file, size, _object_length),
    ),
    (
        lambda head: head[:3] == b"FLV",
        lambda file, size: _leads_beyond(file, size, _tag_length, start=9),
    ),
    (lambda head: head[:4] == b"OggS", _pages_are_cut),
    (_is_transport_stream, _packets_are_cut),
    (
        lambda head: head[4:8] in _MP4_BOXES,
        lambda file, size: _leads_beyond(file, size, _box_length),
    ),
)
