// Filling in the form: advice, alternatives and "choose" are links that contain the form's values.

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

// Fills in the form in place instead of reloading the page.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-fill]");
  const form = document.getElementById("switch-form");
  if (!link || !form || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  fill(form, new URL(link.href).searchParams);
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.getElementById("switch").scrollIntoView({block: "nearest", behavior: isCalm ? "auto" : "smooth"});
});

// Cancels a pending plan for the previous values: its answer would restore them.
const plan = document.getElementById("plan");
for (const type of ["input", "change"]) {
  document.getElementById("switch-form")?.addEventListener(type, () => plan.dispatchEvent(new Event("htmx:abort")));
}

// Shows all models again without reloading the page, so that the form keeps its values.
document.addEventListener("click", (event) => {
  const search = document.getElementById("models-q");
  if (!event.target.closest("[data-clear-search]") || !search) return;
  event.preventDefault();
  search.value = "";
  search.dispatchEvent(new Event("input", {bubbles: true}));
  search.focus();
});
