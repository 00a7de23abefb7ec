// Side-by-side evaluation: one pair after the other, each clip rated from 1 to 5.

import { Api, newId, persist, sleep } from "./api.js";
import { Consent } from "./consent.js";
import { Outbox } from "./outbox.js";
import { $, explain, notify, quoted, say, show, shown } from "./page.js";
import { PairView } from "./pair_view.js";

const LOOK_AGAIN_MS = 5000;

const api = new Api();
const outbox = new Outbox(api);
const consent = new Consent(api);
const path = `/api/studies/${encodeURIComponent(location.pathname.split("/").pop())}`;
let view = null;

await begin().catch(fail);

async function begin() {
  const session = await persist(() => api.session(), lost);
  notify("");
  await consent.ensure(session);
  if (outbox.waiting) await outbox.deliver(saving).catch(fail);
  const study = await persist(() => api.get(path), lost);
  notify("");
  if (study.pair || study.state === "done") await proceed(study);
  else show("intro");
}

async function proceed(study) {
  const all = study.rated + study.open;
  $("progress").textContent = `${study.rated} of ${all} rated`;
  document.querySelector(".steps i").style.setProperty("--part", all ? study.rated / all : 0);
  if (study.pair) showPair(study.pair);
  else if (study.state === "done") finish(study);
  else await lookAgain();
}

/** The next pair. */
async function draw() {
  const study = await persist(() => api.change("POST", `${path}/pair`), lost);
  notify("");
  await proceed(study);
}

async function lookAgain() {
  show("pause");
  await sleep(LOOK_AGAIN_MS);
  if (shown() === "pause") await draw();
}

function finish(study) {
  $("done-text").textContent = study.rated
    ? `You rated ${study.rated === 1 ? "one pair" : `${study.rated} pairs`}. There is nothing more to rate here.`
    : "All pairs have been rated already.";
  show("done");
}

function showPair(pair) {
  view?.close({ forget: false });
  $("pair-prompt").textContent = quoted(pair.prompt);
  $("save").hidden = true;
  show("rating");
  view = new PairView($("clips"), pair, addScores, showScores);
}

function addScores(slot, side) {
  const scores = $("scores-template").content.cloneNode(true).firstElementChild;
  scores.dataset.side = side;
  scores.querySelector("legend").textContent = `Points for clip ${side.toUpperCase()}`;
  for (const input of scores.querySelectorAll("input")) input.name = `score-${side}`;
  scores.addEventListener("change", () => showScores(view));
  slot.replaceChildren(scores);
}

function showScores(pairView) {
  if (!pairView || outbox.waiting) return;
  for (const scores of document.querySelectorAll(".scores")) scores.disabled = !pairView.isOpen;
  const missing = ["a", "b"].filter((side) => scoreOf(side) === null);
  $("rating").classList.toggle("ready", pairView.isOpen);
  $("save").hidden = !pairView.isOpen;
  $("save").disabled = missing.length > 0;
  const names = missing.map((side) => `clip ${side.toUpperCase()}`).join(" and ");
  $("todo").textContent = pairView.todo || (missing.length ? `Rate ${names}.` : "");
}

function scoreOf(side) {
  const chosen = document.querySelector(`input[name=score-${side}]:checked`);
  return chosen ? Number(chosen.value) : null;
}

async function save() {
  const [score_a, score_b] = ["a", "b"].map(scoreOf);
  if (!view?.isOpen || outbox.waiting || score_a === null || score_b === null) return;
  outbox.put(`${path}/ratings`, { rating_id: newId(), pair_id: view.pair.pair_id, score_a, score_b, ...view.report });
  for (const scores of document.querySelectorAll(".scores")) scores.disabled = true;
  $("save").disabled = true;
  $("todo").textContent = "Saving …";
  let problem = "";
  await outbox.deliver(saving).catch((error) => (problem = explain(error)));
  notify("");
  view.close({ forget: true });
  view = null;
  if (!problem) say("Saved.");
  await draw().catch(fail);
  if (problem) notify(`Your rating was not taken: ${problem}`);
}

function saving() {
  notify("Your rating cannot be saved right now. It is kept here and sent again until it is.");
}

function lost() {
  notify("The app is not answering. Trying again …");
}

function fail(error) {
  notify(explain(error));
}

$("start").addEventListener("click", () => draw().catch(fail));
$("save").addEventListener("click", () => save().catch(fail));
$("rating").addEventListener("keydown", (event) => {
  const side = event.target.closest(".clip")?.querySelector(".scores")?.dataset.side;
  if (!side || !view?.isOpen || event.ctrlKey || event.metaKey || event.altKey || !/^[1-5]$/.test(event.key)) return;
  event.preventDefault();
  document.querySelector(`input[name=score-${side}][value="${event.key}"]`).click();
});
