"""Requests to servers of rewards that are sent again where a server is busy, gone or just starting."""

from collections.abc import Iterable
from http import HTTPStatus

import urllib3

FIRST_WAIT_SECONDS = 0.1
BUSY = (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT)


def patient_pool(
    busy: Iterable[HTTPStatus], retries: int, longest_wait: float, timeout: float, connections: int
) -> urllib3.PoolManager:
    """For threads to share. A request, a POST as well, is sent again up to `retries` times; seconds between them double.

    The last response comes back whatever its status; urllib3.exceptions.HTTPError is raised where there is none.
    """
    retry = urllib3.Retry(
        total=retries,
        status_forcelist=[int(status) for status in busy],
        allowed_methods=None,
        backoff_factor=FIRST_WAIT_SECONDS,
        backoff_max=longest_wait,
        raise_on_status=False,
    )
    return urllib3.PoolManager(maxsize=connections, timeout=timeout, retries=retry)
