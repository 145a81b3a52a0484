"""A head start for a new NLP task from the PEFT modules one already has.

>>> import transfer
>>> "initialize" in dir(transfer)
True
"""

from zoo.lazy import lazy_names

__all__ = [
    "Initialization",
    "Scores",
    "Task",
    "TransferError",
    "evaluate",
    "finetune",
    "initialize",
    "load_backbone",
    "load_task",
    "merge",
    "predict",
    "score",
    "weigh",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Initialization": "initialization",
        "Scores": "similarity.scores",
        "Task": "tasks.task",
        "TransferError": "errors",
        "evaluate": "evaluation",
        "finetune": "finetuning",
        "initialize": "initializing",
        "load_backbone": "backbones.loading",
        "load_task": "tasks.load",
        "merge": "ensembling.merging",
        "predict": "predicting",
        "score": "similarity.scoring",
        "weigh": "ensembling.weighting",
    },
)
