"""Every file kind ends as the same uint8 grey image. All files are made here."""

import base64
import io
import struct
import zlib

import numpy as np
import pydicom
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.cxr_model import CxrImageProcessor, RadiographError, dicom_cxr, read_radiograph, reader_cxr

GREY = np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8)
GREY[40, :20], GREY[41, :20] = 0, 255  # so much of both ends that a deep copy is stretched to the same grey levels


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "PPM"])
def test_lossless_8_bit_kinds_are_read_exactly(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    image = Image.fromarray(GREY)
    assert (
        read_radiograph(saved(image.convert("RGB") if kind == "WEBP" else image, kind, **options)).pixels == GREY
    ).all()


def test_jpeg_is_read_nearly():
    smooth = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    assert (
        np.abs(read_radiograph(saved(Image.fromarray(smooth), "JPEG", quality=95)).pixels.astype(int) - smooth).max()
        <= 4
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_is_not_whitened(kind):
    assert (read_radiograph(saved(Image.fromarray(GREY.astype(np.uint16) * 257), kind)).pixels == GREY).all()


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_a_deep_film_that_fills_its_range_reads_as_in_8_bits(bits):
    top = 2**bits - 1
    deep = np.rint(GREY / 255 * top).astype(np.uint16)
    assert (read_radiograph(saved(Image.fromarray(deep), "PNG")).pixels == GREY).all()


def test_a_16_bit_tiff_where_white_is_zero_is_turned_round():
    data = saved(Image.fromarray((255 - GREY).astype(np.uint16) * 257), "TIFF", tiffinfo={262: 0})
    assert Image.open(io.BytesIO(data)).tag_v2[262] == 0
    assert (read_radiograph(data).pixels == GREY).all()


def test_float_tiff():
    assert (read_radiograph(saved(Image.fromarray((GREY / 255).astype(np.float32)), "TIFF")).pixels == GREY).all()


def deep_kinds(dicom_of):
    """The same 12-bit image, uint16, from every source that is deeper than 8 bits."""
    return {
        "PNG": lambda deep: saved(Image.fromarray(deep), "PNG"),
        "TIFF": lambda deep: saved(Image.fromarray(deep), "TIFF"),
        "float TIFF": lambda deep: saved(Image.fromarray(deep.astype(np.float32)), "TIFF"),
        "array": lambda deep: deep,
        "floats": lambda deep: deep / 4095,
        "tensor": lambda deep: torch.from_numpy(deep / 4095).float(),
        "three channels": lambda deep: np.dstack([deep] * 3),
        "DICOM": lambda deep: dicom_bytes(dicom_of(deep, bits=16)),
        "MONOCHROME1": lambda deep: dicom_bytes(dicom_of(deep, bits=16, PhotometricInterpretation="MONOCHROME1")),
        "Hounsfield": lambda deep: dicom_bytes(dicom_of(deep, bits=16, RescaleSlope="1", RescaleIntercept="-1024")),
    }


NARROW = 300 + 11 * GREY.astype(np.uint16)  # a 12-bit film that does not fill its bits


def test_a_deep_film_is_stretched_between_its_percentiles_whatever_its_source(dicom_of):
    low, high = np.sort(NARROW, axis=None)[[16, NARROW.size - 1 - 16]].astype(float)  # .005 x 3071 is 15.4
    expected = np.rint(255 * ((NARROW - low) / (high - low)).clip(0, 1))
    for name, source in deep_kinds(dicom_of).items():
        read = read_radiograph(source(NARROW)).pixels.astype(int)
        assert np.abs((255 - read if name == "MONOCHROME1" else read) - expected).max() <= 1, name


@given(st.data())
def test_no_single_pixel_decides_how_bright_the_others_are(dicom_of, data):
    kinds = deep_kinds(dicom_of)
    name = data.draw(st.sampled_from(sorted(kinds)))
    deep = data.draw(st.sampled_from([NARROW, NARROW[:12, :18], 4 * GREY.astype(np.uint16)]))
    row, column = (data.draw(st.integers(0, side - 1)) for side in deep.shape)
    changed = deep.copy()
    changed[row, column] = data.draw(st.integers(0, 2**16 - 1) | st.sampled_from([0, 1023, 1024, 4096, 2**16 - 1]))
    apart = np.abs(read_radiograph(kinds[name](changed)).pixels.astype(int) - read_radiograph(kinds[name](deep)).pixels)
    apart[row, column] = 0
    assert apart.max() <= (6 if deep.size < 1000 else 2)  # a rank in 216 pixels is .5 % of them


def test_padding_does_not_count_among_the_pixels_of_a_deep_film(dicom_of):
    framed = np.pad(NARROW, 30, constant_values=0)
    read = read_radiograph(dicom_bytes(dicom_of(framed, bits=12, PixelPaddingValue=0))).pixels
    assert (read[30:-30, 30:-30] == read_radiograph(NARROW).pixels).all()
    assert (read[:30] == 0).all()


@pytest.mark.parametrize("value", [0, 700, 65535])
def test_a_deep_film_of_one_value_is_blank_and_divides_by_nothing(dicom_of, value):
    with np.errstate(all="raise"):
        for name, source in deep_kinds(dicom_of).items():
            read = read_radiograph(source(np.full((40, 40), value, np.uint16)))
            assert read.pixels.std() == 0, name


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_a_dicom_file_of_at_most_8_bits_is_shown_as_far_as_its_bits_reach(dicom_of, bits):
    stored = GREY[:30] >> (10 - bits)  # a quarter of the range, whose brightest pixel says nothing
    for fields in ({}, {"RescaleSlope": "2.5", "RescaleIntercept": "-1000"}):
        read = read_radiograph(dicom_bytes(dicom_of(stored, bits=bits, **fields))).pixels
        assert (read == np.rint(stored * (255 / (2**bits - 1)))).all()


def test_colour_palette_and_one_bit():
    assert (read_radiograph(saved(Image.fromarray(np.dstack([GREY] * 3)), "PNG")).pixels == GREY).all()
    palette = Image.fromarray(GREY).convert("P")
    assert (read_radiograph(saved(palette, "PNG")).pixels == GREY).all()
    black_and_white = Image.fromarray(np.where(GREY > 127, 255, 0).astype(np.uint8)).convert(
        "1", dither=Image.Dither.NONE
    )
    assert (read_radiograph(saved(black_and_white, "PNG")).pixels == np.where(GREY > 127, 255, 0)).all()


def test_transparency_lies_on_black():
    alpha = np.full_like(GREY, 255)
    alpha[10:20] = 0
    for bands in ([GREY, alpha], [GREY, GREY, GREY, alpha]):
        read = read_radiograph(saved(Image.fromarray(np.dstack(bands)), "PNG")).pixels
        assert (read == np.where(alpha > 0, GREY, 0)).all()


def test_cmyk_keeps_its_polarity():
    flat = np.full((32, 32, 3), 200, np.uint8)
    flat[:16] = 20
    read = read_radiograph(saved(Image.fromarray(flat).convert("CMYK"), "JPEG", quality=95)).pixels
    assert abs(int(read[:14].mean()) - 20) < 6
    assert abs(int(read[18:].mean()) - 200) < 6


def test_exif_rotation_is_applied_and_exif_stays_inside():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    exif[0x010E] = "Doe^Jane"
    radiograph = read_radiograph(saved(Image.fromarray(GREY), "PNG", exif=exif))
    assert (radiograph.pixels == np.rot90(GREY, -1)).all()
    assert "Doe" not in repr(radiograph)


def test_a_damaged_second_page_costs_nothing_and_the_page_that_a_caller_chose_is_read():
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    pages = saved(first, "TIFF", save_all=True, append_images=[second])
    read = read_radiograph(pages)
    assert (read.pixels == GREY).all()
    assert read.warnings == ("multi-frame",)
    offset = int.from_bytes(pages[4:8], "little")
    entries = int.from_bytes(pages[offset : offset + 2], "little")
    second_at = int.from_bytes(pages[offset + 2 + 12 * entries :][:4], "little")
    damaged = pages[: second_at + 2] + b"\xff" * 60 + pages[second_at + 62 :]
    assert (read_radiograph(damaged).pixels == GREY).all()
    image = Image.open(io.BytesIO(pages))
    image.seek(1)
    assert (read_radiograph(image).pixels == 255 - GREY).all()
    assert image.tell() == 1


def test_a_large_picture_that_a_caller_opened_keeps_its_size(monkeypatch):
    monkeypatch.setattr(reader_cxr, "LARGE", 1000)
    image = Image.open(io.BytesIO(saved(Image.fromarray(GREY), "JPEG")))
    read_radiograph(image)
    assert image.size == (64, 48)


def test_the_callers_picture_is_left_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in (GREY, GREY.astype(np.uint16)):
        image = Image.open(io.BytesIO(saved(Image.fromarray(mode), "PNG", exif=exif)))
        assert read_radiograph(image).pixels.shape == (64, 48)
        assert image.size == (64, 48)  # width, height
        assert image.getexif()[0x0112] == 6
        assert (np.asarray(image) == mode).all()
        assert read_radiograph(image).pixels.shape == (64, 48)


def test_paths_bytes_streams_pillow_and_arrays_give_the_same(tmp_path):
    data = saved(Image.fromarray(GREY), "PNG")
    (tmp_path / "film.png").write_bytes(data)
    rgb = np.dstack([GREY] * 3)
    sources = [
        tmp_path / "film.png",
        str(tmp_path / "film.png"),
        data,
        io.BytesIO(data),
        Image.open(io.BytesIO(data)),
        GREY,
        GREY[:, :, None],
        rgb,
        rgb.transpose(2, 0, 1),
        torch.from_numpy(GREY),
        GREY.astype(np.uint16) * 257,
        GREY / 255,
    ]
    for source in sources:
        assert (read_radiograph(source).pixels == GREY).all()


@pytest.mark.parametrize(("bits", "signed"), [(8, False), (12, False), (16, False), (12, True), (16, True)])
def test_dicom_depth_and_sign(dicom_of, bits, signed):
    kind = np.uint8 if bits == 8 else np.int16 if signed else np.uint16
    low = -(2 ** (bits - 1)) if signed else 0
    stored = (np.rint(GREY / 255 * (2**bits - 1)) + low).astype(kind)
    assert (read_radiograph(dicom_bytes(dicom_of(stored, bits=bits))).pixels == GREY).all()


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True])
def test_a_viewer_gets_the_values_of_a_deep_film_as_dark_as_it_is_shown(dicom_of, polarity, signed):
    deep = np.add.outer(np.arange(1000), np.arange(1600)) + 7
    stored = (deep - 2000 if signed else deep).astype(np.int16 if signed else np.uint16)
    window = {"WindowCenter": 1000 - 2000 * signed, "WindowWidth": 200}  # shows one value in ten
    radiograph = read_radiograph(dicom_bytes(dicom_of(stored, bits=12, PhotometricInterpretation=polarity, **window)))
    preview = radiograph.preview()
    assert (preview.dtype, preview.min(), preview.max()) == (np.uint16, 0, 65535)
    assert max(preview.shape) <= 768
    assert len(np.unique(preview)) > 500
    dark = preview[:100, :100].mean() < preview[-100:, -100:].mean()
    assert dark == (polarity == "MONOCHROME2") == (radiograph.pixels[0, 0] < radiograph.pixels[-1, -1])


def test_a_film_of_8_bits_has_no_deeper_values(dicom_of):
    assert read_radiograph(saved(Image.fromarray(GREY), "PNG")).preview() is None
    assert read_radiograph(dicom_bytes(dicom_of(GREY, bits=8))).preview() is None
    assert read_radiograph(saved(Image.fromarray(GREY.astype(np.uint16)), "PNG")).preview() is None


def dicom_bytes(dataset: pydicom.Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_dicom_polarity(dicom_of):
    read = read_radiograph(dicom_bytes(dicom_of(255 - GREY, bits=8, PhotometricInterpretation="MONOCHROME1")))
    assert (read.pixels == GREY).all()


def test_dicom_window_and_rescale(dicom_of):
    stored = GREY.astype(np.uint16) * 4 + 100
    fields = {"RescaleSlope": "2", "RescaleIntercept": "-1000", "VOILUTFunction": "LINEAR_EXACT"}
    low, high = 100 * 2 - 1000, (255 * 4 + 100) * 2 - 1000
    windowed = dicom_of(stored, bits=12, WindowCenter=[(low + high) / 2, 5], WindowWidth=[high - low, 5], **fields)
    assert (read_radiograph(dicom_bytes(windowed)).pixels == GREY).all()
    narrow = dicom_of(stored, bits=12, WindowCenter=(low + high) / 2, WindowWidth=10, **fields)
    assert set(np.unique(read_radiograph(dicom_bytes(narrow)).pixels)) <= {0, 255, *range(1, 255)}
    assert (read_radiograph(dicom_bytes(narrow)).pixels[GREY > 140] == 255).all()
    sigmoid = dicom_of(
        stored,
        bits=12,
        WindowCenter=(low + high) / 2,
        WindowWidth=high - low,
        **{**fields, "VOILUTFunction": "SIGMOID"},
    )
    read = read_radiograph(dicom_bytes(sigmoid)).pixels.astype(float)
    assert np.corrcoef(read.ravel(), GREY.ravel())[0, 1] > 0.98


def test_dicom_voi_lut_sequence(dicom_of):
    dataset = dicom_of(GREY, bits=8)
    item = pydicom.Dataset()
    item.LUTDescriptor = [256, 0, 16]
    item.add_new("LUTData", "OW", (np.arange(255, -1, -1, dtype=np.uint16) * 257).tobytes())
    dataset.VOILUTSequence = pydicom.Sequence([item])
    assert (read_radiograph(dicom_bytes(dataset)).pixels == 255 - GREY).all()


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_dicom_padding_is_black(dicom_of, polarity):
    stored = (GREY.astype(np.uint16) * 8) + 500
    stored[:5] = 4095
    dataset = dicom_of(stored, bits=12, PixelPaddingValue=4095, PhotometricInterpretation=polarity)
    pixels = read_radiograph(dicom_bytes(dataset)).pixels
    assert (pixels[:5] == 0).all()
    assert pixels[5:].std() > 20


def test_dicom_colour_and_frames(dicom_of):
    assert (read_radiograph(dicom_bytes(dicom_of(np.dstack([GREY] * 3), bits=8))).pixels == GREY).all()
    film = read_radiograph(dicom_bytes(dicom_of(np.stack([GREY, 255 - GREY]), bits=8, NumberOfFrames=2)))
    assert (film.pixels == GREY).all()
    assert film.warnings == ("multi-frame",)


@pytest.mark.parametrize(
    ("fields", "codes"),
    [
        ({}, ()),
        ({"ViewPosition": "PA", "BodyPartExamined": "CHEST"}, ()),
        ({"ViewPosition": "LL"}, ("lateral-view",)),
        ({"BodyPartExamined": "KNEE"}, ("not-chest",)),
        ({"Modality": "MR"}, ("not-chest",)),
    ],
)
def test_a_header_that_says_otherwise_gives_a_warning(dicom_of, fields, codes):
    assert read_radiograph(dicom_bytes(dicom_of(GREY, bits=8, **fields))).warnings == codes


def test_implicit_vr_without_preamble(dicom_of, tmp_path):
    dataset = dicom_of(GREY, bits=8)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    del dataset.file_meta
    path = tmp_path / "bare"
    dataset.save_as(path, implicit_vr=True, little_endian=True)
    assert path.read_bytes()[128:132] != b"DICM"
    assert (read_radiograph(path).pixels == GREY).all()


def test_baseline_jpeg_inside_dicom(dicom_of):
    smooth = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
    dataset = dicom_of(smooth, bits=8)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset.PixelData = pydicom.encaps.encapsulate([saved(Image.fromarray(smooth), "JPEG", quality=95)])
    assert np.abs(read_radiograph(dicom_bytes(dataset)).pixels.astype(int) - smooth).max() <= 4


def test_a_compression_that_cannot_be_unpacked_names_the_cure(dicom_of):
    dataset = dicom_of(GREY, bits=8)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 100])
    with pytest.raises(RadiographError, match=r"MPEG2.*: store it uncompressed"):  # no package helps
        read_radiograph(dicom_bytes(dataset))


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGLSLossless", "JPEG2000Lossless"])
def test_compressed_dicom(dicom_of, syntax):
    if syntax != "RLELossless":
        pytest.importorskip("gdcm", reason="the extra `dicom` is not installed")
    dataset = dicom_of(GREY.astype(np.uint16) * 16, bits=12)
    uid = getattr(pydicom.uid, syntax)
    try:
        dataset.compress(
            uid, encoding_plugin="gdcm" if syntax != "RLELossless" else "pydicom", generate_instance_uid=False
        )
    except (ValueError, RuntimeError, NotImplementedError):
        _compress_by_gdcm(dataset, uid)
    assert dataset.file_meta.TransferSyntaxUID == uid
    assert np.abs(read_radiograph(dicom_bytes(dataset)).pixels.astype(int) - GREY).max() <= 1


def _compress_by_gdcm(dataset: pydicom.Dataset, uid: pydicom.uid.UID) -> None:
    """pydicom itself writes RLE only; GDCM rewrites the file in another syntax."""
    import tempfile

    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        dataset.save_as(f"{folder}/in.dcm", enforce_file_format=True)
        reader = gdcm.ImageReader()
        reader.SetFileName(f"{folder}/in.dcm")
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        kinds = {
            "JPEGLSLossless": gdcm.TransferSyntax.JPEGLSLossless,
            "JPEG2000Lossless": gdcm.TransferSyntax.JPEG2000Lossless,
        }
        change.SetTransferSyntax(gdcm.TransferSyntax(kinds[uid.keyword]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(f"{folder}/out.dcm")
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        written = pydicom.dcmread(f"{folder}/out.dcm")
        dataset.file_meta, dataset.PixelData = written.file_meta, written.PixelData
        dataset["PixelData"].is_undefined_length = True


def test_no_header_field_is_logged_or_warned_about(dicom_of, caplog, recwarn):
    dataset = dicom_of(GREY, bits=8)
    dataset.PatientName = "Doe^Jane"
    data = dicom_bytes(dataset).replace(b"secret-42", b"secret\xff42").replace(b"DX", b"d~")
    read_radiograph(data)
    assert caplog.text == ""
    assert [str(warning.message) for warning in recwarn] == []


def test_no_header_field_leaves_the_reader(dicom_of, tmp_path):
    path = tmp_path / "film.dcm"
    path.write_bytes(dicom_bytes(dicom_of(GREY, bits=8))[:-2000])
    with pytest.raises(RadiographError) as refused:
        read_radiograph(path)
    assert "Doe" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"not an image at all" * 20, "not an image"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 50, "film"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 40, "film"),
    ],
)
def test_what_is_no_radiograph_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "film.bin"
    path.write_bytes(content)
    with pytest.raises(RadiographError, match=said) as refused:
        read_radiograph(path)
    assert str(path) in str(refused.value)


def test_wrong_paths_addresses_and_arrays(tmp_path):
    for source, said in (
        (tmp_path / "none.png", "no such file"),
        (tmp_path, "a folder"),
        ("https://example.org/film.png", "not opened"),
        (np.zeros((3, 4, 5, 6)), "no image"),
        (np.zeros((0, 4), np.uint8), "no image"),
        (np.full((4, 4), np.nan), "no finite numbers: export it again"),
        (np.full((4, 4), -2.0), "give 0..1"),
    ):
        with pytest.raises(RadiographError, match=said):
            read_radiograph(source)


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch, dicom_of):
    Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
    with pytest.raises(RadiographError, match="too many"):
        read_radiograph(tmp_path / "bomb.png")
    dataset = dicom_of(GREY, bits=8)
    dataset.Rows = dataset.Columns = 60_000
    with pytest.raises(RadiographError, match="too many"):
        read_radiograph(dicom_bytes(dataset))


def test_deflated_dicom_is_read(dicom_of):
    dataset = dicom_of(GREY, bits=8)
    stored = read_radiograph(dicom_bytes(dataset)).pixels
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    assert np.array_equal(read_radiograph(dicom_bytes(dataset)).pixels, stored)


def test_without_pydicom_the_cure_is_named(dicom_of, monkeypatch):
    data = dicom_bytes(dicom_of(GREY, bits=8))
    monkeypatch.setattr(dicom_cxr, "pydicom", None)
    with pytest.raises(ImportError, match="pip install pydicom"):
        read_radiograph(data)


KINDS = [saved(Image.fromarray(GREY), kind) for kind in ("PNG", "JPEG", "TIFF")]


@given(st.data())
def test_damaged_files_are_refused_or_read_never_worse(dicom_of, data):
    whole = data.draw(st.sampled_from([*KINDS, dicom_bytes(dicom_of(GREY, bits=8))]))
    broken = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for place in data.draw(st.lists(st.integers(0, len(broken) - 1), max_size=8)):
        broken[place] ^= data.draw(st.integers(1, 255))
    try:
        pixels = read_radiograph(bytes(broken)).pixels
    except RadiographError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 2


@given(st.integers(1, 80), st.integers(1, 80), st.integers(8, 64))
def test_the_processor_gives_the_recipes_size(height, width, size):
    processor = CxrImageProcessor(size={"height": size, "width": size + 3})
    picture = np.random.default_rng(height * 81 + width).integers(0, 256, (height, width)).astype(np.uint8)
    values = processor([picture, picture])["pixel_values"]
    assert values.shape == (2, 3, size, size + 3)
    assert values.dtype == torch.float32
    assert -1 <= values.min() <= values.max() <= 1


def test_the_processor_survives_a_round_trip(tmp_path):
    first = CxrImageProcessor(
        size={"height": 32, "width": 48}, resample=0, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    first.save_pretrained(tmp_path)
    second = CxrImageProcessor.from_pretrained(tmp_path)
    assert first.to_dict() == second.to_dict()
    assert torch.equal(first(GREY)["pixel_values"], second(GREY)["pixel_values"])
    with pytest.raises(TypeError, match="do_resize"):
        first(GREY, do_resize=False)


def deep_png(samples: np.ndarray, colour_type: int) -> bytes:
    """A PNG file of 16 bits with several channels, which Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_deep_colour_keeps_its_depth():
    opaque = np.full_like(NARROW, 65535)
    expected = read_radiograph(NARROW).pixels
    for bands, colour_type in (([NARROW] * 3, 2), ([NARROW, opaque], 4), ([NARROW] * 3 + [opaque], 6)):
        data = deep_png(np.dstack(bands), colour_type)
        for source in (data, Image.open(io.BytesIO(data))):
            assert (read_radiograph(source).pixels == expected).all()


def test_32_bit_tiff_keeps_its_depth():
    expected = read_radiograph(NARROW).pixels
    for samples, sample_format in ((NARROW.astype(np.uint32) * 2**20, 1), (NARROW.astype(np.int32) - 9999, 2)):
        data = saved(Image.fromarray(samples.view(np.int32)), "TIFF")  # Pillow calls them signed
        data = data.replace(struct.pack("<HHII", 339, 3, 1, 2), struct.pack("<HHII", 339, 3, 1, sample_format))
        assert (read_radiograph(data).pixels == expected).all()


def test_base64_and_data_strings_are_read():
    data = saved(Image.fromarray(GREY), "PNG")
    text = base64.b64encode(data).decode()
    for source in (text, base64.encodebytes(data).decode(), f"data:image/png;base64,{text}"):
        assert (read_radiograph(source).pixels == GREY).all()
    for source in ("data:image/png;base64,@@@", f"data:image/png;base64,{text[:40]}", "A" * 5000):
        with pytest.raises(RadiographError, match="the str given"):
            read_radiograph(source)
    for source in ("HTTP://example.org/film.png", "ftp://example.org/film.png", "s3://films/one.png"):
        with pytest.raises(RadiographError, match="not opened"):
            read_radiograph(source)


@pytest.mark.parametrize(
    "deep",
    [
        Image.fromarray(GREY.astype(np.uint16) * 257),
        Image.fromarray(np.pad(GREY, GREY.shape[0]).astype(np.uint16) * 16),  # most of it is a black border
        Image.fromarray(GREY.astype(np.float32) / 256),
    ],
    ids=["16 bits", "12 bits", "0 to 1"],
)
def test_a_deep_film_that_was_clipped_to_8_bits_is_refused(deep):
    with pytest.raises(RadiographError, match="deep film in 8 bits"):
        read_radiograph(deep.convert("RGB"))


def test_any_kind_of_bytes_is_read_and_no_number_or_dictionary(phantoms):
    content = next(phantoms.rglob("*.png")).read_bytes()
    for source in (bytearray(content), memoryview(content)):
        assert np.array_equal(read_radiograph(source).pixels, read_radiograph(content).pixels)
    for source in (0, {"bytes": content}):  # 0 is the standard input's number
        with pytest.raises(RadiographError, match=f"the {type(source).__name__} given: expected a path, bytes"):
            read_radiograph(source)


def test_deep_tiff_in_separate_planes_is_refused_and_of_8_bits_read():
    def planes(samples: np.ndarray) -> bytes:
        """A TIFF of three planes [3, H, W] (Pillow writes none)."""
        depth, size = 8 * samples.itemsize, samples[0].nbytes
        entries = [(256, 64), (257, 48), (258, 134), (262, 2), (273, 140), (277, 3), (279, 152), (284, 2)]
        lists = struct.pack("<3H3I3I", *[depth] * 3, *[164 + size * plane for plane in range(3)], *[size] * 3)
        tags = b"".join(
            struct.pack("<HHII", tag, 3 if tag == 258 else 4, 3 if tag in (258, 273, 279) else 1, value)
            for tag, value in entries
        )
        start = struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + tags + bytes(4)
        return (start.ljust(134, b"\0") + lists).ljust(164, b"\0") + samples.tobytes()

    assert (read_radiograph(planes(np.stack([GREY] * 3))).pixels == GREY).all()
    with pytest.raises(RadiographError, match="separate planes is not read: save it as grey"):
        read_radiograph(planes(np.stack([GREY.astype(np.uint16) * 257] * 3)))
