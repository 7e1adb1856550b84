// Learning curves, drawn by plotly.js: a plot for each environment.

const COLORS = 7;
// as plotly calls a symbol, and as a character
const SYMBOLS = [
  ["circle", "●"],
  ["square", "■"],
  ["diamond", "◆"],
  ["triangle-up", "▲"],
  ["triangle-down", "▼"],
  ["star", "★"],
  ["pentagon", "⬟"],
];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const LONGEST_NAME = 60;

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// plotly reads some HTML in its texts
function literal(name) {
  const short = name.length > LONGEST_NAME ? `${name.slice(0, LONGEST_NAME - 1)}…` : name;
  return short.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

// The curve of the chosen seeds: Python's for all of them, else computed here
function curveOf(view, axis) {
  const curve = view.group.curves[axis];
  if (view.complete) return curve;
  const seeds = view.indices.map((index) => curve.seeds[index]);
  const drawn = resamples(seeds.length);
  const estimates = curve.at.map((_, position) => estimate(seeds.map((seed) => seed[position]), drawn));
  const band = seeds.length > 1;
  return {
    at: curve.at,
    seeds,
    iqm: estimates.map((each) => each.iqm),
    low: band ? estimates.map((each) => each.low) : null,
    high: band ? estimates.map((each) => each.high) : null,
  };
}

function tracesOf(view, axis, thin) {
  const { group } = view;
  const curve = curveOf(view, axis);
  const paint = color(`series-${group.series % COLORS}`);
  const dash = DASHES[Math.floor(group.series / COLORS) % DASHES.length];
  const silent = { hoverinfo: "skip", showlegend: false };
  const traces = [];
  if (curve.low) {
    traces.push({
      ...silent,
      meta: { group: group.number, kind: "band" },
      x: [...curve.at, ...[...curve.at].reverse()],
      y: [...curve.high, ...[...curve.low].reverse()],
      mode: "lines",
      line: { width: 0, color: paint },
      fill: "toself",
      fillcolor: paint,
      opacity: 0.18,
    });
  }
  if (thin && curve.seeds.length > 1) {
    curve.seeds.forEach((seed, index) => {
      traces.push({
        ...silent,
        meta: { group: group.number, kind: "seed", run: view.runs[index].number },
        x: curve.at,
        y: seed,
        mode: "lines",
        line: { width: 1, color: paint, dash },
        opacity: 0.4,
      });
    });
  }
  traces.push({
    meta: { group: group.number, kind: "iqm" },
    name: literal(group.label),
    x: curve.at,
    y: curve.iqm,
    mode: "lines+markers",
    line: { width: 2.5, color: paint, dash },
    marker: { size: 8, color: paint, symbol: SYMBOLS[group.series % SYMBOLS.length][0], maxdisplayed: 16 },
    hovertemplate: "%{y:.5~g}<extra>%{fullData.name}</extra>",
    showlegend: false,
  });
  return traces;
}

function layoutOf(axis) {
  const line = { gridcolor: color("grid"), zerolinecolor: color("grid"), linecolor: color("line"), automargin: true };
  return {
    // the mode bar is above the curves, not on them
    margin: { l: 56, r: 12, t: 36, b: 48 },
    height: 360,
    autosize: true,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, sans-serif", size: 13, color: color("text") },
    xaxis: { ...line, title: { text: axis === "frames" ? "frames" : "training seconds" }, rangemode: "tozero" },
    // 0.0002 and 1e+8, where plotly would write 200μ and 100M
    yaxis: { ...line, title: { text: "evaluation return" }, tickformat: ".7~g" },
    hovermode: "x unified",
    hoverlabel: { namelength: -1, bgcolor: color("panel"), font: { color: color("text") } },
    // on a touch screen a drag scrolls the page
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
  };
}

const PLOTLY = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

function drawCurves(container, environments, views, axis, thin) {
  // all of them before any is drawn: how wide one may be depends on how many there are
  if (!container.hasChildNodes()) container.append(...environments.map(plotFigure));
  environments.forEach((environment, index) => {
    container.children[index].hidden = !views.some((view) => view.group.environment === environment);
  });
  environments.forEach((environment, index) => {
    const figure = container.children[index];
    const inside = views.filter((view) => view.group.environment === environment);
    const traces = inside.flatMap((view) => tracesOf(view, axis, thin));
    if (!figure.hidden) Plotly.react(figure.querySelector(".plot"), traces, layoutOf(axis), PLOTLY);
  });
}

function plotFigure(environment) {
  const plot = make("div", { className: "plot" });
  plot.setAttribute("role", "group");
  plot.setAttribute("aria-label", `Learning curves on ${environment}; the figures are in the table of results`);
  return make("figure", {}, make("figcaption", { textContent: environment }), plot);
}
