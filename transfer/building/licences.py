"""What a licence's own words forbid."""

from __future__ import annotations

import re

# The shared source licence of Microsoft Research is for non-commercial purposes, though its name does not say so.
_FORBIDS = re.compile(
    r"(?<![A-Za-z])NC(?![A-Za-z])|non-?\s?commercial|(research|academic)([\s_-](use|purposes?))?[\s_-]only"
    r"|no commercial|microsoft research shared source",
    re.IGNORECASE,
)


def forbids_commercial_use(licence: str) -> bool:
    """True where the text says so; a licence that is unknown forbids nothing it does not say.

    >>> forbids_commercial_use("CC BY-NC-SA 4.0"), forbids_commercial_use("cc_by_nc_4.0")
    (True, True)
    >>> forbids_commercial_use("for research purpose only"), forbids_commercial_use("CC BY-SA 4.0")
    (True, False)
    """
    return bool(_FORBIDS.search(licence))
