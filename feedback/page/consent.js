// The notice with its three choices, and the way to have everything deleted.

import { $, explain, say } from "./page.js";

export class Consent {
  #api;
  #agreed = () => {};
  #group = new URLSearchParams(location.search).get("group") ?? ""; // of the link that invited a listener

  constructor(api) {
    this.#api = api;
    $("consent-form").addEventListener("submit", (event) => this.#submit(event));
    $("open-consent").addEventListener("click", () => this.#open());
    $("delete").addEventListener("click", () => this.#delete());
    $("consent").addEventListener("cancel", (event) => {
      if (!this.consent) event.preventDefault(); // nothing works before a choice
    });
    $("consent").addEventListener("close", () => {
      if (!this.consent) this.#open(); // a second Escape closes whatever we say
    });
  }

  /** Resolves when there is a choice; asks for it if there is none. */
  async ensure(session) {
    this.consent = session.consent;
    $("operator").textContent = session.operator && `This page is run by ${session.operator}.`;
    $("group").textContent =
      this.#group && `You were invited as one of “${this.#group}”, which is kept with your number.`;
    if (this.consent) return;
    const agreed = new Promise((resolve) => (this.#agreed = resolve));
    this.#open();
    await agreed;
  }

  #open() {
    const choices = [...document.querySelectorAll("input[name=consent]")];
    for (const choice of choices) choice.checked = choice.value === this.consent; // at first nothing is chosen for you
    $("consent-title").textContent = this.consent ? "Your answers" : "Before you listen";
    $("agree").textContent = this.consent ? "Keep this choice" : "Agree and listen";
    $("delete").hidden = !this.consent;
    this.#askToDelete(false);
    this.#complain("");
    $("consent").showModal();
    (choices.find((choice) => choice.checked) ?? choices[0]).focus();
  }

  async #submit(event) {
    event.preventDefault();
    const consent = document.querySelector("input[name=consent]:checked").value;
    try {
      await this.#api.change("PUT", "/api/consent", { consent, group: this.#group });
    } catch (error) {
      this.#complain(explain(error));
      return;
    }
    this.consent = consent;
    $("consent").close();
    this.#agreed();
  }

  /** The first press asks, the second does it. */
  async #delete() {
    if (!this.asked) {
      this.#askToDelete(true);
      return;
    }
    try {
      const done = await this.#api.change("DELETE", "/api/votes");
      say(`${done.votes + done.ratings} answers were deleted.`);
    } catch (error) {
      this.#complain(explain(error));
      return;
    }
    sessionStorage.clear();
    localStorage.clear();
    location.reload();
  }

  #askToDelete(asked) {
    this.asked = asked;
    $("delete").textContent = asked ? "Yes, delete everything for good" : "Delete all my answers";
  }

  #complain(text) {
    $("consent-problem").textContent = text;
    $("consent-problem").hidden = !text;
  }
}
