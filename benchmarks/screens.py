"""Pictures of the server's page for the docs, taken in a real browser.

    python -m benchmarks.screens [ADDRESS]    of a server that runs there, or of one started for it

Needs Chromium. Writes docs/figures/server-page-*.png.
"""

from __future__ import annotations

import shutil
from typing import Annotated

import typer
from playwright.sync_api import Page, sync_playwright

from benchmarks.load import server
from benchmarks.results import PICTURES

SIZE = {"width": 1180, "height": 760}


def main(address: Annotated[str | None, typer.Argument(help="Of a running server.")] = None) -> None:
    """Take them."""
    if address is None:
        with server("--page") as (own, _):
            _take(own)
    else:
        _take(address)


def _take(address: str) -> None:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.set_default_timeout(240_000)
        link = "prompt=My+neighbour's+new+dog&steer.sentiment=3&steer.politeness=2&seed=3"
        page.goto(f"{address}/ui/?{link}")
        page.wait_for_function("document.querySelector('#acted')?.innerText.includes('of 40 tokens')")
        page.locator("#steered mark").nth(4).hover()
        _shot(page, "write")
        page.get_by_role("tab", name="Read").click()
        page.click("#read")
        page.frame_locator("#reading iframe").locator("mark").first.wait_for()
        _shot(page, "read", whole=True)
        page.get_by_role("tab", name="Words").click()
        page.click("#look")
        page.locator("#words td").first.wait_for()
        _shot(page, "look", whole=True)
        browser.close()


def _shot(page: Page, name: str, *, whole: bool = False) -> None:
    page.wait_for_timeout(1000)
    page.screenshot(path=PICTURES / f"server-page-{name}.png", full_page=whole)


if __name__ == "__main__":
    typer.run(main)
