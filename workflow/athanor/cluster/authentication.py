"""Whether this machine can prove to the cluster who its user is, and what the cluster knows about accounts."""

import shlex
from collections.abc import Mapping

from athanor.cluster.commands import NOT_INSTALLED, Ask
from athanor.cluster.findings import Finding, error, ok, warning
from athanor.cluster.inventory import Inventory


def check_munge(settings: Mapping[str, str], ask: Ask) -> list[Finding]:
    """Whether munge, with which Slurm proves who somebody is, makes a credential here and reads it again."""
    if settings.get("AuthType") != "auth/munge":
        return [ok(f"the cluster authenticates by {settings.get('AuthType', 'other means')}, without munge")]
    options = dict(word.partition("=")[::2] for word in settings.get("AuthInfo", "").split(","))
    socket = f"-S {shlex.quote(options['socket'])}" if "socket" in options else ""
    answer = ask(["sh", "-c", f"munge -n {socket} </dev/null | unmunge {socket}"])
    if answer.code == 0:
        return [ok("munge works")]
    if answer.code == NOT_INSTALLED:
        return [ok("munge's commands are not installed here, but Slurm answers")]
    advice = "tell the administrators: munged must run here with the cluster's key, and the clock must be right"
    return [error(f"munge does not work: {answer.last_words}", advice)]


def check_accounting(inventory: Inventory) -> list[Finding]:
    """Whether accounts can be checked, and whether the user has any."""
    if inventory.associations is None:
        return [ok(f"accounts and qos are not checked: {inventory.why_no_associations}")]
    if not inventory.associations:
        say = error if "associations" in inventory.enforced else warning
        return [say("you have no account on this cluster", "ask the administrators for one")]
    names = dict.fromkeys(association.account for association in inventory.associations)
    return [ok(f"you may charge {', '.join(names)}")]
