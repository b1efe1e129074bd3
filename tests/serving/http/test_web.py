"""The page in a real browser, on the real default model."""

import shutil
import threading
import time
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn

from lmsteer.serving.http.run import ServerSettings, ServiceConfig, app_of, bound, service_of

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.model, pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")]
# Until a small model has written some tokens on a machine that does other things beside.
PATIENCE = 60_000


@pytest.fixture(scope="module")
def address(smollm2):
    """The server as `lmsteer serve` starts it, in a thread."""
    service = service_of(smollm2, ServiceConfig())
    with bound("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app_of(service, ServerSettings()), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(params=[1200, 390], ids=["desktop", "phone"])
def page(browser, address, request):
    """A page whose console stays silent, and which asks nothing of other machines."""
    page = browser.new_page(viewport={"width": request.param, "height": 844})
    page.set_default_timeout(PATIENCE)
    said, outside = [], []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda asked: outside.append(asked.url) if address not in asked.url else None)
    yield page
    page.close()
    assert said == []
    assert [url for url in outside if not url.startswith(("data:", "blob:"))] == []


def written(page, told):
    """What stands in the two boxes once the line below tells that it is all, and both have stood still since."""
    page.locator("#acted", has_text=told).wait_for()
    boxes = None
    while (now := [page.input_value(f"{box} textarea") for box in ("#plain", "#steered")]) != boxes:
        boxes = now
        page.wait_for_timeout(1500)
    return boxes


def narrow_enough(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_slider_changes_the_text_and_the_link_restores_it(page, address):
    page.goto(f"{address}/ui/?prompt=The+movie+was&tokens=12&temperature=0")
    plain, steered = written(page, "no steer: acted on 0 of 12 tokens")
    assert plain == steered
    dial = page.locator("#steer-sentiment input[type=range]")
    dial.focus()
    dial.fill("4")
    dial.dispatch_event("pointerup")
    still, steered = written(page, "sentiment +4: acted on 12 of 12 tokens")
    assert still == plain != steered
    assert narrow_enough(page)
    page.wait_for_url("**steer.sentiment=4**")
    assert parse_qs(urlsplit(page.url).query)["prompt"] == ["The movie was"]
    page.reload()
    page.wait_for_function("text => document.querySelector('#steered textarea')?.value === text", arg=steered)
    assert page.input_value("#steer-sentiment input[type=number]") == "4"


def test_highlights_and_the_curve_of_positions_appear(page, address):
    page.goto(f"{address}/ui/?tokens=1")
    page.get_by_role("tab", name="Read").click()
    page.click("#read")
    reading = page.frame_locator("#reading iframe")
    reading.locator("mark", has_text="loved").first.wait_for()
    shade = reading.locator("mark", has_text="loved").first.get_attribute("style")
    assert "--high" in shade
    assert reading.locator(".shares i").count() > 5
    assert narrow_enough(page)


def test_a_grid_of_strengths_is_written(page, address):
    page.goto(f"{address}/ui/?tokens=1")
    page.get_by_role("tab", name="Compare").click()
    page.get_by_label("Strengths").fill("-3, 0, 3")
    page.click("#compare")
    rows = page.locator("#grid td:first-child")
    page.wait_for_function("document.querySelectorAll('#grid tr').length === 7")
    assert rows.all_inner_texts() == ["-3", "-3", "+0", "+0", "+3", "+3"]
    page.get_by_label("Strengths").fill("high")
    page.click("#compare")
    page.locator(".toast-body", has_text="write numbers").first.wait_for()
    assert narrow_enough(page)


def test_a_look_inside_shows_words_and_their_map(page, address):
    page.goto(f"{address}/ui/?tokens=1")
    page.get_by_role("tab", name="Words").click()
    page.click("#look")
    page.locator("#words td").first.wait_for()
    assert "%" in page.locator("#words td").first.inner_text()
    assert page.locator("#map svg text, #map svg use").count() > 10
    assert narrow_enough(page)


def test_what_is_wrong_is_shown(page, address):
    page.goto(f"{address}/ui/?prompt=&tokens=3")
    page.locator(".toast-body", has_text="the prompt is empty").first.wait_for()


def test_a_key_is_asked_for_where_there_is_one(browser, smollm2):
    service = service_of(smollm2, ServiceConfig())
    settings = replace(ServerSettings(), keys=["open sesame"])
    with bound("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app_of(service, settings), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        page = browser.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/ui/")
        page.locator("input[type=password]").wait_for()
        assert page.locator("#prompt").count() == 0
        page.close()
        server.should_exit = True
        thread.join(30)
