"""The page in a real browser, on a tiny model."""

import shutil
from urllib.parse import parse_qs, urlsplit

import pytest

from live_server import running
from lmsteer.serving.http.run import ServerSettings, ServiceConfig, create_full_app, create_service

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
# Milliseconds that a step may take on a busy machine.
TIMEOUT = 60_000


@pytest.fixture(scope="module")
def make_app(endless, steers, on_a_loop):
    """The app that `lmsteer serve` runs, with some settings."""

    def make(**settings):
        service = create_service(endless, ServiceConfig(folders=[steers]))
        return on_a_loop(create_full_app, service, ServerSettings(**settings))

    return make


@pytest.fixture(scope="module")
def address(make_app):
    with running(make_app()) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(params=[1200, 390], ids=["desktop", "phone"])
def page(browser, address, request):
    """A page that logs no errors, and loads nothing from other machines."""
    page = browser.new_page(viewport={"width": request.param, "height": 844})
    page.set_default_timeout(TIMEOUT)
    errors, elsewhere = [], []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda asked: elsewhere.append(asked.url) if address not in asked.url else None)
    yield page
    page.close()
    assert errors == []
    assert [url for url in elsewhere if not url.startswith(("data:", "blob:"))] == []


def fits(page):
    """Whether nothing is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def texts(page, summary):
    """The two texts, once the summary below them has these words."""
    page.locator("#acted", has_text=summary).wait_for()
    return [page.locator(f"{box} .text").inner_text() for box in ("#plain", "#steered")]


def open_tab(page, address, name):
    """Open a tab once the page has shown its first texts: only then does it listen to every click."""
    page.goto(f"{address}/ui/?tokens=1")
    texts(page, "acted on 0 of 1 tokens")
    page.get_by_role("tab", name=name).click()


def open_fold(page, title, field):
    """Open a fold, and return its field once it may be filled.

    The page restores the values of a fold in the frame after it is drawn: a value filled before that is lost.
    """
    page.get_by_text(title).click()
    page.get_by_label(field).wait_for()
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.get_by_label(field)


def test_slider_changes_the_text_and_the_link_restores_it(page, address):
    page.goto(f"{address}/ui/?prompt=The+movie+was&tokens=12&temperature=0")
    plain, steered = texts(page, "no steer: acted on 0 of 12 tokens")
    assert plain == steered
    slider = page.locator("#steer-style input[type=range]")
    slider.focus()
    slider.fill("4")
    slider.dispatch_event("pointerup")
    still, steered = texts(page, "style +4: acted on 12 of 12 tokens")
    assert still == plain != steered
    assert fits(page)
    page.wait_for_url("**steer.style=4**")
    assert parse_qs(urlsplit(page.url).query)["prompt"] == ["The movie was"]
    page.reload()
    page.wait_for_function("text => document.querySelector('#steered .text')?.innerText === text", arg=steered)
    assert page.input_value("#steer-style input[type=number]") == "4"


def test_words_are_tinted_until_that_is_switched_off(page, address):
    page.goto(f"{address}/ui/?tokens=12&temperature=0&steer.style=4")
    plain, steered = texts(page, "style +4: acted on 12 of 12 tokens")
    word = page.locator("#steered mark").first
    assert "nats" in word.get_attribute("data-tip")
    assert page.locator("#plain mark").count() > 0
    assert page.locator("#legend .scale").is_visible()
    assert fits(page)
    page.get_by_label("Colour the words").click()
    page.get_by_role("option", name="none").click()
    page.wait_for_function("!document.querySelector('mark')")
    assert texts(page, "style +4: acted on 12 of 12 tokens") == [plain, steered]
    open_fold(page, "Limits of each word", "number input for Divergence").fill("0.1")
    page.click("#write")
    page.wait_for_url("**kl=0.1**")
    page.wait_for_function("text => document.querySelector('#steered .text').innerText !== text", arg=steered)
    assert fits(page)


def test_steers_act_where_the_page_says(page, address):
    page.goto(f"{address}/ui/?tokens=12&temperature=0&steer.style=4")
    plain, everywhere = texts(page, "style +4: acted on 12 of 12 tokens")
    assert not page.get_by_label("From token").is_visible()
    open_fold(page, "Where the steers act", "From token").fill("4")
    page.click("#write")
    still, late = texts(page, "style +4@4..: acted on 8 of 12 tokens")
    assert still == plain
    assert late != everywhere
    page.wait_for_url("**from=4**")
    page.get_by_text("Hold a reading").click()
    page.get_by_label("Largest strength").wait_for()
    assert fits(page)


def test_analysis_shows_shaded_words_and_the_curve_of_positions(page, address):
    open_tab(page, address, "Read")
    page.click("#read")
    document = page.frame_locator("#reading iframe")
    word = document.locator("mark", has_text="loved").first
    word.wait_for()
    assert "--high" in word.get_attribute("style")
    assert document.locator(".shares i").count() > 5
    assert fits(page)


def test_comparison_has_a_line_for_each_text(page, address):
    open_tab(page, address, "Compare")
    page.get_by_label("Strengths").fill("-3, 0, 3")
    page.click("#compare")
    strengths = page.locator("#grid td:first-child")
    page.wait_for_function("document.querySelectorAll('#grid tr').length === 7")
    assert strengths.all_inner_texts() == ["-3", "-3", "+0", "+0", "+3", "+3"]
    page.get_by_label("Strengths").fill("high")
    page.click("#compare")
    page.locator(".toast-body", has_text="write numbers").first.wait_for()
    assert fits(page)


def test_words_of_a_steer_and_their_map_are_shown(page, address):
    open_tab(page, address, "Words")
    page.click("#look")
    page.locator("#words td").first.wait_for()
    assert "%" in page.locator("#words td").first.inner_text()
    assert page.locator("#map svg text, #map svg use").count() > 10
    assert fits(page)


def test_error_is_shown(page, address):
    page.goto(f"{address}/ui/?prompt=&tokens=3")
    page.locator(".toast-body", has_text="the prompt is empty").first.wait_for()


def test_page_asks_for_a_key_if_the_server_has_one(browser, make_app):
    with running(make_app(keys=["open sesame"])) as address:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.goto(f"{address}/ui/")
        page.locator("input[type=password]").wait_for()
        assert page.locator("#prompt").count() == 0
        page.close()
