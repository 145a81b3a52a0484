"""Keeping the head start: ways of tuning that hold on to what a start already knows, each of them chosen on dev."""

from transfer.registry import Registry
from zoo.lazy import lazy_names

KEEPS = Registry(
    "way to keep",
    {
        "best": "transfer.keeping.steps:Best",
        "last": "transfer.keeping.steps:Last",
        "l2-sp": "transfer.keeping.steps:L2SP",
        "interpolate": "transfer.keeping.averages:Interpolate",
        "average": "transfer.keeping.averages:Average",
        "soup": "transfer.keeping.soups:Soup",
        "greedy-soup": "transfer.keeping.soups:GreedySoup",
        "mixing": "transfer.keeping.mixing:Mixing",
        "mixing-rest": "transfer.keeping.mixing:MixingRest",
        "auto": "transfer.keeping.several:Auto",
    },
)

__all__ = ["KEEPS", "Keep", "KeepSettings", "Kept", "Trial", "Work", "keep_start"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Keep": "keep",
        "KeepSettings": "keep",
        "Kept": "choosing",
        "Trial": "keep",
        "Work": "work",
        "keep_start": "choosing",
    },
)
