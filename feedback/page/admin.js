// What was collected so far, for who runs the app.

import { Api } from "./api.js";
import { $, explain, notify, show } from "./page.js";

const api = new Api();

await look();

async function look() {
  try {
    showFigures(await api.get("/api/admin/summary"));
  } catch (error) {
    if (error.status !== 401) notify(explain(error));
    show("login");
  }
}

function showFigures(found) {
  notify("");
  const share = found.compared ? `${Math.round((100 * found.agreeing) / found.compared)} %` : "–";
  const choices = found.choices;
  $("counts").replaceChildren(
    ...figure("Listeners", found.listeners),
    ...figure("Pairs", found.pairs),
    ...figure("Votes", found.votes),
    ...figure("Trophies", (choices.a ?? 0) + (choices.b ?? 0)),
    ...figure("Ties", choices.tie ?? 0),
    ...figure("Neither", choices.neither ?? 0),
    ...figure("Listeners agree", share),
    ...figure("Ratings", found.ratings),
  );
  $("preferred").replaceChildren(...found.preferred.map((row) => line(row.policy, row.wins, row.losses, row.ties)));
  $("agreement").textContent = `Where two listeners gave a trophy to one of the same two clips (${found.compared} times), how often it was the same clip.`;
  $("study").hidden = !found.study;
  const raters = Object.entries(found.study_raters).map(([count, items]) => `${items} with ${count}`);
  $("study-caption").textContent = `Study ${found.study}: pairs by raters: ${raters.join(", ") || "none yet"}`;
  $("means").replaceChildren(...found.study_means.map((row) => line(row.policy, row.mean.toFixed(2), row.ratings)));
  show("figures");
}

function figure(name, value) {
  const box = document.createElement("div");
  box.append(element("dt", name), element("dd", String(value)));
  return [box];
}

function line(name, ...values) {
  const row = document.createElement("tr");
  const head = element("th", name);
  head.scope = "row";
  row.append(head, ...values.map((value) => element("td", String(value))));
  return row;
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

$("login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    showFigures(await api.post("/api/admin/login", { token: $("token").value }));
    $("token").value = "";
  } catch (error) {
    notify(explain(error));
  }
});
