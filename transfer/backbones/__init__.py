"""Frozen pretrained models with their tokenizer and their way of answering: encoder, seq2seq, causal."""

from zoo.lazy import lazy_names

__all__ = ["Backbone", "Encoded", "Server", "fingerprint", "load_backbone", "wrap_model"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Backbone": "backbone",
        "Encoded": "encoding",
        "Server": "serving",
        "fingerprint": "fingerprints",
        "load_backbone": "loading",
        "wrap_model": "loading",
    },
)
