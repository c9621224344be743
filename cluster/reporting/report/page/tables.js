// The summary, and the settings.

/** A table of texts. Cells that begin with two blanks belong to the row above them. */
function table({ title, columns, rows }) {
  const cell = (text, at) => el("td", { class: at ? "figure" : text.startsWith("  ") ? "below" : null }, breakable(text.trim()));
  return el(
    "figure",
    { class: "table" },
    title ? el("figcaption", {}, title) : null,
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        {},
        el("thead", {}, el("tr", {}, columns.map((name, at) => el("th", { class: at ? "figure" : null }, name)))),
        el("tbody", {}, rows.map((row) => el("tr", {}, row.map(cell)))),
      ),
    ),
  );
}

/** A text that may be broken after the points, slashes and underscores of a name, where the table lets it. */
function breakable(text) {
  return text.split(/(?<=[\w\]"][._/,])(?=\w)/).flatMap((piece, at) => (at ? [el("wbr"), piece] : [piece]));
}

function summaryView() {
  const hasSuccess = data.runs.some((run) => run.charts.some((chart) => chart.title === "Success"));
  return el(
    "div",
    { class: "page" },
    el("div", { class: "runs" }, data.runs.map(runCard)),
    hasSuccess ? chartCard("Success") : null,
    data.between.length ? el("section", { class: "card" }, el("h2", {}, "Between the runs"), data.between.map(table)) : null,
    data.runs.map(evaluationCard),
    el("section", { class: "card" }, el("h2", {}, "Where the time went"), data.runs.map(timeBar)),
    el("p", { class: "note foot" }, `Written by concerto report, ${data.made}.`),
  );
}

function runCard(run) {
  const last = run.points.length ? run.points[run.points.length - 1].name : null;
  const figures = run.points.filter((point) => point.name === last);
  const total = Object.values(run.seconds).reduce((sum, value) => sum + value, 0);
  return el(
    "section",
    { class: "card" },
    el("h2", {}, run.name, " ", el("span", { class: run.finished ? "chip good" : "chip warn" }, run.finished ? "finished" : "not finished")),
    el(
      "dl",
      { class: "figures" },
      figures.map((point) => [
        el("div", {}, el("dt", {}, `${point.panel}, ${point.way}, ${last.replaceAll("_", " ")}`), el("dd", {}, number(point.rate), el("small", {}, ` ${number(point.low)} to ${number(point.high)}`))),
      ]),
      el("div", {}, el("dt", {}, "steps"), el("dd", {}, String(run.stages.reduce((sum, band) => sum + band.last - band.first + 1, 0)))),
      el("div", {}, el("dt", {}, "recorded episodes"), el("dd", {}, run.episodes.toLocaleString("en"))),
      el("div", {}, el("dt", {}, "measured time"), el("dd", {}, seconds(total))),
    ),
    run.lessons.map((line) => el("p", { class: "lesson" }, line + ".")),
    run.faults.length
      ? el("ul", { class: "faults" }, run.faults.map((line) => el("li", {}, line)))
      : el("p", { class: "note" }, "No faults were recorded."),
  );
}

function evaluationCard(run) {
  if (!run.tables.length) return null;
  return el(
    "section",
    { class: "card" },
    el("h2", {}, data.runs.length > 1 ? `Evaluations of ${run.name}` : "Evaluations"),
    run.tables.map(table),
    el("p", { class: "note" }, "Intervals hold 95 %. Won and lost count the tasks that only the later or only the earlier weights solve, greedily; p is McNemar's exact test."),
    run.types.map((one) => el("details", {}, el("summary", {}, `By task type: ${one.name}`), one.tables.map(table))),
  );
}

function timeBar(run) {
  const entries = Object.entries(run.seconds).sort((a, b) => b[1] - a[1]);
  const total = entries.reduce((sum, [, value]) => sum + value, 0);
  if (!total) return el("p", { class: "note" }, `${run.name}: nothing was measured yet.`);
  const part = ([phase, value], at) => {
    const piece = el("span", { class: "piece", title: `${phase}: ${seconds(value)}` });
    piece.style.flexGrow = value;
    piece.style.background = `var(--line-${(at % 8) + 1})`;
    return piece;
  };
  const key = ([phase, value], at) => {
    const mark = el("i", { class: "mark" });
    mark.style.background = `var(--line-${(at % 8) + 1})`;
    return el("li", {}, mark, `${phase} `, el("b", {}, seconds(value)), ` ${Math.round((100 * value) / total)} %`);
  };
  return el(
    "div",
    { class: "time" },
    data.runs.length > 1 ? el("h3", {}, run.name) : null,
    el("div", { class: "bar" }, entries.map(part)),
    el("ul", { class: "keys" }, entries.map(key)),
  );
}

function curvesView() {
  const cards = allCharts();
  return el("div", { class: "page wide" }, cards.length ? el("div", { class: "charts" }, cards) : el("p", { class: "card" }, "No step has been recorded yet."));
}

function settingsView() {
  const names = data.runs.map((run) => run.name);
  const all = [...new Set(data.runs.flatMap((run) => Object.keys(run.config)))];
  const rows = (settings) => settings.map((name) => [name, ...data.runs.map((run) => run.config[name] ?? "–")]);
  const heading = (title, settings) => table({ title, columns: ["setting", ...names], rows: rows(settings) });
  const different = data.differences.map((row) => row.name);
  return el(
    "div",
    { class: "page" },
    names.length > 1
      ? el("section", { class: "card settings" }, different.length ? heading("What differs between the runs", different) : el("p", {}, "The runs have the same settings."))
      : null,
    el("section", { class: "card settings" }, heading("All settings", all)),
  );
}
