// The list of episodes with its filters, and the episode that is open. What is shown follows from the address alone.

const FILTERS = ["outcome", "type", "route", "step", "text"];

const viewer = {
  root: null,
  rows: [],
  asked: 0, // counts questions, so that a late answer to an old one is dropped
  listed: null,

  make() {
    this.list = el("ol", { class: "rows" });
    this.count = el("p", { class: "note count", role: "status" });
    this.more = el("button", { class: "more", onclick: () => this.load(true) }, "more");
    this.detail = el("div", { class: "detail" });
    this.fields = el("form", { class: "filters", onsubmit: (event) => event.preventDefault() });
    this.root = el(
      "div",
      { class: "viewer" },
      el("div", { class: "side" }, this.fields, this.count, this.list, this.more, el("p", { class: "note keys-hint" }, "j and k: next and previous episode · ← and →: turns · /: search")),
      this.detail,
    );
    return this.root;
  },

  /** Show what the address names. */
  async show(at) {
    const run = runNamed(at.run);
    const filter = { run: run.name, ...Object.fromEntries(FILTERS.map((name) => [name, at[name] || ""])) };
    const key = JSON.stringify(filter);
    if (this.listed !== key) {
      this.listed = key;
      this.filter = filter;
      this.fill(run);
      await this.load(false);
      if (this.listed !== key) return;
    }
    this.root.classList.toggle("open", Boolean(at.episode));
    await this.open(run, at.episode);
  },

  fill(run) {
    const select = (name, choices) =>
      el("select", { "aria-label": name, onchange: (event) => this.narrow(name, event.target.value) },
        el("option", { value: "" }, name === "type" ? "every task type" : `every ${name}`),
        choices.map((choice) => el("option", { value: choice, selected: choice === this.filter[name] }, plain(choice.replaceAll("_", " ")))));
    const input = (name, hint, type) =>
      el("input", { type, placeholder: hint, "aria-label": hint, value: this.filter[name], onchange: (event) => this.narrow(name, event.target.value) });
    const runs = data.runs.length < 2 ? null
      : el("select", { "aria-label": "run", onchange: (event) => place.write({ view: "episodes", run: event.target.value }) },
          data.runs.map((one) => el("option", { value: one.name, selected: one === run }, plain(one.name))));
    this.fields.replaceChildren(
      ...[runs, input("text", "search texts and tasks", "search"), ...["outcome", "type", "route"].map((name) => select(name, run.choices[name])), input("step", "step or 100-140", "text")].filter(Boolean),
    );
  },

  narrow(name, value) {
    place.write({ ...place.read(), view: "episodes", [name]: value, episode: "" });
  },

  /** Ask for the list, or for what comes after it. */
  async load(further) {
    const question = ++this.asked;
    if (!further) [this.rows, this.next] = [[], 0];
    this.count.textContent = "…";
    try {
      const answer = await source.list(this.filter, this.next);
      if (question !== this.asked) return;
      this.rows.push(...answer.rows);
      this.next = answer.next;
      this.count.textContent = this.found(answer);
    } catch (error) {
      if (question !== this.asked) return;
      this.next = null;
      this.count.textContent = error.message;
    }
    this.more.hidden = this.next === null;
    this.more.textContent = this.filter.text && data.served ? "search further" : "more";
    this.list.replaceChildren(...this.rows.map((row) => this.row(row)));
    this.mark(place.read().episode);
  },

  /** How many there are, and of what: a page holds a sample, a search goes through the newest first. */
  found(answer) {
    const run = runNamed(this.filter.run);
    if (!run.episodes) return "This run has recorded no episodes.";
    if (answer.searched !== undefined && this.filter.text) {
      return `${plural(this.rows.length, "episode")} found in the newest ${answer.searched.toLocaleString("en")} of ${answer.total.toLocaleString("en")}`;
    }
    const held = data.served ? run.episodes : data.episodes.filter((episode) => episode.run === run.name).length;
    const sample = held < run.episodes ? `; this page holds ${held} of the run's ${run.episodes.toLocaleString("en")}: the newest groups, and others spread over the run` : "";
    return plural(answer.total, "episode") + sample;
  },

  row(row) {
    return el(
      "li",
      { "data-id": row.id },
      el("a", { href: "#" + this.address(row.id) },
        el("span", { class: `dot ${row.outcome}`, title: row.outcome }),
        el("span", { class: "what" }, plain(row.type || row.task).replaceAll("_", " ")),
        el("span", { class: "where" }, [plain(row.id), row.step === null ? null : `step ${row.step}`, plural(row.turns, "turn"), row.route].filter(Boolean).join(" · ")),
      ),
    );
  },

  /** The address of an episode within what is filtered. */
  address(id) {
    const { run, ...filter } = this.filter;
    const kept = Object.entries({ episode: id, run: data.runs.length > 1 ? run : "", ...filter }).filter(([, value]) => value);
    return new URLSearchParams(kept).toString();
  },

  mark(id) {
    for (const item of this.list.children) {
      const chosen = item.dataset.id === id;
      item.classList.toggle("chosen", chosen);
      if (chosen) item.scrollIntoView({ block: "nearest" });
    }
  },

  async open(run, id) {
    this.mark(id);
    if (!id) {
      this.shown = null;
      return this.detail.replaceChildren(el("p", { class: "note empty" }, this.rows.length ? "Choose an episode, or press j." : ""));
    }
    if (this.shown === `${run.name} ${id}`) return;
    this.shown = `${run.name} ${id}`;
    const back = el("button", { class: "back", onclick: () => this.close() }, "← all episodes");
    try {
      const wanted = this.shown;
      const episode = await source.get(run.name, id);
      if (this.shown !== wanted) return;
      this.detail.replaceChildren(back, episodeView(episode, run));
    } catch (error) {
      this.detail.replaceChildren(back, el("p", { class: "note empty" }, error.message));
    }
    this.turn = -1;
    this.detail.scrollTop = 0;
  },

  close() {
    place.write({ ...place.read(), view: "episodes", episode: "" });
  },

  /** The episode `by` places further down the list. */
  step(by) {
    const now = this.rows.findIndex((row) => row.id === place.read().episode);
    const next = this.rows[now < 0 ? 0 : now + by];
    if (next) place.write(Object.fromEntries(new URLSearchParams(this.address(next.id))), true);
  },

  stepTurn(by) {
    const turns = this.detail.querySelectorAll(".turn");
    if (!turns.length) return;
    this.turn = Math.max(0, Math.min(turns.length - 1, this.turn + by));
    turns[this.turn].focus({ preventScroll: true });
    turns[this.turn].scrollIntoView({ block: "center" });
  },

  key(event) {
    const keys = {
      j: () => this.step(1),
      k: () => this.step(-1),
      ArrowRight: () => this.stepTurn(1),
      ArrowLeft: () => this.stepTurn(-1),
      "/": () => this.fields.querySelector("input[type=search]").focus(),
      Escape: () => this.close(),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  },
};
