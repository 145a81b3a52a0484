"""The server over plain HTTP: what it answers, and all that it refuses."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import shlex
import socket
import struct
from importlib.resources import files

import pytest
import tiny
from torch import nn

from transfer.deltas import METHODS, Adapter, LoRA, ParallelAdapter, structure
from transfer.inspecting import Pages, Server, choose


def ask(server, method, path, body=None, headers=None):
    """(status, headers, text) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def question(server, path, document, **headers):
    """(status, document) of a question as the page sends it."""
    sent = {"Content-Type": "application/json", **headers}
    status, _, text = ask(server, "POST", f"/{server.token}/{path}", json.dumps(document), sent)
    return status, json.loads(text)


def test_the_page_and_what_it_needs_are_served(server):
    for path, kind in (("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript")):
        status, headers, text = ask(server, "GET", f"/{server.token}/{path}")
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, kind)
        assert int(headers["Content-Length"]) == len(text.encode())
        assert ask(server, "HEAD", f"/{server.token}/{path}")[::2] == (200, "")


def test_every_answer_has_the_headers_that_keep_it_in(server):
    for path in (f"/{server.token}/", f"/{server.token}/begin", f"/{server.token}/nothing", "/"):
        _, headers, _ = ask(server, "GET", path)
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers
        assert headers["Server"].strip() == "transfer"  # no version of Python


def test_the_page_asks_for_nothing_from_elsewhere():
    for name in ("page.html", "page.css", "page.js"):
        text = files("transfer.inspecting").joinpath(name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text.replace("// ", ""))
        # A script or style inside the page would need a hole in the policy; HTML from names would need escaping.
        assert not re.search(r"<style|style=|\bon[a-z]+=\"|innerHTML|insertAdjacentHTML|eval\(", text)


@pytest.mark.parametrize(
    "path",
    ["/", "", "/wrong/", "/{token}x/", "/{half}/", "/favicon.ico", "/page.js", "/x/../{token}/"],
)
def test_without_the_token_nothing_is_told(server, path):
    path = path.format(token=server.token, half=server.token[:-1])
    for method in ("GET", "HEAD", "POST"):
        status, _, text = ask(server, method, path or "/", "{}" if method == "POST" else None)
        assert status == 403
        assert text in ("", '{"error": "forbidden"}')


def test_an_address_that_lost_its_last_slash_finds_the_page(server):
    status, headers, _ = ask(server, "GET", f"/{server.token}")
    assert (status, headers["Location"]) == (308, f"/{server.token}/")
    assert ask(server, "GET", f"/{server.token}", headers={"Host": "example.com"})[0] == 403


@pytest.mark.parametrize(
    "host", ["example.com", "example.com:{port}", "127.0.0.1", "localhost:1", "127.0.0.1.evil:{port}", ""]
)
def test_another_host_is_refused(server, host):
    headers = {"Host": host.format(port=server.port)}
    assert ask(server, "GET", f"/{server.token}/", headers=headers)[0] == 403
    assert ask(server, "GET", f"/{server.token}/", headers={"Host": f"localhost:{server.port}"})[0] == 200


def test_two_hosts_or_none_are_refused(server):
    for hosts in (b"", b"Host: 127.0.0.1:%d\r\nHost: example.com\r\n" % server.port):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.sendall(b"GET /%s/ HTTP/1.0\r\n%s\r\n" % (server.token.encode(), hosts))
            assert b" 403 " in connection.makefile("rb").readline()


@pytest.mark.parametrize(
    "path",
    ["pages.py", "../server.py", "..%2fserver.py", "%2e%2e/__init__.py", "page.html", "/etc/passwd", "page.js/", "x"],
)
def test_no_path_but_its_own_is_served(server, path):
    assert ask(server, "GET", f"/{server.token}/{path}")[0] == 404
    assert question(server, path, {})[0] == 404


def test_questions_from_other_pages_and_other_kinds_are_refused(server):
    asked = {"method": "lora"}
    assert question(server, "places", asked)[0] == 200
    assert question(server, "places", asked, Origin=f"http://127.0.0.1:{server.port}")[0] == 200
    for origin in ("null", "http://example.com", f"https://127.0.0.1:{server.port}", "http://127.0.0.1:1"):
        assert question(server, "places", asked, Origin=origin)[0] == 403
    # A form of another page can send these without asking first, a JSON body it cannot.
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert question(server, "places", asked, **{"Content-Type": kind})[0] == 415
    assert ask(server, "GET", f"/{server.token}/count")[0] == 405
    for method in ("PUT", "DELETE", "OPTIONS", "TRACE"):
        assert ask(server, method, f"/{server.token}/")[0] == 501


def test_bodies_that_are_too_long_or_no_json_are_refused(server):
    path, headers = f"/{server.token}/count", {"Content-Type": "application/json"}
    for body in ("", "{", "[]", "3", "[" * 100_000, b"\xff\xfe"):
        assert ask(server, "POST", path, body, headers)[0] == 400
    assert ask(server, "POST", path, None, {**headers, "Content-Length": str(1 << 40)})[0] == 413
    assert ask(server, "POST", path, None, {**headers, "Content-Length": "-1"})[0] == 411


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "method has to be the name"),
        ({"method": ["lora"]}, "method has to be the name"),
        ({"method": "lorra"}, "no method named 'lorra'"),
        ({"method": "lora", "settings": {"rank": True}}, "settings have to be whole numbers"),
        ({"method": "lora", "settings": {"rank": 0}, "places": ["lm_head"]}, "rank must be at least 1"),
        ({"method": "lora", "settings": {"rank": 10**30}, "places": ["lm_head"]}, "rank must be at most 1,000,000"),
        ({"method": "lora", "settings": {"where": 1}}, "lora has no size named 'where'"),
        ({"method": "lora", "places": "lm_head"}, "places have to be a list"),
        ({"method": "lora", "places": ["nowhere"]}, "no place named 'nowhere'"),
        ({"method": "prefix", "places": ["lm_head"]}, "a prefix cannot be put on 'lm_head'"),
    ],
)
def test_questions_that_make_no_sense_are_explained(server, document, said):
    status, answer = question(server, "count", document)
    assert status == 400
    assert said in answer["error"]


def test_counts_are_those_of_the_attached_delta(server, model):
    attn = structure(model)["attn.q"]
    for method, sizes, places in (("lora", {"rank": 3}, attn[:2]), ("adapter", {"bottleneck": 5}, [attn[0]])):
        status, answer = question(server, "count", {"method": method, "settings": sizes, "places": places})
        assert status == 200
        attached = METHODS.get(method)(**sizes, where=answer["where"]).attach(model)
        assert attached.places == places
        assert answer["parameters"] == attached.n_parameters
        attached.detach()
        made = eval(answer["python"], {"LoRA": LoRA, "Adapter": Adapter})
        assert made == METHODS.get(method)(**sizes, where=answer["where"])
    assert answer["where"] == ["encoder.attn.q[0]"]


@pytest.mark.parametrize("arch", ["bert", "t5", "llama"])
def test_what_is_copied_pairs_the_places_of_a_parallel_adapter_as_shown(arch):
    model = tiny.tiny_model(arch).requires_grad_(False)
    pages, pairs = Pages(model, "tiny"), ParallelAdapter().sources(model)
    assert pages.places("parallel-adapter")["own"] == list(pairs)
    for places in [list(pairs), *([place] for place in pairs), list(pairs)[1:], list(pairs)[1::2], list(pairs)[:-1]]:
        answer = pages.count("parallel-adapter", {"bottleneck": 4}, places)
        made = eval(answer["python"], {"ParallelAdapter": ParallelAdapter})
        assert made.sources(model) == {place: pairs[place] for place in places}
        copied = {name: answer[name] for name in ("where", "inputs") if answer[name] is not None}
        assert ParallelAdapter(bottleneck=4, **copied) == made
        words = shlex.split(answer["command"])
        given = [(option, value) for option, value in itertools.pairwise(words) if option.startswith("--")]
        where = [value for option, value in given if option == "--where"]
        assert choose("parallel-adapter", where, (), dict(v.split("=") for o, v in given if o == "--set")) == made
        attached = made.attach(model)
        assert answer["parameters"] == attached.n_parameters
        attached.detach()
    whole = pages.count("parallel-adapter", {"bottleneck": 8}, list(pairs))
    assert whole["inputs"] is None  # they are the method's own
    assert set(whole["where"]) == set(ParallelAdapter().where)


@pytest.mark.parametrize("stored", [False, True])
def test_a_part_of_a_fused_layer_is_shown_and_copied_as_it_was_asked_for(stored):
    model = tiny.tiny_model("gpt2").requires_grad_(False)
    asked = LoRA(where=("attn.q",), rank=4)
    first = LoRA.from_settings(asked.settings(model)) if stored else asked
    pages = Pages(model, "tiny", first)
    chosen = pages.begin()["chosen"]
    answer = pages.count("lora", chosen["settings"], chosen["places"])
    attached = asked.attach(model)
    assert answer["parameters"] == attached.n_parameters
    attached.detach()
    assert eval(answer["python"], {"LoRA": LoRA}).fixed(model) == asked.fixed(model)
    words = shlex.split(answer["command"])
    assert words == ["transfer", "inspect", "tiny", "--delta", "lora", "--where", "attn.q", "--set", "rank=4"]
    whole = pages.count("lora", chosen["settings"], chosen["places"][:1])  # other places: layers as a whole
    assert whole["where"] == ["c_attn[0]"] or "c_attn" in whole["where"][0]


def test_settings_that_are_no_sizes_are_kept_and_said(model):
    first = choose("lora", settings={"alpha": "64", "dropout": "0.1"})
    pages = Pages(model, "tiny", first)
    places = pages.begin()["chosen"]["places"]
    for some in (places, places[:1]):
        answer = pages.count("lora", {"rank": 4}, some)
        made = eval(answer["python"], {"LoRA": LoRA})
        assert (made.rank, made.alpha, made.dropout) == (4, 64.0, 0.1)
        words = shlex.split(answer["command"])
        told = dict(value.split("=") for option, value in itertools.pairwise(words) if option == "--set")
        assert choose("lora", made.where, settings=told) == made
    ranked = Pages(model, "tiny", LoRA(ranks={"attn.q[0]": 2}))
    answer = ranked.count("lora", {"rank": 8}, places)
    assert "ranks={'attn.q[0]': 2}" in answer["python"]
    assert answer["command"].endswith("  # ranks: in Python alone")


def test_pairs_that_were_asked_for_go_before_the_method_s_own(model):
    asked = ParallelAdapter(where=("encoder.ff.w2", "encoder.attn.proj"), inputs=("encoder.attn.q", "encoder.attn.k"))
    for first in (asked, ParallelAdapter.from_settings(asked.settings(model))):  # as given, and as a card says it
        pages = Pages(model, "tiny", first)
        places = pages.begin()["chosen"]["places"]
        assert places == asked.places(model)
        answer = pages.count("parallel-adapter", {"bottleneck": 8}, places[1:])
        made = eval(answer["python"], {"ParallelAdapter": ParallelAdapter})
        assert made.sources(model) == {place: asked.sources(model)[place] for place in places[1:]}
        more = next(place for place in pages.places("parallel-adapter")["fits"] if place.startswith("decoder"))
        answer = pages.count("parallel-adapter", {"bottleneck": 8}, [*places, more])
        made = eval(answer["python"], {"ParallelAdapter": ParallelAdapter})
        assert made.sources(model) == {**asked.sources(model), more: ParallelAdapter().sources(model)[more]}


def test_a_place_without_a_pair_is_refused_by_name(server):
    lone = "encoder.block.0.layer.0.SelfAttention.q"
    status, answer = question(server, "count", {"method": "parallel-adapter", "places": [lone]})
    assert status == 400
    assert f"no pair for '{lone}'" in answer["error"]


def test_a_browser_that_leaves_early_ends_nothing(server, capfd):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
            head = f"GET /{server.token}/begin HTTP/1.0\r\nHost: 127.0.0.1:{server.port}\r\n\r\n"
            connection.sendall(head.encode())
    assert ask(server, "GET", f"/{server.token}/")[0] == 200
    assert capfd.readouterr().err == ""


def test_nothing_chosen_is_no_error(server):
    status, answer = question(server, "count", {"method": "lora", "places": []})
    assert (status, answer["parameters"], answer["where"]) == (200, 0, [])


def test_the_page_begins_with_the_method_that_was_asked_for(model):
    chosen = LoRA(rank=5, where=("decoder.attn.q",))
    begun = Pages(model, "tiny", chosen).begin()
    assert begun["chosen"] == {"method": "lora", "settings": {"rank": 5}, "places": chosen.places(model)}
    assert begun["parameters"] == sum(p.numel() for p in model.parameters())
    assert Pages(nn.Sequential(nn.Linear(2, 2)), "plain").begin()["chosen"]["places"] == []


def test_the_tree_of_the_page_has_all_places_of_all_methods(model):
    pages = Pages(model, "tiny")

    def places(row):
        return {*row["places"]}.union(*map(places, row["children"]))

    known = places(pages.begin()["tree"])
    for method in METHODS.names():
        answer = pages.places(method)
        assert set(answer["own"]) <= set(answer["fits"]) <= known


def test_it_listens_on_this_machine_alone_and_each_token_is_new(model):
    pages = Pages(model, "tiny")
    with Server(pages) as one, Server(pages) as other:
        assert one._server.server_address[0] == other._server.server_address[0] == "127.0.0.1"
        assert one.token != other.token
        assert len(one.token) >= 32
        assert one.address == f"http://127.0.0.1:{one.port}/{one.token}/"


def test_answers_leave_the_model_as_it_was(server, model):
    before = str(structure(model))
    for method in METHODS.names():
        question(server, "places", {"method": method})
    assert str(structure(model)) == before
