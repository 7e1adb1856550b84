// Tables. Every text of a run goes through `textContent`, which is never read as HTML.

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function swatch(group) {
  const mark = make("span", { className: "swatch", textContent: SYMBOLS[group.series % SYMBOLS.length][1] });
  mark.style.color = `var(--series-${group.series % COLORS})`;
  mark.setAttribute("aria-hidden", "true");
  return mark;
}

// A label of which an option and its value stay on one line, as long as there is room
function named(label) {
  const words = label.split(/ (?=--)/).map((word) => make("span", { textContent: word }));
  return make("code", {}, ...words.flatMap((word) => [word, " "]));
}

const COLUMNS = [
  { name: "recipe and options", key: (view) => view.group.label },
  { name: "environment", key: (view) => view.group.environment },
  { name: "seeds", key: (view) => view.runs.length },
  { name: "frames", key: (view) => median(view.runs.map((run) => run.frames)), number: true },
  { name: "training seconds", key: (view) => median(view.runs.map((run) => run.seconds)), number: true },
  { name: "evaluation\nreturn (IQM)", key: (view) => view.iqm, number: true },
  { name: "95 % interval", key: (view) => view.low ?? view.iqm, number: true },
  { name: "of each seed", key: (view) => Math.max(...view.runs.map((run) => run.score)), number: true },
];
// added if the environment of a run reports successes
const SUCCESS = { name: "success", key: (view) => median(successes(view)), number: true };

function successes(view) {
  return view.runs.filter((run) => run.success !== null).map((run) => 100 * run.success);
}

const order = { column: null, falling: false };

function compare(one, other) {
  const [first, second] = [one, other].map(COLUMNS[order.column].key);
  const sign = typeof first === "string" ? first.localeCompare(second) : first - second;
  return order.falling ? -sign : sign;
}

function sortBy(column) {
  order.falling = order.column === column ? !order.falling : Boolean(COLUMNS[column].number);
  order.column = column;
}

function resultsHead(redraw) {
  const cells = COLUMNS.map((column, index) => {
    const button = make("button", { type: "button", textContent: column.name });
    button.addEventListener("click", () => {
      sortBy(index);
      redraw();
    });
    return make("th", { scope: "col", className: column.number ? "number" : "" }, button);
  });
  return make("thead", {}, make("tr", {}, ...cells));
}

function markOrder(table) {
  table.querySelectorAll("th[scope=col]").forEach((cell, index) => {
    if (index === order.column) cell.setAttribute("aria-sort", order.falling ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  });
}

function drawResults(table, views, redraw) {
  if (!table.tHead) table.append(resultsHead(redraw), make("tbody"));
  const sorted = order.column === null ? views : [...views].sort(compare);
  table.tBodies[0].replaceChildren(...sorted.map((view) => resultsRow(view, rangeOf(views, view.group.environment))));
  markOrder(table);
}

// From the lowest to the highest return on an environment, for the bars of its rows
function rangeOf(views, environment) {
  const same = views.filter((view) => view.group.environment === environment);
  const values = same.flatMap((view) => view.runs.map((run) => run.score));
  return [Math.min(...values), Math.max(...values)];
}

function resultsRow(view, range) {
  const { group, runs } = view;
  const scores = runs.map((run) => run.score);
  const [iqm, low, high, ...texts] = column([view.iqm, view.low, view.high, ...scores]);
  const seconds = runs.map((run) => run.seconds);
  const row = make(
    "tr",
    {},
    make("th", { scope: "row" }, swatch(group), named(group.label)),
    make("td", { textContent: group.environment }),
    make("td", { textContent: runs.map((run) => run.seed).join(", ") }),
    make("td", { className: "number", textContent: medianAndRange(runs.map((run) => run.frames), 0) }),
    make("td", { className: "number", textContent: medianAndRange(seconds, secondsDigits(Math.max(...seconds))) }),
    make("td", { className: "number strong", textContent: iqm }),
    make("td", { className: "number" }, ...intervalCell(view, range, `${low} to ${high}`)),
    make("td", { className: "number each", textContent: texts.join("  ") }),
  );
  if (COLUMNS.includes(SUCCESS)) {
    const rates = successes(view);
    const text = rates.length ? `${medianAndRange(rates, 1)} %` : "–";
    row.append(make("td", { className: "number", textContent: text }));
  }
  row.dataset.group = group.number;
  return row;
}

function intervalCell(view, range, text) {
  if (view.low === null) return ["one seed"];
  return [make("div", { textContent: text }), intervalBar(view.low, view.iqm, view.high, range)];
}

function intervalBar(low, center, high, [from, to]) {
  const share = (value) => (to > from ? Math.min(100, Math.max(0, (100 * (value - from)) / (to - from))) : 50);
  const line = make("span", { className: "line" });
  const dot = make("span", { className: "dot" });
  line.style.left = `${share(low)}%`;
  line.style.right = `${100 - share(high)}%`;
  dot.style.left = `${share(center)}%`;
  const bar = make("div", { className: "interval" }, line, dot);
  bar.setAttribute("aria-hidden", "true");
  return bar;
}

function plainTable(table, names, rows) {
  const head = make("tr", {}, ...names.map((name) => make("th", { scope: "col", textContent: name })));
  const lines = rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", { textContent: cell }))));
  table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...lines));
}

function mostFrequent(values) {
  const counts = new Map();
  values.forEach((value) => counts.set(value, (counts.get(value) ?? 0) + 1));
  return [...counts].reduce((best, next) => (next[1] > best[1] ? next : best))[0];
}

// A line for each field, a column for each run that is shown
function drawFields(table, views, fields, withSame) {
  const runs = views.flatMap((view) => view.runs);
  const labels = views.map((view) =>
    make("th", { scope: "colgroup", colSpan: view.runs.length }, swatch(view.group), named(view.group.label)),
  );
  const seeds = runs.map((run) => make("th", { scope: "col", textContent: `seed ${run.seed}`, title: run.folder }));
  const corner = make("th", { scope: "col", rowSpan: 2, textContent: "field" });
  const shown = fields
    .map((field) => ({ ...field, chosen: runs.map((run) => field.values[run.number]) }))
    .filter((field) => runs.length > 0 && (withSame || field.always || new Set(field.chosen).size > 1));
  const head = make("thead", {}, make("tr", {}, corner, ...labels), make("tr", {}, ...seeds));
  const sections = [...new Set(shown.map((field) => field.section))].map((section) => {
    const lines = shown.filter((field) => field.section === section).map((field) => fieldRow(field, views));
    const title = make("tr", {}, make("th", { scope: "rowgroup", textContent: section, colSpan: runs.length + 1 }));
    return make("tbody", {}, title, ...lines);
  });
  table.replaceChildren(head, ...sections);
}

const LONG_VALUE = 24;

function fieldRow(field, views) {
  const usual = mostFrequent(field.chosen);
  let start = 0;
  const cells = views.flatMap((view) => {
    const values = field.chosen.slice(start, start + view.runs.length);
    start += view.runs.length;
    // seeds of a group that agree share a cell
    const same = values.every((value) => value === values[0]);
    return same ? [fieldCell(values[0], usual, values.length)] : values.map((value) => fieldCell(value, usual, 1));
  });
  return make("tr", {}, make("th", { scope: "row", textContent: field.name }), ...cells);
}

function fieldCell(value, usual, colSpan) {
  const cell = make("td", { className: value !== usual ? "differs" : "", textContent: value ?? "–", colSpan });
  cell.classList.toggle("long", value !== null && value.length > LONG_VALUE);
  return cell;
}
