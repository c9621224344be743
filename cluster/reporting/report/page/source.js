// Where episodes come from: this page, which holds a sample of them, or the server that sent it, which reads them from
// the run's Parquet files when they are asked for. Both answer alike.

const PAGE_OF_ROWS = 100;

const embedded = {
  /** Rows that fit, newest first: `{rows, total, next}`; `next` is where the list goes on, null at its end. */
  async list(filter, skip) {
    const fitting = data.episodes.filter((episode) => fits(episode, filter)).reverse();
    const next = skip + PAGE_OF_ROWS < fitting.length ? skip + PAGE_OF_ROWS : null;
    return { rows: fitting.slice(skip, skip + PAGE_OF_ROWS), total: fitting.length, next };
  },
  async get(run, id) {
    const found = data.episodes.find((episode) => episode.run === run && episode.id === id);
    if (!found) throw new Error(`The episode ${id} of ${run} is not among those in this page: concerto report --serve has all.`);
    return found;
  },
};

const served = {
  list: (filter, skip) => ask("episodes", { ...filter, skip }),
  get: (run, id) => ask("episode", { run, id }),
};

const source = data.served ? served : embedded;

async function ask(what, values) {
  const answer = await fetch(`${what}?${new URLSearchParams(values)}`);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

function fits(episode, filter) {
  for (const name of ["run", "outcome", "type", "route"]) {
    if (filter[name] && episode[name] !== filter[name]) return false;
  }
  if (filter.step) {
    const range = /^\s*(\d+)\s*(?:-\s*(\d+)\s*)?$/.exec(filter.step);
    if (!range) throw new Error(`'${filter.step}' is no step: write one, as 120, or a range, as 100-140.`);
    if (episode.step === null || episode.step < +range[1] || episode.step > +(range[2] || range[1])) return false;
  }
  return !filter.text || textOf(episode).includes(filter.text.toLowerCase());
}

const texts = new Map(); // an episode's words, for the search

function textOf(episode) {
  if (!texts.has(episode)) {
    const turns = episode.played.map((turn) => turn.seen.map((piece) => piece[0]).join("") + turn.tokens.join(""));
    texts.set(episode, `${episode.task}\n${turns.join("")}`.toLowerCase());
  }
  return texts.get(episode);
}
