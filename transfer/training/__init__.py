"""One tune: a Trainer that knows a backbone with a delta, its settings, and what it measures on the way."""

from zoo.lazy import lazy_names

__all__ = ["TuneSettings", "Tuned", "measure", "tune"]

__getattr__, __dir__ = lazy_names(
    __name__, {"TuneSettings": "settings", "Tuned": "tuning", "measure": "measuring", "tune": "tuning"}
)
