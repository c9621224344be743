// One episode, turn by turn.

const NATS_OF_FULL_COLOUR = 4; // a token of probability 0.02 or less has the full colour

function episodeView(episode, run) {
  const weights = episode.versions[0] === episode.versions[1] ? episode.versions[0] : episode.versions.join(" to ");
  const facts = {
    "step": episode.step,
    "weights": episode.staleness ? `${weights}, ${plural(episode.staleness, "version")} behind` : weights,
    "route": episode.route,
    "ended by": episode.stop.replaceAll("_", " "),
    "member": `${episode.member} of ${episode.group}`,
    "seed": episode.seed,
    "routed by score": episode.score === null ? null : `${number(episode.score)} (threshold ${number(episode.threshold)})`,
    "seconds": `${number(episode.seconds.generation)} generating, ${number(episode.seconds.environment)} in the environment`,
    "experience used": episode.experience.length ? `${episode.experience.join(", ")} (snapshot ${episode.memory})` : null,
    "error": episode.error,
  };
  return el(
    "article",
    { class: "episode" },
    el("h2", {}, el("span", { class: `chip ${episode.outcome}` }, episode.outcome), " ", plain(episode.type || episode.environment)),
    el("p", { class: "task" }, plain(episode.task)),
    el("dl", { class: "facts" }, Object.entries(facts).filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, plain(String(value)))))),
    rewardTable(episode),
    run.wordless ? el("p", { class: "note" }, "No tokenizer was found beside the run, so tokens are shown by their numbers.") : null,
    legend(),
    el("ol", { class: "turns" }, episode.played.map(turnItem)),
  );
}

function rewardTable(episode) {
  const names = Object.keys(episode.rewards);
  if (!names.length) return null;
  const row = (name, values) => [name, ...names.map((reward) => number(values[reward]))];
  const rows = [row("reward", episode.rewards)];
  if (Object.keys(episode.rewardAdvantages).length) rows.push(row("advantage in its group", episode.rewardAdvantages));
  return table({ title: null, columns: ["", ...names.map((name) => plain(name.replaceAll("_", " ")))], rows });
}

function legend() {
  const shade = (nats) => token(`p ${number(Math.exp(-nats), 2)}`, -nats);
  return el("p", { class: "legend" }, "tokens by probability: ", [0, 0.7, 1.6, 4].map((nats) => [shade(nats), " "]), el("span", { class: "edge up" }, "advantage above 0"), " ", el("span", { class: "edge down" }, "below 0"));
}

function turnItem(turn, at) {
  const marks = [
    turn.advantage === null ? null : el("span", { class: "chip" }, `advantage ${number(turn.advantage)}`),
    turn.reward ? el("span", { class: turn.reward > 0 ? "chip good" : "chip warn" }, `reward ${number(turn.reward)}`) : null,
    turn.valid ? null : el("span", { class: "chip warn" }, "not valid"),
    turn.truncated ? el("span", { class: "chip warn" }, "cut off") : null,
  ];
  const sign = turn.advantage > 0 ? "up" : turn.advantage < 0 ? "down" : "";
  const said = el("div", { class: `said ${sign}` }, turn.tokens.map((text, index) => token(text, turn.logprobs[index])));
  said.style.setProperty("--strength", Math.min(1, Math.abs(turn.advantage || 0)));
  return el(
    "li",
    { class: "turn", tabindex: -1 },
    el("div", { class: "seen" }, turn.seen.map(([text, control]) => (control ? el("span", { class: "control" }, plain(text)) : plain(text.trim())))),
    said,
    el("div", { class: "marks" }, el("span", { class: "count" }, `turn ${at + 1}`), marks),
  );
}

/** A token, the darker the less it was expected; the figures show when it is pointed at. */
function token(text, logprob) {
  const sampled = logprob !== null && logprob !== undefined;
  const said = sampled ? `log-probability ${number(logprob)}, probability ${number(Math.exp(logprob))}` : "not sampled";
  const made = el("span", { class: sampled ? "token" : "token given", title: said }, plain(text));
  if (sampled) made.style.setProperty("--surprise", Math.min(1, -logprob / NATS_OF_FULL_COLOUR));
  return made;
}
