"""One tune: a Trainer that knows a backbone with a delta, its settings, and what it measures on the way."""

from zoo.lazy import lazy_names

__all__ = ["Sparsified", "TuneSettings", "Tuned", "XiSchedule", "measure", "sparsify", "tune"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Sparsified": "sparsifying",
        "TuneSettings": "settings",
        "Tuned": "tuning",
        "XiSchedule": "schedules",
        "measure": "measuring",
        "sparsify": "sparsifying",
        "tune": "tuning",
    },
)
