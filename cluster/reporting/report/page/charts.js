// Curves over steps, by uPlot: one picture for each title, with the runs that have it over one another.

const drawn = []; // the plots on the page, to be redrawn when light turns to dark

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const colours = () => [1, 2, 3, 4, 5, 6, 7, 8].map((at) => colour(`--line-${at}`));

/** All charts of all runs, in the order of the first run that has them. */
function allCharts() {
  const titles = [...new Set(data.runs.flatMap((run) => run.charts.map((chart) => chart.title)))];
  return titles.map((title) => chartCard(title));
}

/** A picture with its heading; it is drawn when it comes into sight, since a hidden one has no width. */
function chartCard(title) {
  const space = el("div", { class: "plot" });
  const { note } = data.runs.flatMap((run) => run.charts).find((chart) => chart.title === title);
  const card = el("section", { class: "card chart" }, el("h3", {}, title), el("p", { class: "note" }, note), space);
  let plot = null;
  new ResizeObserver(() => {
    const width = space.clientWidth;
    if (!width) return;
    if (plot && space.contains(plot.root)) return plot.setSize({ width, height: plot.height });
    plot = draw(title, space, width);
    drawn.push({ title, space });
  }).observe(space);
  return card;
}

function redrawAll() {
  for (const { title, space } of drawn) {
    if (!space.clientWidth) continue;
    space.replaceChildren();
    draw(title, space, space.clientWidth);
  }
}

function draw(title, space, width) {
  const lines = linesOf(title);
  const points = title === "Success" ? pointsOf() : [];
  const steps = [...new Set([...lines, ...points].flatMap((line) => line.steps))].sort((a, b) => a - b);
  const rows = [...lines, ...points].map((line) => {
    const at = new Map(line.steps.map((step, index) => [step, line.values[index]]));
    return steps.map((step) => at.get(step) ?? null);
  });
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 },
    font: "12px system-ui, sans-serif",
  };
  const options = {
    width,
    height: 230,
    padding: [20, 12, 0, 0],
    scales: { x: { time: false, range: (plot, first, last) => beside(first, last) }, y: { range: (plot, low, high) => room(title, low, high) } },
    axes: [axis, { ...axis, size: 62, values: (plot, splits) => splits.map((value) => number(value)) }],
    cursor: { sync: { key: "step" }, points: { size: 7 } },
    legend: { markers: { fill: (plot, at) => plot.series[at].mark } },
    series: [{ label: "step" }, ...lines.map(lineSeries), ...points.map(pointSeries)],
    hooks: { drawClear: [stageBands], draw: [(plot) => intervals(plot, points)] },
  };
  return new uPlot(options, [steps, ...rows], space);
}

/** A little room beside the first and the last step, so that their points are whole. */
function beside(first, last) {
  const air = (last - first || 1) * 0.015;
  return [first - air, last + air];
}

/** Shares stand between 0 and 1; everything else gets a little air. */
function room(title, low, high) {
  if (low === null) return [0, 1];
  if (title === "Success" || title === "Routes") return [0, 1];
  const air = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return [low >= 0 && low - air < 0 ? 0 : low - air, high + air];
}

/** One line a run and metric. With several runs a colour is a run, and dashes tell the metrics apart. */
function linesOf(title) {
  const palette = colours();
  const several = data.runs.length > 1;
  return data.runs.flatMap((run, runAt) => {
    const chart = run.charts.find((one) => one.title === title);
    return Object.entries(chart ? chart.series : {}).map(([name, values], at) => ({
      steps: run.steps,
      values,
      label: several ? `${run.name}: ${name}` : name,
      stroke: palette[(several ? runAt : name.includes("mean of") ? 0 : at) % palette.length],
      dash: several && at && !name.includes("mean of") ? [2 + 3 * at, 4] : [],
      faint: name === "success", // its rolling mean is the line to read
    }));
  });
}

/** Evaluations: greedy play filled, sampled play hollow. */
function pointsOf() {
  const palette = colours().slice(1);
  const panels = [...new Set(data.runs.flatMap((run) => run.points.map((point) => point.panel)))];
  return data.runs.flatMap((run, runAt) =>
    panels.flatMap((panel, at) =>
      ["greedy", "sampled"].flatMap((way) => {
        const own = run.points.filter((point) => point.panel === panel && point.way === way);
        if (!own.length) return [];
        const label = `${data.runs.length > 1 ? run.name + ": " : ""}${panel}, ${way}`;
        const stroke = data.runs.length > 1 ? colours()[runAt % 8] : palette[at % 7];
        return [{ steps: own.map((point) => point.step), values: own.map((point) => point.rate), own, label, stroke, way }];
      }),
    ),
  );
}

function lineSeries(line) {
  return {
    label: line.label,
    stroke: line.stroke,
    dash: line.dash,
    mark: line.faint ? null : line.stroke,
    width: line.faint ? 1 : 2,
    alpha: line.faint ? 0.35 : 1,
    spanGaps: true,
    points: { show: line.values.filter((value) => value !== null).length < 2 },
    value: (plot, value) => number(value),
  };
}

function pointSeries(line) {
  return {
    label: line.label,
    stroke: line.stroke,
    mark: line.way === "greedy" ? line.stroke : null,
    paths: () => null,
    points: { show: true, size: 9, width: 2, fill: line.way === "greedy" ? line.stroke : colour("--card") },
    value: (plot, value) => number(value),
  };
}

/** 95 % intervals of the evaluations, as bars behind the points. */
function intervals(plot, lines) {
  plot.ctx.save();
  plot.ctx.lineWidth = 1.5 * devicePixelRatio;
  for (const line of lines) {
    plot.ctx.strokeStyle = line.stroke;
    for (const point of line.own) {
      const x = plot.valToPos(point.step, "x", true);
      plot.ctx.beginPath();
      plot.ctx.moveTo(x, plot.valToPos(point.low, "y", true));
      plot.ctx.lineTo(x, plot.valToPos(point.high, "y", true));
      plot.ctx.stroke();
    }
  }
  plot.ctx.restore();
}

/** Every other stage of the first run is tinted, and each has its name above. */
function stageBands(plot) {
  const { left, top, width, height } = plot.bbox;
  plot.ctx.save();
  plot.ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  data.runs[0].stages.forEach((band, at) => {
    const within = (step) => Math.min(left + width, Math.max(left, plot.valToPos(step, "x", true)));
    const [from, to] = [within(band.first - 1), within(band.last)];
    if (from === to) return;
    plot.ctx.fillStyle = colour(at % 2 ? "--band-odd" : "--band");
    plot.ctx.fillRect(from, top, to - from, height);
    plot.ctx.fillStyle = colour("--muted");
    plot.ctx.fillText(band.stage, from + 2 * devicePixelRatio, top - 6 * devicePixelRatio);
  });
  plot.ctx.restore();
}
