// Elements and numbers.  Text of models reaches the page through textContent alone: nothing here parses HTML.
import { link } from "./api.js";

// Attributes are an object; a text alone is the class.
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), typeof attributes === "string" ? { class: attributes } : attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) setAttribute(element, name, value);
  return append(element, children);
}

function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name === "text") element.textContent = value;
  else if (name === "dataset") Object.assign(element.dataset, value);
  else if (name === "vars") Object.entries(value).forEach(([key, number]) => element.style.setProperty(`--${key}`, number));
  else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (["value", "checked", "disabled", "selected", "hidden", "open", "tabIndex"].includes(name)) element[name] = value;
  else element.setAttribute(name, value === true ? "" : value);
}

export const div = (kind, ...children) => h("div", { class: kind }, children);
export const span = (kind, ...children) => h("span", { class: kind }, children);
export const button = (content, onclick, attributes) => h("button", { type: "button", onclick, ...attributes }, content);
export const anchor = (url, content, attributes) => h("a", { href: link(url), ...attributes }, content);

export function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

export function clear(element) {
  element.replaceChildren();
  return element;
}

// Numbers: null is not zero, so it is a dash.
export function number(value, digits = 2) {
  if (!Number.isFinite(value)) return "–";
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? (0).toFixed(digits) : text).replace("-", "−");
}

export function signed(value, digits = 2) {
  const text = number(value, digits);
  return /^[–−]/.test(text) ? text : `+${text}`;
}

export function count(value) {
  return value?.toLocaleString("en-US") ?? "–";
}

export function plural(value, noun) {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

export function ago(iso) {
  const seconds = (Date.now() - Date.parse(iso)) / 1000;
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 48 * 3600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} days ago`;
}

// What this tab, or with localStorage this browser, remembers; a page opened from disk may forget.
export function kept(name, value, storage = "sessionStorage") {
  try {
    if (value === undefined) return JSON.parse(globalThis[storage].getItem(name));
    globalThis[storage].setItem(name, JSON.stringify(value));
  } catch {
    return null;
  }
  return value;
}

export function debounce(fn, ms) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => fn(...values), ms);
  };
}

export function roleClass(index) {
  return `role${Math.max(0, index) % 5}`;
}

// What a model or a scenario says.
export function said(text, tag = "span") {
  return h(tag, { class: "said", dir: "auto", text });
}

export function panel(title, ...children) {
  return h("section", "panel", h("h2", {}, title), children);
}

// A command that is to be typed elsewhere.
export function copyable(text, title = "copy") {
  const code = h("code", { text });
  const copy = button("copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code);
    }
  }, { class: "copy", title, "aria-label": title });
  return span("copyable", code, copy);
}
