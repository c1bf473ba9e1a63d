"use strict";
// The page is complete as it comes. This script writes another point into it, sorts, folds, links and explains.
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const data = JSON.parse($("#points-data").textContent);
  const axes = Object.keys(data.axes);
  const root = document.documentElement;

  // ------------------------------------------------------------------ numbers, as gpt2cost writes them

  const LARGE = [["", 0], ["k", 3], ["M", 6], ["G", 9], ["T", 12], ["P", 15]];
  const SMALL = [["n", -9], ["µ", -6], ["m", -3], ["", 0]];

  function prefixOf(exponent, unit) {
    const all = unit === "s" ? SMALL : LARGE;
    return all.filter(([, power]) => power <= exponent).pop() || all[0];
  }

  function quantity(value, unit) {
    if (!value) return "0";
    if ((unit !== "s" && Math.abs(value) < 1000 && Number.isInteger(value))) return `${value}\u00a0${unit}`.trim();
    const rounded = Number(value.toExponential(2));
    const exponent = Number(rounded.toExponential().split("e")[1]);
    const [prefix, power] = prefixOf(exponent, unit);
    const above = exponent - power;
    const number = above >= -3 && above <= 5 ? (rounded / 10 ** power).toFixed(Math.max(0, 2 - above)) : (rounded / 10 ** power).toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
    return `${number}\u00a0${prefix}${unit}`.trim();
  }

  function scaleFor(values, unit) {
    const largest = Math.max(0, ...values);
    if (!largest) return [1, unit];
    const [prefix, power] = prefixOf(Number(largest.toExponential(5).split("e")[1]), unit);
    return [10 ** power, prefix + unit];
  }

  const grouped = (value, digits = 0) => value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });

  function short(value) {
    if (value < 0.005) return value ? "0.00" : "0";
    return grouped(value, value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2);
  }

  const share = (part) => `${(100 * part).toFixed(1)}%`;
  const percent = (part) => `${(100 * part).toFixed(0)}%`;
  const filled = (phrase, values) => data.phrases[phrase].replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const plain = (text) => text.replaceAll("\u00a0", " ").replaceAll("µ", "u");

  // ------------------------------------------------------------------ formulas: sums of products of powers

  const parsed = new Map();

  function evaluate(text, symbols) {
    if (!parsed.has(text)) {
      const terms = text.replaceAll(" - ", " + -").split(" + ").map((term) => {
        const negative = term.startsWith("-");
        const factors = term.replace("-", "").split(/(?<!\*)\*(?!\*)/).map((factor) => {
          const [base, power] = factor.split("**");
          return [/^\d/.test(base) ? Number(base) : base, Number(power || 1)];
        });
        return [negative ? -1 : 1, factors];
      });
      parsed.set(text, terms);
    }
    return parsed.get(text).reduce((sum, [sign, factors]) => sum + factors.reduce((product, [base, power]) => product * (typeof base === "number" ? base : symbols[base]) ** power, sign), 0);
  }

  // ------------------------------------------------------------------ what is shown

  const asked = data.asked;
  let state = { at: [...asked], phase: data.phases[0], tab: data.phases[0], kernel: "" };
  let sorted = { key: "order", down: false };

  const choiceOf = (at) => at[3] * data.axes.attn.length + at[4];
  const placeOf = (at) => (at[0] * data.axes.seq.length + at[1]) * data.axes.cache.length + at[2];
  const isAsked = (at) => at.every((index, axis) => index === asked[axis]);
  const pointAt = (at) => data.distinct[data.points[choiceOf(at)][placeOf(at)]];

  // A phase as it is used. Of other points seconds are letters on a logarithmic scale: four for a pass and its what-ifs,
  // three for a kernel with its bound.
  function phaseAt(at, number) {
    const [sizes, rates, bound, trust, seconds] = pointAt(at).p[number];
    const { t, w, k, c } = typeof seconds === "string" ? unpacked(seconds) : seconds;
    return { sizes, rates, bound: data.pass_bounds[bound], trust: data.trusts[trust], seconds: t, whatIfs: w, kernels: k, bounds: c };
  }

  function unpacked(letters) {
    const code = (from, count) => [...letters.slice(from, from + count)].reduce((sum, letter) => 64 * sum + data.letters.indexOf(letter), 0);
    const nanoseconds = (level, levels) => (level ? Math.exp(level * data.longest / (levels - 1)) : 0);
    const wide = Array.from({ length: 5 + data.what_ifs.length }, (_, place) => nanoseconds(code(4 * place, 4), data.wide));
    const found = { t: wide.slice(0, 5), w: wide.slice(5).map((ns) => ns || null), k: [], c: "" };
    for (let from = 4 * wide.length; from < letters.length; from += 3) {
      const own = code(from, 3);
      found.k.push(nanoseconds(own % data.levels, data.levels));
      found.c += Math.floor(own / data.levels);
    }
    return found;
  }

  function refusal(at) {
    const refused = data.refused[choiceOf(at)];
    return refused || pointAt(at).x || "";
  }

  function rowsOf(at, phase) {
    const point = phaseAt(at, phase);
    const [batch_size, seq_len, cache_len] = point.sizes;
    const symbols = { ...data.symbols[data.axes.dtype[at[3]]], batch_size, seq_len, cache_len, kv_len: seq_len + cache_len };
    const rows = data.kernels.map(([name, kind, , listed]) => ({ name, kind, listed, launches: 0, flops: 0, read: 0, write: 0, s: 0, bound: "" }));
    let rank = 0;
    data.tables[choiceOf(at)].forEach((number, place) => {
      const ns = point.kernels[place];
      if (!ns) return;
      const [, , count] = data.kernels[number];
      const row = rows[number];
      row.one = {};
      for (const key of ["flops", "read", "write"]) row.one[key] = evaluate(formulas[number][key], symbols);
      row.launches = evaluate(count, symbols);
      row.rank = (rank += 1);
      for (const key of ["flops", "read", "write"]) row[key] = row.launches * row.one[key];
      row.s = ns / 1e9;
      row.bound = data.bounds[Number(point.bounds[place])];
    });
    return { point, symbols, rows };
  }

  const formulas = data.kernels.map((_, number) => {
    const step = $(`.step[data-k="${number}"]`);
    const text = (key) => $(`[data-f="${key}1"]`, step)?.previousElementSibling.textContent || "0";
    return { flops: text("flops"), read: text("read"), write: text("write") };
  });

  function sumOf(rows) {
    const sum = { launches: 0, flops: 0, read: 0, write: 0, s: 0, bound: "" };
    for (const row of rows) for (const key of ["launches", "flops", "read", "write", "s"]) sum[key] += row[key];
    return sum;
  }

  const cells = $$("[data-f]").map((element) => {
    const owner = element.closest("[data-k],[data-span]");
    const [first, last] = owner.dataset.k ? [Number(owner.dataset.k), Number(owner.dataset.k) + 1] : owner.dataset.span.split(",").map(Number);
    return { element, key: element.dataset.f, first, last };
  });
  const shapes = $$("var").map((element) => [element, "dims" in element.dataset ? element.dataset.dims.split("|").filter(Boolean) : element.previousElementSibling.textContent.slice(1, -1).split(", ").filter(Boolean)]);
  const steps = $$("[data-k]");

  const write = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  function textOf(key, sum, row, whole, units) {
    const moved = sum.read + sum.write;
    switch (key) {
      case "flops": return quantity(sum.flops, "FLOP");
      case "moved": return quantity(moved, "B");
      case "s": return quantity(sum.s, "s");
      case "fpb": return moved ? short(sum.flops / moved) : "-";
      case "share": return share(sum.s / whole.s);
      case "launches": return grouped(sum.launches);
      case "bound": return row.bound;
      case "rank": return String(row.rank || "");
      case "flops1": return row.one ? quantity(row.one.flops, "FLOP") : "-";
      case "read1": return row.one ? quantity(row.one.read, "B") : "-";
      case "write1": return row.one ? quantity(row.one.write, "B") : "-";
      case "s1": return row.launches ? quantity(row.s / row.launches, "s") : "-";
      default: { const name = key.slice(2); return short(sum[name] / units[name][0]); }
    }
  }

  function show() {
    const { at } = state;
    const refused = refusal(at);
    for (const name of axes) $$(`input[name="${name}"]`).forEach((input, index) => { input.checked = index === at[axes.indexOf(name)]; });
    axes.forEach((name, axis) => $$(`[data-axis="${name}"] label`).forEach((label, index) => {
      const other = at.map((own, place) => (place === axis ? index : own));
      const why = refusal(other) || beyond(other);
      label.classList.toggle("bad", Boolean(why));
      label.title = why;
    }));
    $("#back").hidden = isAsked(at);
    const [batch, seq, cache] = [0, 1, 2].map((axis) => data.axes[axes[axis]][at[axis]]);
    const size = `${batch}x${seq}${cache ? `+${cache}` : ""}`;
    write($("#shown"), isAsked(at) ? data.labels.shown : filled("shown", { size, dtype: data.axes.dtype[at[3]], attn: data.axes.attn[at[4]] }));
    const warning = refused ? `This point does not run. ${refused}` : isAsked(at) ? data.labels.warning : beyond(at);
    write($("#warning"), warning);
    $("#warning").hidden = !warning;
    root.classList.toggle("refused", Boolean(refused));
    if (refused) showNothing(); else showPoint();
    showTab();
  }

  function beyond(at) {
    if (data.refused[choiceOf(at)]) return "";
    const [, seq, cache] = pointAt(at).p[data.phases.indexOf(state.phase)][0];
    const longest = seq + cache;
    return longest > data.n_positions ? filled("beyond", { kv_len: longest, n_positions: data.n_positions }) : "";
  }

  function showNothing() {
    cells.forEach(({ element, key }) => { if (key === "bar") element.value = 0; else write(element, "-"); });
    data.phases.forEach((name) => $$(`#tab-${name} [data-v]`).forEach((element) => write(element, element.dataset.v === "latency" ? "does not run" : "")));
    for (const id of ["#lead", "#say-pace", "#say-slowest", "#say-helps", "#say-fits", "#say-trust", "#say-word", "#say-bound"]) write($(id), "");
    drawStack("#kinds", "#kinds-legend", "kind", {}, share);
    drawStack("#memory-bar", "#memory-legend", "part", {}, () => "");
  }

  function showPoint() {
    const { at } = state;
    const passes = data.phases.map((_, phase) => rowsOf(at, phase));
    passes.forEach(({ point }, number) => showCard(data.phases[number], point));
    const number = data.phases.indexOf(state.phase);
    const { point, symbols, rows } = passes[number];
    const whole = sumOf(rows);
    moveMarks(state.phase, point, rows, whole);
    const launched = rows.filter((row) => row.launches);
    const units = {};
    for (const [key, unit] of [["flops", "FLOP"], ["read", "B"], ["write", "B"], ["s", "s"]]) units[key] = scaleFor(launched.map((row) => row[key]), unit);
    for (const key in units) write($(`[data-unit="${key}"]`), units[key][1]);
    for (const { element, key, first, last } of cells) {
      const sum = last - first === 1 ? rows[first] : sumOf(rows.slice(first, last));
      if (key === "bar") element.value = sum.s / whole.s;
      else write(element, textOf(key, sum, rows[first], whole, units));
    }
    for (const [element, dims] of shapes) write(element, dims.map((size) => evaluate(size, symbols)).join("x") || "1");
    for (const element of steps) element.hidden = !rows[Number(element.dataset.k)].launches;
    sortTable(rows);
    showVerdict(passes, number, whole, launched);
    const memory = pointAt(at).m;
    drawStack("#memory-bar", "#memory-legend", "part", { weights: memory[0], kv_cache: memory[1], activations: memory[2] }, (_, size) => quantity(size, "B"));
    write($("#memory-of"), share(memory.reduce((sum, part) => sum + part, 0) / data.capacity));
    const kinds = {};
    for (const row of rows) kinds[row.kind] = (kinds[row.kind] || 0) + row.s;
    kinds.host = Math.max(0, point.seconds[0] / 1e9 - whole.s);
    drawStack("#kinds", "#kinds-legend", "kind", kinds, share);
  }

  // ------------------------------------------------------------------ the roofline's marks at another point

  const rooflines = new Map(data.phases.map((name) => [name, $(`#roofline-${name} svg`)]).filter(([, svg]) => svg));
  const listed = new Map([...rooflines].map(([name, svg]) => [name, $$("[data-share],[data-name]", svg).map((text) => [text, text.textContent, text.dataset.kernel])]));

  const captions = new Map([...rooflines].map(([name, svg]) => [name, $("p", svg.closest("figure")).textContent]));

  function moveMarks(name, { sizes: [batch, seq, cache] }, rows, whole) {
    const svg = rooflines.get(name);
    if (!svg) return;
    write($("p", svg.closest("figure")), isAsked(state.at) ? captions.get(name) : `${name} of ${batch} x ${seq} new tokens on ${cache} cached`);
    $$(".moved", svg).forEach((mark) => mark.remove());
    svg.classList.toggle("elsewhere", !isAsked(state.at));
    if (isAsked(state.at)) {
      listed.get(name).forEach(([text, said, kernel]) => { write(text, said); if (kernel) text.dataset.kernel = kernel; });
      return;
    }
    const scales = $(".scales", svg);
    const scale = (key) => {
      const [low, high, start, end] = scales.dataset[key].split(" ").map(Number);
      return (value) => start + (end - start) * Math.min(1, Math.max(0, Math.log(value / low) / Math.log(high / low)));
    };
    const [x, y, strip] = ["x", "y", "strip"].map(scale);
    const add = (tag, attributes, text) => {
      const element = svg.appendChild(document.createElementNS(svg.namespaceURI, tag));
      Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
      if (text) element.textContent = text;
      return element;
    };
    const largest = rows.filter((row) => row.launches).sort((a, b) => b.s - a.s);
    largest.forEach((row, rank) => {
      const part = row.s / whole.s, moved = row.read + row.write, kernel = row.name;
      const said = $(`[data-share="${rank}"]`, svg), named = $(`[data-name="${rank}"]`, svg);
      if (said) write(said, `${(100 * part).toFixed(1)}%`);
      if (named) { write(named, row.listed); named.dataset.kernel = kernel; }
      if (part < data.least_mark) return;
      const [cx, cy] = row.flops ? [x(row.flops / moved), y(row.flops / row.s)] : [strip(moved / row.s), Number(scales.dataset.middle)];
      const mark = add("circle", { cx, cy, r: 3 + 14 * Math.sqrt(part), class: `mark moved k-${row.kind}`, "data-kernel": kernel });
      mark.appendChild(document.createElementNS(svg.namespaceURI, "title")).textContent = `${kernel} (${row.kind}): ${share(part)} of device time, ${quantity(row.s, "s")}`;
      if (rank < 6) add("text", { x: cx + 9, y: cy - 9, class: "strong halo moved" }, String(rank + 1));
    });
  }

  function showCard(name, point) {
    const [latency, low, high] = point.seconds.map((ns) => quantity(ns / 1e9, "s"));
    const texts = { latency, range: `${low} to ${high}`, bound: `${point.bound}-bound`, rate: `${quantity(point.rates[0], "")}\u00a0tokens/s`, trust: point.trust[1] };
    for (const key in texts) write($(`#tab-${name} [data-v="${key}"]`), texts[key]);
  }

  function showVerdict(passes, number, whole, launched) {
    const { at } = state;
    const halves = passes.map(({ point }, index) => filled("takes", { what: filled(data.phases[index], { batch: point.sizes[0], seq: point.sizes[1] }), latency: plain(quantity(point.seconds[0] / 1e9, "s")), bound: point.bound }));
    const total = pointAt(at).m.reduce((sum, part) => sum + part, 0);
    const fits = filled(total <= data.capacity ? "fits" : "fits_not", { total: plain(quantity(total, "B")), capacity: plain(quantity(data.capacity, "B")) });
    const changes = new Map(), words = new Map();
    const add = (map, key, text) => map.set(key, [...(map.get(key) || []), text]);
    passes.forEach((pass, index) => {
      const found = best(index, pass.point), phase = data.phases[index];
      if (found) add(changes, found[0], filled("change", { phase, speedup: (pass.point.seconds[0] / found[1]).toFixed(2) }));
      add(words, pass.point.trust[1], phase);
    });
    const listed = (map) => [...map].map(([key, texts]) => `${key} (${texts.join(", ")})`).join(", ");
    const said = halves.join("; ");
    const most = changes.size ? filled("most", { changes: listed(changes) }) : data.phrases.helps_not;
    write($("#lead"), `${said[0].toUpperCase()}${said.slice(1)}. ${fits} ${most} ${filled("trusts", { words: words.size > 1 ? listed(words) : [...words.keys()][0] })}`);
    write($("#say-fits"), fits);
    const { point } = passes[number];
    const [latency, , , device] = point.seconds;
    write($("#say-pace"), filled(point.bound, { busy: percent(Math.min(1, device / latency)), flops: percent(point.rates[1]), bandwidth: percent(point.rates[2]), launches: whole.launches }));
    const slowest = launched.reduce((best, row) => (row.s > best.s ? row : best));
    write($("#say-slowest"), filled("slowest", { share: percent(slowest.s / whole.s), kernel: slowest.name }));
    write($("#say-helps"), helps(number, point));
    const [word, text] = point.trust;
    link("#say-word", text, word);
    write($("#say-trust"), data.phrases[`trust_${word}`]);
    link("#say-bound", `${point.bound}-bound`, `${point.bound}-bound`);
  }

  function link(selector, text, term) {
    write($(selector), text);
    $(selector).setAttribute("href", `#term-${term}`);
  }

  function helps(number, point) {
    const found = best(number, point);
    if (!found) return data.phrases.helps_not;
    return filled("helps", { change: found[0], latency: plain(quantity(found[1] / 1e9, "s")), speedup: (point.seconds[0] / found[1]).toFixed(2) });
  }

  function best(number, point) {
    const { at } = state;
    const found = point.whatIfs.flatMap((ns, index) => (ns === null ? [] : [[data.what_ifs[index], ns]]));
    data.axes.dtype.forEach((dtype, d) => data.axes.attn.forEach((attn, a) => {
      const other = [at[0], at[1], at[2], d, a];
      if ((d === at[3]) === (a === at[4]) || refusal(other)) return;
      found.push([d === at[3] ? `attn ${attn}` : `dtype ${dtype}`, phaseAt(other, number).seconds[0]]);
    }));
    const least = found.reduce((first, own) => (first && first[1] <= own[1] ? first : own), null);
    return least && point.seconds[0] / least[1] >= data.least_gain ? least : null;
  }

  function drawStack(bar, legend, name, sizes, text) {
    const whole = Object.values(sizes).reduce((sum, size) => sum + size, 0) || 1;
    let x = 0;
    $$(`rect[data-${name}]`, $(bar)).forEach((rect) => {
      const size = sizes[rect.dataset[name]] || 0;
      rect.setAttribute("x", (1000 * x / whole).toFixed(2));
      rect.setAttribute("width", (1000 * size / whole).toFixed(2));
      x += size;
      const item = $(`[data-${name}="${rect.dataset[name]}"]`, $(legend));
      if (name === "kind") item.hidden = size / whole < data.least_share;
      write($("b", item), text(size / whole, size));
    });
  }

  // ------------------------------------------------------------------ the table of kernels

  const body = $("#kernel-table tbody");

  function sortTable(rows) {
    const value = (tr) => {
      const number = Number(tr.dataset.k), row = rows[number];
      const moved = row.read + row.write;
      return { order: number, name: row.name, kind: row.kind, bound: row.bound, share: row.s, fpb: moved ? row.flops / moved : 0 }[sorted.key] ?? row[sorted.key];
    };
    const order = (left, right) => {
      const [a, b] = [value(left), value(right)];
      const difference = typeof a === "string" ? (a > b) - (a < b) : a - b;
      return (sorted.down ? -difference : difference) || left.dataset.k - right.dataset.k;
    };
    const all = $$("tr", body), wanted = [...all].sort(order);
    if (wanted.some((tr, index) => tr !== all[index])) body.append(...wanted);
    $$("#kernel-table th[data-sort]").forEach((th) => {
      if (th.dataset.sort === sorted.key) th.setAttribute("aria-sort", sorted.down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    });
  }

  $$("#kernel-table th[data-sort] button").forEach((button) => button.addEventListener("click", () => {
    const key = button.parentElement.dataset.sort;
    const text = ["order", "name", "kind", "bound"].includes(key);
    sorted = { key, down: sorted.key === key ? !sorted.down : !text };
    if (!refusal(state.at)) sortTable(rowsOf(state.at, data.phases.indexOf(state.phase)).rows);
  }));

  // ------------------------------------------------------------------ addresses

  function hashOf(next) {
    const parts = [];
    if (!isAsked(next.at)) parts.push(`point=${axes.map((name, axis) => data.axes[name][next.at[axis]]).join(",")}`);
    if (next.tab !== data.phases[0]) parts.push(`phase=${next.tab}`);
    if (next.kernel) parts.push(`kernel=${encodeURIComponent(next.kernel)}`);
    return `#${parts.join("&") || "verdict"}`;
  }

  function go(change) {
    const next = { ...state, ...change };
    const hash = hashOf(next);
    if (hash !== location.hash) history.pushState(null, "", hash); // which, unlike location.hash, moves no focus
    follow();
  }

  function follow() {
    const hash = location.hash.slice(1);
    if (hash && !hash.includes("=") && hash !== "verdict") return;
    const given = new Map(hash.split("&").map((part) => part.split("=")).filter(([, value]) => value !== undefined).map(([key, value]) => [key, safely(value)]));
    const values = (given.get("point") || "").split(",");
    const at = axes.map((name, axis) => data.axes[name].findIndex((value) => String(value) === values[axis]));
    const tab = $$("[data-tab]").some((card) => card.dataset.tab === given.get("phase")) ? given.get("phase") : data.phases[0];
    state = { at: at.includes(-1) ? [...asked] : at, tab, phase: data.phases.includes(tab) ? tab : state.phase, kernel: given.get("kernel") || "" };
    show();
    if (state.kernel) reveal(state.kernel);
  }

  function safely(text) {
    try { return decodeURIComponent(text); } catch { return text; }
  }

  function reveal(kernel) {
    const step = $$("details[data-kernel]").find((details) => details.dataset.kernel === kernel);
    $$("[data-on]").forEach((other) => delete other.dataset.on);
    $$(".chart .on").forEach((mark) => mark.classList.remove("on"));
    $$(".chart [data-kernel]").filter((mark) => mark.dataset.kernel === kernel).forEach((mark) => mark.classList.add("on"));
    if (!step) return;
    for (let details = step; details; details = details.parentElement.closest("details")) details.open = true;
    step.dataset.on = "";
    step.scrollIntoView({ block: "center" });
    $("summary", step).focus({ preventScroll: true });
  }

  addEventListener("hashchange", follow);
  $$(".points input").forEach((input) => input.addEventListener("change", () => go({ at: state.at.map((own, axis) => (axes[axis] === input.name ? Number(input.value) : own)), kernel: "" })));
  $(".points").addEventListener("submit", (event) => event.preventDefault());
  $("#back").addEventListener("click", () => go({ at: [...asked], kernel: "" }));
  document.addEventListener("click", (event) => {
    const mark = event.target.closest(".chart [data-kernel]");
    if (mark) go({ kernel: mark.dataset.kernel });
    const link = event.target.closest('a[href^="#kernel="]');
    if (link) { event.preventDefault(); go({ kernel: safely(link.hash.slice(8)) }); }
  });

  // ------------------------------------------------------------------ tabs

  const tabs = $$("[data-tab]");

  function showTab() {
    for (const tab of tabs) {
      const on = tab.dataset.tab === state.tab;
      tab.setAttribute("aria-selected", on);
      tab.tabIndex = on ? 0 : -1;
      if (on) $(`#${tab.getAttribute("aria-controls")}`).setAttribute("aria-labelledby", tab.id);
    }
    const panel = tabs.find((tab) => tab.dataset.tab === state.tab).getAttribute("aria-controls");
    $$('[role="tabpanel"]').forEach((own) => { own.hidden = own.id !== panel; });
    $("#point").hidden = panel !== "panel-pass";
    $$(".of-phase").forEach((section) => { section.hidden = section.dataset.phase !== state.phase; });
  }

  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => go({ tab: tab.dataset.tab, kernel: "" }));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: index + 1, ArrowDown: index + 1, ArrowLeft: index - 1, ArrowUp: index - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = tabs[(to + tabs.length) % tabs.length];
      next.focus();
      go({ tab: next.dataset.tab, kernel: "" });
    });
  });

  // ------------------------------------------------------------------ terms, folding, theme, printing

  const tip = $("#tip");

  function explain(link) {
    const entry = document.getElementById(link.hash.slice(1));
    if (!entry) return;
    tip.textContent = $("dd", entry).textContent;
    tip.hidden = false;
    const box = link.getBoundingClientRect();
    const left = Math.min(box.left, root.clientWidth - tip.offsetWidth - 16);
    tip.style.left = `${Math.max(16, left) + scrollX}px`;
    tip.style.top = `${(box.bottom + tip.offsetHeight + 12 > innerHeight ? box.top - tip.offsetHeight - 6 : box.bottom + 6) + scrollY}px`;
    link.setAttribute("aria-describedby", "tip");
  }

  function quiet() {
    tip.hidden = true;
    $$(".term[aria-describedby]").forEach((link) => link.removeAttribute("aria-describedby"));
  }

  for (const [begin, end] of [["mouseover", "mouseout"], ["focusin", "focusout"]]) {
    document.addEventListener(begin, (event) => { const link = event.target.closest?.(".term"); if (link) explain(link); });
    document.addEventListener(end, (event) => { if (event.target.closest?.(".term")) quiet(); });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") quiet(); });

  const folds = $$(".tree details");
  $("#unfold").addEventListener("click", () => folds.forEach((details) => { details.open = true; }));
  $("#free").addEventListener("click", (event) => event.currentTarget.setAttribute("aria-pressed", $(".tree").classList.toggle("all")));
  $("#fold").addEventListener("click", () => folds.forEach((details) => { details.open = details.matches(".module") && !details.closest(".in .in .in .in"); }));

  let before = [];
  addEventListener("beforeprint", () => { before = folds.filter((details) => !details.open); before.forEach((details) => { details.open = true; }); });
  addEventListener("afterprint", () => before.forEach((details) => { details.open = false; }));

  function setTheme(name) {
    root.dataset.theme = name;
    try { localStorage.setItem("gpt2cost-theme", name); } catch { /* a page that may not store */ }
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  try { const kept = localStorage.getItem("gpt2cost-theme"); if (kept) root.dataset.theme = kept; } catch { /* the same */ }
  $("#theme").addEventListener("click", () => setTheme((root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark"));

  $("#save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([$("#prediction").textContent], { type: "application/json" }));
    link.download = "prediction.json";
    link.click();
    URL.revokeObjectURL(link.href);
  });

  follow();
  if (location.hash && !location.hash.includes("=")) show();
})();
