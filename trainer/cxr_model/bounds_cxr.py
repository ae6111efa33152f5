"""What a file may ask of its reader, checked before anything of it is decoded. Research demonstration, not a medical
device.

A header may claim anything: each check compares it with the size of the file and with what radiographs have.
"""

import struct
import zlib
from typing import Any, BinaryIO

from .grey_cxr import RadiographError, check_size

MAX_BYTES = 1 << 29
MAX_SCANS = 100  # of a progressive JPEG; cameras and scanners write ten
MAX_SCANNED = 1_000_000_000  # pixels in all scans of a JPEG
MAX_STRIPS = 100_000  # strips or tiles of a TIFF page, tiles of a JPEG 2000 image
MAX_ENTRIES = 1_000  # tags of a TIFF page
MAX_PARTS = 100_000  # elements and items of a DICOM file, fragments of its pixels
MAX_DEPTH = 32  # of sequences in each other
MAX_RATIO = 2_000  # pixels for each byte of a JPEG 2000 image; an empty film has 1,000
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # TIFF
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers that begin a JPEG or JPEG-LS frame
LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
UNDEFINED = 0xFFFFFFFF
ITEM, ENDS = (0xFFFE, 0xE000), ((0xFFFE, 0xE00D), (0xFFFE, 0xE0DD))
PIXELS = ((0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010))
SLACK = 1 << 24  # bytes that a value may lack: of a file that was cut off more is told by its pixels


def check_image(file: BinaryIO) -> None:
    """Refuse an image file that asks for more than a radiograph does; it is left at its start.

    Raises:
        RadiographError: and says what is too much.
    """
    start = file.read(16)
    file.seek(0)
    if start[:2] == b"\xff\xd8":
        check_jpeg(file.read())
    elif is_tiff(start):
        _check_tiff(file)
    elif is_jpeg2000(start):
        check_jpeg2000(file.read())
    elif start[:2] in (b"P1", b"P2", b"P3"):
        raise RadiographError("numbers as text are not read: save it as PNG")
    file.seek(0)


def is_tiff(start: bytes) -> bool:
    """Whether a file that starts so is TIFF."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_jpeg2000(start: bytes) -> bool:
    """Whether a file that starts so is JPEG 2000."""
    return start[:4] == b"\xff\x4f\xff\x51" or start[4:8] == b"jP  "


def check_jpeg(content: bytes) -> None:
    """Refuse a JPEG stream of many scans: each costs a pass over the whole image."""
    scans, (width, height) = content.count(b"\xff\xda"), jpeg_size(content) or (0, 0)
    if scans > MAX_SCANS or scans * width * height > MAX_SCANNED:
        raise RadiographError(f"a JPEG of {width} x {height} pixels in {scans:,} scans is not read: save it anew")


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Width and height by the frame header of a JPEG or JPEG-LS stream; None where there is none."""
    place = 2
    while content[place : place + 1] == b"\xff" and place + 9 <= len(content):
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker in FRAMES:
            height, width = struct.unpack(">HH", content[place + 5 : place + 9])
            return width, height
        place += 1 if marker == 0xFF else 2 + length
    return None


def check_jpeg2000(content: bytes) -> None:
    """Refuse a JPEG 2000 stream with more tiles, or more pixels for its bytes, than an image has."""
    place = content.find(b"\xff\x4f\xff\x51")
    if place < 0 or len(content) < place + 40:
        raise RadiographError("damaged: its JPEG 2000 header is cut off")
    right, bottom, left, top, tile_width, tile_height = struct.unpack(">6I", content[place + 8 : place + 32])
    width, height = right - left, bottom - top
    check_size(width, height)
    if min(width, height, tile_width, tile_height) < 1 or (width // tile_width) * (height // tile_height) > MAX_STRIPS:
        raise RadiographError("damaged: its JPEG 2000 tiles cannot be")
    if width * height > MAX_RATIO * len(content):
        raise RadiographError(f"damaged: {width} x {height} pixels in {len(content):,} bytes")


def _check_tiff(file: BinaryIO) -> None:
    """Refuse a TIFF file whose first page lists more, or longer, entries than the file can hold."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(16)
    order, big = "<" if start[:2] == b"II" else ">", 43 in (start[2], start[3])
    offset = struct.unpack(f"{order}{'8xQ' if big else '4xI'}", start[: 16 if big else 8])[0]
    file.seek(min(offset, size))
    head = file.read(8 if big else 2)
    count = struct.unpack(f"{order}{'Q' if big else 'H'}", head)[0] if len(head) == (8 if big else 2) else 0
    if count > MAX_ENTRIES:
        raise RadiographError(f"a TIFF page of {count:,} tags is not read: save it anew")
    for _ in range(count):
        entry = file.read(20 if big else 12)
        if len(entry) < (20 if big else 12):
            raise RadiographError("damaged: its TIFF directory is cut off")
        tag, kind, number = struct.unpack(f"{order}HH{'Q' if big else 'I'}", entry[: 12 if big else 8])
        if number * SIZES.get(kind, 1) > size:
            raise RadiographError("damaged: a TIFF tag is longer than the file")
        if tag in (273, 279, 324, 325) and number > MAX_STRIPS:
            raise RadiographError(f"a TIFF of {number:,} strips or tiles is not read: save it anew")


def dicom_end(content: bytes) -> int:
    """Where the pixels of a DICOM file end, beyond which nothing is of use, after a look at all elements before.

    Raises:
        RadiographError: it has more elements, items or levels, or longer values, than a film has, or unpacks to more.
    """
    syntax, begin = transfer_syntax(content)
    if syntax.endswith(".1.99"):
        _end_of_pixels(memoryview(_inflate(content[begin:])), True, "<")
        return len(content)
    explicit = syntax != "1.2.840.10008.1.2" if syntax else content[begin + 4 : begin + 6].isupper()
    order = ">" if syntax.endswith(".1.2.2") else "<"
    return begin + _end_of_pixels(memoryview(content)[begin:], explicit, order)


def transfer_syntax(content: bytes) -> tuple[str, int]:
    """How a DICOM file is written, empty where it does not say, and where its data set begins."""
    data, syntax = memoryview(content), ""
    place = 132 if content[128:132] == b"DICM" else 0
    while content[place : place + 2] == b"\x02\0" and place + 8 <= len(content):
        element, (length, begin, _) = content[place + 2 : place + 4], _length(data, place, (2, 0), True, "<")
        place = begin + min(length, len(data))
        if element == b"\x10\0":
            syntax = content[begin:place].decode("ascii", "replace").strip("\0 ")
    return syntax, min(place, len(data))


def _inflate(content: bytes) -> bytes:
    """A deflated data set (PS3.5, A.5), of at most MAX_BYTES."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    data = unpacker.decompress(content, MAX_BYTES)
    if unpacker.unconsumed_tail:
        raise RadiographError(f"unpacks to more than {MAX_BYTES:,} bytes: store it uncompressed")
    return data


def _end_of_pixels(data: memoryview, explicit: bool, order: str) -> int:
    """Walk through a data set, up to the end of its pixels; `order` is `<` or `>`."""
    place, parts, encapsulated = 0, 0, False
    open_parts: list[tuple[int, bool, bool]] = []  # sequences and items: end, whether a delimiter ends it, if of pixels
    while place + 8 <= len(data):
        while open_parts and not open_parts[-1][1] and place >= open_parts[-1][0]:
            open_parts.pop()
        tag = struct.unpack_from(f"{order}HH", data, place)
        length, place, nests = _length(data, place, tag, explicit, order)
        parts += 1
        if parts > MAX_PARTS or len(open_parts) > MAX_DEPTH:
            much = f"{MAX_PARTS:,} elements" if parts > MAX_PARTS else f"{MAX_DEPTH} levels"
            raise RadiographError(f"a DICOM file of more than {much} is not read: export it again")
        of_pixels = tag in PIXELS and not open_parts
        if tag in ENDS:
            while open_parts and not open_parts.pop()[1]:
                pass
            if not open_parts and encapsulated:
                return place
        elif length == UNDEFINED or (nests and not (open_parts and open_parts[-1][2])):
            encapsulated = of_pixels
            open_parts.append((place + length, length == UNDEFINED, of_pixels))
        else:
            place += length
            if place > len(data) + SLACK:
                raise RadiographError("damaged: an element is longer than the file")
            if of_pixels:
                return min(place, len(data))
    return len(data)


def _length(data: memoryview, place: int, tag: Any, explicit: bool, order: str) -> tuple[int, int, bool]:
    """The length of an element's value, where the value begins, and whether elements are in it."""
    if tag[0] == 0xFFFE or not explicit:
        return struct.unpack_from(f"{order}I", data, place + 4)[0], place + 8, tag == ITEM
    kind = bytes(data[place + 4 : place + 6])
    if kind not in LONG_VRS:
        return struct.unpack_from(f"{order}H", data, place + 6)[0], place + 8, False
    if place + 12 > len(data):
        raise RadiographError("damaged: it ends within an element")
    return struct.unpack_from(f"{order}I", data, place + 8)[0], place + 12, kind == b"SQ"
