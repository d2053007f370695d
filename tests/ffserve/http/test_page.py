"""The page of `ffserve http`, in a real browser: the distribution's Chromium."""

from __future__ import annotations

import base64
import shutil

import numpy as np
import pytest

from ffcore.folders import Item
from ffserve.http.service import Service, Settings
from ffserve.predict import Classifier
from ffserve.reading import read
from ffserve.stream import wanted_of
from tests.ffserve.http.test_clients import within
from tests.ffserve.http.test_rest import a_seven

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt install chromium)")
SEVEN = ((70, 60), (200, 60), (120, 230))
DROP = """([kind, name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name));
  const event = kind === 'paste' ? new ClipboardEvent(kind, {clipboardData: data, bubbles: true})
                                 : new DragEvent(kind, {dataTransfer: data, bubbles: true});
  document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def open_page(browser):
    """Opens the page of a server; what is wrong there, or asked of another host, fails the test."""
    opened, wrong = [], []

    def go(server, **settings):
        context = browser.new_context(**settings)
        page = context.new_page()
        page.set_default_timeout(10_000)
        opened.append(context)
        page.on("console", lambda message: None if " of 40" in message.text else wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((server.url, "blob:")) else wrong.append(r.url))
        page.goto(server.url)
        return page

    yield go
    for context in opened:
        context.close()
    assert not wrong


def draw(page, points, end=True):
    box = page.locator("#pad").bounding_box()
    places = [(box["x"] + x, box["y"] + y) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for x, y in places[1:]:
        page.mouse.move(x, y, steps=6)
    if end:
        page.mouse.up()


def panel(page, name):
    return page.locator(f"article[data-model={name}]")


def expect_answer(page, name, text):
    playwright.expect(panel(page, name).locator(".answer")).to_have_text(text)


def test_what_is_drawn_is_answered_as_the_command_answers(server, open_page, cli, tmp_path):
    page = open_page(server)
    draw(page, SEVEN, end=False)
    expect_answer(page, "mnist", "7")  # while the pen is down
    page.mouse.up()
    page.wait_for_timeout(300)
    with page.expect_download() as saved:
        page.keyboard.press("s")
    saved.value.save_as(tmp_path / "drawing.png")
    ended = cli("ffserve", "predict", tmp_path / "drawing.png", "--top-k", "10", "--json", "--device", "cpu")
    top = ended.json["predictions"][0]["top"]
    bars = panel(page, "mnist").locator(".bars li")
    shown = dict(zip(*(bars.locator(part).all_text_contents() for part in (".name", ".share")), strict=True))
    assert shown == {each["class"]: f"{100 * each['probability']:.1f} %" for each in top}
    assert "inverted" in panel(page, "mnist").locator(".notes").first.text_content()
    assert "ms" in panel(page, "mnist").locator(".quiet").text_content()
    seen = (
        panel(page, "mnist").locator(".seen").evaluate("c => [...c.getContext('2d').getImageData(0, 0, 28, 28).data]")
    )
    own = read([Item("drawing", str(tmp_path / "drawing.png"))], wanted_of(Classifier().model)).images_NCHW
    np.testing.assert_array_equal(np.reshape(seen, (28, 28, 4))[:, :, 0], own[0, 0])
    panel(page, "mnist").locator("summary").click()
    playwright.expect(panel(page, "mnist").locator("pre")).to_contain_text("handwritten digits, by predsim")


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_a_picture_is_chosen_dropped_or_pasted(server, open_page, way, tmp_path):
    page = open_page(server)
    page.locator("article").first.wait_for()
    if way == "choose":
        (tmp_path / "seven.png").write_bytes(a_seven())
        page.locator("#file").set_input_files(tmp_path / "seven.png")
    else:
        page.evaluate(DROP, [way, "seven.png", base64.b64encode(a_seven()).decode()])
    expect_answer(page, "mnist", "7")
    playwright.expect(page.locator("#chosen")).to_be_visible()
    page.keyboard.press("Escape")
    expect_answer(page, "mnist", "")
    playwright.expect(page.locator("#chosen")).to_be_hidden()


def test_what_is_no_picture_is_said(server, open_page):
    page = open_page(server)
    page.locator("article").first.wait_for()
    page.evaluate(DROP, ["drop", "notes.txt", base64.b64encode(b"some text").decode()])
    playwright.expect(panel(page, "mnist").locator(".notes").first).to_contain_text("is no image but a text file")


def test_it_is_drawn_on_by_keyboard(server, open_page):
    page = open_page(server)
    page.locator("article").first.wait_for()
    page.locator("#pad").focus()
    for key, times in (("ArrowUp", 12), (" ", 1), ("ArrowDown", 24), (" ", 1)):
        for _ in range(times):
            page.keyboard.press(key)
    expect_answer(page, "mnist", "1")


def test_models_stand_side_by_side(server, open_page):
    page = open_page(server)
    names = ["gray", "colour", "bare", "mnist"]
    playwright.expect(page.locator("article h2")).to_have_text(names)
    draw(page, SEVEN)
    for name in ("gray", "colour", "mnist"):
        playwright.expect(panel(page, name).locator(".answer")).not_to_be_empty()
    assert "features alone" in panel(page, "bare").text_content()
    page.get_by_label("gray").uncheck()
    playwright.expect(panel(page, "gray")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_the_dark_and_in_the_light(server, open_page, scheme):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "color_scheme": scheme}
    page = open_page(server, **phone)
    page.locator("article").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 380) == (scheme == "light")
    box = page.locator("#pad").bounding_box()
    page.touchscreen.tap(box["x"] + 100, box["y"] + 100)
    playwright.expect(panel(page, "mnist").locator(".answer")).not_to_be_empty()


def test_it_asks_for_the_token(models, open_page):
    service = Service({"gray": models["gray"].path}, Settings())
    with within(service, token=b"open-sesame") as found:
        page = open_page(found)
        page.get_by_label("token").fill("open-sesame")
        page.get_by_role("button", name="Open").click()
        panel(page, "gray").wait_for()
        draw(page, SEVEN)
        playwright.expect(panel(page, "gray").locator(".answer")).not_to_be_empty()
