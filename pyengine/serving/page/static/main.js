// The page: from the form to jobs, from their events to the stage, from there to the history.

import { askModels, begin, end, follow, hasKey, Refused, useKey } from "./api.js";
import { find, plural } from "./dom.js";
import { Form } from "./form.js";
import { History } from "./history.js";
import { requestOf } from "./settings.js";
import { showRuns } from "./stage.js";

/** Previews of a job, where the server gives so many. */
const PREVIEWS = 8;
/** The state is told at such shares of the steps, or after so many milliseconds of silence: a screen
    reader would read every step. */
const TOLD = 0.25;
const SILENCE = 5000;

const form = new Form();
const history = new History(again);
let served = { models: [], limits: {} };
/** The jobs that are drawn: {ids, cancelled}; null at rest. */
let work = null;
/** When the state was told, in milliseconds of the page's clock. */
let told = 0;

// --- models and keys --------------------------------------------------------------------------------

async function start() {
  try {
    served = await askModels();
  } catch (error) {
    const locked = error.status === 401;
    find("access").hidden = !locked;
    if (locked) find("key").focus();
    if (!locked) tell(error.message, true);
    else if (hasKey()) tell("This key is not this server's.", true);
    else tell("This server wants an API key.");
    return;
  }
  find("access").hidden = true;
  find("model").replaceChildren(...served.models.map(({ name }) => new Option(name, name)));
  chooseModel();
  tell("Ready");
}

function modelNamed(name) {
  return served.models.find((model) => model.name === name) ?? served.models[0];
}

function chooseModel() {
  form.build(modelNamed(find("model").value), served.limits);
}

// --- drawing ----------------------------------------------------------------------------------------

async function generate() {
  if (work || !served.models.length) return;
  if (!find("form").reportValidity()) return;
  const requests = form.requests();
  const compared = form.choice.value;
  const titles = requests.map((request) => compared
    ? (compared === "seed" ? `seed ${request.seed}` : request.scheduler ?? ownSampler(request))
    : null);
  work = { ids: [], cancelled: false, steps: requests.map(() => 0), begun: performance.now() };
  busy(true);
  tell("Sent");
  const groups = showRuns(requests, requests.map(sizeOf), titles);
  find("stage").scrollIntoView({ block: "nearest" });
  try {
    const pictures = await Promise.all(requests.map((r, i) => draw(r, groups[i], i)));
    const seconds = ((performance.now() - work.begun) / 1000).toFixed(1);
    for (const [i, group] of [...pictures.entries()].reverse()) {
      for (const picture of [...group].reverse()) await history.add(requests[i], picture);
    }
    rest(groups);
    const seeds = new Set(pictures.flat().map((picture) => `seed ${picture.seed}`));
    const count = plural(pictures.flat().length, "picture");
    tell(`Done: ${count} in ${seconds} s, ${[...seeds].join(", ")}`);
  } catch (error) {
    const { cancelled } = work;
    await cancelJobs();
    rest(groups);
    if (cancelled) tell("Cancelled");
    else tell(error.wait ? `${error.message} Try again in ${error.wait} s.` : error.message, true);
    if (error.status === 401) find("access").hidden = false;
  }
}

/** Nothing is drawn any more. */
function rest(groups) {
  groups.forEach((group) => group.stop());
  work = null;
  busy(false);
}

/** Draws a request into its group; its pictures, or throws why there are none. */
async function draw(request, group, index) {
  const previews = Math.min(PREVIEWS, served.limits.previews);
  const job = await begin({ ...request, previews, quick_previews: true });
  work.ids.push(job.id);
  if (work.cancelled) await end(job.id);
  let pictures = [];
  let failure = null;
  for await (const event of follow(job.id)) {
    if (event.type === "queued") tell(`Waiting: place ${event.place} in the queue`);
    else if (event.type === "started") tell("Drawing");
    else if (event.type === "step") stepped(index, event.step, event.steps);
    else if (event.type === "preview") group.preview(event.images, event.step, event.steps);
    else if (event.type === "done") pictures = group.done(event.result);
    else failure = new Refused(event.error?.message ?? "The job was cancelled.", 409);
  }
  if (failure) throw failure;
  return pictures;
}

function stepped(index, step, steps) {
  const share = step / steps;
  const before = work.steps[index];
  work.steps[index] = share;
  find("progress").value = work.steps.reduce((a, b) => a + b) / work.steps.length;
  const due = Math.floor(share / TOLD) > Math.floor(before / TOLD)
    || performance.now() - told > SILENCE;
  if (due && share < 1 && !work.cancelled) {
    tell(`Drawing: step ${step} of ${steps}`);
  }
}

async function cancel() {
  if (!work) return;
  work.cancelled = true;
  tell("Cancelling");
  await cancelJobs();
}

async function cancelJobs() {
  await Promise.allSettled(work.ids.map((id) => end(id)));
}

function ownSampler(request) {
  const row = modelNamed(request.model).inputs.find(({ name }) => name === "scheduler");
  return row?.default ?? "the model's sampler";
}

function sizeOf(request) {
  const model = modelNamed(request.model);
  return [request.width ?? model.width ?? 1, request.height ?? model.height ?? 1];
}

/** Draws what an entry of the history says. partial: it was made of pictures that are not kept. */
function again(request, partial) {
  if (work) {
    tell("Another picture is being drawn: cancel it, or wait.");
    return;
  }
  if (!served.models.some((model) => model.name === request.model)) {
    tell(`${request.model} is not served here.`, true);
    return;
  }
  fill(request);
  if (partial) tell("It was made of another picture: give it again, then generate.");
  else generate();
}

function fill(request) {
  if (request.model) find("model").value = request.model;
  chooseModel();
  form.show(request);
  form.choice.value = "";
  form.choice.dispatchEvent(new Event("change"));
}

// --- what the page shows of its state -----------------------------------------------------------------

function tell(text, bad = false) {
  told = performance.now();
  const state = find("state");
  state.classList.toggle("bad", bad);
  if (state.textContent !== text) state.textContent = text;
  document.title = work ? `${text} – pyengine` : "pyengine";
}

/** Buttons by whether something is drawn; the focus goes on to the one that can be pressed. */
function busy(is) {
  const [from, to] = is ? [find("generate"), find("cancel")] : [find("cancel"), find("generate")];
  const focused = document.activeElement === from;
  to.disabled = false;
  if (focused) to.focus();
  from.disabled = true;
  find("progress").hidden = !is;
  find("progress").value = 0;
}

// --- settings of a picture ------------------------------------------------------------------------------

async function readSettings(file) {
  if (work || !file) return;
  try {
    const { request, notes } = await requestOf(file, served.models);
    fill(request);
    tell([`Settings read from ${file.name}.`, ...notes].join(" "));
    find("prompt").focus();
  } catch (error) {
    tell(error.message, true);
  }
}

/** Pictures may be dropped anywhere; a browser would otherwise leave the page for them. */
function watchDrops() {
  const carriesFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const shade = (on) => { find("drop").hidden = !on; };
  document.addEventListener("dragover", (event) => {
    if (!carriesFile(event)) return;
    event.preventDefault();
    shade(true);
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) shade(false); });
  document.addEventListener("drop", (event) => {
    shade(false);
    const [file] = event.dataTransfer?.files ?? [];
    if (!file || event.target.closest?.("input[type=file]")) return;
    event.preventDefault();
    readSettings(file);
  });
}

// --- wiring -----------------------------------------------------------------------------------------------

find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (document.activeElement === find("key")) unlock();
  else generate();
});
find("cancel").addEventListener("click", cancel);
find("model").addEventListener("change", chooseModel);
find("unlock").addEventListener("click", unlock);
find("from-file").addEventListener("change", (event) => {
  readSettings(event.target.files[0]).then(() => { event.target.value = ""; });
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") cancel();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) generate();
});
window.addEventListener("pagehide", () => work?.ids.forEach((id) => { end(id, true).catch(() => {}); }));
watchDrops();
start();

function unlock() {
  useKey(find("key").value);
  start();
}
