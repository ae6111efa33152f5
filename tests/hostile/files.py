"""Hostile files, made by code: `KINDS` maps a name to what makes its bytes.

Cut, flipped, lying and swollen files of every format that the reader takes. They are small on disk; what they ask of a
reader is not.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

FILM = np.random.default_rng(0).integers(0, 256, (64, 48), np.uint8)
KINDS: dict[str, Callable[[], bytes]] = {}


def kind(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """Name a maker of bytes by its function."""
    KINDS[make.__name__.replace("_", "-")] = make
    return make


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    """An image as a file of a format."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, depth: int, colour: int, content: bytes, *more: bytes) -> bytes:
    """A PNG file with a header that may lie."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", content), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(entries: dict[int, tuple[int, list[int]]], after: bytes = b"", next_page: int = 0) -> bytes:
    """A little-endian TIFF file of one page: {tag: (type, values)}; `after` stands at the end."""
    sizes = {1: 1, 2: 1, 3: 2, 4: 4, 12: 8}
    codes = {1: "B", 2: "B", 3: "H", 4: "I", 12: "d"}
    place, directory, extra = 8 + 2 + 12 * len(entries) + 4, b"", b""
    for tag, (type_, values) in sorted(entries.items()):
        data = struct.pack(f"<{len(values)}{codes[type_]}", *values)
        if len(values) * sizes[type_] > 4:
            directory += struct.pack("<HHII", tag, type_, len(values), place + len(extra))
            extra += data
        else:
            directory += struct.pack("<HHI", tag, type_, len(values)) + data.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + directory + struct.pack("<I", next_page) + extra + after


def page(width: int, height: int, **changed: tuple[int, list[int]]) -> dict[int, tuple[int, list[int]]]:
    """The entries of an 8-bit grey TIFF page whose pixels lie at offset 4,096."""
    entries: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8]),
        259: (3, [1]),
        262: (3, [1]),
        273: (4, [4096]),
        277: (3, [1]),
        278: (4, [height]),
        279: (4, [width * height]),
    }
    return {**entries, **{int(tag[1:]): value for tag, value in changed.items()}}


def dicom(syntax: str = ExplicitVRLittleEndian, content: bytes | None = None, **fields: object) -> bytes:
    """A DICOM file of an 8-bit film."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    dataset.PatientName, dataset.Modality = "Doe^Jane", "DX"
    dataset.Rows, dataset.Columns = FILM.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = FILM.tobytes() if content is None else content
    for name, value in fields.items():
        setattr(dataset, name, value)
    if pydicom.uid.UID(syntax).is_encapsulated:
        dataset["PixelData"].is_undefined_length = True
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def jpeg_header(width: int, height: int, marker: int = 0xC0) -> bytes:
    """A JPEG or JPEG-LS stream that claims a size and holds nothing."""
    frame = struct.pack(">BHHB", 8, height, width, 1) + bytes((1, 0x11, 0))
    start = b"\xff\xd8" + bytes((0xFF, marker)) + struct.pack(">H", len(frame) + 2) + frame
    return start + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" + b"\0" * 64 + b"\xff\xd9"


def many_scans(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes many times."""
    whole = saved(Image.new("L", (width, height), 90), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


VALID: dict[str, Callable[[], bytes]] = {
    "png": lambda: saved(Image.fromarray(FILM), "PNG"),
    "png-16": lambda: saved(Image.fromarray(FILM.astype(np.uint16) * 257), "PNG"),
    "jpeg": lambda: saved(Image.fromarray(FILM), "JPEG"),
    "progressive": lambda: saved(Image.fromarray(FILM), "JPEG", progressive=True),
    "tiff": lambda: saved(Image.fromarray(FILM), "TIFF"),
    "tiff-lzw": lambda: saved(Image.fromarray(FILM), "TIFF", compression="tiff_lzw"),
    "bmp": lambda: saved(Image.fromarray(FILM), "BMP"),
    "webp": lambda: saved(Image.fromarray(FILM), "WEBP"),
    "gif": lambda: saved(Image.fromarray(FILM), "GIF"),
    "jpeg2000": lambda: saved(Image.fromarray(FILM), "JPEG2000"),
    "pgm": lambda: saved(Image.fromarray(FILM), "PPM"),
    "dicom": dicom,
    "dicom-jpeg": lambda: dicom(JPEGBaseline8Bit, encapsulate([saved(Image.fromarray(FILM), "JPEG")])),
    "dicom-jpeg2000": lambda: dicom(
        JPEG2000Lossless, encapsulate([saved(Image.fromarray(FILM), "JPEG2000", irreversible=False)])
    ),
}


def mutations(name: str) -> dict[str, bytes]:
    """A valid file cut at every eighth of it, with bits flipped, empty, and under another name's first bytes."""
    whole, rng = VALID[name](), random.Random(name)
    made = {f"cut-{eighth}": whole[: len(whole) * eighth // 8] for eighth in range(1, 8)}
    for number in range(12):
        content = bytearray(whole)
        for _ in range(1 + number):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        made[f"flipped-{number}"] = bytes(content)
    made["twice"] = whole + whole
    made["after-zeros"] = b"\0" * 200 + whole
    return {f"{name}-{kind}": content for kind, content in made.items()}


@kind
def empty() -> bytes:
    return b""


@kind
def one_byte() -> bytes:
    return b"\xff"


@kind
def one_pixel() -> bytes:
    return saved(Image.new("L", (1, 1)), "PNG")


@kind
def one_row() -> bytes:
    return saved(Image.new("L", (65_500, 1)), "PNG")


@kind
def text() -> bytes:
    return b"not an image\n" * 100


@kind
def svg() -> bytes:
    return b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@kind
def html() -> bytes:
    return b"<html><body onload=alert(1)>" + b"x" * 5000


@kind
def zip_archive() -> bytes:
    return b"PK\x03\x04" + b"\0" * 500


@kind
def pdf_polyglot() -> bytes:
    return b"%PDF-1.4\n" + saved(Image.fromarray(FILM), "PNG")


@kind
def png_bomb() -> bytes:
    side = 60_000
    return png(side, side, 1, 0, zlib.compress(b"\0" * (side * (1 + side // 8)), 9))


@kind
def png_large() -> bytes:
    side = 8_900
    return png(side, side, 8, 2, zlib.compress(b"\0" * (side * (1 + 3 * side)), 9))


@kind
def png_large_16() -> bytes:
    side = 8_900
    return png(side, side, 16, 0, zlib.compress(b"\0" * (side * (1 + 2 * side)), 9))


@kind
def png_text_bomb() -> bytes:
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 200_000_000, 9))
    return png(4, 4, 8, 0, zlib.compress(b"\0" * 20), bomb)


@kind
def png_icc_bomb() -> bytes:
    bomb = chunk(b"iCCP", b"k\0\0" + zlib.compress(b"a" * 200_000_000, 9))
    return png(4, 4, 8, 0, zlib.compress(b"\0" * 20), bomb)


@kind
def png_many_chunks() -> bytes:
    return png(4, 4, 8, 0, zlib.compress(b"\0" * 20), *[chunk(b"teXt", b"k\0v")] * 300_000)


@kind
def png_animated() -> bytes:
    frames = [Image.new("L", (64, 64), number % 256) for number in range(400)]
    return saved(frames[0], "PNG", save_all=True, append_images=frames[1:])


@kind
def jpeg_scans() -> bytes:
    return many_scans(4_000, 4_000, 400)


@kind
def jpeg_scans_small() -> bytes:
    return many_scans(400, 400, 20_000)


@kind
def jpeg_scans_large() -> bytes:
    return many_scans(8_000, 8_000, 40)


@kind
def jpeg_claims_65500() -> bytes:
    return jpeg_header(65_500, 65_500)


@kind
def jpeg_large() -> bytes:
    return saved(Image.new("RGB", (8_900, 8_900), 90), "JPEG", quality=1)


@kind
def jpeg_cmyk_large() -> bytes:
    return saved(Image.new("CMYK", (8_900, 8_900)), "JPEG", quality=1)


@kind
def jpeg_exif_bomb() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "a" * 60_000
    return saved(Image.fromarray(FILM), "JPEG", exif=exif)


@kind
def gif_frames() -> bytes:
    frames = [Image.new("P", (32, 32), number % 256) for number in range(3_000)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:], optimize=False)


@kind
def gif_claims_65535() -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0xF7, 0, 0) + b"\0" * 800


@kind
def webp_large() -> bytes:
    return saved(Image.new("RGB", (8_900, 8_900)), "WEBP", quality=1, method=0)


@kind
def bmp_rle() -> bytes:
    side = 8_900
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    palette = bytes(1024)
    start = 14 + len(header) + len(palette)
    content = bytes((1, 7)) * 400_000 + b"\0\1"
    return b"BM" + struct.pack("<IHHI", start + len(content), 0, 0, start) + header + palette + content


@kind
def bmp_lies() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 8_900, -8_900, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


@kind
def pgm_plain() -> bytes:
    return b"P2\n8000 8000\n255\n" + b"7 " * 4_000_000


@kind
def pgm_lies() -> bytes:
    return b"P5\n8900 8900\n255\n" + b"x" * 1000


@kind
def jpeg2000_lies() -> bytes:
    whole = bytearray(saved(Image.fromarray(FILM), "JPEG2000", no_jp2=True))
    place = whole.index(b"\xff\x51") + 6
    for offset in (0, 4):  # the image's sides
        struct.pack_into(">I", whole, place + offset, 8_900)
    for offset in (16, 20):  # and those of its tiles
        struct.pack_into(">I", whole, place + offset, 8_900)
    return bytes(whole)


@kind
def jpeg2000_tiles() -> bytes:
    whole = bytearray(saved(Image.fromarray(FILM), "JPEG2000", no_jp2=True))
    place = whole.index(b"\xff\x51") + 6
    for offset, value in ((0, 8_900), (4, 8_900), (16, 1), (20, 1)):
        struct.pack_into(">I", whole, place + offset, value)
    return bytes(whole)


@kind
def jpeg2000_large() -> bytes:
    return saved(Image.new("L", (8_900, 8_900)), "JPEG2000", quality_mode="rates", quality_layers=[1000])


@kind
def tiff_pages() -> bytes:
    one = tiff(page(1, 1))
    count, place, content = 60_000, 8, b"II*\0" + struct.pack("<I", 8)
    for _ in range(count):
        body = one[8:-4]
        place += len(body) + 4
        content += body + struct.pack("<I", place)
    return content


@kind
def tiff_page_loop() -> bytes:
    return tiff(page(8, 8), next_page=8)


@kind
def tiff_strips() -> bytes:
    count = 1_000_000
    return tiff(page(8, count, t273=(4, [4096] * count), t278=(4, [1]), t279=(4, [8] * count)))


@kind
def tiff_tiles() -> bytes:
    side, count = 8_000, 250_000
    entries = page(side, side, t322=(4, [16]), t323=(4, [16]), t324=(4, [4096] * count), t325=(4, [256] * count))
    return tiff({tag: value for tag, value in entries.items() if tag not in (273, 278, 279)}, b"\0" * 256)


@kind
def tiff_claims_a_lot() -> bytes:
    return tiff(page(8_900, 8_900))


@kind
def tiff_deflate_bomb() -> bytes:
    side = 8_900
    packed = zlib.compress(b"\0" * (side * side * 2), 9)
    entries = page(side, side, t258=(3, [16]), t259=(3, [8]), t273=(4, [0]), t279=(4, [len(packed)]))
    start = len(tiff(entries))
    return tiff({**entries, 273: (4, [start])}, packed)


@kind
def tiff_lzw_lies() -> bytes:
    return tiff(page(8_900, 8_900, t259=(3, [5]), t279=(4, [100])), b"\0" * 200)


@kind
def tiff_float_nan() -> bytes:
    return saved(Image.fromarray(np.full((64, 64), np.nan, np.float32)), "TIFF")


@kind
def tiff_many_entries() -> bytes:
    more = {f"t{tag}": (3, [1]) for tag in range(1_000, 60_000)}
    return tiff(page(8, 8, **more))


@kind
def tiff_long_entry() -> bytes:
    return tiff(page(8, 8, t33432=(2, [65] * 100_000_000)))


@kind
def tiff_lab() -> bytes:
    return saved(Image.new("LAB", (64, 64)), "TIFF")


@kind
def tiff_cmyk_large() -> bytes:
    entries = page(8_900, 8_900, t258=(3, [8, 8, 8, 8]), t262=(3, [5]), t277=(3, [4]))
    return tiff(entries)


@kind
def dicom_without_pixels() -> bytes:
    whole = pydicom.dcmread(io.BytesIO(dicom()))
    del whole.PixelData
    buffer = io.BytesIO()
    whole.save_as(buffer)
    return buffer.getvalue()


@kind
def dicom_length_lies() -> bytes:
    whole = dicom()
    place = whole.index(b"\xe0\x7f\x10\x00")
    return whole[: place + 8] + struct.pack("<I", 0xFFFFFFF0) + whole[place + 12 :]


@kind
def dicom_name_length_lies() -> bytes:
    whole = bytearray(dicom())
    place = whole.index(b"\x10\x00\x10\x00PN")
    whole[place + 4 : place + 6] = b"UN"
    return bytes(whole[: place + 6]) + b"\0\0" + struct.pack("<I", 0x7FFFFFF0) + bytes(whole[place + 8 :])


@kind
def dicom_unknown_syntax() -> bytes:
    return dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.9.9\0")


@kind
def dicom_deflated() -> bytes:
    return dicom(DeflatedExplicitVRLittleEndian)


@kind
def dicom_deflate_bomb() -> bytes:
    whole = dicom()
    header = whole.index(b"\x08\x00\x16\x00")
    meta = whole[:header].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    more = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = more.compress(whole[header:]) + more.compress(b"\0" * 2_000_000_000) + more.flush()
    group = meta.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
    length = struct.unpack("<I", meta[group : group + 4])[0] + 2
    meta = meta[:group] + struct.pack("<I", length) + meta[group + 4 :]
    uid = meta.index(b"\x02\x00\x10\x00UI") + 6
    return meta[:uid] + struct.pack("<H", 22) + meta[uid + 2 :] + body


@kind
def dicom_rle_bomb() -> bytes:
    side = 8_900
    packed = bytes((129, 0)) * (side * side // 128 + 1)
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + packed
    return dicom(RLELossless, encapsulate([frame]), Rows=side, Columns=side)


@kind
def dicom_rle_lies() -> bytes:
    frame = struct.pack("<16I", 15, *[64] * 15) + b"\x81\0" * 100
    return dicom(RLELossless, encapsulate([frame]), Rows=8_900, Columns=8_900)


@kind
def dicom_large_rgb() -> bytes:
    side = 5_100
    fields = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    return dicom(content=bytes(side * side * 3), Rows=side, Columns=side, **fields)


@kind
def dicom_large_16() -> bytes:
    side = 8_900
    fields = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15}
    return dicom(content=bytes(side * side * 2), Rows=side, Columns=side, **fields)


@kind
def dicom_jpeg_scans() -> bytes:
    return dicom(JPEGBaseline8Bit, encapsulate([many_scans(4_000, 4_000, 400)]), Rows=4_000, Columns=4_000)


@kind
def dicom_jpeg_ls_lies() -> bytes:
    frame = jpeg_header(65_500, 65_500, 0xF7)
    return dicom(JPEGLSLossless, encapsulate([frame]), Rows=8_000, Columns=8_000)


@kind
def dicom_jpeg_ls_claims_65500() -> bytes:
    frame = jpeg_header(65_500, 65_500, 0xF7)
    return dicom(JPEGLSLossless, encapsulate([frame]), Rows=65_500, Columns=65_500)


@kind
def dicom_jpeg_lossless_lies() -> bytes:
    return dicom(JPEGLosslessSV1, encapsulate([jpeg_header(65_500, 65_500, 0xC3)]), Rows=8_000, Columns=8_000)


@kind
def dicom_jpeg2000_lies() -> bytes:
    return dicom(JPEG2000Lossless, encapsulate([jpeg2000_lies()]), Rows=8_900, Columns=8_900)


@kind
def dicom_many_elements() -> bytes:
    whole = dicom()
    place = whole.index(b"\x10\x00\x10\x00PN")
    elements = b"".join(struct.pack("<HH2sH", 0x0009, number, b"LO", 2) + b"ab" for number in range(0x1000, 0xFFFF))
    return whole[:place] + elements * 48 + whole[place:]


@kind
def dicom_many_items() -> bytes:
    whole = dicom()
    place = whole.index(b"\x10\x00\x10\x00PN")
    items = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 1_000_000
    sequence = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, len(items)) + items
    return whole[:place] + sequence + whole[place:]


@kind
def dicom_deep_sequence() -> bytes:
    whole, levels = dicom(), 3_000
    place = whole.index(b"\x10\x00\x10\x00PN")
    begin = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    end = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    return whole[:place] + begin * levels + end * levels + whole[place:]


@kind
def dicom_many_frames() -> bytes:
    return dicom(content=FILM.tobytes() * 20_000, NumberOfFrames=20_000)


@kind
def dicom_frames_lie() -> bytes:
    return dicom(NumberOfFrames=2**31 - 1)


@kind
def dicom_broken_offsets() -> bytes:
    frame = saved(Image.fromarray(FILM), "JPEG")
    whole = encapsulate([frame], has_bot=True)
    return dicom(JPEGBaseline8Bit, whole[:8] + b"\xff\xff\xff\x7f" + whole[12:])


@kind
def dicom_many_fragments() -> bytes:
    fragments = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 1_000_000
    content = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + fragments + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return dicom(JPEGBaseline8Bit, content)


@kind
def dicom_lut_lies() -> bytes:
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [65_535, 0, 16], b"\0\0"
    return dicom(VOILUTSequence=Sequence([lut]))


@kind
def dicom_huge_numbers() -> bytes:
    return dicom(RescaleSlope="1e308", RescaleIntercept="-1e308", WindowCenter="1e300", WindowWidth="1e300")
