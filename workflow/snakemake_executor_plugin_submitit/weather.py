"""Storage that fails for a while: full, over quota, or a file server that is away. Standard library only."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable

_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EREMOTEIO, errno.ENOTCONN}
_RETRY_SECONDS = 1.0


def may_pass(error: OSError) -> bool:
    """Say whether the same call may work later, when somebody has made room or the server is back."""
    return error.errno in _PASSING


def insist(write: Callable[[], object], seconds: float) -> None:
    """Call `write` until the storage takes it, for so long; then let its error through."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            write()
        except OSError as error:
            if not may_pass(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)
        else:
            return
