"""A browser plays the moving pictures that multi-frame images are rendered as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from tests.conftest import absent
from tests.retrieve import keep, url_of
from tests.servers import Live
from tests.synthetic import cine, set_pixels

pytestmark = pytest.mark.browser

CHROMIUM = Path("/usr/bin/chromium")

PLAY = """async ([url, times, places]) => {
  const video = document.createElement('video');
  video.muted = true;
  const ready = new Promise((resolve, reject) => {
    video.oncanplaythrough = resolve;
    video.onerror = () => reject(video.error.message);
  });
  video.src = url;
  await ready;
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const pen = canvas.getContext('2d');
  const shades = [];
  for (const time of times) {
    const seeked = new Promise(resolve => video.onseeked = resolve);
    video.currentTime = time;
    await seeked;
    // A machine that is busy may have decoded the frame and not shown it yet.
    let seen;
    for (let turn = 0; turn < 300; turn++) {
      await new Promise(resolve => requestAnimationFrame(resolve));
      pen.drawImage(video, 0, 0);
      seen = places.map(x => pen.getImageData(x, 40, 1, 1).data[0]);
      if (turn > 2 && seen.some(shade => shade > 200)) break;
    }
    shades.push(seen);
  }
  return {width: video.videoWidth, height: video.videoHeight, duration: video.duration, shades};
}"""


def test_chromium_plays_a_cine_as_mp4(live: Live) -> None:
    """Five frames of 200 ms; in each a bright bar stands 30 columns further to the right."""
    if not CHROMIUM.exists():
        absent("Chromium (apt-get install chromium)")
    dataset = cine(5, FrameTime=200)
    pixels = np.zeros((5, 80, 160), "<u2")
    for index in range(5):
        pixels[index, :, 30 * index : 30 * index + 20] = 1000
    set_pixels(dataset, pixels, bits_stored=12)
    with httpx.Client(base_url=live.base) as client:
        keep(client, dataset)
    url = f"{live.base}{url_of(dataset)}/rendered?accept=video/mp4"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--headless", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(f"{live.base}/healthz")
        shown: dict[str, Any] = page.evaluate(PLAY, [url, [0.1, 0.5, 0.9], [10, 70, 130]])
        browser.close()
    assert (shown["width"], shown["height"], round(shown["duration"], 3)) == (160, 80, 1.0)
    is_bright = [[shade > 200 for shade in shades] for shades in shown["shades"]]
    assert is_bright == [[True, False, False], [False, True, False], [False, False, True]]
