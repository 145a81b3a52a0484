"use strict";

// The tree of a model, where places are chosen. What fits and what it costs is the server's to say.

const at = (id) => document.getElementById(id);
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });
const exact = new Intl.NumberFormat("en");

const state = { whole: 1, method: "", sizes: {}, methods: {}, fits: new Set(), layers: new Set(), refused: {}, own: [], chosen: new Set() };
const rows = new Map(); // list item -> its row
let asked = 0; // number of the last question: answers to earlier ones are late
let timer = 0;
let choosing = 0; // methods whose places are being asked for

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text; // never as HTML: names come from strangers
  return element;
}

async function ask(path, body) {
  const how = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer, found;
  try {
    answer = await fetch(path, how);
    found = await answer.json();
  } catch {
    throw new Error("The server does not answer. Was it ended? Start transfer inspect --web again.");
  }
  if (!answer.ok) throw new Error([found.error, found.found, found.hint].filter(Boolean).join("\n"));
  return found;
}

function complain(error) {
  at("problem").textContent = error ? error.message : "";
  at("problem").hidden = !error;
}

// ---------------------------------------------------------------- rows

/** The places that a click on this row means: its own where they fit, else all layers that fit inside. */
function meant(row, fits = state.fits) {
  const own = row.places.filter((place) => fits.has(place));
  return own.length ? own : row.children.flatMap((child) => meant(child, state.layers));
}

/** One row for each of the modules that a row stands for. */
function unfold(row) {
  const front = row.label.slice(0, row.label.lastIndexOf(".") + 1);
  const last = row.places.map((place) => place.slice(place.lastIndexOf(".") + 1));
  const clear = new Set(last).size === last.length;
  return row.places.map((place, index) => ({
    ...only(row, place),
    label: clear ? front + last[index] : place,
    places: [place],
    parameters: row.parameters / row.places.length,
  }));
}

function only(row, place) {
  const inside = (child) => child.places.filter((name) => name.startsWith(place + "."));
  return {
    ...row,
    children: row.children.map((child) => ({
      ...only(child, place),
      places: inside(child),
      parameters: (child.parameters * inside(child).length) / child.places.length,
    })),
  };
}

function item(row, level, times) {
  const element = make("li");
  element.setAttribute("role", "treeitem");
  element.setAttribute("aria-level", level + 1);
  element.tabIndex = -1;
  rows.set(element, row);
  const line = make("div", "line");
  line.style.setProperty("--level", level);
  const name = make("span", "name");
  name.append(make("span", "arrow"), make("span", "box"), make("span", "label", row.label));
  if (row.places.length > times) {
    const fold = make("button", "fold", "×" + row.places.length / times);
    fold.type = "button";
    fold.tabIndex = -1; // U does it from the keyboard
    fold.title = `Show the ${row.places.length} layers one by one`;
    fold.setAttribute("aria-label", fold.title);
    name.append(fold);
  }
  name.append(make("span", "about", [row.tied && `= ${row.tied}`, row.kind].filter(Boolean).join(" ")));
  const percent = (100 * row.parameters) / state.whole;
  const share = percent && percent < 0.05 ? "<0.1%" : percent.toFixed(1) + "%";
  line.append(name, make("span", "common", row.common));
  line.append(make("span", "number", short.format(row.parameters)), make("span", "number share", share));
  element.append(line);
  if (row.children.length) {
    element.setAttribute("aria-expanded", level < 2 || row.places.length > 1);
    const inside = make("ul");
    inside.setAttribute("role", "group");
    inside.append(...row.children.map((child) => item(child, level + 1, row.places.length)));
    inside.hidden = element.getAttribute("aria-expanded") === "false";
    element.append(inside);
  }
  return element;
}

/** Signs and words of all rows, after the choice or the method has changed. */
function mark() {
  for (const [element, row] of rows) {
    const places = meant(row);
    const n = places.filter((place) => state.chosen.has(place)).length;
    const checked = !n ? "false" : n === places.length ? "true" : "mixed";
    const why = places.length ? "" : state.refused[row.places[0]] || "nothing inside can take this method";
    element.setAttribute("aria-disabled", String(!places.length));
    if (places.length) element.setAttribute("aria-checked", checked);
    else element.removeAttribute("aria-checked");
    element.firstChild.classList.toggle("place", row.places.some((place) => state.fits.has(place)));
    element.firstChild.title = places.length ? row.places[0] : `${row.places[0]}: ${why}`;
    const words = [row.label, row.kind, row.common && `common name ${row.common}`];
    words.push(places.length ? `${n} of ${places.length} places chosen` : `cannot be chosen: ${why}`);
    words.push(`${exact.format(row.parameters)} parameters`);
    element.setAttribute("aria-label", words.filter(Boolean).join(", "));
  }
}

function toggle(row) {
  const places = meant(row);
  const all = places.every((place) => state.chosen.has(place));
  for (const place of places) all ? state.chosen.delete(place) : state.chosen.add(place);
  if (places.length) changed();
}

function open(element, wanted) {
  const inside = element.querySelector(":scope > ul");
  if (!inside) return false;
  const before = element.getAttribute("aria-expanded") === "true";
  element.setAttribute("aria-expanded", String(wanted));
  inside.hidden = !wanted;
  if (!wanted && inside.contains(document.activeElement)) focus(element);
  return before !== wanted;
}

function unfoldItem(element) {
  const row = rows.get(element);
  if (row.places.length < 2) return;
  const level = Number(element.getAttribute("aria-level")) - 1;
  const parent = element.parentElement.closest("[role=treeitem]");
  if (parent && rows.get(parent).places.length > 1) return unfoldItem(parent); // what holds it comes first
  const items = unfold(row).map((one) => item(one, level, 1));
  for (const one of items) open(one, false);
  for (const old of [element, ...element.querySelectorAll("[role=treeitem]")]) rows.delete(old);
  element.replaceWith(...items);
  focus(items[0]);
  mark();
}

function focus(element) {
  for (const other of at("tree").querySelectorAll("[tabindex='0']")) if (rows.has(other)) other.tabIndex = -1;
  element.tabIndex = 0;
  element.focus();
}

function visible() {
  return [...at("tree").querySelectorAll("[role=treeitem]")].filter((element) => element.offsetParent !== null);
}

at("tree").addEventListener("click", (event) => {
  const element = event.target.closest("[role=treeitem]");
  if (!element) return;
  focus(element);
  if (event.target.closest(".fold")) unfoldItem(element);
  else if (event.target.closest(".arrow")) open(element, element.getAttribute("aria-expanded") === "false");
  else if (meant(rows.get(element)).length) toggle(rows.get(element));
  else open(element, element.getAttribute("aria-expanded") === "false");
});

at("tree").addEventListener("keydown", (event) => {
  const element = event.target.closest("[role=treeitem]");
  if (!element || event.ctrlKey || event.altKey || event.metaKey) return;
  const seen = visible();
  const index = seen.indexOf(element);
  const keys = {
    ArrowDown: () => seen[index + 1] && focus(seen[index + 1]),
    ArrowUp: () => seen[index - 1] && focus(seen[index - 1]),
    Home: () => focus(seen[0]),
    End: () => focus(seen[seen.length - 1]),
    ArrowRight: () => {
      if (!open(element, true) && element.querySelector(":scope > ul")) focus(seen[index + 1]);
    },
    ArrowLeft: () => {
      const parent = element.parentElement.closest("[role=treeitem]");
      if (!open(element, false) && parent) focus(parent);
    },
    " ": () => toggle(rows.get(element)),
    Enter: () => toggle(rows.get(element)),
    u: () => unfoldItem(element),
    U: () => unfoldItem(element),
  };
  if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});

// ---------------------------------------------------------------- the delta

function showSizes() {
  at("sizes").replaceChildren(
    ...Object.entries(state.sizes).map(([name, value]) => {
      const label = make("label", "", `${name} `);
      const input = make("input");
      Object.assign(input, { type: "number", min: 1, step: 1, value, name });
      input.addEventListener("input", () => {
        if (!input.checkValidity() || !input.value) return complain(new Error(`${name} has to be a whole number from 1`));
        state.sizes[name] = Number(input.value);
        changed();
      });
      label.append(input);
      return label;
    })
  );
}

async function choose(method, sizes, places) {
  clearTimeout(timer);
  const number = ++asked;
  choosing += 1; // a click meanwhile must not take its answer away
  let found;
  try {
    found = await ask("places", { method });
  } catch (error) {
    if (state.method) at("method").value = state.method;
    throw error;
  } finally {
    choosing -= 1;
  }
  if (number !== asked) return;
  state.method = method;
  state.sizes = { ...(sizes || state.methods[method]) };
  state.fits = new Set(found.fits);
  state.layers = new Set(found.layers);
  state.refused = found.refused;
  state.own = found.own;
  state.chosen = new Set(places || found.own);
  at("method").value = method;
  showSizes();
  changed();
}

function changed() {
  mark();
  clearTimeout(timer);
  if (choosing) return; // what is chosen is counted when the answer is there
  timer = setTimeout(count, 60);
}

async function count() {
  const number = ++asked;
  const question = { method: state.method, settings: state.sizes, places: [...state.chosen] };
  try {
    const found = await ask("count", question);
    if (number === asked) show(found);
  } catch (error) {
    if (number === asked) complain(error);
  }
}

function show(found) {
  complain(null);
  at("results").hidden = !found.places;
  const strong = make("strong", "", `${exact.format(found.parameters)} parameters`);
  const places = `${found.places} ${found.places === 1 ? "place" : "places"}, `;
  if (found.places) at("summary").replaceChildren(places, strong, `, ${found.share}`);
  else at("summary").textContent = "No place is chosen yet.";
  const list = (name, values) => `${name}=[${values.map((value) => JSON.stringify(value)).join(", ")}]`;
  at("where").textContent = list("where", found.where) + (found.inputs ? `, ${list("inputs", found.inputs)}` : "");
  at("python").textContent = found.python;
  const words = found.command.split(" ").flatMap((word) => [make("span", "", word), " "]);
  at("command").replaceChildren(...words.slice(0, -1)); // lines break between words, not behind the dashes in them
  document.body.dataset.counted = found.parameters;
}

at("method").addEventListener("change", () => choose(at("method").value).catch(complain));
at("own").addEventListener("click", () => {
  state.chosen = new Set(state.own);
  changed();
});
at("clear").addEventListener("click", () => {
  state.chosen = new Set();
  changed();
});
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const from = at(button.dataset.from);
    try {
      await navigator.clipboard.writeText(from.textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    } catch {
      getSelection().selectAllChildren(from); // the browser keeps its clipboard: ctrl-C copies what is marked
      button.textContent = "Marked";
    }
  });
}

async function begin() {
  const found = await ask("begin");
  document.title = `${found.model} - transfer inspect`;
  at("model").textContent = found.model;
  at("about").textContent = `${found.kind}, ${exact.format(found.parameters)} parameters`;
  state.whole = found.parameters || 1;
  state.methods = found.methods;
  at("method").replaceChildren(...Object.keys(found.methods).map((name) => new Option(name)));
  at("tree").replaceChildren(item(found.tree, 0, 1));
  at("tree").firstChild.tabIndex = 0;
  await choose(found.chosen.method, found.chosen.settings, found.chosen.places);
  for (const [element, row] of rows) if (meant(row).some((place) => state.chosen.has(place))) open(element, true);
  for (const [element, row] of rows) if (row.places.some((place) => state.chosen.has(place))) open(element, false);
}

begin().catch(complain);
