"""Whether the Hub answers, known within five seconds even where the network swallows every packet."""

from __future__ import annotations

import os
import threading
import time
import urllib.error
import urllib.request

from transfer.errors import DataError

# A name server that never answers blocks inside the C library, where no socket timeout reaches: the thread is left
# behind instead, and the wait is what is limited.
_WAIT_SECONDS = 4.0
_REMEMBER_SECONDS = 60.0
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = {"1", "ON", "YES", "TRUE"}
_GATEWAY = {407, 502, 503, 504}
_known: dict[str, tuple[float, str | None]] = {}


class OutOfReach(DataError):
    """The Hub does not answer, or does not hand a dataset out; another source may still have the task."""


def endpoint() -> str:
    """The Hub's address: $HF_ENDPOINT, or the public one."""
    return os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or "https://huggingface.co"


def offline() -> bool:
    """Whether the user asked for no network, by any of the variables that the Hub's libraries know."""
    return any(os.environ.get(name, "").strip().upper() in _TRUE for name in _OFFLINE)


def why_unreachable(url: str | None = None, wait: float = _WAIT_SECONDS) -> str | None:
    """Why the Hub cannot be reached, in a few words, or None if it answers. Remembered for a minute.

    Args:
        url: Asked instead of the Hub's endpoint.
        wait: Seconds until silence counts as an answer.
    """
    url = url or endpoint()
    if url in _known and time.monotonic() - _known[url][0] < _REMEMBER_SECONDS:
        return _known[url][1]
    answers: list[str | None] = []
    thread = threading.Thread(target=_ask, args=(url, wait, answers), name="hub-probe", daemon=True)
    thread.start()
    thread.join(wait)
    reason = answers[0] if answers else f"no answer within {wait:g} s"
    _known[url] = (time.monotonic(), reason)
    return reason


def _ask(url: str, wait: float, answers: list[str | None]) -> None:
    try:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "transfer"})
        # urllib takes the proxies of the environment, which the Hub's own client goes through as well.
        with urllib.request.urlopen(request, timeout=2 * wait):  # only so that the thread ends some day
            answers.append(None)
    except urllib.error.HTTPError as error:
        # The Hub itself may refuse a HEAD of its front page; a gateway's refusal means that it was never asked.
        answers.append(f"status {error.code}" if error.code in _GATEWAY else None)
    except (OSError, ValueError) as error:
        cause = getattr(error, "reason", error)  # URLError wraps what the socket said
        answers.append(getattr(cause, "strerror", None) or str(cause) or type(cause).__name__)
