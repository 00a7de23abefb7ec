// Two clips side by side, and whether both were heard long enough for an answer.

import { ClipPlayer } from "./clip_player.js";
import { HeardStore } from "./heard.js";
import { say } from "./page.js";

export class PairView {
  /** host: where the clips go; fill(slot, side): puts the means of answering below a clip; onChange(view). */
  constructor(host, pair, fill, onChange) {
    this.pair = pair;
    this.store = new HeardStore(pair.pair_id);
    this.onChange = onChange;
    this.wasOpen = false;
    this.players = ["a", "b"].map((side) => new ClipPlayer(side, pair[side], this.store, () => this.#heard()));
    for (const player of this.players) fill(player.root.querySelector(".slot"), player.side);
    host.replaceChildren(...this.players.map((player) => player.root));
    host.onkeydown = (event) => this.#key(event);
    this.#heard();
  }

  /** Both clips were heard long enough. */
  get isOpen() {
    return this.players.every((player) => player.leftS === 0);
  }

  /** What was played, as the app wants it. */
  get report() {
    return { a: this.players[0].report, b: this.players[1].report };
  }

  /** In words, what is still to be done. */
  get todo() {
    const left = this.players.filter((player) => player.leftS > 0);
    if (!left.length) return "";
    const parts = left.map((player) => `${player.leftS.toFixed(1)} s of clip ${player.letter}`);
    return `Before you answer, listen to ${parts.join(" and ")}.`;
  }

  /** The answer is in: nothing has to be kept. */
  close({ forget }) {
    for (const player of this.players) player.close();
    if (forget) this.store.clear();
  }

  #heard() {
    if (!this.players) return; // the first clip reports while the second is being made
    if (this.isOpen && !this.wasOpen) say("Both clips were heard. You can answer now.");
    this.wasOpen = this.isOpen;
    this.onChange(this);
  }

  #key(event) {
    if (event.key !== " " || event.target.closest("button, input")) return;
    const player = this.players.find((each) => each.root.contains(event.target));
    if (!player) return;
    event.preventDefault();
    player.toggle();
  }
}
