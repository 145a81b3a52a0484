"""The page of an initialization: one HTML file with its pictures in it, that needs nothing from elsewhere."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer.ensembling.verdict import Verdict
from transfer.report.pictures import bars, curves, heat_map
from zoo.files import write_whole

MOST_BARS = 15  # source modules that are drawn; the table has all of them

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --soft: #5c5c5c; --line: #d8d8d8; --paper: #fff; --box: #f3f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececec; --soft: #a8a8a8; --line: #3c3c3c; --paper: #161616; --box: #20262a; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 46rem; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.verdict { background: var(--box); border-left: 4px solid #0b6e99; padding: .7rem 1rem; }
.verdict.hurts { border-color: #c4581e; } .verdict.unclear { border-color: #8a8a8a; }
figure { margin: 1rem 0; background: #fff; border-radius: 4px; padding: .5rem; }
figure svg { width: 100%; height: auto; }
figcaption, .soft { color: var(--soft); font-size: .9rem; } figure figcaption { color: #5c5c5c; padding: 0 .5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .88rem; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font: .88rem/1.45 ui-monospace, monospace; }
pre { background: var(--box); padding: .7rem; overflow-x: auto; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def write_page(recipe: dict[str, Any], path: Path) -> Path:
    """Write the page of a recipe, whole or not at all."""
    write_whole(path, page_of(recipe).encode("utf-8"))
    return path


def page_of(recipe: dict[str, Any]) -> str:
    """The page of a recipe (`Initialization.recipe`): verdict, target, sources with pictures, how it was made.

    What the recipe does not have (a verdict, learning curves, blocks, candidates) has no part in the page. All text
    is escaped: names of tasks and licences come from strangers.
    """
    target = recipe["target"]["name"]
    parts = [_verdict(recipe), _target(recipe)]
    parts += [part(recipe) for part in _PARTS]
    body = "\n".join(part for part in parts if part)
    title = f"Initialization for {html.escape(target)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n<h1>{title}: "
        f"{html.escape(recipe['method'])}, from {len(recipe['modules'])} modules</h1>\n{body}\n</main></body></html>\n"
    )


def _verdict(recipe: dict[str, Any]) -> str:
    verdict = recipe.get("verdict")
    if verdict is None:
        return '<p class="verdict unclear">No verdict: the comparison with scratch was left out (--no-guard).</p>'
    outcome = verdict["outcome"] if verdict["outcome"] in ("helps", "hurts", "unclear") else "unclear"
    handed = "scratch is handed over" if recipe["handed_over"] == "scratch" else "the merge is handed over"
    bare = replace(Verdict.from_dict(verdict), licences=())  # the licences stand in a list of their own
    said = f"{html.escape(bare.text)}. In short: {handed}."
    return f'<p class="verdict {outcome}"><strong>Verdict:</strong> {said}</p>'


def _target(recipe: dict[str, Any]) -> str:
    target = recipe["target"]
    sizes = target["sizes"]
    said = f"{sizes.get('train', 0)} training and {sizes.get('dev', 0)} dev examples from {target['source']}"
    notes = "".join(
        f"<li>{html.escape(str(note))}</li>" for note in [*target.get("notes", ()), *recipe.get("notes", ())]
    )
    return f'<p class="soft">{html.escape(said)}.</p>' + (f"<ul>{notes}</ul>" if notes else "")


def _candidates(recipe: dict[str, Any]) -> str:
    rows = (recipe.get("auto") or {}).get("candidates")
    if not rows:
        return ""
    head = list(dict.fromkeys(key for row in rows for key in row))
    table = _table(head, ([row.get(key) for key in head] for row in rows))
    return f"<h2>What was tried</h2>\n{table}"


def _curves(recipe: dict[str, Any]) -> str:
    lines = (recipe.get("verdict") or {}).get("curves")
    if not lines:
        return ""
    named = {
        ("from the initialization" if name == "initialization" else "from scratch"): rows
        for name, rows in lines.items()
    }
    return "<h2>The short tune, with and without</h2>\n" + _figure(
        curves(named, "calibrated dev loss"),
        "Dev loss while tuning on the training examples, from the initialization and from scratch. Lower is better.",
    )


def _sources(recipe: dict[str, Any]) -> str:
    scores, weights = recipe["scores"], recipe["weights"]
    order = sorted(scores, key=lambda name: (-scores[name], name))
    shown = order[:MOST_BARS]
    rest = f", the first {MOST_BARS} of {len(order)}" if len(order) > MOST_BARS else ""
    text = "<h2>How close the sources are</h2>\n"
    text += _figure(
        bars(shown, [scores[name] for name in shown], recipe["estimator"], [bool(weights.get(name)) for name in shown]),
        f"Similarity to the target by {recipe['estimator']}; higher is closer{rest}. Pale bars have no weight.",
    )
    heavy = sorted((name for name in weights if weights[name]), key=lambda name: (-abs(weights[name]), name))[
        :MOST_BARS
    ]
    if heavy:
        text += "<h2>What they weigh</h2>\n" + _figure(
            bars(heavy, [weights[name] for name in heavy], "weight"),
            f"Weights in the merge ({recipe['merge']}), the heaviest first.",
        )
    return text


def _blocks(recipe: dict[str, Any]) -> str:
    """Weights by block where there are such, else how much of each weighted module acts in each block."""
    by_block = recipe.get("block_weights")
    caption = "Weight of each module in each block."
    label = "weight"
    if not by_block:
        norms, weights = recipe.get("block_norms") or {}, recipe["weights"]
        by_block = {name: [weights[name] * norm for norm in norms[name]] for name in norms if weights.get(name)}
        caption = "Where the weighted modules act: weight times the norm of the module's change in each block."
        label = "weight x norm"
    if not by_block:
        return ""
    rows = sorted(by_block, key=lambda name: (-sum(abs(value) for value in by_block[name]), name))[:MOST_BARS]
    return "<h2>Block by block</h2>\n" + _figure(heat_map(rows, [by_block[name] for name in rows], label), caption)


def _table_of_sources(recipe: dict[str, Any]) -> str:
    about = {module["id"]: module for module in recipe["modules"]}
    scores, weights = recipe["scores"], recipe["weights"]
    order = sorted(scores, key=lambda name: (-abs(weights.get(name, 0.0)), -scores[name], name))
    rows = [
        [name, scores[name], weights.get(name, 0.0), *(about.get(name, {}).get(key) for key in ("category", "license"))]
        for name in order
    ]
    return "<h2>All sources</h2>\n" + _table(["module", "score", "weight", "category", "licence"], rows)


def _licences(recipe: dict[str, Any]) -> str:
    names = recipe.get("licences") or ()
    items = "".join(f"<li>{html.escape(str(name))}</li>" for name in names)
    return f"<h2>Licences of the merged sources</h2>\n<ul>{items}</ul>" if items else ""


def _made(recipe: dict[str, Any]) -> str:
    names = ("estimator", "how", "temperature", "top_k", "merge", "exclude", "backbone", "precision", "seeds", "guard")
    rows = [[name, recipe[name]] for name in names if recipe.get(name) is not None]
    rows.append(["seconds", ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in recipe["seconds"].items())])
    rows.append(["versions", ", ".join(f"{name} {version}" for name, version in recipe["versions"].items())])
    return "<h2>How it was made</h2>\n" + _table(["setting", "value"], rows)


_PARTS: tuple[Callable[[dict[str, Any]], str], ...] = (
    _candidates,
    _curves,
    _sources,
    _blocks,
    _table_of_sources,
    _licences,
    _made,
)


def _figure(svg: str, caption: str) -> str:
    labelled = svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(caption, quote=True)}" ', 1)
    return f"<figure>{labelled}<figcaption>{html.escape(caption)}</figcaption></figure>\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    rows = [list(row) for row in rows]
    numeric = [all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(head))]
    names = "".join(f"<th{_class(numeric[i])}>{html.escape(str(name))}</th>" for i, name in enumerate(head))
    lines = [
        "<tr>" + "".join(f"<td{_class(numeric[i])}>{_cell(value)}</td>" for i, value in enumerate(row)) + "</tr>"
        for row in rows
    ]
    return f'<div class="wide"><table><thead><tr>{names}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>\n'


def _class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        digits = ".1f" if abs(value) >= 10 else ".4f" if abs(value) >= 0.001 or not value else ".2g"
        return f"{value:{digits}}"
    if isinstance(value, list | tuple):
        return html.escape(", ".join(str(part) for part in value))
    if isinstance(value, dict):
        return html.escape(", ".join(f"{name} {part}" for name, part in value.items()))
    return html.escape(str(value))
