"""The sandbox of the machine that the tests run on."""

import pytest

from athanor.rewards.sandbox.isolation import find_isolation

_REMEDY = "SERVERS=1 make test as root on Debian runs this, or bubblewrap where user namespaces are allowed"
needs_walls = pytest.mark.skipif(not find_isolation().complete, reason=f"no sandbox: {find_isolation().why}; {_REMEDY}")
