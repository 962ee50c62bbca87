"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const byId = (name) => document.getElementById(name);

  // What happened is shown for a moment, and read out.
  let silence;
  const say = (text) => {
    byId("said").textContent = text;
    clearTimeout(silence);
    silence = setTimeout(() => { byId("said").textContent = ""; }, 2500);
  };

  const copy = async (text, what) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Pages that are opened from a disk may not write to the clipboard themselves.
      const area = document.createElement("textarea");
      area.value = text;
      area.style.position = "fixed";
      area.style.opacity = "0";
      document.body.append(area);
      const focused = document.activeElement;
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      focused?.focus();
      if (!done) { say("This browser does not let pages copy; select the table instead"); return; }
    }
    say(`Copied ${what}`);
  };

  // Tables: sorting by a column, empty cells last in both directions.
  const compare = (one, other) => {
    const [a, b] = [Number(one), Number(other)];
    return Number.isNaN(a) || Number.isNaN(b) ? one.localeCompare(other, "en", { numeric: true }) : a - b;
  };
  const sort = (table, header) => {
    const column = header.cellIndex;
    const isNumber = header.classList.contains("n");
    const was = header.getAttribute("aria-sort");
    const down = was === "none" ? isNumber : was === "ascending";
    all("thead th", table).forEach((one) => one.setAttribute("aria-sort", "none"));
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[column].dataset.value;
    const rows = [...table.tBodies[0].rows];
    rows.sort((one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      return down ? compare(b, a) : compare(a, b);
    });
    table.tBodies[0].append(...rows);
  };

  // A cell with an interval is three columns of a file.
  const grid = (table) => {
    const headers = all("thead th", table);
    const names = headers.flatMap((one) => {
      const name = one.textContent.trim();
      return "interval" in one.dataset ? [name, `${name} low`, `${name} high`] : [name];
    });
    const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].flatMap((cell, place) => {
      const text = cell.querySelector("span").textContent;
      const own = headers[place].classList.contains("n") ? cell.dataset.value : text;
      return "interval" in headers[place].dataset ? [own, cell.dataset.low ?? "", cell.dataset.high ?? ""] : [own];
    }));
    return [names, ...rows];
  };
  const csvField = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const asCsv = (table) => grid(table).map((row) => row.map(csvField).join(",")).join("\r\n") + "\r\n";

  const SPECIAL = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", "$": "\\$",
    "#": "\\#", "_": "\\_", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
  };
  const tex = (text) => text.replace(/[\\{}&%$#_~^<>]/g, (found) => SPECIAL[found]);
  const asLatex = (table) => {
    const headers = all("thead th", table);
    const line = (cells) => `${cells.join(" & ")} \\\\`;
    const rows = [...table.tBodies[0].rows].map((row) => line([...row.cells].map((cell) => {
      const text = tex(cell.querySelector("span").textContent);
      return cell.dataset.low ? `${text} {\\scriptsize [${cell.dataset.low}, ${cell.dataset.high}]}` : text;
    })));
    const columns = headers.map((one) => (one.classList.contains("n") ? "r" : "l")).join("");
    return [
      "% \\usepackage{booktabs}", `\\begin{tabular}{${columns}}`, "\\toprule",
      line(headers.map((one) => tex(one.textContent.trim()))), "\\midrule", ...rows, "\\bottomrule", "\\end{tabular}", "",
    ].join("\n");
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const header = button.closest("table.data thead th");
    if (header) sort(header.closest("table"), header);
    if (button.dataset.copy) {
      const table = byId(`table-${button.dataset.table}`);
      if (button.dataset.copy === "csv") copy(asCsv(table), "the table as CSV");
      else copy(asLatex(table), "the table as LaTeX");
    }
    if (button.dataset.copies) copy(byId(button.dataset.copies).textContent, "the commands");
  });

  // Gallery: what a card shows is mixed by the page's style alone.
  const NAMES = ["image", "truth", "map"];
  const blend = byId("blend");
  const mix = () => {
    const value = Number(blend.value);
    const style = document.documentElement.style;
    style.setProperty("--truth", String(Math.max(0, 1 - Math.abs(value - 1))));
    style.setProperty("--map", String(Math.max(0, value - 1)));
    style.setProperty("--grey", String(Math.min(1, value)));
    const nearest = Math.round(value);
    const share = Math.round(100 * Math.abs(value - nearest));
    const other = NAMES[nearest + Math.sign(value - nearest)];
    blend.setAttribute("aria-valuetext", share ? `${NAMES[nearest]}, ${share}% ${other}` : NAMES[nearest]);
  };
  blend?.addEventListener("input", mix);

  const filters = byId("filters");
  const filter = () => {
    const asked = Object.fromEntries(new FormData(filters));
    const [low, high] = [Number(asked.low || 0), Number(asked.high || 100)];
    const cards = all("#cards > .card");
    let shown = 0;
    for (const { dataset, ...rest } of cards.map((card) => ({ dataset: card.dataset, card }))) {
      const iou = Number(dataset.iou);
      const fits = ["generator", "method", "trained", "domain", "verdict"].every((key) => !asked[key] || dataset[key] === asked[key]);
      // A range from 10 to 20 has all that is shown as 10 to 20.
      rest.card.hidden = !(fits && Math.round(iou) >= low && Math.round(iou) <= high);
      shown += !rest.card.hidden;
    }
    byId("count").textContent = `${shown} of ${cards.length} images`;
    return asked;
  };
  const order = (asked) => {
    const cards = all("#cards > .card");
    const by = {
      worst: (a, b) => a.dataset.iou - b.dataset.iou,
      best: (a, b) => b.dataset.iou - a.dataset.iou,
      name: (a, b) => a.dataset.id.localeCompare(b.dataset.id, "en", { numeric: true }),
    }[asked.order];
    byId("cards").append(...cards.sort(by));
  };
  filters?.addEventListener("input", (event) => {
    const asked = filter();
    if (event.target.name === "order") order(asked);
  });
  filters?.addEventListener("reset", () => setTimeout(() => order(filter())));
  filters?.addEventListener("submit", (event) => event.preventDefault());

  // One image at a time, larger; arrow keys step through what the filters left.
  const large = byId("large");
  let current;
  const show = (card) => {
    current = card;
    const { dataset } = card;
    byId("large-name").textContent = dataset.id;
    for (const pane of all(".panes .stack", large)) {
      pane.style.aspectRatio = card.querySelector(".stack").style.aspectRatio;
      pane.replaceChildren(...all("img", card).map((image) => image.cloneNode()));
    }
    const facts = [
      ["verdict", dataset.verdict], ["generator", dataset.generator], ["map of", dataset.method], ["trained on", dataset.trained],
      ["domain", dataset.domain], ["IoU", dataset.iou && `${Number(dataset.iou).toFixed(1)}%`],
      ["pixels called fake", `${dataset.share}%`], ["size", dataset.size],
      ["run", dataset.run !== dataset.method && dataset.run],
      ...dataset.figures.split("; ").map((one) => one.split(": ")),
    ];
    byId("large-facts").replaceChildren(...facts.filter(([, value]) => value).map(([name, value]) => {
      const entry = document.createElement("div");
      const [term, detail] = ["dt", "dd"].map((tag) => document.createElement(tag));
      term.textContent = name;
      detail.textContent = value;
      entry.append(term, detail);
      return entry;
    }));
    if (!large.open) large.showModal();
  };
  const step = (by) => {
    const cards = all(".card:not([hidden])", current.parentElement);
    const next = cards[cards.indexOf(current) + by];
    if (next) show(next);
  };
  for (const list of all(".cards")) {
    list.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (card) show(card);
    });
  }
  if (large) {
    byId("large-close").addEventListener("click", () => large.close());
    byId("large-before").addEventListener("click", () => step(-1));
    byId("large-after").addEventListener("click", () => step(1));
    large.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    });
    large.addEventListener("click", (event) => { if (event.target === large) large.close(); });
    large.addEventListener("close", () => current?.querySelector("button").focus());
  }

  // On paper nothing can be opened.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((one) => { one.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((one) => { one.open = false; }));
})();
