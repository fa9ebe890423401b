"use strict";
// The inspection page. Whatever comes from a file or the server gets into the page as text, never as markup.

const WORDS = { good: "Good", defective: "Defective", rejected: "Not judged", unjudged: "No verdict" };
const SIGNS = { good: "\u2713", defective: "\u2715", rejected: "?", unjudged: "\u2013" };
const SMALL = 240; // a picture below so many pixels is enlarged without smoothing
const RETRIES = 60;

const byId = (id) => document.getElementById(id);
const state = { about: null, session: null, parts: new Map(), counts: {}, stream: null, drift: null, pictured: 0, chosen: null, box: null };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function figure(value) {
  if (value === null || value === undefined) return "\u2013";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 1e-3)) return value.toExponential(2);
  return value.toLocaleString("en", { maximumSignificantDigits: 4, useGrouping: size >= 1e4 });
}

const share = (count, all) => (all ? `${((100 * count) / all).toFixed(1)} %` : "\u2013");
const called = (part) => `Part ${part.id - state.session}`;
const clock = (part) => new Date(part.time).toLocaleTimeString();

function origin(part) {
  if (part.frame === undefined) return part.path;
  return `frame ${part.frame} at ${part.seconds.toFixed(1)} s`;
}

async function answer(response) {
  const body = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw Object.assign(new Error(body.error), { status: response.status });
  return body;
}

function complain(text) {
  const close = make("button", { type: "button", "aria-label": "Dismiss this message" }, "\u00d7");
  const line = make("li", {}, make("span", {}, text), close);
  close.addEventListener("click", () => line.remove());
  byId("messages").append(line);
  while (byId("messages").children.length > 4) byId("messages").firstChild.remove();
}

// --- uploads -------------------------------------------------------------------------------------------------------

let uploads = Promise.resolve();

function inspectAll(files) {
  byId("messages").replaceChildren();
  uploads = uploads.then(async () => {
    for (const [index, file] of files.entries()) {
      const many = files.length > 1 ? ` (${index + 1} of ${files.length})` : "";
      byId("progress").textContent = `Judging ${file.name}${many} \u2026`;
      try {
        const part = await upload(file);
        state.session ??= part.id - 1;
        take([part]);
        byId("follow").checked = false;
        await choose(part.id);
      } catch (error) {
        complain(`${file.name}: ${error instanceof TypeError ? "the upload was cut off, or the server does not answer" : error.message}`);
      }
    }
    byId("progress").textContent = "";
  });
  return uploads;
}

async function upload(file) {
  const limit = state.about?.upload_bytes;
  if (limit && file.size > limit) {
    throw new Error(`expected at most ${(limit / 2 ** 20).toFixed(0)} MiB, found ${(file.size / 2 ** 20).toFixed(1)} MiB`);
  }
  for (let attempt = 0; ; attempt += 1) {
    const options = { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } };
    try {
      return await answer(await fetch(`/api/parts?name=${encodeURIComponent(file.name)}`, options));
    } catch (error) {
      if (error.status !== 503 || attempt >= RETRIES) throw error;
      await new Promise((resume) => setTimeout(resume, 1000)); // others are in front
    }
  }
}

// --- one part ------------------------------------------------------------------------------------------------------

let showing = 0; // of several parts chosen quickly, the last one stays

async function choose(id) {
  const part = state.parts.get(id);
  if (!part) return;
  const turn = (showing += 1);
  let pictures = [];
  if (part.width && part.id >= state.pictured) {
    const names = ["photograph.jpg", ...(part.localised ? ["overlay.png"] : [])];
    pictures = await Promise.all(names.map(loaded.bind(null, part))).catch(() => []);
    if (turn !== showing) return; // photograph, map and verdict change together
  }
  state.chosen = id;
  state.box = null;
  showPicture(part, pictures);
  showVerdict(part);
  showDefects(part);
  showMark(part);
  showList();
  showPlot();
}

async function loaded(part, name) {
  const image = new Image();
  image.alt = name === "photograph.jpg" ? `Photograph of ${called(part).toLowerCase()}` : "";
  image.src = `/api/parts/${part.id}/${name}`;
  await image.decode();
  return image;
}

function showPicture(part, pictures) {
  byId("empty").hidden = pictures.length > 0;
  byId("figure").hidden = pictures.length === 0;
  byId("mixer").hidden = pictures.length < 2;
  byId("empty").firstElementChild.textContent = part.width ? "This part's picture is no longer kept." : "There is no picture of this part.";
  const frame = byId("picture");
  frame.classList.toggle("small-picture", Math.max(part.width, part.height) < SMALL);
  if (pictures.length) {
    frame.style.aspectRatio = `${part.width} / ${part.height}`;
    frame.style.width = `min(100%, ${((58 * part.width) / part.height).toFixed(3)}vh)`;
    const [photograph, overlay] = pictures;
    photograph.id = "photograph";
    frame.replaceChildren(photograph);
    if (overlay) {
      overlay.id = "overlay";
      frame.append(overlay);
    }
    frame.append(draw("svg", { id: "boxes", viewBox: `0 0 ${part.width} ${part.height}`, preserveAspectRatio: "none", "aria-hidden": "true" }));
    mix();
  }
  const size = part.width ? `${part.width} \u00d7 ${part.height} pixels` : "";
  byId("caption").textContent = [called(part), origin(part), clock(part), size].filter(Boolean).join(" \u00b7 ");
}

function mix() {
  const percent = byId("opacity").value;
  byId("opacity-shown").textContent = `${percent} %`;
  const overlay = byId("overlay");
  if (overlay) overlay.style.opacity = String(percent / 100);
}

function showVerdict(part) {
  byId("said").hidden = false;
  byId("verdict").className = part.verdict;
  byId("sign").textContent = SIGNS[part.verdict];
  byId("word").textContent = WORDS[part.verdict];
  const unset = part.verdict === "unjudged" ? "This bundle has no cut: it gives scores only." : "";
  byId("reason").textContent = part.rejected || unset;
  byId("scale").replaceChildren(...(part.raw_score === null ? [] : [scale(part)]));
}

// from where to where scores are drawn: the cut in the middle, the calibration set's below it
function range() {
  const { cut, scores } = state.about;
  if (cut === null) return null;
  const middle = scores.length ? scores[Math.floor(scores.length / 2)] : cut - (Math.abs(cut) || 1);
  const low = Math.min(scores[0] ?? middle, cut - (cut - middle || Math.abs(cut) || 1));
  return { low, cut, high: cut + (cut - low) };
}

function scale(part) {
  const ends = range();
  const said = `score ${figure(part.raw_score)}${ends ? `, cut ${figure(ends.cut)}` : ""}`;
  if (!ends) return make("p", {}, said);
  const width = 420;
  const place = (score) => 8 + (width - 16) * Math.min(1, Math.max(0, (score - ends.low) / (ends.high - ends.low)));
  const at = place(part.raw_score);
  const svg = draw("svg", { viewBox: `0 0 ${width} 74`, role: "img", class: part.verdict, "aria-label": said });
  svg.append(
    draw("text", { x: 8, y: 12, class: "strong" }, `score ${figure(part.raw_score)}${part.raw_score > ends.high ? " \u25b8 beyond the scale" : ""}`),
    draw("text", { x: width - 8, y: 12, class: "end" }, `cut ${figure(ends.cut)}`),
    draw("rect", { x: 8, y: 22, width: width - 16, height: 20, rx: 3, class: "track" }),
    draw("rect", { x: place(ends.cut), y: 22, width: width - 8 - place(ends.cut), height: 20, class: "beyond" }),
    draw("rect", { x: 8, y: 25, width: Math.max(3, at - 8), height: 14, rx: 2, class: "level" }),
    draw("line", { x1: place(ends.cut), x2: place(ends.cut), y1: 18, y2: 46, class: "cut" }),
    ...state.about.scores.map((score) => draw("circle", { cx: place(score), cy: 52, r: 2.2, class: "normal" })),
    draw("text", { x: 8, y: 70 }, state.about.scores.length ? "dots: the good parts that set the cut" : ""),
    draw("text", { x: width - 8, y: 70, class: "end" }, "higher is worse"),
  );
  return svg;
}

function showDefects(part) {
  const body = byId("defects").tBodies[0];
  byId("defects-title").textContent = part.defect_count ? `Defects (${part.defect_count})` : "Defects";
  byId("defects").hidden = part.defects.length === 0;
  const none = part.localised ? "No region lies above the pixel cut." : "Nothing was looked for in this picture.";
  const more = `The worst ${part.defects.length} of ${part.defect_count} are listed.`;
  byId("no-defects").textContent = part.defects.length === 0 ? none : part.defect_count > part.defects.length ? more : "";
  body.replaceChildren(...part.defects.map((defect, index) => {
    const place = `x ${defect.location[0].toFixed(0)}, y ${defect.location[1].toFixed(0)}`;
    const area = defect.area_mm2 === null ? `${defect.area} px` : `${figure(defect.area_mm2)} mm\u00b2`;
    const button = make("button", { type: "button", "aria-pressed": "false" }, place);
    const row = make("tr", {}, make("td", {}, button), make("td", { class: "number" }, area), make("td", { class: "number" }, figure(defect.peak)));
    row.addEventListener("click", () => highlight(part, state.box === index ? null : index));
    return row;
  }));
}

function highlight(part, index) {
  state.box = index;
  [...byId("defects").tBodies[0].rows].forEach((row, number) => {
    row.classList.toggle("chosen", number === index);
    row.querySelector("button").setAttribute("aria-pressed", String(number === index));
  });
  const boxes = byId("boxes");
  if (!boxes) return;
  boxes.replaceChildren();
  if (index === null) return;
  const [x, y, width, height] = part.defects[index].box;
  const place = { x, y, width, height };
  boxes.append(draw("rect", { ...place, class: "under" }), draw("rect", place));
}

// --- review --------------------------------------------------------------------------------------------------------

function showMark(part) {
  const texts = {
    good: part.verdict === "defective" ? "False reject: it is good" : "It is good",
    defective: part.verdict === "good" ? "Miss: it is defective" : "It is defective",
  };
  const kept = part.width && part.id >= state.pictured;
  for (const button of document.querySelectorAll("[data-mark]")) {
    button.textContent = texts[button.dataset.mark];
    button.setAttribute("aria-pressed", String(part.mark === button.dataset.mark));
    button.disabled = !kept;
  }
  const written = `Written to ${state.about?.reviews}/${part.mark}. Press again to take it back.`;
  byId("marked").textContent = part.mark ? written : "";
}

async function mark(said) {
  const part = state.parts.get(state.chosen);
  if (!part) return;
  const wanted = part.mark === said ? null : said;
  try {
    const options = { method: "POST", body: JSON.stringify({ mark: wanted }), headers: { "Content-Type": "application/json" } };
    part.mark = (await answer(await fetch(`/api/parts/${part.id}/mark`, options))).mark;
  } catch (error) {
    complain(`${called(part)} was not marked: ${error instanceof TypeError ? "the server does not answer" : error.message}`);
  }
  if (state.chosen === part.id) showMark(part);
  showList();
}

// --- all parts -----------------------------------------------------------------------------------------------------

function take(parts) {
  for (const part of parts) state.parts.set(part.id, part);
  const ids = [...state.parts.keys()].sort((a, b) => a - b);
  for (const id of ids.slice(0, Math.max(0, ids.length - (state.about?.kept ?? 100)))) state.parts.delete(id);
}

const ordered = () => [...state.parts.values()].sort((a, b) => a.id - b.id);

function showList() {
  const list = byId("parts");
  const known = new Map([...list.children].map((item) => [Number(item.dataset.id), item]));
  const items = ordered().reverse().map((part) => {
    const item = known.get(part.id) ?? newItem(part); // kept, so that pictures are not fetched again
    const button = item.firstElementChild;
    button.setAttribute("aria-current", String(part.id === state.chosen));
    item.querySelector(".flag").textContent = part.mark ? " \u2691" : "";
    const marked = part.mark ? `, marked ${part.mark}` : "";
    button.setAttribute("aria-label", `${called(part)}, ${WORDS[part.verdict]}, score ${figure(part.raw_score)}${marked}`);
    return item;
  });
  if (items.length !== list.children.length || items.some((item, index) => list.children[index] !== item)) {
    const focused = document.activeElement;
    list.replaceChildren(...items);
    if (focused && list.contains(focused)) focused.focus({ preventScroll: true });
  }
}

function newItem(part) {
  const shot = make("span", { class: "shot" }, "no picture");
  if (part.width) {
    const image = make("img", { alt: "", loading: "lazy", src: `/api/parts/${part.id}/thumbnail.jpg` });
    image.addEventListener("error", () => shot.replaceChildren("no picture"));
    shot.replaceChildren(image);
  }
  const score = part.raw_score === null ? WORDS[part.verdict] : figure(part.raw_score);
  const line = make("span", { class: "line" }, make("b", {}, SIGNS[part.verdict]), ` ${score}`, make("span", { class: "flag" }));
  const button = make("button", { type: "button", class: part.verdict, title: `${called(part)}: ${origin(part)}` }, shot, line);
  button.addEventListener("click", () => {
    byId("follow").checked = false;
    choose(part.id);
  });
  return make("li", { "data-id": part.id }, button);
}

function showCounts() {
  const { good = 0, defective = 0, rejected = 0, unjudged = 0 } = state.counts;
  const all = good + defective + rejected + unjudged;
  const recent = [...state.parts.values()];
  byId("recent").hidden = recent.length === 0;
  const off = (part) => part.verdict === "defective" || part.verdict === "rejected";
  const facts = [
    ["Reject rate", all ? `${share(defective + rejected, all)} (${defective + rejected} of ${all})` : "\u2013"],
    [`of the last ${recent.length}`, share(recent.filter(off).length, recent.length)],
    ["\u2713 good", good],
    ["\u2715 defective", defective],
    ["? not judged", rejected],
    ...(unjudged ? [["\u2013 no verdict", unjudged]] : []),
  ];
  byId("counts").replaceChildren(...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)))));
}

function showPlot() {
  const parts = ordered().filter((part) => part.raw_score !== null);
  const ends = state.about && range();
  if (!parts.length) {
    byId("plot").replaceChildren(make("p", { class: "small" }, "The scores of the last parts are drawn here."));
    return;
  }
  const width = Math.max(300, Math.min(800, byId("plot").clientWidth)); // so that text keeps its size
  const [height, left, bottom] = [160, 8, 150];
  const values = parts.map((part) => part.raw_score);
  const top = ends ? ends.high + (ends.high - ends.cut) : Math.max(...values); // what lies above is drawn at the edge
  const low = Math.min(ends ? ends.low : Infinity, ...values);
  const span = top - low || 1;
  const y = (score) => bottom - (bottom - 14) * Math.min(1, Math.max(0, (score - low) / span));
  const step = (width - 2 * left) / Math.max(parts.length - 1, 20);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Scores of the last ${parts.length} parts against the cut` });
  if (ends) {
    const { scores } = state.about;
    if (scores.length > 1) {
      const [high, least] = [y(scores[scores.length - 1]), y(scores[0])];
      svg.append(draw("rect", { x: 0, y: high, width, height: least - high, class: "band" }));
    }
    svg.append(draw("line", { x1: 0, x2: width, y1: y(ends.cut), y2: y(ends.cut), class: "dashed" }));
    svg.append(draw("text", { x: width - 2, y: y(ends.cut) - 5, class: "end" }, `cut ${figure(ends.cut)}`));
  }
  svg.append(draw("line", { x1: 0, x2: width, y1: bottom + 4, y2: bottom + 4, class: "axis" }));
  parts.forEach((part, index) => {
    const [x, at] = [left + step * index, y(part.raw_score)];
    const bad = part.verdict === "defective"; // a triangle: not colour alone
    const point = bad ? draw("path", { d: `M${x} ${at - 5}l5 9h-10z` }) : draw("circle", { cx: x, cy: at, r: 3.5 });
    point.setAttribute("class", `point ${part.verdict}`);
    point.append(draw("title", {}, `${called(part)}: ${figure(part.raw_score)}`));
    svg.append(point);
    if (part.id === state.chosen) svg.append(draw("circle", { cx: x, cy: at, r: 8, class: "chosen" }));
  });
  const band = ends && state.about.scores.length > 1 ? "; grey: the good parts that set the cut" : "";
  const legend = make("p", { class: "small" }, `Oldest to newest; \u25b2 defective, \u25cf other${band}.`);
  byId("plot").replaceChildren(svg, legend);
}

function showDrift() {
  const drift = state.drift;
  const drifted = drift?.drifted === true;
  byId("drifted").hidden = !drifted;
  if (drifted && byId("drifted").textContent !== drift.advice) byId("drifted").textContent = drift.advice;
  let text = "Drift is not watched.";
  if (drift) {
    const seen = `${drift.parts} accepted ${drift.parts === 1 ? "part" : "parts"}`;
    const p = drift.p_value === null ? "" : ` (p = ${drift.p_value.toPrecision(2)})`;
    if (drifted) text = `Drift, seen for ${drift.since} accepted parts${p}.`;
    else if (drift.drifted === false) text = `No drift among ${seen}${p}.`;
    else text = drift.advice ? `Drift: ${drift.advice}.` : `Drift is watched; ${seen}, too few to compare yet.`;
  }
  byId("drift").textContent = text;
}

function showStream() {
  const stream = state.stream;
  byId("stream").hidden = !stream;
  if (!stream) return;
  const counts = [`${stream.read} read`, stream.dropped ? `${stream.dropped} dropped` : "", stream.reconnects ? `${stream.reconnects} reconnections` : ""];
  const words = { running: "Watching", ended: "Ended:", failed: "Stopped:" };
  byId("stream-state").textContent = `${words[stream.state]} ${stream.source} \u00b7 ${[...counts.filter(Boolean), stream.note].filter(Boolean).join(", ")}`;
}

// --- what the bundle says ------------------------------------------------------------------------------------------

function facts(card) {
  const list = make("dl", { class: "facts" });
  for (const [name, value] of Object.entries(card)) {
    const shown = value !== null && typeof value === "object" && !Array.isArray(value) ? facts(value) : Array.isArray(value) ? value.map((item) => (typeof item === "number" ? figure(item) : String(item))).join(", ") : String(value ?? "\u2013");
    list.append(make("dt", {}, name), make("dd", {}, shown));
  }
  return list;
}

function showAbout() {
  const { bundle, card, cut } = state.about;
  byId("bundle").textContent = bundle;
  const said = card.calibration;
  const lines = said && typeof said === "object" ? [
    said.guarantee,
    `Observed false rejects: ${said["observed false rejects"]}`,
    said.normals ? `Good parts used: ${Object.entries(said.normals).map(([role, count]) => `${count} ${role}`).join(", ")}` : "",
  ] : ["This bundle has no calibration card."];
  lines.push(cut === null ? "No cut is set." : `Parts with a score above ${figure(cut)} are rejected.`);
  byId("promise").replaceChildren(...lines.filter(Boolean).map((line) => make("p", {}, String(line))));
  byId("card").replaceChildren(facts(card));
}

// --- asking again and again ----------------------------------------------------------------------------------------

async function poll() {
  const last = Math.max(0, ...state.parts.keys());
  try {
    if (!state.about) {
      state.about = await answer(await fetch("/api/about"));
      showAbout();
    }
    // an upload's own answer may be in front of parts of the stream
    const after = state.seen ?? 0;
    const news = await answer(await fetch(`/api/parts?after=${after}`));
    if (state.seen !== undefined && news.session !== state.session) {
      location.reload(); // another server
      return;
    }
    Object.assign(state, { session: news.session, counts: news.counts, stream: news.stream, drift: news.drift, pictured: news.pictured });
    state.seen = Math.max(after, ...news.parts.map((part) => part.id));
    take(news.parts);
    for (const part of state.parts.values()) part.mark = news.marks[part.id] ?? null;
    byId("offline").hidden = true;
    showStream();
    showCounts();
    showDrift();
    const newest = Math.max(0, ...state.parts.keys());
    const follows = state.chosen === null || (news.stream && byId("follow").checked);
    if (newest && follows && newest !== state.chosen) await choose(newest);
    else if (news.parts.length || newest !== last) showPlot();
    showList();
    if (state.parts.has(state.chosen)) showMark(state.parts.get(state.chosen));
  } catch (error) {
    byId("offline").hidden = false;
  }
}

async function pollForEver() {
  for (;;) {
    if (!document.hidden) await poll();
    await new Promise((resume) => setTimeout(resume, state.stream?.state === "running" ? 400 : 1500));
  }
}

byId("files").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = ""; // the same file may be chosen again
  if (files.length) inspectAll(files);
});
byId("opacity").addEventListener("input", mix);
for (const button of document.querySelectorAll("[data-mark]")) button.addEventListener("click", () => mark(button.dataset.mark));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  const files = [...event.dataTransfer.files];
  if (files.length) inspectAll(files);
});
showPlot();
pollForEver();
