"""From scores to one delta: ensemble weights, merging, and the guard that holds the result against scratch."""

from transfer.registry import Registry
from zoo.lazy import lazy_names

WEIGHTINGS = Registry(
    "weighting",
    {
        "softmax": "transfer.ensembling.weighting:softmax",
        "uniform": "transfer.ensembling.weighting:uniform",
        "best": "transfer.ensembling.weighting:best",
        "learned": "transfer.ensembling.learned:Learned",
        "search": "transfer.ensembling.search:Search",
        "greedy": "transfer.ensembling.greedy:Greedy",
        "cluster": "transfer.ensembling.cluster:Cluster",
    },
)

MERGES = Registry(
    "merge",
    {
        "linear": "transfer.ensembling.linear:Linear",
        "published": "transfer.ensembling.published:Published",
        "task-arithmetic": "transfer.ensembling.task_arithmetic:TaskArithmetic",
        "ties": "transfer.ensembling.ties:Ties",
        "dare": "transfer.ensembling.dare:Dare",
        "dare-ties": "transfer.ensembling.dare:DareTies",
        "concat": "transfer.ensembling.concat:Concat",
        "svd": "transfer.ensembling.svd:Svd",
        "knots": "transfer.ensembling.knots:Knots",
        "regmean": "transfer.ensembling.regmean:RegMean",
        "aligned": "transfer.ensembling.aligned:Aligned",
    },
    beside=("auto",),
)

__all__ = [
    "MERGES",
    "WEIGHTINGS",
    "FitSettings",
    "MergeRule",
    "Pool",
    "Verdict",
    "fit_weights",
    "guard",
    "merge",
    "weigh",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "FitSettings": "fitted",
        "MergeRule": "rule",
        "Pool": "fitted",
        "Verdict": "verdict",
        "fit_weights": "fitted",
        "guard": "guarding",
        "merge": "merging",
        "weigh": "weighting",
    },
)
