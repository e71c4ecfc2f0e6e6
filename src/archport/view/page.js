
"use strict";

// --- trees: what belongs together lights up, and is explained in #about ---

const trees = [...document.querySelectorAll("[role=tree]")];
const about = document.getElementById("about");

const itemsOf = (tree) => [...tree.querySelectorAll("[role=treeitem]")];
const named = (part) => [...document.querySelectorAll("[data-part]")].filter((one) => part && one.dataset.part === part);

for (const item of document.querySelectorAll("[role=treeitem]")) {
  const others = named(item.dataset.part).filter((one) => one !== item && one.role === "treeitem");
  item.classList.toggle("joined", others.length > 0);
}

function light(item) {
  for (const one of document.querySelectorAll(".lit")) one.classList.remove("lit");
  const together = [item, ...named(item.dataset.part)];
  for (const one of together) one.classList.add("lit");
  const copies = together.filter((one) => one.tagName === "ARTICLE").map((one) => one.cloneNode(true));
  for (const copy of copies) {
    copy.removeAttribute("data-part");
    copy.classList.remove("lit");
  }
  about.replaceChildren(...copies);
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

for (const tree of trees) {
  const items = itemsOf(tree);
  tree.addEventListener("pointerover", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (item) light(item);
  });
  tree.addEventListener("focusin", (event) => light(event.target.closest("[role=treeitem]")));
  tree.addEventListener("click", (event) => {
    const item = event.target.closest("[role=treeitem]");
    if (item) go(item);
  });
  tree.addEventListener("keydown", (event) => {
    const item = event.target.closest("[role=treeitem]");
    const at = items.indexOf(item);
    const next = {
      ArrowDown: items[Math.min(at + 1, items.length - 1)],
      ArrowUp: items[Math.max(at - 1, 0)],
      Home: items[0],
      End: items[items.length - 1],
      ArrowRight: across(item, 1),
      ArrowLeft: across(item, -1),
    }[event.key];
    if (next && !event.ctrlKey && !event.altKey && !event.metaKey) {
      event.preventDefault();
      go(next);
    }
  });
}

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
