"""In MLflow's own pages a person clicks from an evaluation back to the checkpoint and to what it was trained on."""

import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from athanor.tracking.destination import Destination
from athanor.tracking.ui import HOST, UiServer, free_port, serve
from athanor.tracking.writer import sync
from tests.tracking.snapshot import runs_of
from tests.tracking.synthetic import FETCH, PATHS, write_campaign

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
PAGE_MILLISECONDS = 90_000


def test_a_busy_port_gives_way_to_the_next() -> None:
    with socket.socket() as busy:
        busy.bind((HOST, 0))
        busy.listen()
        assert free_port(busy.getsockname()[1]) > busy.getsockname()[1]


def test_a_site_with_a_server_of_its_own_is_only_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(tmp_path, uri="https://user:secret@mlflow.example.org") == 0
    assert capsys.readouterr().out == "this site's MLflow is https://mlflow.example.org\n"


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium runs this")
def test_clicks_lead_from_the_evaluation_to_the_checkpoint_and_its_dataset(store: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: make install-dev brings it")
    write_campaign(store)
    assert sync(store, "tiny", PATHS).problem == ""
    runs = runs_of(store)
    with UiServer(Destination(store), 5000) as server, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(PAGE_MILLISECONDS)
        run = runs["evaluate/400K"].info
        page.goto(f"{server.address}/#/experiments/{run.experiment_id}/runs/{run.run_id}")
        heading(page, "evaluate/400K")

        page.get_by_role("link", name="400K", exact=True).first.click()  # the model that was scored
        page.wait_for_url(re.compile("/models/m-"))
        page.get_by_role("link", name="export/400K", exact=True).first.click()  # its source run
        heading(page, "export/400K")
        page.get_by_role("link", name="pretrain/400K", exact=True).first.click()
        heading(page, "pretrain/400K")
        assert runs["pretrain/400K"].info.run_id in page.url
        page.get_by_text(f"wiki_en ({FETCH.fingerprint})").first.click()  # the dataset opens beside the run
        page.get_by_text("1200").first.wait_for()

        page.goto(f"{server.address}/#/experiments/{run.experiment_id}/runs/{runs['tiny'].info.run_id}")
        heading(page, "tiny")
        page.get_by_role("link", name="evaluate/400K", exact=True).first.click()
        heading(page, "evaluate/400K")
        browser.close()


def heading(page: Any, name: str) -> None:
    """Wait for the page of a run."""
    page.get_by_role("heading", name=name).first.wait_for()
