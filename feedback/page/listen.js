// Free use: a description, two clips, a trophy for one of them.

import { Api, newId, persist, sleep } from "./api.js";
import { Consent } from "./consent.js";
import { Outbox } from "./outbox.js";
import { $, explain, notify, quoted, say, show, shown } from "./page.js";
import { PairView } from "./pair_view.js";

const CHOICES = { 1: "a", 2: "b", 3: "tie", 4: "neither" };
const WORDS = {
  a: "You gave the trophy to clip A.",
  b: "You gave the trophy to clip B.",
  tie: "You found both clips equally good.",
  neither: "You found neither clip good.",
};
const STAGES = ["queued", "sampling", "rendering", "saving"];
const FORGETFUL = 3; // so often a pair is asked for again when a restarted app does not know of it

const api = new Api();
const outbox = new Outbox(api);
const consent = new Consent(api);
let view = null;
let wait = 0; // number of the wait that is going on; another one ends it

await begin().catch(fail);

async function begin() {
  const session = await persist(() => api.session(), lost);
  notify("");
  $("prompt").maxLength = session.prompt_max_chars;
  await consent.ensure(session);
  if (outbox.waiting) await outbox.deliver(saving).catch(fail);
  await proceed(await persist(() => api.get("/api/pair"), lost));
}

/** From where the app says that the listener is. */
async function proceed(state, prompt = null) {
  notify("");
  if (state.state === "ready") showPair(state.pair);
  else if (STAGES.includes(state.state)) await follow(state, prompt);
  else if (state.state === "failed") fail(new Error(state.message));
  else await compose();
}

async function compose(problem = "") {
  wait += 1;
  show("compose");
  hint(problem || `Up to ${$("prompt").maxLength} characters.`, Boolean(problem));
  const { prompts } = await persist(() => api.get("/api/suggestions"), lost);
  notify("");
  $("suggestions").replaceChildren(...prompts.map(suggestion));
}

function suggestion(prompt) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = prompt;
  button.addEventListener("click", () => ask(prompt));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

/** Asks for a pair; prompt null: of whichever suggestion. */
async function ask(prompt) {
  leave();
  try {
    await proceed(await api.change("POST", "/api/pair", { prompt }), prompt);
  } catch (error) {
    fail(error);
  }
}

/** Tells how far the pair is, until it is there. */
async function follow(state, prompt) {
  const own = ++wait;
  const started = performance.now();
  show("making");
  for (let forgotten = 0; own === wait; ) {
    showStage(state, (performance.now() - started) / 1000);
    await sleep(performance.now() - started < 5000 ? 350 : 1000);
    if (own !== wait) return;
    state = await persist(() => api.get("/api/pair"), lost);
    if (own !== wait) return;
    notify("");
    if (state.state === "none" && ++forgotten <= FORGETFUL) state = await again(prompt);
    if (!STAGES.includes(state.state)) {
      await proceed(state, prompt);
      return;
    }
  }
}

/** The app was restarted and knows nothing of what was asked. */
function again(prompt) {
  return persist(() => api.change("POST", "/api/pair", { prompt }), lost);
}

function showStage(state, seconds) {
  const present = STAGES.indexOf(state.state);
  $("making-prompt").textContent = quoted(state.prompt);
  for (const [place, item] of [...$("stages").children].entries()) {
    item.className = place < present ? "past" : place === present ? "present" : "";
    if (place === present) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }
  const ahead = state.ahead ? `${state.ahead} before you. ` : "";
  $("making-hint").textContent = `${ahead}${Math.round(seconds)} s`;
  const text = $("stages").children[present].textContent;
  if ($("status").textContent !== text) say(text);
}

function showPair(pair) {
  leave();
  wait += 1;
  $("pair-prompt").textContent = quoted(pair.prompt);
  show("pair");
  view = new PairView($("clips"), pair, addTrophy, showAnswers);
}

function addTrophy(slot, side) {
  const button = $("trophy-template").content.cloneNode(true).firstElementChild;
  button.dataset.choice = side;
  button.querySelector("span").textContent = `Clip ${side.toUpperCase()} is better`;
  button.addEventListener("click", () => vote(side));
  slot.replaceChildren(button);
}

function showAnswers(pairView) {
  if (outbox.waiting) return;
  for (const button of choices()) button.disabled = !pairView.isOpen;
  $("pair").classList.toggle("ready", pairView.isOpen);
  $("todo").textContent = pairView.todo || "Your turn: which one gets the trophy?";
}

async function vote(choice) {
  if (!view?.isOpen || outbox.waiting) return;
  outbox.put("/api/votes", { vote_id: newId(), pair_id: view.pair.pair_id, choice, ...view.report });
  for (const button of choices()) {
    button.disabled = true;
    button.classList.toggle("chosen", button.dataset.choice === choice);
  }
  $("todo").textContent = "Saving …";
  try {
    await outbox.deliver(saving);
  } catch (error) {
    leave({ forget: true });
    await proceed(await persist(() => api.get("/api/pair"), lost)).catch(fail);
    notify(`Your answer was not taken: ${explain(error)}`);
    return;
  }
  notify("");
  leave({ forget: true });
  $("voted").textContent = WORDS[choice];
  show("thanks");
  say(`Thank you. ${WORDS[choice]}`);
}

function choices() {
  return $("pair").querySelectorAll(".choice");
}

/** Puts the present pair away. */
function leave({ forget = false } = {}) {
  view?.close({ forget });
  view = null;
  for (const button of choices()) button.classList.remove("chosen");
}

function saving() {
  notify("Your answer cannot be saved right now. It is kept here and sent again until it is.");
}

function lost() {
  notify("The app is not answering. Trying again …");
}

/** Back to the beginning, with the reason. */
function fail(error) {
  const text = explain(error);
  if (error.status === 422) compose(text).catch(fail);
  else if (error.status === 401) location.reload();
  else compose().then(() => notify(text), () => notify(text));
}

function hint(text, wrong) {
  $("prompt-hint").textContent = text;
  $("prompt-hint").classList.toggle("wrong", wrong);
  $("prompt").setAttribute("aria-invalid", String(wrong));
  if (wrong) $("prompt").focus();
}

$("prompt-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const prompt = $("prompt").value.trim();
  if (prompt) ask(prompt);
  else hint("Write a few words first, or take a suggestion.", true);
});
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("prompt-form").requestSubmit();
  }
});
for (const button of document.querySelectorAll(".others .choice")) {
  button.addEventListener("click", () => vote(button.dataset.choice));
}
$("pair").addEventListener("keydown", (event) => {
  if (shown() !== "pair" || event.ctrlKey || event.metaKey || event.altKey || !CHOICES[event.key]) return;
  event.preventDefault();
  vote(CHOICES[event.key]);
});
$("stop-waiting").addEventListener("click", () => compose().catch(fail));
$("next").addEventListener("click", () => ask(null));
$("thanks").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target === $("thanks-title")) ask(null); // pair after pair, without the mouse
});
$("write").addEventListener("click", () => compose().catch(fail));
