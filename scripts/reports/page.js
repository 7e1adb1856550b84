// What the page shows: which runs are chosen, and everything that follows from it.

const data = JSON.parse(document.getElementById("data").textContent);
const { groups } = data;
const environments = [...new Set(groups.map((group) => group.environment))];
const chosen = new Set(groups.flatMap((group) => group.runs.map((run) => run.number)));
const find = (id) => document.getElementById(id);
const drawn = new Map();

groups.forEach((group, number) => {
  group.number = number;
  group.series = groups.slice(0, number).filter((other) => other.environment === group.environment).length;
});

// The chosen runs of each group that has any, with their statistics
function makeViews() {
  return groups.flatMap((group) => {
    const indices = group.runs.map((_, index) => index).filter((index) => chosen.has(group.runs[index].number));
    if (indices.length === 0) return [];
    const complete = indices.length === group.runs.length;
    const runs = indices.map((index) => group.runs[index]);
    const scores = runs.map((run) => run.score);
    const figures = complete ? group : estimate(scores, resamples(runs.length));
    return [{ group, indices, complete, runs, iqm: figures.iqm, low: figures.low, high: figures.high }];
  });
}

function redraw() {
  const views = makeViews();
  drawTable(views);
  drawPlots(views);
  drawSettings(views);
  drawChoice();
  document.querySelectorAll("#gif-list figure").forEach((figure) => {
    figure.hidden = !chosen.has(Number(figure.dataset.run));
  });
}

function drawTable(views = makeViews()) {
  drawResults(find("table"), views, () => drawTable());
}

function drawPlots(views = makeViews()) {
  const axis = document.querySelector("input[name=axis]:checked").value;
  drawCurves(find("plots"), environments, views, axis, find("thin").checked);
}

function drawSettings(views = makeViews()) {
  drawFields(find("fields"), views, data.fields, find("same").checked);
}

// The check boxes

function checkBox(label, changed) {
  const box = make("input", { type: "checkbox", checked: true });
  box.addEventListener("change", () => changed(box.checked));
  return [box, make("label", {}, box, ...label)];
}

function choose(runs, on) {
  runs.forEach((run) => (on ? chosen.add(run.number) : chosen.delete(run.number)));
  redraw();
}

function groupChoice(group) {
  const [box, label] = checkBox([swatch(group), named(group.label)], (on) => choose(group.runs, on));
  const seeds = group.runs.map((run) => {
    const [seedBox, seedLabel] = checkBox([run.seed], (on) => choose([run], on));
    seedBox.dataset.run = run.number;
    seedBox.setAttribute("aria-label", `${group.label}, seed ${run.seed}`);
    drawn.set(seedBox, [run]);
    return seedLabel;
  });
  box.dataset.group = group.number;
  drawn.set(box, group.runs);
  return make("div", { className: "choice" }, label, make("span", { className: "seeds" }, "seeds", ...seeds));
}

function makeChoices() {
  environments.forEach((environment) => {
    const inside = groups.filter((group) => group.environment === environment).map(groupChoice);
    find("choices").append(make("fieldset", {}, make("legend", { textContent: environment }), ...inside));
  });
  const everything = groups.flatMap((group) => group.runs);
  find("all").addEventListener("click", () => choose(everything, true));
  find("none").addEventListener("click", () => choose(everything, false));
}

function drawChoice() {
  drawn.forEach((runs, box) => {
    const on = runs.filter((run) => chosen.has(run.number)).length;
    box.checked = on === runs.length;
    box.indeterminate = on > 0 && on < runs.length;
  });
  const all = groups.flatMap((group) => group.runs).length;
  find("chosen").textContent = `${chosen.size} of ${all} finished runs`;
}

// Probability of improvement

function partners(group) {
  return groups.filter((other) => other !== group && other.environment === group.environment);
}

function fillSelect(select, options) {
  const before = select.value;
  const byEnvironment = environments.flatMap((environment) => {
    const inside = options.filter((group) => group.environment === environment);
    const items = inside.map((group) => make("option", { value: group.number, textContent: group.label }));
    return inside.length ? [make("optgroup", { label: environment }, ...items)] : [];
  });
  select.replaceChildren(...byEnvironment);
  if (options.some((group) => String(group.number) === before)) select.value = before;
}

function drawProbability() {
  const [first, second] = ["first", "second"].map((id) => Number(find(id).value));
  const pair = data.pairs.find((each) => [each.first, each.second].sort().join() === [first, second].sort().join());
  const turned = pair.first !== first;
  const turn = (value) => (value === null ? null : 1 - value);
  const [p, low, high] = turned ? [turn(pair.p), turn(pair.high), turn(pair.low)] : [pair.p, pair.low, pair.high];
  const interval = low === null ? "no interval: one of them has one seed" : `95 % interval ${fixed(low, 2)} to ${fixed(high, 2)}`;
  const bar = intervalBar(low ?? p, p, high ?? p, [0, 1]);
  bar.classList.add("wide");
  find("probability").replaceChildren(
    make("p", {}, "P(X > Y) = ", make("strong", { textContent: fixed(p, 2) }), `, ${interval}`),
    bar,
    make("div", { className: "scale" }, ...["0: Y is better", "0.5", "1: X is better"].map((text) => make("span", {}, text))),
  );
}

function makeImprovement() {
  const able = groups.filter((group) => partners(group).length > 0);
  if (able.length === 0) {
    find("pair").hidden = true;
    find("probability").textContent = "It needs two groups of finished runs on one environment.";
    return;
  }
  fillSelect(find("first"), able);
  const telling = data.pairs.find((pair) => pair.low !== null) ?? data.pairs[0];
  find("first").value = telling.first;
  const changed = () => {
    fillSelect(find("second"), partners(groups[Number(find("first").value)]));
    drawProbability();
  };
  find("first").addEventListener("change", changed);
  find("second").addEventListener("change", drawProbability);
  changed();
}

// What stays as it is

function makeAcross() {
  const { across } = data;
  const rule = "Of each environment 0 is the lowest evaluation return after training of any of these runs, and 1 the highest; the IQM is over all seeds and environments.";
  find("across-method").textContent = across
    ? `Only what was run with the same settings on all of them. ${rule}`
    : "There is no such table: it needs two groups of settings that were each run, without other changes, on the same two environments or more.";
  if (!across) return;
  const table = make("table");
  const number = (value) => fixed(value, 2);
  const interval = (line) => (line.low === null ? "one seed each" : `${number(line.low)} to ${number(line.high)}`);
  const rows = across.lines.map((line) => [line.label, line.runs, number(line.iqm), interval(line)]);
  plainTable(table, ["recipe and options", "runs", "normalised return (IQM)", "95 % interval"], rows);
  find("across").append(
    make("h3", { textContent: `Across ${across.environments.join(", ")}` }),
    make("p", { textContent: `${rule} All seeds, whatever is chosen above.` }),
    make("div", { className: "box" }, table),
  );
}

function makeUnfinished() {
  const frames = (run) => (run.total === null ? fixed(run.frames, 0) : `${fixed(run.frames, 0)} of ${fixed(run.total, 0)}`);
  const rows = data.unfinished.map((run) => [run.recipe, run.environment, run.seed, frames(run), run.state, run.folder]);
  plainTable(find("unfinished-table"), ["recipe", "environment", "seed", "frames", "state", "folder"], rows);
}

function makeGifs() {
  const runs = new Map(groups.flatMap((group) => group.runs.map((run) => [run.number, [group, run]])));
  data.gifs.forEach(({ run: number, source }) => {
    const [group, run] = runs.get(number);
    const words = `${group.label} on ${group.environment}, seed ${run.seed}`;
    const image = make("img", { src: source, alt: `An episode of ${words}` });
    // the episode drawn is none of those that the return is a mean of
    const score = column([run.score])[0];
    const rest = `on ${group.environment}, seed ${run.seed}; evaluation return of the run (mean): ${score}`;
    const caption = make("figcaption", {}, swatch(group), named(group.label), rest);
    const figure = make("figure", {}, image, caption);
    figure.dataset.run = number;
    find("gif-list").append(figure);
  });
  find("gifs-open").open = !matchMedia("(prefers-reduced-motion: reduce)").matches;
}

function makeMethods() {
  const count = (size, what) => `${size} ${what}${size === 1 ? "" : "s"}`;
  const runs = groups.flatMap((group) => group.runs).length;
  const parts = [count(runs, "finished run"), count(groups.length, "group"), count(environments.length, "environment")];
  find("summary").textContent = `${parts.join(", ")}; ${data.date}`;
  find("command").textContent = data.command;
  find("made").textContent = `rlpipe ${data.version}, ${data.date}`;
  document.querySelectorAll("[data-count]").forEach((each) => {
    each.textContent = fixed(data.resamples[each.dataset.count], 0);
  });
  find("notes").append(...data.notes.map((note) => make("li", { textContent: note })));
}

function hide(id) {
  find(id).hidden = true;
  document.querySelectorAll(`nav a[href="#${id}"]`).forEach((link) => {
    link.hidden = true;
  });
}

function light(on) {
  document.documentElement.classList.toggle("light", on);
  drawPlots();
}

if (groups.some((group) => group.runs.some((run) => run.success !== null))) COLUMNS.push(SUCCESS);
makeMethods();
makeAcross();
makeUnfinished();
if (data.unfinished.length === 0) hide("unfinished");
if (data.gifs.length === 0) hide("gifs");
if (groups.length === 0) ["choice", "results", "curves", "improvement", "settings"].forEach(hide);
makeGifs();
makeChoices();
makeImprovement();
redraw();
document.querySelectorAll("input[name=axis], #thin").forEach((input) => input.addEventListener("change", () => drawPlots()));
find("same").addEventListener("change", () => drawSettings());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawPlots());
addEventListener("beforeprint", () => light(true));
addEventListener("afterprint", () => light(false));
