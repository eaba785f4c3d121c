// Elements and numbers.  Text of models reaches the page through textContent alone: nothing here parses HTML.
import { link } from "./api.js";

// Attributes are an object; a text alone is the class.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(typeof attributes === "string" ? { class: attributes } : attributes)) setAttribute(element, name, value);
  append(element, children);
  return element;
}

function setAttribute(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name === "class") element.className = value;
  else if (name === "text") element.textContent = value;
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
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  return append(element, children);
}

export function clear(element) {
  element.replaceChildren();
  return element;
}

// Numbers: null is not zero, so it is a dash.
export function number(value, digits = 2) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? (0).toFixed(digits) : text).replace("-", "−");
}

export function signed(value, digits = 2) {
  const text = number(value, digits);
  return text === "–" || text.startsWith("−") ? text : `+${text}`;
}

export function percent(value, digits = 0) {
  return value === null || value === undefined ? "–" : `${number(100 * value, digits)}%`;
}

export function count(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en-US");
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

// What this tab remembers; a page without storage, such as one opened from disk, forgets.
export function kept(name, value) {
  try {
    if (value === undefined) return JSON.parse(sessionStorage.getItem(name));
    sessionStorage.setItem(name, JSON.stringify(value));
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
  return h("section", { class: "panel" }, h("h2", { text: title }), children);
}

// A button that copies a text, for commands that are to be typed elsewhere.
export function copyable(text, title = "copy") {
  const button = h("button", { class: "copy", title, "aria-label": title, type: "button" }, "copy");
  const code = h("code", { text });
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code);
    }
    setTimeout(() => (button.textContent = "copy"), 1200);
  });
  return h("span", { class: "copyable" }, code, button);
}
