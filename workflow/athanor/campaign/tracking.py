"""A campaign's way into MLflow: the writer beside the driver, a sync by hand, and the pages."""

from athanor.campaign.campaign import Campaign
from athanor.tracking.process import WriterProcess, start_writer_process
from athanor.tracking.writer import sync as bring


def start_writer(campaign: Campaign) -> WriterProcess:
    """Start the process that drains the campaign's spools while the driver lives."""
    return start_writer_process(campaign.store.root, _name(campaign), _folders(campaign), campaign.site.tracking_uri)


def sync(campaign: Campaign) -> str:
    """Bring everything the spools have into MLflow now; returns a sentence that says what was brought."""
    return str(bring(campaign.store.root, _name(campaign), _folders(campaign), campaign.site.tracking_uri))


def open_ui(campaign: Campaign, port: int) -> int:
    """Serve MLflow's pages on this machine until Ctrl-C. Returns the exit code."""
    from athanor.tracking.ui import serve

    return serve(campaign.store.root, port, campaign.site.tracking_uri)


def _name(campaign: Campaign) -> str:
    return f"{campaign.owner}/{campaign.name}"


def _folders(campaign: Campaign) -> list[str]:
    return [artifact.path for artifact in campaign.lifecycle]
