"""From a target task and stored modules to one similarity score per module: five families of estimators."""

from transfer.registry import Registry
from zoo.lazy import lazy_names

ESTIMATORS = Registry(
    "estimator",
    {
        "embedding:cosine": "transfer.similarity.embedding:EmbeddingCosine",
        "embedding:mmd": "transfer.similarity.embedding:EmbeddingDiscrepancy",
        "embedding:frechet": "transfer.similarity.embedding:EmbeddingFrechet",
        "embedding:hidden": "transfer.similarity.hidden:HiddenCosine",
        "gradient:first-order": "transfer.similarity.gradient:FirstOrder",
        "gradient:grand": "transfer.similarity.gradient:GradientNorm",
        "gradient:alignment": "transfer.similarity.gradient:GradientAlignment",
        "parameters:cosine": "transfer.similarity.parameters:ParameterCosine",
        "parameters:euclidean": "transfer.similarity.parameters:ParameterDrift",
        "prediction:loss": "transfer.similarity.prediction:PredictionLoss",
        "prediction:calibrated": "transfer.similarity.prediction:CalibratedLoss",
        "prediction:el2n": "transfer.similarity.prediction:ErrorNorm",
        "prediction:label-cosine": "transfer.similarity.prediction:LabelCosine",
        "prediction:kl": "transfer.similarity.prediction:Divergence",
        "prediction:performance": "transfer.similarity.prediction:ShortTunePerformance",
        "prediction:logme": "transfer.similarity.transferability:LogEvidence",
        "prediction:leep": "transfer.similarity.transferability:ExpectedPrediction",
        "neighbours:votes": "transfer.similarity.neighbours:NeighbourVotes",
    },
    # The family's name alone means its default variant.
    aliases={
        "embedding": "embedding:cosine",
        "gradient": "gradient:first-order",
        "parameters": "parameters:cosine",
        "prediction": "prediction:calibrated",
        "neighbours": "neighbours:votes",
    },
)

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "Scores",
    "Target",
    "find_sources",
    "module_signature",
    "score",
    "task_signature",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Estimator": "estimator",
        "Scores": "scores",
        "Target": "target",
        "find_sources": "sources",
        "module_signature": "signatures",
        "score": "scoring",
        "task_signature": "signatures",
    },
)
