"""Header values that cannot be true of the pixels, and elements that hold nothing usable: the film is still read as it looks."""

import io

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from tests.cxr_model.test_reader import dicom_bytes
from trainer.cxr_model import CxrImageProcessor, RadiographError, dicom_cxr, read_radiograph

Y, X = np.mgrid[0:256, 0:224] / [[[256]], [[224]]]
LUNGS = sum(np.exp(-((((X - middle) / 0.13) ** 2 + ((Y - 0.5) / 0.28) ** 2) ** 2)) for middle in (0.3, 0.7))
GREY = (150 - 110 * LUNGS + 100 * np.exp(-(((X - 0.5) / 0.05) ** 2))).astype(np.uint8)  # a drawn chest
DEEP = GREY.astype(np.uint16) * 16
WINDOW = {"WindowCenter": "2048", "WindowWidth": "4096"}
INVERSE = {"PresentationLUTShape": "INVERSE"}


def raw(dataset: pydicom.Dataset, **elements: bytes) -> pydicom.Dataset:
    """Put elements in as bytes, as a careless writer leaves them."""
    for keyword, content in elements.items():
        content += b" " * (len(content) % 2)
        vr = pydicom.datadict.dictionary_VR(keyword)
        dataset.add(RawDataElement(Tag(keyword), vr, len(content), content, 0, False, True))
    return dataset


def table(descriptor, entries) -> pydicom.Sequence:
    """A sequence of one LUT item."""
    item = pydicom.Dataset()
    if descriptor is not None:
        item.LUTDescriptor = descriptor
    item.add_new("LUTData", "OW", entries if isinstance(entries, bytes) else np.asarray(entries, np.uint16).tobytes())
    return pydicom.Sequence([item])


def read(dataset: pydicom.Dataset) -> tuple[np.ndarray, bool]:
    """The pixels, and whether the reader says that it left something of the header out."""
    radiograph = read_radiograph(dicom_bytes(dataset))
    return radiograph.pixels.astype(int), "implausible-header" in radiograph.warnings


def apart(one, other) -> float:
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize(
    ("center", "width"),
    [
        (b"0", b"0"), (b"2048", b"0"), (b"2048", b"-4096"), (b"nan", b"nan"), (b"inf", b"4096"), (b"2048", b"inf"),
        (b"2048", b"0.5"), (b"2048", b"1"), (b"AUTO", b"AUTO"), (b"0\\0", b"0\\0"), (b"90000", b"100"),
        (b"-9000", b"100"), (b"32768", b"65536"), (b"2048", b"1e9"), (b"1e400", b"1e400"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_a_window_that_cannot_be_is_left_out(center, width, function, dicom_of):
    sound = read(dicom_of(DEEP, bits=12))[0]
    pixels, warned = read(raw(dicom_of(DEEP, bits=12, VOILUTFunction=function), WindowCenter=center, WindowWidth=width))
    assert (pixels == sound).all()
    assert warned


def test_a_film_of_two_values_keeps_its_window(dicom_of):
    two = np.where(GREY > 90, 1, 0).astype(np.uint8)
    pixels, warned = read(dicom_of(two, bits=1, WindowCenter="0.5", WindowWidth="1"))
    assert (pixels == 255 * two).all()
    assert not warned
    blank = np.full((64, 64), 700, np.uint16) + np.arange(64, dtype=np.uint16) % 5
    assert read(dicom_of(blank, bits=12, **WINDOW))[0].std() < 1  # noise is not stretched


def test_an_element_without_a_usable_value_counts_as_absent(dicom_of):
    sound = read(dicom_of(DEEP, bits=12, **WINDOW))[0]
    empty = pydicom.Sequence([pydicom.Dataset()])
    for fields in (
        {"RescaleSlope": None, "RescaleIntercept": None},
        {"RescaleSlope": "1", "RescaleIntercept": None},
        {"VOILUTFunction": None},
        {"VOILUTSequence": empty},
        {"ModalityLUTSequence": empty},
        {"VOILUTSequence": table([4096, 0, 12], b"")},
        {"VOILUTSequence": table(None, np.arange(4096))},
        {"VOILUTSequence": table([4096, 0, 12], np.zeros(4096))},
        {"VOILUTSequence": table([4096, 60000, 12], np.arange(4096))},
        {"ModalityLUTSequence": table([4096, 0, 12], np.full(4096, 9))},
        {"NumberOfFrames": None},
        {"PixelPaddingValue": None},
    ):
        assert apart(read(dicom_of(DEEP, bits=12, **WINDOW, **fields))[0], sound) < 1, fields
    assert apart(read(raw(dicom_of(DEEP, bits=12), WindowCenter=b"2048,0", WindowWidth=b"4096,0"))[0], sound) < 1
    assert apart(read(raw(dicom_of(DEEP, bits=12), WindowCenter=b"\\2048", WindowWidth=b"\\4096"))[0], sound) < 1
    for junk in (b"AUTO", b"0", b"nan", b"1e300"):
        pixels, warned = read(raw(dicom_of(DEEP, bits=12, **WINDOW), RescaleSlope=junk, RescaleIntercept=b"0"))
        assert apart(pixels, sound) < 1
        assert warned
    for keyword in ("RescaleIntercept", "NumberOfFrames"):
        assert apart(read(raw(dicom_of(DEEP, bits=12, **WINDOW), **{keyword: b"x"}))[0], sound) < 1


def test_a_slope_of_any_size_and_sign_is_applied(dicom_of):
    sound = read(dicom_of(DEEP, bits=12))[0]
    for slope in ("1e-9", "0.0002442", "1000000"):
        assert apart(read(dicom_of(DEEP, bits=12, RescaleSlope=slope, RescaleIntercept="-1"))[0], sound) < 1
    assert apart(read(dicom_of(DEEP, bits=12, RescaleSlope="-1", RescaleIntercept="0"))[0], 255 - sound) < 1


def test_a_voi_lut_is_as_wide_as_its_entries(dicom_of):
    ramp = np.arange(4096)
    sound = read(dicom_of(DEEP, bits=12, VOILUTSequence=table([4096, 0, 12], ramp)))[0]
    assert apart(sound, GREY) < 1
    for sequence in (
        table([4096, 0, 16], ramp),
        table([4096, 0, 12], ramp * 16),
        table([256, 0, 12], ramp),
        table([4096, 0, 16], [*ramp, 65535, 65535, 65535, 65535]),
        table([4096, 0, 16], [*ramp, *[65535] * 5000]),
        table([4096, 0, 12], ramp.astype(np.uint16).tobytes() + b"\xff"),
        table([4096, 0, 8], ramp // 16),
        table([4096, 0, 8], (ramp // 16).astype(np.uint8).tobytes()),
        table([4096, 0, 16], (ramp // 16).astype(np.uint8).tobytes()),
    ):
        assert apart(read(dicom_of(DEEP, bits=12, VOILUTSequence=sequence))[0], sound) < 2
    signed = (DEEP.astype(np.int16) - 2048).astype(np.int16)
    for vr, first in (("SS", -2048), ("US", 63488)):
        lut = table(None, ramp)
        lut[0].add_new("LUTDescriptor", vr, [4096, first, 12])
        assert apart(read(dicom_of(signed, bits=12, VOILUTSequence=lut))[0], sound) < 1


def test_a_lut_of_fewer_entries_than_it_declares_is_left_out(dicom_of):
    short = table([4096, 0, 12], np.arange(3000))
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        pixels, warned = read(dicom_of(DEEP, bits=12, **WINDOW, **{keyword: short}))
        assert warned
        assert apart(pixels, GREY) < 2


def test_polarity_may_be_spelled_with_a_space_and_contradicted(dicom_of):
    inverted = dicom_of(4095 - DEEP, bits=12, **WINDOW, PhotometricInterpretation="MONOCHROME 1")
    pixels, warned = read(inverted)
    assert not warned
    assert apart(pixels, GREY) < 2
    assert not read(dicom_of(4095 - DEEP, bits=12, PhotometricInterpretation="MONOCHROME1", **INVERSE))[1]
    assert read(dicom_of(DEEP, bits=12, PhotometricInterpretation="MONOCHROME2", **INVERSE))[1]


def test_pixels_of_other_kinds_are_named(dicom_of):
    dataset = dicom_of(DEEP, bits=12)
    dataset.FloatPixelData = DEEP.astype(np.float32).tobytes()
    del dataset.PixelData
    with pytest.raises(RadiographError, match=r"floating-point numbers.*export it as integers"):
        read(dataset)


def test_a_modality_lut_may_have_any_depth(dicom_of):
    ramp = np.arange(4096)
    sound = read(dicom_of(DEEP, bits=12, **WINDOW))[0]
    for depth in (10, 12, 16):
        lut = table([4096, 0, depth], ramp)
        assert apart(read(dicom_of(DEEP, bits=12, **WINDOW, ModalityLUTSequence=lut))[0], sound) < 1


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_the_high_bit_and_the_bits_stored_are_checked(polarity, dicom_of):
    inverse = polarity == "MONOCHROME1"
    film = 4095 - DEEP if inverse else DEEP
    for fields in ({}, WINDOW):
        fields = {**fields, "PhotometricInterpretation": polarity}
        sound = read(dicom_of(film, bits=12, **fields))[0]
        flag = np.where(GREY > 140, 0x8000, 0).astype(np.uint16)  # an overlay above the film
        for words, high, warned in (
            (film << 4, 15, False),
            (film, 15, True),
            (film, 7, True),
            (film | flag, 11, False),
            ((film << 3) | 5, 14, False),
        ):
            pixels, told = read(dicom_of(words, bits=12, HighBit=high, **fields))
            assert apart(pixels, sound) < 1, (high, fields)
            assert told is warned
    deep = read(dicom_of(film, bits=16, PhotometricInterpretation=polarity))[0]
    for bits in (8, 10):  # fewer than the pixels use
        pixels, told = read(dicom_of(film, bits=bits, PhotometricInterpretation=polarity))
        assert apart(pixels, deep) < 1
        assert told
    assert apart(read(dicom_of(GREY, bits=12, PhotometricInterpretation="MONOCHROME2"))[0], GREY) < 1  # of 8


def test_signed_values_may_lack_their_sign_above_the_bits_stored(dicom_of):
    signed = (DEEP.astype(np.int16) - 2048).astype(np.int16)
    sound = read(dicom_of(signed, bits=12))[0]
    pixels, warned = read(dicom_of(signed & 0x0FFF, bits=12))
    assert (pixels == sound).all()
    assert not warned


def test_a_padding_value_is_checked_against_the_pixels(dicom_of):
    signed = np.pad((DEEP.astype(np.int16) - 1000).astype(np.int16), 20, constant_values=-2000)
    sound = read(dicom_of(signed, bits=16, PixelPaddingValue=-2000))[0]
    assert (sound[:20] == 0).all()
    other = raw(dicom_of(signed, bits=16))
    other.add_new("PixelPaddingValue", "US", 63536)  # the same, written as an unsigned number
    assert (read(other)[0] == sound).all()
    plain = read(dicom_of(DEEP, bits=12))[0]
    for value, limit in ((0, 4095), (int(DEEP[128, 112]), None), (60000, None), (-9, -4000)):
        dataset = dicom_of(DEEP, bits=12)
        dataset.add_new("PixelPaddingValue", "US" if value >= 0 else "SS", value)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", "US" if limit >= 0 else "SS", limit)
        assert apart(read(dataset)[0], plain) < 2, value


def encoded(dataset: pydicom.Dataset, pixels: np.ndarray) -> pydicom.Dataset:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset.PixelData = pydicom.encaps.encapsulate([stream.getvalue()])
    return dataset


def test_grey_and_colour_are_told_by_the_pixels(dicom_of):
    colour = np.dstack([GREY] * 3)
    reds = np.dstack([GREY, GREY // 2, GREY // 2])
    flat = {"SamplesPerPixel": 3, "PlanarConfiguration": 0}
    for dataset, expected in (
        (encoded(dicom_of(GREY, bits=8), colour), GREY),
        (encoded(dicom_of(GREY, bits=8, PhotometricInterpretation="RGB", **flat), GREY), GREY),
        (encoded(dicom_of(GREY, bits=8, PhotometricInterpretation="MONOCHROME2"), reds), None),
        (dicom_of(GREY, bits=8, PhotometricInterpretation="RGB"), GREY),
        (dicom_of(GREY, bits=8, PhotometricInterpretation="PALETTE COLOR"), GREY),
        (dicom_of(GREY, bits=8, PhotometricInterpretation="RGB", **flat), GREY),
        (dicom_of(reds, bits=8, PhotometricInterpretation="MONOCHROME2"), None),
    ):
        pixels, warned = read(dataset)
        assert warned
        assert apart(pixels, np.asarray(Image.fromarray(reds).convert("L")) if expected is None else expected) < 3
    inverted = dicom_of(np.dstack([255 - GREY] * 3), bits=8, PhotometricInterpretation="MONOCHROME1")
    assert apart(read(inverted)[0], GREY) < 1
    with pytest.raises(RadiographError, match="SamplesPerPixel"):  # colour, or three frames: no one can know
        read(dicom_of(colour, bits=8, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2"))
    with pytest.raises(RadiographError, match="BitsAllocated"):
        read(dicom_of(DEEP, bits=8, BitsAllocated=8))
    with pytest.raises(RadiographError, match="BitsAllocated"):
        read(dicom_of(GREY, bits=8, BitsAllocated=16))


@pytest.mark.parametrize(
    "keyword",
    ["Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel", "PixelRepresentation", "PhotometricInterpretation"],
)  # fmt: skip
def test_a_required_element_that_is_missing_is_named(keyword, dicom_of):
    dataset = dicom_of(DEEP, bits=12)
    dataset["PixelData"].VR = "OW"
    with pytest.raises(RadiographError, match=keyword):
        read(raw(dataset, **{keyword: b""}))
    del dataset[keyword]
    with pytest.raises(RadiographError, match=keyword):
        read(dataset)


def test_advice_is_never_to_install_what_is_there(dicom_of, monkeypatch):
    dataset = dicom_of(GREY, bits=8)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGExtended12Bit
    dataset.PixelData = pydicom.encaps.encapsulate([b"\0" * 100])
    for installed, advice in (
        ((), "pip install python-gdcm, or"),
        (("gdcm",), "pip install pylibjpeg"),
        (("gdcm", "pylibjpeg"), ": store it"),
    ):
        monkeypatch.setattr(dicom_cxr, "find_spec", lambda name, there=installed: name in there or None)
        with pytest.raises(RadiographError, match=advice):
            read(dataset)


def test_planes_are_told_by_the_pixels(dicom_of):
    colour = np.dstack([GREY, GREY, GREY])
    marked = colour.copy()
    marked[10:30, 10:30] = (255, 0, 0)
    for film in (colour, marked):
        expected = np.asarray(Image.fromarray(film).convert("L"))
        for planar, content in ((0, film), (1, np.moveaxis(film, 2, 0))):
            for said in (0, 1):
                dataset = dicom_of(film, bits=8, PhotometricInterpretation="RGB", PlanarConfiguration=said)
                dataset.SamplesPerPixel = 3
                dataset.PixelData = np.ascontiguousarray(content).tobytes()
                pixels, warned = read(dataset)
                assert apart(pixels, expected) < 1, (planar, said)
                assert warned is (planar != said)


def test_windows_and_slopes_of_functional_groups_are_applied(dicom_of):
    sound = read(dicom_of(DEEP, bits=12, **WINDOW))[0]
    for kind in ("Shared", "PerFrame"):
        window, slope, group = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = "2048", "4096"
        slope.RescaleSlope, slope.RescaleIntercept = "-1", "4095"
        group.FrameVOILUTSequence = pydicom.Sequence([window])
        group.PixelValueTransformationSequence = pydicom.Sequence([slope])
        groups = {f"{kind}FunctionalGroupsSequence": pydicom.Sequence([group, pydicom.Dataset()])}
        pixels, warned = read(dicom_of(4095 - DEEP, bits=12, **groups))
        assert apart(pixels, sound) < 1
        assert not warned
    for empty in (pydicom.Sequence([]), pydicom.Sequence([pydicom.Dataset()])):
        assert (read(dicom_of(DEEP, bits=12, SharedFunctionalGroupsSequence=empty, **WINDOW))[0] == sound).all()


def test_a_jpeg_of_8_bits_is_read_whatever_the_header_allocates(dicom_of):
    for fields in ({}, WINDOW):
        pixels, warned = read(encoded(dicom_of(DEEP, bits=12, **fields), GREY))
        assert warned
        assert apart(pixels, GREY) < 2


@pytest.mark.parametrize("depth", [8, 16])
def test_a_palette_shows_as_far_as_its_entries_reach(depth, dicom_of):
    dataset = dicom_of(GREY, bits=8, PhotometricInterpretation="PALETTE COLOR")
    ramp = np.arange(256, dtype=np.uint16) * (257 if depth == 16 else 1)  # entries of 8 bits may stand in 16
    for name in ("Red", "Green", "Blue"):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(dataset, f"{name}PaletteColorLookupTableData", ramp.tobytes())
    assert apart(read(dataset)[0], GREY) < 1


@pytest.mark.parametrize(
    ("age", "child"), [("014Y", True), ("015Y", False), ("030M", True), ("009D", True), ("?", False)]
)
def test_a_child_is_warned_of_where_the_model_learned_from_adults(age, child, dicom_of, tmp_path):
    file = dicom_bytes(dicom_of(DEEP, bits=12, PatientAge=age))
    assert ("child" in CxrImageProcessor(adults=True).read(file).warnings) == child
    assert "child" not in CxrImageProcessor().read(file).warnings
    CxrImageProcessor(adults=True).save_pretrained(tmp_path)
    assert CxrImageProcessor.from_pretrained(tmp_path).adults
