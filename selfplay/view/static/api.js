// Where the page's data comes from: the server, or what an exported file holds (window.SELFPLAY_OFFLINE).

const offline = globalThis.SELFPLAY_OFFLINE ?? null;

export const isOffline = offline !== null;

export function get(path) {
  return offline ? offline.get(path) : ask(path);
}

export async function post(path, body) {
  if (offline) throw new Error("This is an exported file: nothing can be written to it.");
  return ask(path, { method: "POST", headers: { "Content-Type": "application/json", "X-Selfplay": "1" }, body: JSON.stringify(body) });
}

// Calls `changed` with what the server says of a run, at once and whenever it grows; returns how to stop.
export function listen(run, changed) {
  if (offline) return () => {};
  const source = new EventSource(`/api${runPath(run, "/events")}`);
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
  const response = await fetch(path, options).catch((cause) => {
    throw new Error("The server does not answer. Is `selfplay view` still running?", { cause });
  });
  const body = await response.json().catch(() => null);
  if (!response.ok) throw Object.assign(new Error(body?.error ?? `The server answered ${response.status}.`), { status: response.status });
  return body;
}
