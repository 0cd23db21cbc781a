// Results: a good one disappears automatically, any can be closed.

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

// The button closes a result.
document.addEventListener("click", (event) => {
  event.target.closest("[data-dismiss]")?.closest(".say")?.remove();
});

// Announces a text with the results, for people who see or hear the page.
export function announce(text) {
  const note = document.createElement("p");
  const words = document.createElement("span");
  note.className = "say say--good";
  words.className = "say__text";
  words.textContent = text;
  note.append(words);
  say.replaceChildren(note);
}
