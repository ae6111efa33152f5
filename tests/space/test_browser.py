"""The page in a real Chromium, as visitors use it: mouse, keyboard, clipboard, phone, dark; and what axe says of it."""

import base64
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.commands.predict import predict
from trainer.run import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WAIT = 60_000
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: install Debian's package chromium"
)
# A file as a browser hands it over: by a drop or a paste.
HAND_OVER = """([name, type, data]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name, { type }));
  return transfer;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield started
        started.close()


@pytest.fixture
def visit(browser, space):
    """Open the page: visit(width=…, dark=True)."""
    pages = []

    def opened(width: int = 1200, dark: bool = False):
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.goto(f"{space}/?__theme={'dark' if dark else 'light'}")
        page.get_by_text("not a medical device").first.wait_for()
        page.locator("input[type=file]").first.wait_for(state="attached")
        return page

    yield opened
    for page in pages:
        page.close()


def put(page, file: Path, nth: int = 0) -> None:
    page.locator("[role=tabpanel]:visible input[type=file]").nth(nth).set_input_files(str(file))


def handed(page, file: Path):
    data = base64.b64encode(file.read_bytes()).decode()
    return page.evaluate_handle(
        HAND_OVER, [file.name, "application/dicom" if file.suffix == ".dcm" else "image/png", data]
    )


def said(prediction) -> str:
    value = prediction["scores"][prediction["label"]]
    score = ">.99" if value >= 0.995 else f"{value:.2f}".removeprefix("0")
    return f"Suggests {prediction['label']}: {score}"


def faults(page) -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{fault['id']}: {fault['nodes'][0]['html'][:200]}: {fault['nodes'][0]['any'][0]['message']}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


def test_a_visitor_reads_the_answer(visit, space, films, run):
    page = visit()
    addresses = []
    page.on("request", lambda request: addresses.append(request.url))
    put(page, films["dicom"])
    answer = page.locator(".cxr-answer:visible")
    answer.wait_for(timeout=WAIT)
    (ours,) = predict(Run(run), [str(films["dicom"])])
    assert answer.inner_text() == said(ours)
    pictures = page.locator(".cxr-film img:visible")
    assert pictures.count() == 3  # the bare film; the film, and over it its heat map
    assert all(pictures.nth(index).get_attribute("alt") for index in range(3))
    heat = page.locator("img.cxr-heat:visible")
    assert heat.evaluate("image => getComputedStyle(image).opacity") == "0.6"
    page.get_by_role("slider").press("Home")
    page.wait_for_function("getComputedStyle(document.querySelector('img.cxr-heat')).opacity === '0'")
    page.get_by_label("black and white exchanged").check()
    page.get_by_label("contrast").select_option("lungs")
    for film in page.locator("img.cxr-base:visible").all():
        assert re.match(r"invert\(1\) brightness", film.evaluate("image => getComputedStyle(image).filter"))
    (threshold,) = page.locator(".cxr-bar i:visible").evaluate_all("marks => marks.map(mark => mark.style.left)")
    assert float(threshold.rstrip("%")) == pytest.approx(100 * ours["decision"]["threshold"], abs=0.06)
    clear = page.locator("[role=tabpanel]:visible button").and_(
        page.locator("[aria-label=Clear], [aria-label^=Remove]")
    )
    clear.first.click()
    answer.wait_for(state="detached")
    put(page, films["text"])
    page.get_by_text("No answer for this file").wait_for(timeout=WAIT)
    clear.first.click()
    put(page, films["deep"])
    page.get_by_label("window").select_option("lungs")
    page.locator("img.cxr-window:visible").wait_for(timeout=WAIT)
    assert page.locator("img.cxr-window-2:visible").evaluate("image => image.naturalWidth") > 0
    page.get_by_role("tab", name="COVID-19 or pneumonia").click()
    page.get_by_text("not available now").wait_for()
    assert [url for url in addresses if not url.startswith((space, "data:", "blob:"))] == []


def test_dropped_and_pasted_films_are_read(visit, films, run):
    (ours,) = predict(Run(run), [str(films["png"])])
    page = visit()
    zone = (
        page.locator("[role=tabpanel]:visible")
        .locator("button", has=page.locator("input[type=file]"))
        .or_(page.locator("[role=tabpanel]:visible button", has_text=re.compile("Drop File", re.IGNORECASE)))
    )
    zone.first.dispatch_event("drop", {"dataTransfer": handed(page, films["png"])})
    page.locator(".cxr-answer:visible").wait_for(timeout=WAIT)
    assert page.locator(".cxr-answer:visible").inner_text() == said(ours)
    page = visit()
    paste = (
        "transfer => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true }))"
    )
    for kind in ("text", "png"):  # the second takes the place of the first
        page.evaluate(paste, handed(page, films[kind]))
        page.locator("[role=alert]:visible, .cxr-answer:visible").first.wait_for(timeout=WAIT)
    page.locator(".cxr-answer:visible").wait_for(timeout=WAIT)
    assert page.locator(".cxr-answer:visible").inner_text() == said(ours)


def test_all_questions_many_files_and_results(visit, run, covid_run, films, phantoms, tmp_path):
    page = visit()
    page.get_by_role("tab", name="All questions").click()
    put(page, films["png"])
    page.locator(".cxr-answer:visible").nth(1).wait_for(timeout=WAIT)
    expected = [said(next(predict(Run(one), [str(films["png"])]))) for one in (run, covid_run)]
    assert page.locator(".cxr-answer:visible").all_inner_texts() == expected
    page.get_by_role("tab", name="Many files").click()
    with zipfile.ZipFile(tmp_path / "films.zip", "w") as archive:
        archive.write(films["png"], "=film.png")
        archive.writestr("text.png", "not a film")
    put(page, tmp_path / "films.zip")
    page.get_by_role("cell", name="films.zip").wait_for(
        timeout=WAIT
    )  # uploaded: its row, not the progress that shows its name, too
    page.get_by_role("button", name="Classify them").click()
    page.get_by_text("2 files, 1 of them could not be read").wait_for(timeout=WAIT)
    assert page.locator("[role=tabpanel]:visible .file-preview a:visible").count() == 0  # it is deleted soon
    with page.expect_download() as download:
        page.get_by_text("Download as CSV").click()
    assert "'=film.png" in Path(download.value.path()).read_text(encoding="utf-8-sig")
    page.get_by_role("tab", name="Results").click()
    page.locator(".cxr-figures img").first.wait_for(timeout=WAIT)
    told = page.locator(".cxr-facts:visible")
    assert told.locator("caption", has_text="Metrics").count() == 2  # of both runs; neither has external radiographs
    assert "tb" in told.locator("h3").first.inner_text()
    counts = [int(text) for text in told.locator(".cxr-confusion").first.locator("td[style]").all_inner_texts()]
    assert counts == [
        count for row in Run(run).read_json("metrics.json")["splits"]["test"]["confusion"] for count in row
    ]
    assert page.get_by_role("columnheader", name="AUROC").first.is_visible()


def test_on_a_phone_the_answer_comes_first(visit):
    page = visit(390)
    page.get_by_role("button", name="Phantom A").first.click()
    page.locator(".cxr-answer:visible").wait_for(timeout=WAIT)
    page.wait_for_timeout(300)
    tops = [page.locator(f"{name}:visible").first.bounding_box()["y"] for name in (".cxr-answer", ".cxr-question")]
    assert tops[0] < tops[1]
    assert tops[0] < 500


def test_by_keyboard_alone(visit):
    page = visit()
    example = page.get_by_role("button", name="Phantom A").first
    for _ in range(40):
        page.keyboard.press("Tab")
        if example.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    page.locator(".cxr-answer:visible").wait_for(timeout=WAIT)
    page.get_by_role("tab", name="Tuberculosis").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.get_by_role("tab", name="COVID-19, four classes").get_attribute("aria-selected") == "true"


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False)])
def test_no_serious_fault_in_any_look(visit, width, dark):
    page = visit(width, dark)
    page.get_by_role("button", name="Phantom A").first.click()
    page.locator(".cxr-answer:visible").wait_for(timeout=WAIT)
    page.get_by_role("button", name=re.compile("About this model")).first.click()
    page.wait_for_timeout(500)
    assert faults(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
