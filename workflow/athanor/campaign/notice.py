"""Word to the user, by the site's own command, when a campaign stops or is done: mail, a webhook, a chat."""

import os
import subprocess
import sys

from athanor.campaign.campaign import Campaign

_SECONDS = 60.0


def send_notice(campaign: Campaign, subject: str, text: str) -> bool:
    """Run the site's `notify` with `text` on its input and ATHANOR_SUBJECT in its environment; whether it went well.

    A command that fails or hangs is told on stderr: it must not end a campaign.
    """
    command = campaign.site.notify
    if not command:
        return False
    environment = {**os.environ, "ATHANOR_SUBJECT": f"athanor {campaign.name}: {subject}", "ATHANOR_CAMPAIGN": campaign.name}
    try:
        done = subprocess.run(
            command, shell=True, input=text, text=True, env=environment, capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        print(f"warning: notify={command!r} took more than {_SECONDS:.0f} s and was ended", file=sys.stderr)
        return False
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        print(
            f"warning: notify={command!r} ended with exit code {done.returncode}: {words[-1] if words else ''}", file=sys.stderr
        )
    return done.returncode == 0
