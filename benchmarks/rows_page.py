"""The page in headless Chromium without a GPU on a CT of 512 x 512 x 1000, beside OHIF and NiiVue on the same volume.

Everything is measured in the page with ``performance.now``: from the event to the second animation frame behind it, by
when what the first one drew is handed on. Chromium runs without a limit of its frame rate, else every figure would be a
multiple of 16.7 ms. Slices that are changed to were seen before, so that no network is measured.
"""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.table import Row, Setting, section

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "src" / "dcmark" / "web" / "static"
UNLIMITED = ["--disable-frame-rate-limit", "--disable-gpu-vsync", "--js-flags=--max-old-space-size=8192"]
CHANGES = 100
HEAP_MB = 1000
BEGINNING = """
Element.prototype.setPointerCapture = () => {};
window.frame = () => new Promise((next) => requestAnimationFrame(() => requestAnimationFrame(next)));
window.timed = async (act, seen) => {
  const begun = performance.now();
  act();
  do await window.frame(); while (seen && !seen());
  return performance.now() - begun;
};
"""
OURS_FIRST = """
const watch = new MutationObserver(async () => {
  if (!document.querySelector('.view[data-ready]')) return;
  watch.disconnect();
  await window.frame();
  window.first = performance.now();
});
watch.observe(document, {subtree: true, childList: true, attributes: true, attributeFilter: ['data-ready']});
"""
OURS_CHANGE = """async (count) => {
  const view = document.querySelector('.view'), times = [];
  for (let n = 0; n < count; n++) {
    const old = view.dataset.slice;
    const wheel = new WheelEvent('wheel', {deltaY: n % 40 < 20 ? 100 : -100, bubbles: true, cancelable: true});
    times.push(await window.timed(() => view.dispatchEvent(wheel), () => view.dataset.slice !== old));
  }
  return times;
}"""
OURS_BRUSH = """async (count) => {
  const view = document.querySelector('.view'), box = view.getBoundingClientRect(), times = [];
  const send = (type, n, buttons) => {
    const [x, y] = [box.x + box.width / 2 + 100 * Math.cos(n / 9), box.y + box.height / 2 + 100 * Math.sin(n / 9)];
    view.dispatchEvent(new PointerEvent(type, {
      clientX: x, clientY: y, pointerId: 1, button: type === 'pointermove' ? -1 : 0, buttons, bubbles: true,
      cancelable: true, pointerType: 'mouse', isPrimary: true,
    }));
  };
  send('pointermove', 0, 0);
  send('pointerdown', 0, 1);
  for (let n = 1; n <= count; n++) times.push(await window.timed(() => send('pointermove', n, 1)));
  send('pointerup', count, 0);
  return times;
}"""
OURS_PLANES = """async (count) => {
  const views = [...document.querySelectorAll('.view')].filter((one) => one.dataset.slice !== undefined).slice(0, 3);
  const times = [];
  for (let n = 0; n < count; n++) {
    const old = views.map((one) => one.dataset.slice);
    times.push(await window.timed(
      () => views.forEach((one) => one.dispatchEvent(
        new WheelEvent('wheel', {deltaY: n % 40 < 20 ? 100 : -100, bubbles: true, cancelable: true}))),
      () => views.every((one, i) => one.dataset.slice !== old[i])));
  }
  return times;
}"""
OHIF_FIRST = """
window.times = [];
let turned = 0;
window.addEventListener('wheel', () => { turned = performance.now(); }, true);
window.addEventListener('CORNERSTONE_IMAGE_RENDERED', async () => {
  if (turned) {
    const begun = turned;
    turned = 0;
    await window.frame();
    window.times.push(performance.now() - begun);
  }
  if (window.first) return;
  const canvas = document.querySelector('canvas.cornerstone-canvas');
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  if (!data.some((value, i) => i % 4 < 3 && value > 20)) return;
  window.first = 1;
  await window.frame();
  window.first = performance.now();
}, true);
"""
NIIVUE_PAGE = b"""<!doctype html><meta charset="utf-8"><title>NiiVue</title>
<body style="margin:0"><canvas id="gl" width="1400" height="800" style="width:1400px;height:800px"></canvas>
<script type="module" src="/start.mjs"></script>"""
NIIVUE_START = b"""import {Niivue} from "/dist/index.js";
try {
  const nv = window.nv = new Niivue({isResizeCanvas: false});
  await nv.attachToCanvas(document.getElementById("gl"));
  nv.setSliceType(nv.sliceTypeAxial);
  await nv.loadVolumes([{url: "/ct.nii"}]);
  window.drawn = () => nv.gl.readPixels(0, 0, 1, 1, nv.gl.RGBA, nv.gl.UNSIGNED_BYTE, new Uint8Array(4));
  nv.drawScene();
  window.drawn();
  await window.frame();
  window.first = performance.now();
} catch (error) {
  window.broken = String(error);
}
"""
NIIVUE_CHANGE = """async ([count, all]) => {
  const times = [];
  nv.setSliceType(all ? nv.sliceTypeMultiplanar : nv.sliceTypeAxial);
  window.drawn();
  for (let n = 0; n < count; n++) {
    const step = n % 40 < 20 ? 1 : -1;
    const side = all ? step : 0;
    times.push(await window.timed(() => { nv.moveCrosshairInVox(side, side, step); nv.drawScene(); window.drawn(); }));
  }
  return times;
}"""
NIIVUE_BRUSH = """async (count) => {
  const times = [];
  nv.setSliceType(nv.sliceTypeAxial);
  nv.setDrawingEnabled(true);
  nv.setPenValue(1, false);
  for (let n = 0; n < count; n++) {
    times.push(await window.timed(() => {
      nv.drawPt(200 + n, 250, 500, 1);
      nv.refreshDrawing(true);
      nv.drawScene();
      window.drawn();
    }));
  }
  return times;
}"""


@section("page", "The page, 512 x 512 x 1000 in headless Chromium without a GPU")
def page_rows(setting: Setting) -> Iterator[Row]:
    """First slice, slice change, brush, three planes and memory: dcmark, OHIF, NiiVue; then the size of the page."""
    yield bundle()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        yield Row("the page", None, note="playwright is not installed")
        return
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        yield Row("the page", None, note="there is no Chromium")
        return
    for tools in ("web", "interop"):
        sys.path.insert(0, str(ROOT / "tests" / tools))
    import viewers
    from web_tools import Running

    import dcmark

    archive = dcmark.open_archive(setting.folder / "page.dcmark", create=True)
    dcmark.ingest(setting.slices[1000], archive)
    server = Running("serve", archive.path, "--port", "0", "--token-file", setting.folder / "token")
    token = (setting.folder / "token").read_text().strip()
    try:
        with sync_playwright() as running:
            for name, rows in (
                ("dcmark", lambda browser: ours(browser, server, setting.turns)),
                ("OHIF", lambda browser: ohif(browser, viewers, server, token, setting.turns)),
                ("NiiVue", lambda browser: niivue(browser, viewers, archive, setting)),
            ):
                browser = running.chromium.launch(executable_path=program, args=[*viewers.CHROMIUM, *UNLIMITED])
                try:
                    yield from rows(browser)
                except Exception as error:  # a peer that fails is told, and is no reason to lose the others
                    if name == "dcmark":
                        raise
                    words = " ".join(str(error).split("\n")[:1])[:150]
                    yield Row(f"{name}: the rest", None, note=f"{type(error).__name__}: {words}")
                finally:
                    browser.close()
    finally:
        server.stop()


def bundle() -> Row:
    """The size of all files of the page, each packed."""
    files = [one for one in STATIC.rglob("*") if one.is_file()]
    packed = sum(len(gzip.compress(one.read_bytes())) for one in files) / 1000
    return Row("all files of the page, gzipped", packed, "kB", 250, "most", f"{len(files)} files")


def ours(browser: Any, server: Any, turns: int) -> Iterator[Row]:
    """The page."""
    name, _, value = server.cookie.partition("=")
    stack = server.json("/api/worklist")["items"][0]["id"]
    firsts = []
    for _ in range(turns):
        context = browser.new_context(viewport={"width": 1440, "height": 860})  # an empty cache
        context.add_cookies([{"name": name, "value": value, "url": server.origin}])
        page = opened(context, BEGINNING + OURS_FIRST, f"{server.origin}/#/stack/{stack}")
        firsts.append(waited(page, "window.first", 60))
        if len(firsts) < turns:
            context.close()
    words = f"median of {turns}, from {min(firsts):.0f} to {max(firsts):.0f} ms, each with an empty cache"
    yield Row("dcmark: first slice after the page is asked for", statistics.median(firsts), "ms", 1000, "most", words)
    heap = settled(page)
    yield Row("dcmark: heap of the page, all slices loaded", heap, "MB", HEAP_MB, "most", "with its buffers")
    page.keyboard.press("f")
    page.evaluate(OURS_CHANGE, 40)
    yield of_times("dcmark: slice change", page.evaluate(OURS_CHANGE, CHANGES), 16)
    page.keyboard.press("b")
    page.evaluate(OURS_BRUSH, 20)
    yield of_times("dcmark: brush, a move of it", page.evaluate(OURS_BRUSH, CHANGES), 16)
    waited(page, "document.querySelector('.saving').dataset.state === 'saved'", 60)
    kept = server.json(f"/api/stacks/{stack}/annotations")["annotations"]
    assert any(one["kind"] == "mask" for one in kept), "the strokes were no strokes"
    page.keyboard.press("Alt+2")
    waited(page, "document.querySelectorAll('.grid .view[data-ready]').length >= 3", 60)
    page.wait_for_timeout(8000)  # the picture in three dimensions is made meanwhile
    page.evaluate(OURS_PLANES, 20)
    yield of_times("dcmark: three planes, all to another slice", page.evaluate(OURS_PLANES, 40), 100)
    yield Row("dcmark: heap of the page after all that", heap_mb(page), "MB", HEAP_MB, "most", "with its buffers")


def ohif(browser: Any, viewers: Any, server: Any, token: str, turns: int) -> Iterator[Row]:
    """OHIF over our DICOMweb."""
    folder = viewers.package("ohif", True)
    if folder is None:
        yield Row("OHIF", None, note="could not be fetched from npm")
        return
    (study,) = json.loads(server.ask("GET", "/dicom-web/studies")[2])
    proxy = viewers.ohif(folder, f"{server.origin}/dicom-web", token)
    try:
        address = f"{proxy.origin}/viewer?StudyInstanceUIDs={study['0020000D']['Value'][0]}"
        firsts = []
        for _ in range(min(turns, 3)):
            context = browser.new_context(viewport={"width": 1440, "height": 860})
            page = opened(context, BEGINNING + OHIF_FIRST, address)
            firsts.append(waited(page, "window.first > 1 && window.first", 180))
            if len(firsts) < min(turns, 3):
                context.close()
        yield Row("OHIF: first slice after the page is asked for", statistics.median(firsts), "ms")
        page.wait_for_timeout(10_000)
        tour = page.locator(".shepherd-cancel-icon, .shepherd-button-secondary")
        if tour.count():
            tour.first.click()
        box = page.locator("canvas.cornerstone-canvas").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        for n in range(40 + CHANGES):  # the first forty bring the slices here
            page.mouse.wheel(0, 100 if n % 40 < 20 else -100)
            waited(page, f"window.times.length > {n}", 20)
        yield of_times("OHIF: slice change", page.evaluate("window.times")[40:])
        words = "slices near the first alone are loaded"
        yield Row("OHIF: heap of the page", heap_mb(page), "MB", note=words)
        reason = "this benchmark does not drive its tools and layouts"
        yield Row("OHIF: brush", None, note=reason)
        yield Row("OHIF: three planes", None, note=reason)
    finally:
        proxy.end()


def niivue(browser: Any, viewers: Any, archive: Any, setting: Setting) -> Iterator[Row]:
    """NiiVue over a NIfTI file of the volume."""
    import nibabel
    import numpy as np

    from dcmark.geometry import affine_to_nifti
    from dcmark.view.volumes import values as values_of

    folder = viewers.package("niivue", True)
    if folder is None:
        yield Row("NiiVue", None, note="could not be fetched from npm")
        return
    (volume,) = archive.volumes()
    values = values_of(volume, threads=2).values.astype(np.int16)
    image = nibabel.Nifti1Image(values.transpose(2, 1, 0), affine_to_nifti(volume.affine))
    nibabel.save(image, setting.folder / "ct.nii")
    del values, image
    pages = {"/": NIIVUE_PAGE, "/start.mjs": NIIVUE_START, "/ct.nii": setting.folder / "ct.nii"}
    proxy = viewers.Proxy(folder, pages=pages)
    try:
        page = opened(browser.new_context(viewport={"width": 1440, "height": 860}), BEGINNING, f"{proxy.origin}/")
        page.set_default_timeout(300_000)
        first = waited(page, "window.first || window.broken", 300)
        if isinstance(first, str):
            raise RuntimeError(first)
        note = "it loads the whole volume first"
        yield Row("NiiVue: first slice after the page is asked for", first, "ms", note=note)
        yield of_times("NiiVue: slice change", page.evaluate(NIIVUE_CHANGE, [20, False]))
        yield of_times("NiiVue: three planes, all to another slice", page.evaluate(NIIVUE_CHANGE, [20, True]))
        yield Row("NiiVue: heap of the page", heap_mb(page), "MB", note="with its buffers")
        yield of_times("NiiVue: brush, a point of it", page.evaluate(NIIVUE_BRUSH, 5))
    finally:
        proxy.end()


def opened(context: Any, script: str, address: str) -> Any:
    """A page with a script in front of its own."""
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(script)
    page.goto(address, wait_until="commit")
    return page


def waited(page: Any, expression: str, seconds: float) -> Any:
    """What an expression gives as soon as it is true. (The page's policy forbids what Playwright would wait with.)"""
    end = time.monotonic() + seconds
    while not (value := page.evaluate(expression)):
        if time.monotonic() > end:
            raise TimeoutError(f"never came within {seconds:.0f} s: {expression}")
        time.sleep(0.05)
    return value


def heap_mb(page: Any) -> float:
    """Memory of the objects and buffers of a page, without its workers."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")
    session.detach()
    return sum(used.get(name, 0) for name in ("usedSize", "embedderHeapUsedSize", "backingStorageSize")) / 1e6


def settled(page: Any, seconds: float = 120) -> float:
    """Memory of a page once it grows no more."""
    last, end = -1.0, time.monotonic() + seconds
    while time.monotonic() < end:
        now = heap_mb(page)
        if now - last < 1:
            break
        last = now
        time.sleep(3)
    return now


def of_times(what: str, times: list[float], target: float | None = None) -> Row:
    """The median of some."""
    ninety = sorted(times)[int(0.9 * (len(times) - 1))]
    note = f"median of {len(times)}; nine of ten within {ninety:.1f} ms"
    return Row(what, statistics.median(times), "ms", target, "most", note)
