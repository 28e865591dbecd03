"""OHIF as npm ships it, unmodified, in headless Chromium over DICOMweb: the list of studies, a CT, a segmentation.

DCMARK_PICTURES names a folder for screenshots.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import viewers
from web_tools import Running

import dcmark
from dcmark.testing.synthetic import ct_series

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
SHAPE = (24, 128, 128)
NAMES = {"QX-7411": "Quist^Imogen", "QX-7412": "Roe^Richard"}
COLOURED = """() => {
  // Pixels of the picture: of one brightness or more than black, and those with a hue.
  const canvas = document.querySelector('canvas.cornerstone-canvas');
  if (!canvas || !canvas.width) return [0, 0, 0];
  const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let lit = 0, hued = 0;
  const seen = new Set();
  for (let i = 0; i < data.length; i += 4) {
    lit += data[i] > 20;
    hued += Math.max(data[i], data[i + 1], data[i + 2]) - Math.min(data[i], data[i + 1], data[i + 2]) > 25;
    seen.add(data[i]);
  }
  return [lit, hued, seen.size];
}"""


def ball() -> np.ndarray:
    """(slices, rows, columns): where the segment is, left of the middle of the picture."""
    k, j, i = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return ((k - 12) * 2.4) ** 2 + (j - 64) ** 2 + (i - 40) ** 2 < 20**2


def runs(plane: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], plane.ravel().astype(np.int8), [0]))))
    starts, ends = edges[::2], edges[1::2]
    return [int(x) for x in np.stack([starts, ends - starts], 1).ravel()]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[viewers.Proxy]:
    """OHIF over a CT with a segmentation that was drawn through the page's interface, exported, and sent."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    folder = viewers.package("ohif")
    if folder is None:
        pytest.skip("OHIF is not here (make test-interop fetches it; it needs npm and a network)")
    place = tmp_path_factory.mktemp("ohif")
    k, j, i = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    body = np.where((j - 64) ** 2 + (i - 64) ** 2 + 0 * k < 56**2, 40, -1000)
    hu = np.where(ball(), 150, body) + np.random.default_rng(0).integers(-15, 15, SHAPE)
    for n, (patient, name) in enumerate(NAMES.items(), 1):
        tags = {"PatientID": patient, "StudyDescription": "Abdomen", "SeriesDescription": "Portal venous"}
        ct_series(place / "in" / patient, hu, patient=name, study=n, series=n, tags=tags)
    archive = dcmark.open_archive(place / "a.dcmark", create=True)
    dcmark.ingest([place / "in"], archive)
    server = Running("serve", archive.path, "--port", "0", "--token-file", place / "token")
    token = (place / "token").read_text().strip()
    try:
        items = server.json("/api/worklist")["items"]
        stack = next(item["id"] for item in items if item["patient"] == NAMES["QX-7411"])
        heights = [one["position"] for one in server.json(f"/api/stacks/{stack}")["slices"]]
        assert len(heights) == SHAPE[0]
        slices = [{"k": n, "runs": runs(plane)} for n, plane in enumerate(ball()) if plane.any()]
        label = {
            "name": "Liver", "color": "#cc3311",
            "code": {"value": "10200004", "scheme": "SCT", "meaning": "Liver"},
        }  # fmt: skip
        action = {"type": "add", "annotation": {"kind": "mask", "label": label, "mask": {"slices": slices}}}
        body_of = {"client": str(uuid.uuid4()), "based_on": None, "actions": [action], "author": "Ada"}
        assert server.ask("POST", f"/api/stacks/{stack}/events", body_of)[0] == 201
        status, _, file = server.ask("GET", f"/api/stacks/{stack}/export?format=seg")
        assert status == 200, file
        (place / "seg").write_bytes(file)
        store(server, token, segmentation(place / "seg"))
        made = viewers.ohif(folder, f"{server.origin}/dicom-web", token)
        made.studies = json.loads(server.ask("GET", "/dicom-web/studies")[2])
        yield made
        made.end()
    finally:
        server.stop()


def segmentation(file: Path) -> bytes:
    """The object of an export: the file itself, or the one in its zip."""
    import zipfile

    if not zipfile.is_zipfile(file):
        return file.read_bytes()
    with zipfile.ZipFile(file) as packed:
        (name,) = [one for one in packed.namelist() if one.endswith(".dcm")]
        return packed.read(name)


def store(server: Running, token: str, data: bytes) -> None:
    connection = http.client.HTTPConnection(server.origin.partition("//")[2], timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/dicom"}
    connection.request("POST", "/dicom-web/studies", data, headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    assert answer.status == 200, said


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as running:
        made = running.chromium.launch(executable_path=program, args=viewers.CHROMIUM)
        yield made
        made.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    made = browser.new_page(viewport={"width": 1440, "height": 860})
    made.set_default_timeout(60_000)
    yield made
    made.close()


def picture(page: Any, name: str) -> None:
    if os.environ.get("DCMARK_PICTURES"):
        page.screenshot(path=Path(os.environ["DCMARK_PICTURES"]) / f"ohif-{name}.png")


def until(page: Any, found: Any, seconds: float = 60) -> Any:
    """What ``found`` gives as soon as it is true."""
    end = time.monotonic() + seconds
    while not (value := found()):
        if time.monotonic() > end:
            picture(page, "failed")
            raise AssertionError("it never came")
        time.sleep(0.1)
    return value


def test_the_list_of_studies(proxy: viewers.Proxy, page: Any) -> None:
    page.goto(f"{proxy.origin}/")
    for patient in NAMES:
        page.get_by_text(patient, exact=True).first.wait_for()
    words = page.locator("body").inner_text()
    picture(page, "studies")
    for name in NAMES.values():
        assert name.replace("^", ", ") in words or name in words or name.replace("^", " ") in words
    assert words.count("Abdomen") == len(NAMES)
    assert str(SHAPE[0]) in words, "instances of a study"
    assert proxy.failed == []


def test_a_ct_and_a_segmentation_over_it(proxy: viewers.Proxy, page: Any) -> None:
    (study,) = [
        one["0020000D"]["Value"][0] for one in proxy.studies if one["00100020"]["Value"] == ["QX-7411"]
    ]  # fmt: skip
    page.goto(f"{proxy.origin}/viewer?StudyInstanceUIDs={study}")
    page.locator("canvas.cornerstone-canvas").first.wait_for()
    until(page, lambda: page.evaluate(COLOURED)[0] > 5000)
    lit, hued, greys = page.evaluate(COLOURED)
    picture(page, "ct")
    assert greys > 20, "a picture, not an area of one colour"
    assert hued < 50, "grey, as long as nothing lies over it"
    page.get_by_text("SEG", exact=True).first.wait_for()
    tour = page.locator(".shepherd-modal-is-visible")
    if tour.count():  # a first visit is shown around
        page.locator(".shepherd-cancel-icon, .shepherd-button-secondary").first.click()
        tour.first.wait_for(state="detached")
    page.locator('[data-cy="study-browser-thumbnail-no-image"]').first.dblclick()
    yes = page.locator('[data-cy="yes-hydrate-btn"]')
    yes.first.wait_for()
    yes.first.click()
    yes.first.wait_for(state="detached")
    until(page, lambda: page.evaluate(COLOURED)[1] > 200)
    panel = page.locator('[data-cy="panelSegmentation-btn"], [data-cy="panelSegmentationWithTools-btn"]')
    if "Liver" not in page.locator("body").inner_text() and panel.count():
        panel.first.click()
    until(page, lambda: "Liver" in page.locator("body").inner_text(), 40)
    time.sleep(1)
    picture(page, "seg")
    assert lit > 5000
    assert proxy.failed == []
    assert any("/frames/" in path and status == 200 for path, status in proxy.asked)
