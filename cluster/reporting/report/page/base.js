"use strict";
// Helpers of all other files. Everything on the page is made by `el`: texts become text nodes, never HTML, so that
// nothing an episode says can turn into markup or code.

const data = JSON.parse(document.getElementById("data").textContent);

/** An element. Attributes that begin with "on" are listeners; null, undefined and false are left out. */
function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

/** Text from outside: control characters are shown as their pictures, and those that turn the direction as a box. */
function plain(text) {
  return text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (sign) => String.fromCharCode(0x2400 + sign.charCodeAt(0)))
    .replace(/[\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\u25a1");
}

/** Numbers as people read them: three digits that count. */
function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1);
  return Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 6 });
}

function seconds(value) {
  return value < 120 ? `${number(value)} s` : `${number(value / 60)} min`;
}

function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

/** What the address says after its `#`: the view, the filters and the episode, so that a link can be shared. */
const place = {
  read: () => Object.fromEntries(new URLSearchParams(location.hash.slice(1))),
  write(values, replace = false) {
    const kept = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined);
    const hash = "#" + new URLSearchParams(kept);
    if (hash === (location.hash || "#")) return;
    if (replace) history.replaceState(null, "", hash);
    else history.pushState(null, "", hash);
    window.dispatchEvent(new Event("hashchange"));
  },
};

/** The run that the address names, or the first. */
function runNamed(name) {
  return data.runs.find((run) => run.name === name) || data.runs[0];
}
