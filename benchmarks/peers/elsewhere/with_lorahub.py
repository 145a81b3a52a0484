"""LoraHub's search by its own package: its score, its penalty, its optimiser and its sum, with our loss of the target.

The package's one entry point loads sequence-to-sequence models alone; what it does there is done here, step by step.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import nevergrad
import numpy
import peft
from lorahub.algorithm import default_l1_regularization, get_final_weights, get_score
from peft.utils.save_and_load import load_peft_weights, set_peft_model_state_dict

from transfer.backbones import load_backbone
from transfer.tasks import load_task
from transfer.training.measuring import measure


def main() -> None:
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    task = load_task(asked["target"], examples=asked["examples"], seed=asked["seed"], source="folder")
    backbone = load_backbone()
    rows = backbone.encode(task.train, task.fields)
    random.seed(asked["seed"])
    numpy.random.seed(asked["seed"])
    begun = time.perf_counter()
    model = peft.PeftModel.from_pretrained(backbone.model, asked["modules"][0])  # puts its layers into backbone.model
    model.eval()
    cache = {folder: load_peft_weights(folder, device="cpu") for folder in asked["modules"]}
    loaded = time.perf_counter()
    score = partial(
        get_score,
        model=model,
        cache=cache,
        example_dataset=rows,
        batch_size=None,
        get_loss=lambda examples, model, batch_size: measure(backbone, examples).loss,
        get_regular=default_l1_regularization,
    )
    count = len(asked["modules"])
    space = nevergrad.p.Array(init=[0] * count, upper=[1.5] * count, lower=[-1.5] * count)
    found = nevergrad.optimizers.NGOpt(parametrization=space, budget=asked["steps"]).minimize(score)
    weights = found.value
    set_peft_model_state_dict(model, get_final_weights(weights, asked["modules"], cache))
    seconds = time.perf_counter() - loaded
    model.save_pretrained(asked["out"])
    answer = {
        "folder": asked["out"],
        "version": f"lorahub {version('lorahub')}, nevergrad {nevergrad.__version__}",
        "weights": [round(float(weight), 4) for weight in weights],
        "objective": float(score(weights)),
        "seconds_load": round(loaded - begun, 3),
        "seconds_merge": round(seconds, 3),
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main()
