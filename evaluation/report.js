"use strict";
// One clip at a time, a playhead over its picture, a click on the picture to play from there.
const players = [...document.querySelectorAll("audio")];
for (const audio of players) {
  const clip = audio.closest(".clip");
  const head = clip.querySelector(".head");
  const follow = () => {
    head.style.left = `${(100 * audio.currentTime) / (audio.duration || 1)}%`;
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", () => {
    for (const other of players) if (other !== audio) other.pause();
    clip.classList.add("playing");
    follow();
  });
  audio.addEventListener("pause", () => clip.classList.remove("playing"));
  clip.querySelector(".picture").addEventListener("click", (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    audio.currentTime = ((event.clientX - box.left) / box.width) * audio.duration;
    audio.play();
  });
}
// Under the pointer: the values of a chart's curves, written below it.
const number = (value) => Number(value).toPrecision(4).replace(/\.?0+$/, "").replace("-", "\u2212");
for (const chart of document.querySelectorAll("svg.chart")) {
  const [left, right, top, bottom] = chart.dataset.frame.split(",").map(Number);
  const [low, high] = chart.dataset.x.split(",").map(Number);
  const lines = [...chart.querySelectorAll(".line")].map((line) => ({
    label: line.dataset.label,
    values: line.dataset.values.split(" "),
    places: line.getAttribute("points").split(" ").map((pair) => Number(pair.split(",")[0])),
  }));
  const cross = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cross.setAttribute("class", "cross");
  cross.setAttribute("y1", top);
  cross.setAttribute("y2", bottom);
  cross.setAttribute("visibility", "hidden");
  chart.append(cross);
  const reading = document.createElement("p");
  reading.className = "reading";
  chart.after(reading);
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
    if (x < left || x > right) return;
    cross.setAttribute("x1", x);
    cross.setAttribute("x2", x);
    cross.setAttribute("visibility", "visible");
    const at = low + ((x - left) / (right - left)) * (high - low);
    const words = lines.map(({ label, values, places }) => {
      const nearest = places.reduce((best, place, i) => (Math.abs(place - x) < Math.abs(places[best] - x) ? i : best), 0);
      return `${label} ${number(values[nearest])}`;
    });
    reading.textContent = `at ${number(at)}: ${words.join(" · ")}`;
  });
  chart.addEventListener("pointerleave", () => {
    cross.setAttribute("visibility", "hidden");
    reading.textContent = "";
  });
}
