// The server's clock and the age of the reading, which continue between two answers.

const root = document.documentElement;
const units = (root.dataset.units || "s,min,h,d").split(",");

let clock = {server: Number(root.dataset.clock), at: performance.now()};
let reading = null;

const serverNow = () => clock.server + (performance.now() - clock.at) / 1000;

function takeReadingAge(ageS) {
  reading = Number.isFinite(ageS) ? serverNow() - ageS : null;
}

// Takes the clock and the age of the figures from an answer of the server.
export function takeClock(server, readingAgeS) {
  clock = {server, at: performance.now()};
  takeReadingAge(readingAgeS);
}

// The same formats as whole_duration and short_age in webapp/web/formats.py.
function elapsed(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const [sec, min, hour, day] = units;
  const join = (...parts) => parts.filter(([n]) => n).map(([n, unit]) => `${n}\u00a0${unit}`).join(" ");
  if (s < 60) return `${s}\u00a0${sec}`;
  if (s < 3600) return join([Math.floor(s / 60), min], [s % 60, sec]);
  if (s < 86400) return join([Math.floor(s / 3600), hour], [Math.floor((s % 3600) / 60), min]);
  return join([Math.floor(s / 86400), day], [Math.floor((s % 86400) / 3600), hour]);
}

function ago(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  const [sec, min, hour, day] = units;
  const [n, unit] = s >= 86400 ? [s / 86400, day] : s >= 3600 ? [s / 3600, hour] : s >= 60 ? [s / 60, min] : [s, sec];
  return root.dataset.ago.replace("{}", `${Math.floor(n)}\u00a0${unit}`);
}

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function tick() {
  const now = serverNow();
  for (const element of document.querySelectorAll("[data-since]")) {
    const seconds = now - Number(element.dataset.since);
    write(element, element.dataset.form === "ago" ? ago(seconds) : elapsed(seconds));
  }
  for (const element of document.querySelectorAll("[data-until]")) {
    write(element, elapsed(Number(element.dataset.until) - now));
  }
  if (reading === null) return;
  for (const element of document.querySelectorAll("[data-reading-age]")) write(element, ago(now - reading));
  for (const element of document.querySelectorAll("[data-offline-age]")) write(element, elapsed(now - reading));
}

const firstAge = document.querySelector("[data-reading-age]")?.dataset.readingAge;
takeReadingAge(firstAge ? Number(firstAge) : NaN);
setInterval(tick, 1000);
