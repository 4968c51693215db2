// What the page asks of its server: models, jobs with their events, and settings of a picture.

const KEY = "pyengine api key";
/** Times that a broken stream of events is taken up again. */
const TRIES = 5;

/** An answer that is none of what was asked for. status: 0 where the server did not answer. */
export class Refused extends Error {
  constructor(message, status, wait) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function hasKey() {
  return Boolean(sessionStorage.getItem(KEY));
}

async function ask(path, how = {}) {
  const headers = { ...how.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (how.body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { ...how, headers, body: how.body && JSON.stringify(how.body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer.", 0);
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    const text = said.error?.message ?? said.detail ?? `The server answers ${answer.status}.`;
    throw new Refused(text, answer.status, Number(answer.headers.get("retry-after")) || null);
  }
  return answer;
}

/** {models, limits}: what each model can be asked. */
export async function askModels() {
  return (await ask("page/models.json")).json();
}

/** A job for a request; it has an id. */
export async function begin(request) {
  return (await ask("v1/jobs", { method: "POST", body: request })).json();
}

/** Ends a job; leaving: the page is being closed, and nobody waits for an answer. */
export async function end(id, leaving = false) {
  await ask(`v1/jobs/${encodeURIComponent(id)}`, { method: "DELETE", keepalive: leaving });
}

/** {info, items, parameters} of a PNG's settings. data: base64. */
export async function readPicture(data) {
  return (await ask("sdapi/v1/png-info", { method: "POST", body: { image: data } })).json();
}

/** A job's events, as objects with a type; from where it was, where the connection breaks. */
export async function* follow(id) {
  let last = "";
  let over = false;
  for (let tries = 0; ; tries += 1) {
    try {
      const headers = last ? { "last-event-id": last } : {};
      const answer = await ask(`v1/jobs/${encodeURIComponent(id)}/events`, { headers });
      for await (const event of read(answer.body)) {
        tries = 0;
        last = event.id || last;
        const data = JSON.parse(event.data);
        yield data;
        over ||= ["done", "failed", "cancelled"].includes(data.type);
      }
      if (over) return;
    } catch (error) {
      if (error instanceof Refused && error.status) throw error;
    }
    if (tries >= TRIES) throw new Refused("The connection to the server is lost.", 0);
    await new Promise((resolve) => setTimeout(resolve, 300 * (tries + 1)));
  }
}

/** Server-sent events of a stream of bytes: {id, data}. */
async function* read(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let pieces = [];
  for (;;) {
    const { done, value: bytes } = await reader.read();
    if (done) return;
    const value = decoder.decode(bytes, { stream: true });
    // Of what came before, only its last character can belong to the end of an event.
    const tail = pieces.length ? pieces[pieces.length - 1].slice(-1) : "";
    pieces.push(value);
    if (!(tail + value).includes("\n\n")) continue;
    const events = pieces.join("").split("\n\n");
    pieces = [events.pop()];
    for (const text of events) {
      const event = { id: "", data: "" };
      for (const line of text.split("\n")) {
        if (line.startsWith("id: ")) event.id = line.slice(4);
        if (line.startsWith("data: ")) event.data += line.slice(6);
      }
      if (event.data) yield event;
    }
  }
}
