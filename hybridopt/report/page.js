"use strict";
// The page works without this script: it adds the read-out under the pointer and two conveniences to the legend.
(() => {
  const data = JSON.parse(document.getElementById("curves").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const show = (value) => {
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };
  const visible = (index) => index !== null && (document.getElementById("show" + index) || {}).checked;

  const nearest = (xs, x) => {
    let low = 0, high = xs.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle; else high = middle;
    }
    return Math.abs(xs[low] - x) <= Math.abs(xs[high] - x) ? low : high;
  };

  for (const box of document.querySelectorAll(".variant[data-x]")) {
    const svg = box.querySelector("svg");
    const [low, high, start, stop, log] = box.dataset.x.split(" ").map(Number);
    const lines = data[box.dataset.chart][box.dataset.axis];
    const upward = box.dataset.mode === "max";
    let cursor = null, tip = null;
    const leave = () => {
      if (cursor) cursor.remove();
      if (tip) tip.remove();
      cursor = tip = null;
    };
    const move = (event) => {
      const frame = svg.getBoundingClientRect();
      const view = svg.viewBox.baseVal;
      const at = ((event.clientX - frame.left) / frame.width) * view.width;
      if (at < start - 4 || at > stop + 4) return leave();
      const share = Math.min(1, Math.max(0, (at - start) / (stop - start)));
      const x = log ? low * Math.pow(high / low, share) : low + (high - low) * share;
      const slack = log ? x * 0.02 : (high - low) * 0.012;
      const found = [];
      for (const [index, label, xs, ys] of lines) {
        // A logarithmic axis does not show what lies at 0.
        const first = log ? xs.find((value) => value > 0) : xs[0];
        if (!visible(index) || !(x >= first - slack) || x > xs[xs.length - 1] + slack) continue;
        found.push([ys[nearest(xs, x)], index, label]);
      }
      if (!found.length) return leave();
      const key = (row) => (row[0] === null ? (upward ? -Infinity : Infinity) : row[0]);
      found.sort((a, b) => (upward ? key(b) - key(a) : key(a) - key(b)));
      if (!cursor) {
        cursor = document.createElementNS(SVG, "path");
        cursor.setAttribute("class", "cursor");
        svg.append(cursor);
        tip = document.createElement("div");
        tip.className = "tip";
        box.append(tip);
      }
      cursor.setAttribute("d", `M${at.toFixed(1)} 16V${view.height - 46}`);
      const head = document.createElement("div");
      head.innerHTML = "<b></b>";
      head.firstChild.textContent = `${box.dataset.unit === "steps" ? Math.round(x) : show(x)} ${box.dataset.unit}`;
      const rows = found.map(([y, index, label]) => {
        const row = document.createElement("div");
        row.className = "s" + index;
        row.innerHTML = '<span><svg class="swatch" viewBox="0 0 18 10"><path d="M0 5H18"/></svg><span></span></span><b></b>';
        row.querySelector("span span").textContent = label;
        row.querySelector("b").textContent = y === null ? "–" : show(y);
        return row;
      });
      tip.replaceChildren(head, ...rows);
      const left = (at / view.width) * frame.width;
      const room = frame.width - left - 14;
      tip.style.left = room > tip.offsetWidth ? `${left + 14}px` : `${Math.max(0, left - tip.offsetWidth - 14)}px`;
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("pointerdown", move);
    svg.addEventListener("pointerleave", leave);
  }

  const boxes = [...document.querySelectorAll("input[id^=show]")];
  for (const label of document.querySelectorAll(".legend label")) {
    label.title = "click: hide or show; double click: only this one";
    label.addEventListener("dblclick", () => {
      for (const box of boxes) box.checked = box.id === label.htmlFor;
    });
  }
  for (const button of document.querySelectorAll(".legend button")) {
    button.hidden = false;
    button.addEventListener("click", () => boxes.forEach((box) => { box.checked = true; }));
  }
})();
