"""Pages in headless Chromium: nothing sticks out, everything can be read, and hostile ids stay text."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from recsys_spark.report.page import compare_page, run_page
from tests.report.page_samples import page_data
from tests.report.test_page import HOSTILE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; `make browser` installs one")

WIDTHS = (360, 1280)
# Text of normal size needs 4.5 to 1 to be read (WCAG 2.1, 1.4.3), bars and lines 3 to 1 (1.4.11).
MEASURE = """
const light = c => { const v = c.map(x => x / 255).map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
                     return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
const numbers = text => text.match(/[\\d.]+/g).map(Number);
const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
function back(node, view) { for (let n = node; n; n = n.parentElement) {
  const c = numbers(view.getComputedStyle(n).backgroundColor); if (c.length < 4 || c[3] > 0) return c.slice(0, 3); }
  return [255, 255, 255]; }
function measure(frame) {
  const doc = frame.contentDocument, view = frame.contentWindow, faint = [];
  for (const n of doc.querySelectorAll('body *')) {
    const own = [...n.childNodes].some(c => c.nodeType === 3 && c.data.trim()), style = view.getComputedStyle(n);
    if (!own || ['STYLE', 'TITLE', 'title'].includes(n.tagName) || n.closest('.skip')) continue;
    const colour = n instanceof view.SVGElement ? style.fill : style.color;
    const found = contrast(numbers(colour).slice(0, 3), back(n, view));
    if (found < 4.5) faint.push(n.textContent.slice(0, 40) + ' ' + found.toFixed(2)); }
  for (const n of doc.querySelectorAll('rect, circle')) {
    const fill = numbers(view.getComputedStyle(n).fill), found = contrast(fill.slice(0, 3), back(n, view));
    if (found < 3) faint.push(n.tagName + ' ' + found.toFixed(2)); }
  const outside = [...doc.querySelectorAll('svg')].flatMap(svg => { const s = svg.getBoundingClientRect();
    return [...svg.querySelectorAll('text, rect, circle')].filter(t => { const b = t.getBoundingClientRect();
      return b.left < s.left - 1 || b.right > s.right + 1 || b.top < s.top - 1 || b.bottom > s.bottom + 1; })
      .map(t => t.textContent.slice(0, 60)); });
  const small = [...doc.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height);
  return {width: view.innerWidth, scroll: doc.documentElement.scrollWidth, faint: [...new Set(faint)].slice(0, 9),
          outside, active: doc.querySelectorAll('script, img, iframe, object').length,
          charts: doc.querySelectorAll('svg').length,
          dark: view.matchMedia('(prefers-color-scheme: dark)').matches, alerted: view.alerted === true,
          requests: view.performance.getEntriesByType('resource').length};
}
window.onload = () => { document.getElementById('out').textContent =
  JSON.stringify([...document.querySelectorAll('iframe')].map(measure)); };
"""


def measured(folder: Path, page: str, *, dark: bool) -> list[dict[str, Any]]:
    """Return what the browser says of a page at each width."""
    frames = "".join(f'<iframe style="width:{w}px;height:900px" srcdoc="{html.escape(page)}"></iframe>' for w in WIDTHS)
    outer = folder / "outer.html"
    outer.write_text(f"<!DOCTYPE html><meta charset=utf-8><pre id=out></pre>{frames}<script>{MEASURE}</script>")
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else ["--blink-settings=preferredColorScheme=1"]
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=8000",
        f"--user-data-dir={folder}/p",
    ]
    command = [str(CHROMIUM), *options, *scheme, "--dump-dom", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return list(json.loads(html.unescape(found.group(1))))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["run", "compare"])
def test_pages_fit_and_can_be_read(tmp_path: Path, kind: str, dark: bool) -> None:
    data = page_data()
    page = run_page(data) if kind == "run" else compare_page(data, data)
    for found, width in zip(measured(tmp_path, page, dark=dark), WIDTHS, strict=True):
        assert found["dark"] == dark
        assert found["charts"] > 2
        assert found["scroll"] <= width, "the page is wider than the window"
        assert found["outside"] == [], "texts or marks stick out of their charts"
        assert found["faint"] == [], "texts or marks are too faint"
        assert found["requests"] == 0


def test_hostile_ids_do_nothing(tmp_path: Path) -> None:
    data = json.loads(json.dumps(page_data(HOSTILE.replace("alert(", "parent.frames[0].alerted=true;("))))
    for found in measured(tmp_path, run_page(data), dark=False):
        assert not found["alerted"]
        assert found["active"] == 0
        assert found["scroll"] <= found["width"]
