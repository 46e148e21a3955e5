"""The script of the page of predictions: finds patients by name, and sorts them. Without it the page is complete."""

from __future__ import annotations

# No "<" may stand in it (Page.script), so that no browser takes a part of it for the end of the script.
SEARCH = """
"use strict";
(() => {
  const table = document.querySelector("main table");
  const body = table.tBodies[0], parts = [...document.querySelectorAll("main .apart")];
  const after = parts.at(-1).nextSibling, place = parts[0].parentNode;
  const patients = [...body.rows].map((row, risk) => ({
    row, risk, part: parts[risk], name: row.cells[0].textContent.trim()
  }));
  for (const { row, risk, part, name } of patients) {
    part.id = `patient-${risk}`;
    const link = document.createElement("a");
    link.href = `#${part.id}`;
    link.textContent = name;
    row.cells[0].replaceChildren(link);
  }
  const labelled = (words, control) => {
    const label = document.createElement("label");
    label.append(words, " ", control);
    return label;
  };
  const wanted = document.createElement("input");
  wanted.type = "search";
  const order = document.createElement("select");
  order.append(new Option("highest risk first", "high"), new Option("lowest risk first", "low"),
    new Option("by name", "name"));
  const count = document.createElement("output");
  const bar = document.createElement("div");
  bar.className = "find";
  bar.setAttribute("role", "search");
  bar.append(labelled("Find a patient", wanted), labelled("Order", order), count);
  table.parentNode.before(bar);
  const find = () => {
    const words = wanted.value.trim().toLowerCase();
    let shown = 0;
    for (const { row, part, name } of patients) {
      const found = name.toLowerCase().includes(words);
      row.hidden = part.hidden = !found;
      shown += found;
    }
    count.textContent = `${shown} of ${patients.length} patients`;
  };
  const names = new Intl.Collator("en", { numeric: true });
  const orders = {
    high: (a, b) => a.risk - b.risk,
    low: (a, b) => b.risk - a.risk,
    name: (a, b) => names.compare(a.name, b.name)
  };
  const sort = () => {
    patients.sort(orders[order.value]);
    body.append(...patients.map((one) => one.row));
    for (const { part } of patients) place.insertBefore(part, after);
  };
  wanted.addEventListener("input", find);
  order.addEventListener("change", sort);
  order.value = "high";
  find();
})();
"""
