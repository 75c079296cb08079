"use strict";
// Comparing pictures, reading curves, sorting tables. The page tells everything without it.

document.documentElement.classList.add("live");

const make = (name, className, parent) => {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (parent) parent.append(element);
  return element;
};

// --- pictures: the photograph is laid over another picture up to the pointer ---

function wipe(frame, photograph) {
  const above = make("img", "above", frame);
  above.alt = "";
  make("div", "edge", frame);
  const move = (event) => {
    const box = frame.getBoundingClientRect();
    if (!above.src) above.src = photograph();
    const cut = Math.max(0, Math.min(box.width, event.clientX - box.left));
    frame.style.setProperty("--cut", cut + "px");
    frame.classList.toggle("cutting", Boolean(photograph()));
  };
  frame.addEventListener("pointermove", move);
  for (const kind of ["pointerleave", "pointerup", "pointercancel"]) {
    frame.addEventListener(kind, (event) => {
      if (kind === "pointerleave" || event.pointerType !== "mouse") frame.classList.remove("cutting");
    });
  }
  return above;
}

function setUp(row) {
  const shots = [...row.querySelectorAll(".shot")];
  const truth = shots.find((shot) => shot.dataset.kind === "truth");
  const photograph = truth && truth.querySelector("img").src;
  for (const shot of shots) {
    const image = shot.querySelector("img");
    const frame = make("div", "frame");
    image.replaceWith(frame);
    frame.append(image);
    frame.tabIndex = 0;
    frame.setAttribute("role", "button");
    frame.setAttribute("aria-label", "Enlarge: " + image.alt);
    if (photograph && shot !== truth) wipe(frame, () => photograph);
    let start = null;
    frame.addEventListener("pointerdown", (event) => { start = event.clientX; });
    frame.addEventListener("click", (event) => {
      const dragged = start !== null && event.detail && Math.abs(event.clientX - start) > 8;
      if (!dragged) enlarge(shots, shots.indexOf(shot), photograph);
    });
    frame.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        enlarge(shots, shots.indexOf(shot), photograph);
      }
    });
  }
}

function enlarge(shots, index, photograph) {
  const dialog = make("dialog", "", document.body);
  const inside = make("div", "inside", dialog);
  const bar = make("div", "bar", inside);
  const heading = shots[0].closest(".view");
  make("b", "", bar).textContent = heading ? heading.querySelector("h3").firstChild.textContent.trim() : "";
  const frame = make("div", "frame", make("div", "stage", inside));
  const image = make("img", "", frame);
  let current = index;
  const above = photograph ? wipe(frame, () => (shots[current].dataset.kind === "truth" ? "" : photograph)) : null;
  const buttons = shots.map((shot, i) => {
    const button = make("button", "", bar);
    button.textContent = shot.dataset.caption;
    button.addEventListener("click", () => show(i));
    return button;
  });
  const close = make("button", "", bar);
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  const arrows = "← → switch between the pictures in place";
  make("p", "hint", inside).textContent = (photograph ? "Move across to lay the photograph over it. " : "") + arrows;
  const fit = () => {
    const room = frame.parentElement;
    const [width, height] = [image.naturalWidth, image.naturalHeight];
    if (!width || !height) return;
    const scale = Math.min(room.clientWidth / width, room.clientHeight / height);
    image.style.setProperty("--fit-width", width * scale + "px");
    image.style.setProperty("--fit-height", height * scale + "px");
  };
  const show = (i) => {
    current = (i + shots.length) % shots.length;
    const shown = shots[current].querySelector("img");
    image.src = shown.src;
    image.alt = shown.alt;
    frame.classList.remove("cutting");
    buttons.forEach((button, j) => button.setAttribute("aria-pressed", String(j === current)));
  };
  if (above) above.src = photograph;
  image.addEventListener("load", fit);
  addEventListener("resize", fit);
  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) show(current + step);
  });
  dialog.addEventListener("close", () => {
    removeEventListener("resize", fit);
    dialog.remove();
    shots[current].querySelector(".frame").focus({ preventScroll: true });
  });
  dialog.showModal();
  show(index);
  buttons[current].focus();
}

document.querySelectorAll(".row").forEach(setUp);

// --- curves: the values nearest to the pointer ---

const digits = (value) =>
  Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));

function readable(plot) {
  const data = JSON.parse(plot.dataset.chart);
  const axes = plot.querySelector(".axes");
  const guide = make("div", "guide", plot);
  const tip = make("div", "tip", plot);
  guide.hidden = tip.hidden = true;
  const nearest = (xs, x) => {
    let low = 0;
    let high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle;
      else high = middle;
    }
    return x - xs[low] < xs[high] - x ? low : high;
  };
  const move = (event) => {
    const box = axes.getBoundingClientRect();
    const outer = plot.getBoundingClientRect();
    const share = Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    const x = data.x[0] + share * (data.x[1] - data.x[0]);
    const dense = data.lines.reduce((a, b) => (b.x.length > a.x.length ? b : a));
    const at = dense.x[nearest(dense.x, x)];
    const place = ((at - data.x[0]) / (data.x[1] - data.x[0])) * box.width;
    tip.replaceChildren();
    make("div", "", tip).textContent = data.xName + " " + digits(at);
    for (const line of data.lines) {
      const i = nearest(line.x, at);
      const row = make("div", "", tip);
      make("span", "", row).textContent = line.name + (line.x[i] === at ? "" : " (at " + digits(line.x[i]) + ")");
      make("b", "", row).textContent = digits(line.y[i]) + (data.unit ? " " + data.unit : "");
    }
    guide.hidden = tip.hidden = false;
    const left = box.left - outer.left + place;
    guide.style.left = left + "px";
    const right = left + 14 + tip.offsetWidth > outer.width;
    tip.style.left = Math.max(0, right ? left - 14 - tip.offsetWidth : left + 14) + "px";
  };
  plot.addEventListener("pointermove", move);
  plot.addEventListener("pointerdown", move);
  plot.addEventListener("pointerleave", () => { guide.hidden = tip.hidden = true; });
}

document.querySelectorAll(".plot").forEach(readable);

// --- tables: sorted by a click on a heading, and searched ---

document.querySelectorAll("table.sortable").forEach((table) => {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = make("button");
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].textContent.trim();
      const rows = [...body.rows].sort((a, b) => key(a).localeCompare(key(b), "en", { numeric: true }));
      body.append(...(down ? rows.reverse() : rows));
    });
  });
  if (!table.classList.contains("filtered")) return;
  const find = make("input", "find");
  find.type = "search";
  find.placeholder = "Find an option";
  find.setAttribute("aria-label", "Find an option");
  table.parentElement.before(find);
  find.addEventListener("input", () => {
    const wanted = find.value.trim().toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
});
