// Filling the form: advice, ways out and "choose" are links that say the form's values.

function fill(form, values) {
  const whole = values.has("mode");
  for (const field of form.elements) {
    if (!field.name || field.type === "hidden") continue;
    if (field.type === "checkbox") {
      if (whole) field.checked = (values.get(field.name) ?? "").split(",").includes(field.value);
    } else if (values.has(field.name)) {
      if (field.type === "radio") field.checked = field.value === values.get(field.name);
      else field.value = values.get(field.name);
    }
  }
  form.dispatchEvent(new Event("change", {bubbles: true}));
}

// Fills the form in place instead of loading the page anew.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-fill]");
  const form = document.getElementById("switch-form");
  if (!link || !form || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  fill(form, new URL(link.href).searchParams);
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.getElementById("switch").scrollIntoView({block: "nearest", behavior: isCalm ? "auto" : "smooth"});
});

// A plan that is under way for what the form said a moment ago comes no more: it would put that back.
const plan = document.getElementById("plan");
for (const type of ["input", "change"]) {
  document.getElementById("switch-form")?.addEventListener(type, () => plan.dispatchEvent(new Event("htmx:abort")));
}

// Shows all models again without loading the page anew, so that the form keeps what was chosen.
document.addEventListener("click", (event) => {
  const search = document.getElementById("models-q");
  if (!event.target.closest("[data-clear-search]") || !search) return;
  event.preventDefault();
  search.value = "";
  search.dispatchEvent(new Event("input", {bubbles: true}));
  search.focus();
});
