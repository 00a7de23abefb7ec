// What both pages share: one view at a time, notices, announcements for screen readers.

export const $ = (id) => document.getElementById(id);

/** Shows one section of the page and moves the focus to its heading. */
export function show(name) {
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== name;
  $(`${name}-title`).focus({ preventScroll: true });
  window.scrollTo({ top: 0 });
}

/** Which section is shown. */
export function shown() {
  return document.querySelector(".view:not([hidden])")?.id;
}

/** A line that screen readers speak when they find the time. */
export function say(text) {
  $("status").textContent = text;
}

/** A notice at the top; "" takes it away. */
export function notify(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

/** A description as it is shown. */
export function quoted(prompt) {
  return `“${prompt}”`;
}

/** What a failure means, in words. */
export function explain(error) {
  const text = error.message || String(error);
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
