"""More hostile files, beside those of `files`: headers that point in circles, two formats in one, what is no image."""

import gzip
import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from tests.hostile.files import FILM, chunk, dicom, jpeg_header, kind, page, png, saved, tiff


def film(file_format: str, **options: object) -> bytes:
    """The valid film in a format."""
    return saved(Image.fromarray(FILM), file_format, **options)


def segment(marker: int, content: bytes) -> bytes:
    """A segment of a JPEG file."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def with_segments(*segments: bytes) -> bytes:
    """The valid film as JPEG, with segments after its start."""
    whole = film("JPEG")
    return whole[:2] + b"".join(segments) + whole[2:]


def exif(entries: bytes, count: int) -> bytes:
    """An EXIF segment of one directory of raw entries."""
    return segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + b"\x08\0\0\0")


@kind
def exif_directory_that_is_its_own_next() -> bytes:
    return with_segments(exif(struct.pack("<HHII", 0x8769, 4, 1, 8), 1))


@kind
def exif_counts_that_lie() -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, kind_, 0xFFFFFFFF, 8) for tag in range(256, 356) for kind_ in (2, 7))
    return with_segments(exif(entries, 200))


@kind
def exif_turned_nine_ways() -> bytes:
    return with_segments(exif(struct.pack("<HHII", 0x0112, 3, 1, 9), 1))


@kind
def exif_in_png_that_is_cut_off() -> bytes:
    return png(4, 4, 8, 0, zlib.compress(b"\0" * 20), chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff"))


@kind
def icc_of_255_parts() -> bytes:
    return with_segments(
        *[segment(0xE2, b"ICC_PROFILE\0" + bytes((part, 255)) + b"x" * 60_000) for part in range(1, 255)]
    )


@kind
def icc_that_lies() -> bytes:
    return film("JPEG", icc_profile=struct.pack(">I4s", 0xFFFFFFFF, b"lcms") + b"\xff" * 120 + struct.pack(">I", 2**31))


@kind
def jpeg_comment_of_html() -> bytes:
    return with_segments(segment(0xFE, b"--><script>alert(1)</script>"))


@kind
def jpeg_of_60000_tables() -> bytes:
    table = segment(0xDB, b"\0" + bytes(range(1, 65)))
    return with_segments(*[table] * 60_000)


@kind
def jpeg_of_two_sizes() -> bytes:
    whole = film("JPEG")
    place = whole.index(b"\xff\xc0")
    frame = bytearray(whole[place : place + 13])
    frame[5:9] = struct.pack(">HH", 65_000, 65_000)
    return whole[:place] + bytes(frame) + whole[place:]


@kind
def jpeg_without_height() -> bytes:
    return jpeg_header(64, 0)


@kind
def jpeg_of_12_bits() -> bytes:
    whole = bytearray(film("JPEG"))
    whole[whole.index(b"\xff\xc0") + 4] = 12
    return bytes(whole)


@kind
def jpeg_of_17_components() -> bytes:
    whole = bytearray(film("JPEG"))
    whole[whole.index(b"\xff\xc0") + 9] = 17
    return bytes(whole)


@kind
def jpeg_of_many_images() -> bytes:
    images = [Image.new("L", (16, 16), number) for number in range(60)]
    return saved(images[0], "MPO", save_all=True, append_images=images[1:])


@kind
def png_of_no_size() -> bytes:
    return png(0, 0, 8, 0, zlib.compress(b"\0"))


@kind
def png_of_negative_size() -> bytes:
    return png(2**31 - 1, 2**31 - 1, 8, 0, zlib.compress(b"\0" * 20))


@kind
def png_without_pixels() -> bytes:
    return png(64, 64, 8, 0, b"")


@kind
def png_of_an_unknown_depth() -> bytes:
    return png(64, 64, 3, 7, zlib.compress(b"\0" * 9_000))


@kind
def png_without_its_palette() -> bytes:
    return png(64, 64, 8, 3, zlib.compress(b"\0" * 65 * 64))


@kind
def png_frames_that_lie() -> bytes:
    return png(64, 64, 8, 0, zlib.compress(b"\0" * 65 * 64), chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))


@kind
def png_chunk_longer_than_the_file() -> bytes:
    whole = film("PNG")
    place = whole.index(b"IDAT") - 4
    return whole[:place] + struct.pack(">I", 0x7FFFFFFF) + whole[place + 4 :]


@kind
def webp_canvas_that_lies() -> bytes:
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + b"\xff\xff\xff" * 2
    return b"RIFF" + struct.pack("<I", len(body)) + body


@kind
def webp_animated() -> bytes:
    frames = [Image.new("RGB", (64, 64), (number, 0, 0)) for number in range(150)]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])


@kind
def gif_and_archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../../evil.py", "print()")
    return film("GIF") + buffer.getvalue()


@kind
def gif_frame_outside_its_screen() -> bytes:
    whole = film("GIF")
    place = whole.index(b"\x2c")
    return whole[:place] + struct.pack("<BHHHH", 0x2C, 60_000, 60_000, 60_000, 60_000) + whole[place + 9 :]


@kind
def bmp_palette_that_lies() -> bytes:
    whole = bytearray(film("BMP"))
    struct.pack_into("<I", whole, 46, 0xFFFFFFFF)
    return bytes(whole)


@kind
def bmp_of_an_unknown_header() -> bytes:
    whole = bytearray(film("BMP"))
    struct.pack_into("<I", whole, 14, 0x7FFFFFFF)
    return bytes(whole)


@kind
def tiff_directory_beyond_the_file() -> bytes:
    return b"II*\0" + struct.pack("<I", 0xFFFFFFF0)


@kind
def tiff_big_that_lies() -> bytes:
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**63) + b"\0" * 60


@kind
def tiff_of_no_bits() -> bytes:
    return tiff(page(64, 64, t258=(3, [0])), b"\0" * 9_000)


@kind
def tiff_of_65535_samples() -> bytes:
    return tiff(page(900, 900, t277=(3, [65_535])), b"\0" * 9_000)


@kind
def tiff_fax_bomb() -> bytes:
    return tiff(page(8_900, 8_900, t258=(3, [1]), t259=(3, [4]), t273=(4, [200]), t279=(4, [2_000])), b"\xff" * 9_000)


@kind
def tiff_jpeg_that_lies() -> bytes:
    content = jpeg_header(65_500, 65_500)
    return tiff(page(8_900, 8_900, t259=(3, [7]), t273=(4, [150]), t279=(4, [len(content)])), content)


@kind
def tiff_infinite() -> bytes:
    values = np.full((64, 64), np.inf, np.float32)
    return saved(Image.fromarray(values), "TIFF")


@kind
def tiff_page_of_pages() -> bytes:
    return tiff({**page(8, 8), 330: (4, [8] * 900)})


@kind
def jpeg2000_of_many_components() -> bytes:
    whole = bytearray(film("JPEG2000", no_jp2=True))
    place = whole.index(b"\xff\x51")
    struct.pack_into(">H", whole, place + 38, 16_384)
    return bytes(whole)


@kind
def jpeg2000_box_longer_than_the_file() -> bytes:
    return film("JPEG2000")[:12] + struct.pack(">I4s", 0xFFFFFFF0, b"jp2h") + b"\0" * 500


@kind
def postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file 99 string readstring pop print\n"


@kind
def icon() -> bytes:
    return film("ICO")


@kind
def gzip_bomb() -> bytes:
    return gzip.compress(b"\0" * 100_000_000)


@kind
def archive_in_archive() -> bytes:
    content = b"\0" * 1_000_000
    for _ in range(6):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for number in range(4):
                archive.writestr(f"{number}.zip", content)
        content = buffer.getvalue()
    return content


@kind
def video() -> bytes:
    return b"\0\0\0\x20ftypheic\0\0\0\0mif1heic" + b"\0" * 500


@kind
def utf_16_text() -> bytes:
    return "\ufeffnot an image\n".encode("utf-16-le") * 50


@kind
def dicom_and_tiff() -> bytes:
    return (tiff(page(8, 8))[:8] + b"\0" * 120) + dicom()[128:]


@kind
def dicom_and_program() -> bytes:
    return b"MZ" + b"\x90" * 126 + dicom()[128:]


@kind
def dicom_of_no_rows() -> bytes:
    return dicom(Rows=0)


@kind
def dicom_of_64_bits() -> bytes:
    return dicom(BitsAllocated=64, BitsStored=64, HighBit=63, content=FILM.tobytes() * 8)


@kind
def dicom_sequence_without_end() -> bytes:
    whole = dicom()
    place = whole.index(b"\x10\x00\x10\x00PN")
    return whole[:place] + struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + whole[place:]


@kind
def dicom_palette_that_lies() -> bytes:
    palette = {f"{colour}PaletteColorLookupTableData": b"\0\0" for colour in ("Red", "Green", "Blue")}
    sizes = {f"{colour}PaletteColorLookupTableDescriptor": [0, 0, 16] for colour in ("Red", "Green", "Blue")}
    return dicom(PhotometricInterpretation="PALETTE COLOR", **palette, **sizes)


@kind
def dicom_in_dicom() -> bytes:
    inner = Dataset()
    inner.Rows = inner.Columns = 65_535
    inner.BitsAllocated = 8
    inner.PixelData = b"\0" * 100
    return dicom(IconImageSequence=Sequence([inner]))


@kind
def dicom_text_of_a_megabyte() -> bytes:
    return dicom(ImageComments="x" * 10_000, PatientComments="\x1b[2J" * 9_000, StudyDescription="<script>" * 7)


@kind
def dicom_of_another_byte_order() -> bytes:
    return dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0")


@kind
def dicom_offsets_beyond_the_file() -> bytes:
    content, offsets, lengths = encapsulate_extended([film("JPEG")])
    fields = {"ExtendedOffsetTable": b"\xff" * len(offsets), "ExtendedOffsetTableLengths": lengths}
    return dicom(JPEGBaseline8Bit, content, **fields)


@kind
def dicom_of_the_wrong_codec() -> bytes:
    return dicom(JPEG2000Lossless, encapsulate([film("JPEG")]))


@kind
def dicom_jpeg_ls_noise() -> bytes:
    noise = np.random.default_rng(1).integers(0, 255, 5_000, np.uint8).tobytes()
    frame = jpeg_header(48, 64, 0xF7)[:-66] + noise
    return dicom(JPEGLSLossless, encapsulate([frame]))


@kind
def dicom_rle_offsets_in_a_circle() -> bytes:
    frame = struct.pack("<16I", 2, 64, 10, *[0] * 13) + b"\x7f" * 300
    return dicom(RLELossless, encapsulate([frame]))
