"""Decoders in a process of their own: the same answers; what ends it costs one file; only `cxr` and the Space start it."""

import os
import threading

import numpy as np
import pytest

from tests.hostile.files import VALID
from trainer.cxr_model import CxrImageProcessor, RadiographError, ReaderProcess, process_cxr, read_radiograph

# The child of this module, with a decoder that does what a file's last bytes say.
CHILD = """
import importlib, os, sys, time, types
package = sys.modules["reader"] = types.ModuleType("reader")
package.__path__ = [sys.argv[1]]
process, reader = (importlib.import_module(f"reader.{name}_cxr") for name in ("process", "reader"))
process.SECONDS, known = 0.5, reader.decode_file
def decode_file(file):
    last = file.read()[-8:]
    file.seek(0)
    if last == b"__aborts":
        os.abort()
    while last == b"___loops":
        pass
    if last == b"_sleeps_":
        time.sleep(600)
    if last == b"_prints_":
        os.write(1, b"a codec's own words")
    if last == b"__memory":
        bytearray(3_000_000_000)
    return known(file)
reader.decode_file = decode_file
process.serve()
"""
REFUSED = {
    "__aborts": "its decoder failed",
    "___loops": "takes more than",
    "_sleeps_": "takes more than",
    "__memory": "more memory than there is",
}


@pytest.fixture(scope="module")
def warm():
    process = ReaderProcess()
    yield process
    process.close()


@pytest.fixture
def process():
    process = ReaderProcess()
    yield process
    process.close()


@pytest.fixture
def faulty(process, monkeypatch):
    """A process whose decoder fails where a file tells it to."""
    monkeypatch.setattr(process_cxr, "CHILD", CHILD)
    monkeypatch.setattr(process_cxr, "WAIT", 2.0)
    return process


def child_of(process):
    return process._process and process._process.pid


@pytest.mark.parametrize("name", sorted(VALID))
def test_it_reads_what_the_reader_reads(name, warm, tmp_path):
    (tmp_path / "film").write_bytes(VALID[name]())
    for source in (tmp_path / "film", VALID[name]()):
        here, there = read_radiograph(source), read_radiograph(source, warm)
        assert np.array_equal(here.pixels, there.pixels)
        assert here.warnings == there.warnings
        assert there.deep is None or here.deep is not None


@pytest.mark.parametrize("name", sorted(VALID))
def test_it_gives_a_viewer_the_values_that_the_reader_gives(name, process):
    process.previews = True
    here, there = read_radiograph(VALID[name]()).preview(), read_radiograph(VALID[name](), process).preview()
    assert (here is None) == (there is None)
    assert here is None or np.array_equal(here, there)


def test_an_error_is_the_reader_s_own_and_names_the_file_as_given(warm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut.tif").write_bytes(VALID["tiff"]()[:900])
    for source in ("cut.tif", VALID["tiff"]()[:900]):
        with pytest.raises(RadiographError) as here:
            read_radiograph(source)
        with pytest.raises(RadiographError) as there:
            read_radiograph(source, warm)
        assert str(here.value) == str(there.value)


@pytest.mark.parametrize("fault", sorted(REFUSED))
def test_what_ends_a_decoder_costs_one_file(fault, faulty):
    with pytest.raises(RadiographError, match=REFUSED[fault]):
        read_radiograph(VALID["tiff"]() + fault.encode(), faulty)
    assert read_radiograph(VALID["tiff"](), faulty).pixels.shape == (64, 48)


def test_what_a_codec_prints_is_no_answer(faulty):
    assert read_radiograph(VALID["tiff"]() + b"_prints_", faulty).pixels.shape == (64, 48)


def test_files_of_many_threads_do_not_mix(faulty):
    films = {name: VALID["tiff"]() + name.encode() for name in ("________", "__aborts")}
    outcomes = []

    def read(name):
        try:
            outcomes.append((name, read_radiograph(films[name], faulty).pixels.shape))
        except RadiographError:
            outcomes.append((name, None))

    threads = [threading.Thread(target=read, args=(name,)) for name in films for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [*[("________", (64, 48))] * 4, *[("__aborts", None)] * 4]


def test_good_png_and_jpeg_and_uncompressed_dicom_start_nothing(process):
    for name in ("png", "png-16", "jpeg", "progressive", "bmp", "webp", "gif", "pgm", "dicom"):
        read_radiograph(VALID[name](), process)
    assert child_of(process) is None
    read_radiograph(VALID["dicom-jpeg"](), process)
    assert child_of(process)


def test_a_user_with_many_pipes_is_served_all_the_same(process, monkeypatch):
    """Beyond 64 MiB of pipes Linux gives a user no larger ones: with as many processes as a large machine has cores."""
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    name = next(name for name in sorted(VALID) if "tif" in name.lower())
    assert read_radiograph(VALID[name](), process).pixels.size
    assert child_of(process)


def test_a_model_s_own_processor_starts_nothing(monkeypatch):
    monkeypatch.setattr(process_cxr, "_start", lambda: pytest.fail("a process was started"))
    for name in ("tiff", "jpeg2000", "dicom-jpeg2000"):
        assert CxrImageProcessor()(VALID[name](), return_tensors="pt")["pixel_values"].shape == (1, 3, 224, 224)


def in_a_fork(work):
    """What a forked process says with `work`; it ends without a word to anybody."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.write(theirs, str(work()).encode())
        os._exit(0)
    os.wait()
    os.close(theirs)
    with os.fdopen(ours) as told:
        return int(told.read())


def test_a_fork_has_a_process_of_its_own(process):
    read_radiograph(VALID["tiff"](), process)
    own = child_of(process)

    def work():
        read_radiograph(VALID["tiff"](), process)
        return child_of(process)

    assert in_a_fork(work) != own
    read_radiograph(VALID["tiff"](), process)
    assert child_of(process) == own


def test_it_does_not_outlive_who_started_it(process):
    def work():
        process.start()
        return child_of(process)

    child = in_a_fork(work)
    for _ in range(50):
        if not os.path.exists(f"/proc/{child}"):
            return
        threading.Event().wait(0.1)
    pytest.fail("it is still there")
