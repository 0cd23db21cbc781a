// Results: a good one goes by itself, any can be sent away.

const SAY_STAYS_MS = 9000;
const say = document.getElementById("say");

let goes = 0;
if (say) {
  new MutationObserver(() => {
    clearTimeout(goes);
    const note = say.querySelector(".say--good");
    if (note) goes = setTimeout(() => note.remove(), SAY_STAYS_MS);
  }).observe(say, {childList: true});
}

// Closes a result by its button.
document.addEventListener("click", (event) => {
  event.target.closest("[data-dismiss]")?.closest(".say")?.remove();
});

// Says it where results are announced, for whoever looks on or listens.
export function announce(text) {
  const note = document.createElement("p");
  const words = document.createElement("span");
  note.className = "say say--good";
  words.className = "say__text";
  words.textContent = text;
  note.append(words);
  say.replaceChildren(note);
}
