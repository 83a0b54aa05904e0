"""In MLflow's own pages a person clicks from an evaluation back to the checkpoint and to what it was trained on."""

import re
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from athanor.tracking.destination import Destination
from athanor.tracking.ui import HOST, UiServer, free_port, serve
from athanor.tracking.writer import Summary, sync
from tests.tracking.conftest import MakeStore
from tests.tracking.snapshot import runs_of, snapshot
from tests.tracking.synthetic import CAMPAIGN, FETCH, PATHS, write_campaign

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
def test_a_tracking_server_takes_the_same_campaign_as_a_database(make_store: MakeStore) -> None:
    direct, server_store, served = make_store("direct"), make_store("server"), make_store("served")
    write_campaign(direct)
    for stage in {artifact.stage for artifact in CAMPAIGN}:
        shutil.copytree(direct / stage, served / stage)
    assert sync(direct, "tiny", PATHS).problem == ""
    with UiServer(Destination(server_store), 5000) as server:
        assert sync(served, "tiny", PATHS, uri=server.address) == Summary(runs=8, records=61, behind=0)
        shutil.rmtree(served / "tracking")
        assert sync(served, "tiny", PATHS, uri=server.address) == Summary(runs=8, records=61, behind=0)
    assert snapshot(server_store) == snapshot(direct)


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

        model = click(page, "400K")  # the model that was scored
        model.wait_for_url(re.compile("/models/m-"))
        export = click(model, "export/400K")  # its source run
        heading(export, "export/400K")
        pretrain = click(export, "pretrain/400K")
        heading(pretrain, "pretrain/400K")
        assert runs["pretrain/400K"].info.run_id in pretrain.url
        pretrain.get_by_text(f"wiki_en ({FETCH.fingerprint})").first.click()  # the dataset opens beside the run
        pretrain.get_by_text("1200").first.wait_for()

        page.goto(f"{server.address}/#/experiments/{run.experiment_id}/runs/{runs['tiny'].info.run_id}")
        heading(page, "tiny")
        heading(click(page, "evaluate/400K"), "evaluate/400K")
        browser.close()


def click(page: Any, name: str) -> Any:
    """Click the link `name`; the page it leads to, which may be a new tab."""
    link = page.get_by_role("link", name=name, exact=True).first
    link.wait_for()
    if link.get_attribute("target") != "_blank":
        link.click()
        return page
    with page.expect_popup() as opened:
        link.click()
    opened.value.set_default_timeout(PAGE_MILLISECONDS)
    return opened.value


def heading(page: Any, name: str) -> None:
    """Wait for the page of a run."""
    page.get_by_role("heading", name=name).first.wait_for()
