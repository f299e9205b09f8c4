"""Whether the file of a film ends before the film does, by the lengths that its container notes.

FFmpeg reads a file that was cut off as if it ended there. How many frames a file declares doesn't
tell: sound films show fewer, when they were trimmed without encoding them anew, when the camera
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
MOST_PARTS = 2**20  # that are looked at, of a file that anyone made


def is_cut_off(path: Path) -> bool:
    """Whether the file is shorter than what it says to hold.

    False where its kind doesn't say, as MPEG's program streams. Raises OSError.
    """
    with path.open("rb") as file:
        head = file.read(200)
        size = file.seek(0, 2)
        for is_kind, is_cut in _KINDS:
            if is_kind(head):
                return is_cut(file, size)
    return False


def _riff_is_cut(file: BinaryIO, size: int) -> bool:
    """AVI: one RIFF list, or several beyond a gigabyte."""
    position = 0
    for _ in range(MOST_PARTS):
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        # Nobody came back to write the length: a recording that was stopped hard, or a pipe.
        if len(head) < 8 or head[:4] != b"RIFF" or length in (0, 2**32 - 1):
            return False
        position += 8 + length + length % 2
        if position > size + AVI_TOLERANCE:
            return True
    return False


def _boxes_are_cut(file: BinaryIO, size: int) -> bool:
    """MP4 and QuickTime: boxes, each its length and its name."""
    position = 0
    for _ in range(MOST_PARTS):
        file.seek(position)
        head = file.read(16)
        if len(head) < 8 or not head[4:8].isalnum():
            return False  # the end, or padding behind it
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:  # 0: to the end of the file
            return False
        position += length
        if position > size:
            return True
    return False


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


def _objects_are_cut(file: BinaryIO, size: int) -> bool:
    """WMV: objects, each a name of 16 bytes and its length."""
    position = 0
    for _ in range(MOST_PARTS):
        file.seek(position + 16)
        length = int.from_bytes(file.read(8), "little")
        if length < 24:
            return False
        position += length
        if position > size:
            return True
    return False


def _tags_are_cut(file: BinaryIO, size: int) -> bool:
    """FLV: tags, each followed by its length in 4 bytes."""
    position = 9
    for _ in range(MOST_PARTS):
        file.seek(position + 5)
        head = file.read(3)
        if len(head) < 3:
            return size - position not in (0, 4)  # some writers leave out the last length
        position += 4 + 11 + int.from_bytes(head, "big")
        if position > size:
            return True
    return False


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


_KINDS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], bool]], ...] = (
    (lambda head: head[:4] == b"RIFF", _riff_is_cut),
    (lambda head: head[:4] == EBML_HEADER, _segment_is_cut),
    (lambda head: head[:3] == b"GIF", _gif_is_cut),
    (lambda head: head[:16] == ASF_HEADER, _objects_are_cut),
    (lambda head: head[:3] == b"FLV", _tags_are_cut),
    (lambda head: head[:4] == b"OggS", _pages_are_cut),
    (_is_transport_stream, _packets_are_cut),
    (
        lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"),
        _boxes_are_cut,
    ),
)
