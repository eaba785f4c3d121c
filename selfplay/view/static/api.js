// Where the page's data comes from: the server, or what an exported file holds (window.SELFPLAY_OFFLINE).

const offline = globalThis.SELFPLAY_OFFLINE ?? null;

export const isOffline = offline !== null;

export async function get(path, { signal } = {}) {
  if (offline) return offline.get(path);
  return read(await ask(path, { signal }));
}

export async function post(path, body) {
  if (offline) throw new Error("This is an exported file: nothing can be written to it.");
  const headers = { "Content-Type": "application/json", "X-Selfplay": "1" };
  return read(await ask(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

// Calls `changed` with what the server says of a run, at once and whenever it grows; returns how to stop.
export function listen(run, changed) {
  if (offline) return () => {};
  const source = new EventSource(`/api/r/${encodeURIComponent(run)}/events`);
  source.addEventListener("changed", (event) => changed(JSON.parse(event.data)));
  source.addEventListener("gone", () => (source.close(), changed({ status: "gone" })));
  return () => source.close();
}

// Where a link leads: a file has no paths, so its routes live behind the hash.
export function link(url) {
  return isOffline ? `#${url}` : url;
}

export function runPath(run, rest = "") {
  return `/r/${encodeURIComponent(run)}${rest}`;
}

export function conversationPath(run, id, hash = "") {
  return runPath(run, `/c/${encodeURIComponent(id)}${hash}`);
}

async function ask(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is `selfplay view` still running?", { cause: error });
  }
}

async function read(response) {
  let body = null;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (!response.ok) throw Object.assign(new Error(body?.error ?? `The server answered ${response.status}.`), { status: response.status });
  return body;
}
