"""Building a zoo: one module per task and method, trained, judged and stored."""

from zoo.lazy import lazy_names

__all__ = ["BuildSettings", "Record", "build_zoo", "forbids_commercial_use"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BuildSettings": "settings",
        "Record": "records",
        "build_zoo": "build",
        "forbids_commercial_use": "licences",
    },
)
