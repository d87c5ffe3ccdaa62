"""Takes the pictures of the documentation: ``python -m tests.walks.pictures`` writes ``docs/images/ohif-*.png``.

Runs a server of its own with the demo studies, and opens them in Chromium as a reader does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from server import demo
from tests.servers import REPOSITORY, environment, live_server
from tests.walks.screen import CHROMIUM, OPTIONS, PATIENCE_SECONDS, WINDOW, Pane, expect, expect_grey

IMAGES = REPOSITORY / "docs" / "images"
COLOURS = 128  # enough for a dark page with grey images, and a third of the bytes


def main() -> None:
    """Take both pictures."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "data")
        subprocess.run(
            [sys.executable, "-m", "server.cli", "demo", "--data", data], check=True, env=environment(), cwd=REPOSITORY
        )
        with live_server(data) as server, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS.split())
            page = browser.new_page(viewport=WINDOW)
            page.add_init_script(
                "localStorage?.setItem('investigationalUseDialog', '{\"expiryDate\": \"2999-01-01\"}')"
            )
            page.goto(f"{server.base}/ohif/")
            row = page.get_by_role("row").filter(has_text="Phantom, Henrik")
            row.wait_for(timeout=PATIENCE_SECONDS * 1000)
            row.click()
            page.get_by_alt_text("Thumbnail").or_(page.locator("img[src^=blob]")).first.wait_for()
            picture(page, "ohif-list.png")
            study_uid = demo.made_uid(demo.SLICES, "study")
            page.goto(f"{server.base}/ohif/viewer?StudyInstanceUIDs={study_uid}&hangingprotocolId=mpr")
            page.locator("canvas").nth(2).wait_for(timeout=PATIENCE_SECONDS * 1000)
            for rod in demo.RODS[2], demo.RODS[7]:
                x_mm = (rod.column - (demo.SIDE - 1) / 2) * demo.SPACING_MM
                expect_grey(Pane(page=page, index=2), x_mm, 30, rod.hounsfield)
            expect(Pane(page=page).number, str.isdigit, "a slice of the axial pane")
            picture(page, "ohif-mpr.png")
            browser.close()


def picture(page: Page, name: str) -> None:
    """Write what the page shows, small."""
    path = IMAGES / name
    page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(COLOURS).save(path, optimize=True)


if __name__ == "__main__":
    main()
