// What a run says just now.  Only pages of runs that are being written load this file.
import { clear, div, h } from "./dom.js";
import { conversationPath, get } from "./api.js";
import { conversationLink, turnBox } from "./compare.js";

// The newest conversation, whose turns the style sheet shows one after another.
export function liveStrip(page) {
  const { run } = page.run;
  const place = div("talk");
  const talk = async ({ newest }) => {
    if (!newest || place.dataset.id === newest || place.getAnimations({ subtree: true }).length) return;
    place.dataset.id = newest;
    const { record } = await get(`/api${conversationPath(run, newest)}`);
    const turns = record.turns.map((turn) => turnBox(record, turn));
    turns.forEach((turn, at) => (turn.style.animationDelay = `${at}s`));
    clear(place).append(conversationLink(run, newest), ...turns);
  };
  const update = (news) => talk(news).catch(console.warn);
  page.onChange(update);
  update(page.run.info);
  return h("section", { class: "panel", "aria-label": "Live" }, h("h2", {}, "Now talking"), place);
}
