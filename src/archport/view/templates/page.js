"use strict";

for (const one of document.querySelectorAll("[data-script]")) one.hidden = false;

// --- trees: what belongs together lights up, is named in #lit and explained in #about ---

const trees = [...document.querySelectorAll("[role=tree]")];
const about = document.getElementById("about");

const itemsOf = (tree) => [...tree.querySelectorAll("[role=treeitem]")];
const nameOf = (item) => item.firstChild.textContent.trim();
const named = (part) => [...document.querySelectorAll("[data-part]")].filter((one) => part && one.dataset.part === part);

function light(item) {
  for (const one of document.querySelectorAll(".lit")) {
    one.classList.remove("lit");
    one.removeAttribute("aria-selected");
  }
  const together = item.dataset.part ? named(item.dataset.part) : [item];
  for (const one of together) one.classList.add("lit");
  const lines = together.filter((one) => one.role === "treeitem");
  for (const line of lines) {
    line.setAttribute("aria-selected", "true");
    if (line !== item) reveal(line);
  }
  const mark = item.querySelector("abbr");
  const alone = lines.length === 1 ? `, ${mark ? mark.title : "holds other parts"}` : "";
  document.getElementById("lit").textContent = lines.map(nameOf).join(" \u2014 ") + alone;
  const copies = together.filter((one) => one.tagName === "ARTICLE").map((one) => one.cloneNode(true));
  for (const copy of copies) {
    copy.removeAttribute("data-part");
    copy.classList.remove("lit");
  }
  about.replaceChildren(...copies);
  if (!copies.length) about.appendChild(document.createElement("p")).textContent = `${item.textContent}${alone}`;
  about.scrollTop = 0;
}

// Scroll a line's own tree, and nothing else, until the line is seen.
function reveal(line) {
  const tree = line.closest("[role=tree]");
  const above = line.offsetTop;
  const below = above + line.offsetHeight - tree.clientHeight;
  tree.scrollTop = Math.max(Math.min(tree.scrollTop, above), below);
}

function go(item) {
  for (const one of itemsOf(item.closest("[role=tree]"))) one.tabIndex = one === item ? 0 : -1;
  item.focus();
}

// The same part in the next tree that has it, to the right (1) or to the left (-1).
function across(item, way) {
  const start = trees.indexOf(item.closest("[role=tree]"));
  for (let at = start + way; at >= 0 && at < trees.length; at += way) {
    const same = itemsOf(trees[at]).find((one) => item.dataset.part && one.dataset.part === item.dataset.part);
    if (same) return same;
  }
  return item;
}

let pointer = "";
for (const tree of trees) {
  const items = itemsOf(tree);
  tree.addEventListener("pointermove", (event) => {
    const item = event.target.closest("[role=treeitem]");
    const place = `${event.screenX} ${event.screenY}`; // lines that scroll below a pointer at rest are not pointed at
    if (item && place !== pointer && !item.classList.contains("lit")) light(item);
    pointer = place;
  });
  tree.addEventListener("focusin", (event) => light(event.target.closest("[role=treeitem]") ?? items[0]));
  tree.addEventListener("click", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (item) go(item);
  });
  tree.addEventListener("keydown", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.ctrlKey || event.altKey || event.metaKey) return;
    const at = items.indexOf(item);
    const next = {
      ArrowDown: items[Math.min(at + 1, items.length - 1)],
      ArrowUp: items[Math.max(at - 1, 0)],
      Home: items[0],
      End: items[items.length - 1],
      ArrowRight: across(item, 1),
      ArrowLeft: across(item, -1),
    }[event.key];
    if (next) {
      event.preventDefault();
      go(next);
    } else if (event.key === "Enter") {
      about.returnTo = item;
      about.focus();
    }
  });
}

// At rest the first line that another tree has too is lit.
const lines = itemsOf(trees[0]);
light(lines.find((item) => across(item, 1) !== item) ?? lines[0]);

about.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && about.returnTo) go(about.returnTo);
});

// --- the key table: rows that have every word of the filter ---

const filter = document.getElementById("filter");
const rows = [...document.querySelectorAll("#keys tbody tr")];

function sift() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
  document.getElementById("count").value = `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows`;
}

filter.addEventListener("input", sift);
sift();
