"""The page in a real browser: clicks and keys as a user makes them, light and dark, wide and narrow."""

from __future__ import annotations

import copy
import json
import urllib.error
import urllib.request

import chromium
import pytest
import tiny
from torch import nn

from transfer.backbones.outline import build_outline
from transfer.deltas import LoRA, ParallelAdapter, Prefix, structure
from transfer.deltas.tree_text import TIMES
from transfer.inspecting import Pages

BINARY = chromium.find_chromium()
pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium is installed (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.Chromium(str(BINARY), tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture
def page(browser, server):
    """The page as it begins: LoRA at its own places."""
    browser.problems.clear()
    browser.look(1200, 900)
    browser.open(server.address)
    browser.wait(lambda: browser.js("document.body && document.body.dataset.counted"))
    yield browser
    assert browser.problems == []  # no error on the console, and nothing that the policy had to keep out


def shown(page):
    """What the page says of the choice."""
    names = ("summary", "where", "python", "command")
    return {name: page.js(f"document.getElementById('{name}').textContent") for name in names}


def counted(page, n):
    """Wait until the server has counted `n` parameters."""
    page.wait(lambda: page.js("document.body.dataset.counted") == str(n))


def row(place):
    """The line of the row that stands for a place, as an expression."""
    return f"[...document.querySelectorAll('#tree .line')].find((e) => e.title.split(':')[0] === {json.dumps(place)})"


def checked(page, place):
    return page.js(f"{row(place)}.parentElement.getAttribute('aria-checked')")


def n_parameters(model, method):
    """Of the delta once it is attached, to a copy: the server is looking at the model at the same time."""
    return method.attach(copy.deepcopy(model)).n_parameters


QUERY = "encoder.block.0.layer.0.SelfAttention.q"


def test_it_begins_with_the_places_of_the_method(page, model):
    counted(page, n_parameters(model, LoRA()))
    assert shown(page)["where"] == 'where=["attn.q", "attn.v"]'
    assert shown(page)["python"] == "LoRA(where=('attn.q', 'attn.v'))"
    assert shown(page)["command"] == "transfer inspect 'tiny t5' --delta lora --where attn.q --where attn.v"
    assert page.js("document.title") == "tiny t5 - transfer inspect"
    assert checked(page, QUERY) == "true"
    assert checked(page, "encoder") == "mixed"


def test_clicks_choose_places_and_the_server_counts(page, model):
    page.click("document.getElementById('clear')")
    counted(page, 0)
    assert shown(page)["summary"] == "No place is chosen yet."
    page.click(row(QUERY))
    counted(page, n_parameters(model, LoRA(where=("encoder.attn.q[0]",))))
    assert shown(page)["where"] == 'where=["encoder.attn.q[0]"]'
    page.click(row("decoder"))  # all linear layers inside
    found = page.wait(lambda: shown(page) if "decoder.ff.w2" in shown(page)["where"] else None)
    where = json.loads(found["where"].removeprefix("where="))
    places = LoRA(where=where).places(model)
    assert QUERY in places
    assert len(places) == 1 + sum(
        isinstance(module, nn.Linear) for name, module in model.named_modules() if name.startswith("decoder.")
    )
    counted(page, n_parameters(model, LoRA(where=where)))
    page.click(row("decoder"))
    counted(page, n_parameters(model, LoRA(where=("encoder.attn.q[0]",))))


def test_sizes_and_methods_are_counted_anew(page, model):
    page.js("document.querySelector('#sizes input').select()")
    page.call("Input.insertText", text="3")
    counted(page, n_parameters(model, LoRA(rank=3)))
    assert "rank=3" in shown(page)["python"]
    assert "--set rank=3" in shown(page)["command"]
    page.js("document.querySelector('#sizes input').select()")
    page.call("Input.insertText", text="0")
    page.wait(lambda: "whole number from 1" in page.js("document.getElementById('problem').textContent"))
    page.js("const m = document.getElementById('method'); m.value = 'prefix'; m.dispatchEvent(new Event('change'))")
    counted(page, n_parameters(model, Prefix()))
    assert page.js("document.getElementById('problem').hidden")
    assert page.js(f"{row(QUERY)}.parentElement.getAttribute('aria-disabled')") == "true"
    assert "no attention" in page.js(f"{row(QUERY)}.title")


def test_the_pairs_of_a_parallel_adapter_are_shown(page, model):
    page.js("const m = at('method'); m.value = 'parallel-adapter'; m.dispatchEvent(new Event('change'))")
    counted(page, n_parameters(model, ParallelAdapter()))
    assert shown(page)["where"] == 'where=["attn.proj", "ff.w2"]'
    page.click("document.getElementById('clear')")
    counted(page, 0)
    page.click(row("encoder.block.0.layer.0.SelfAttention.o"))
    counted(page, n_parameters(model, ParallelAdapter(where="encoder.attn.proj[0]", inputs="attn")))
    assert shown(page)["where"] == 'where=["encoder.attn.proj[0]"], inputs=["attn"]'
    assert shown(page)["command"].endswith("--where 'encoder.attn.proj[0]' --set inputs=attn")


def test_everything_can_be_done_with_keys(page, model):
    for _ in range(12):
        if page.js("document.activeElement.getAttribute('role')") == "treeitem":
            break
        page.press("Tab")
    at = "rows.get(document.activeElement).places[0]"
    assert page.js(at) == ""
    page.press("End")
    assert page.js(at) == "lm_head"
    page.press("Home", "ArrowDown", "ArrowDown")
    assert page.js(at) == "encoder"
    page.press("ArrowLeft")
    assert page.js("document.activeElement.getAttribute('aria-expanded')") == "false"
    page.press("ArrowDown")
    assert page.js(at) == "decoder"
    page.press("ArrowUp", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight")
    for _ in range(6):
        if page.js(at) == QUERY:
            break
        page.press("ArrowDown", "ArrowRight")
    assert page.js(at) == QUERY
    assert page.js("document.activeElement.getAttribute('aria-label')").startswith(
        "q, Linear 32→32, common name attn.q"
    )
    page.press("Space")
    counted(page, n_parameters(model, LoRA()) - n_parameters(model, LoRA(where=("encoder.attn.q[0]",))))
    assert page.js("document.activeElement.getAttribute('aria-checked')") == "false"
    page.press("Enter")
    counted(page, n_parameters(model, LoRA()))


def test_folded_layers_open_one_by_one(page):
    # The blocks of a T5 of two layers differ; those of this one are alike.
    config = tiny.tiny_model("bert").config
    config.num_hidden_layers = 4
    bert = build_outline(config, "bert")
    answer = Pages(bert, "bert").begin()["tree"]
    page.js(f"at('tree').replaceChildren(item({json.dumps(answer)}, 0, 1)); mark()")
    assert page.js("document.querySelector('.fold').textContent") == f"{TIMES}4"
    page.click("document.querySelector('.fold')")
    labels = page.js("[...document.querySelectorAll('#tree .label')].map((e) => e.textContent)")
    assert [label for label in labels if label.startswith("layer.")] == [f"layer.{i}" for i in range(4)]
    places = page.js("[...rows.values()].filter((r) => r.label === 'query').map((r) => r.places).flat()")
    assert sorted(set(places)) == sorted(set(structure(bert)["attn.q"]))


def test_copying_puts_it_on_the_clipboard(page, server):
    origin = server.address.rsplit("/", 2)[0]
    page.call("Browser.grantPermissions", origin=origin, permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.call("Page.bringToFront")
    page.click("document.querySelector('[data-from=command]')")
    page.wait(lambda: page.js("document.querySelector('[data-from=command]').textContent") == "Copied")
    assert page.js("navigator.clipboard.readText()") == shown(page)["command"]


@pytest.mark.parametrize("width", [1200, 800, 360])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_light_and_dark_wide_and_narrow(page, width, scheme):
    page.look(width, 800, scheme)
    assert page.js("document.documentElement.scrollWidth <= innerWidth")
    # Contrast of every text that is seen, by the formula of WCAG 2: 4.5 is what small text needs.
    low = page.js(
        """(() => {
          const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
          const part = (c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4);
          const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
          const behind = (e) => {
            for (; e; e = e.parentElement) {
              const colour = rgb(getComputedStyle(e).backgroundColor);
              if (colour.length < 4 || colour[3] > 0) return colour;
            }
          };
          const seen = [...document.querySelectorAll("body *")].filter(
            (e) => e.offsetParent && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
          return seen.map((e) => {
            const both = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((a, b) => b - a);
            return [e.textContent.trim().slice(0, 30), (both[0] + 0.05) / (both[1] + 0.05)];
          }).filter(([, contrast]) => contrast < 4.5);
        })()"""
    )
    assert low == []


def test_names_and_roles_are_what_a_screen_reader_needs(page):
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    for role in ("button", "combobox", "spinbutton", "treeitem", "tree", "status", "heading", "main"):
        assert [name for r, name in named if r == role], role
    for role in ("button", "combobox", "spinbutton", "treeitem", "tree"):
        assert all(name for r, name in named if r == role), role
    assert ("combobox", "Method") in named


def test_a_wrong_token_shows_nothing(browser, server):
    browser.problems.clear()
    browser.open(f"http://127.0.0.1:{server.port}/wrong/")
    browser.wait(lambda: browser.js("document.body.textContent.includes('forbidden')"))
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/wrong/page.js", timeout=30)


def test_a_server_that_has_gone_is_said(page, server):
    page.js("globalThis.fetch = () => Promise.reject(new TypeError('Failed to fetch'))")
    page.click("document.getElementById('clear')")
    page.wait(lambda: "does not answer" in page.js("document.getElementById('problem').textContent"))
