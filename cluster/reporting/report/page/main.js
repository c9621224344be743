// Which view is shown follows from the address.

const VIEWS = { summary: summaryView, curves: curvesView, episodes: () => viewer.make(), settings: settingsView };
const made = {}; // views that have been made

function show() {
  const at = place.read();
  const name = at.episode ? "episodes" : at.view in VIEWS ? at.view : "summary";
  made[name] ||= VIEWS[name]();
  const main = document.getElementById("main");
  if (main.firstChild !== made[name]) main.replaceChildren(made[name]);
  document.getElementById("views").replaceChildren(
    ...Object.keys(VIEWS).map((view) => el("a", { href: `#view=${view}`, "aria-current": view === name ? "page" : null }, view)),
  );
  document.body.dataset.view = name;
  if (name === "episodes") viewer.show(at);
}

window.addEventListener("hashchange", show);
window.addEventListener("popstate", show);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
document.addEventListener("keydown", (event) => {
  const typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (typing && event.key === "Escape") event.target.blur();
  const free = !typing && !event.ctrlKey && !event.metaKey && !event.altKey;
  if (free && document.body.dataset.view === "episodes") viewer.key(event);
});
show();
