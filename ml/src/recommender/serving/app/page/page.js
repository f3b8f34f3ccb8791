"use strict";
const by = (id) => document.getElementById(id);
const mine = new Map();
let scale = [0.5, 5];
let version = "";

// Text alone: titles come from the data.
function element(name, words, more = {}) {
  const made = Object.assign(document.createElement(name), more);
  made.append(...[words].flat());
  return made;
}

async function ask(path, body) {
  const began = performance.now();
  const key = sessionStorage.getItem("bearer");
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const sent = body ? { method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body) } : { headers };
  const reply = await fetch(path, sent).catch(() => { throw new Error("The server does not answer. Does make tunnel still run?"); });
  const answer = await reply.json().catch(() => ({ detail: reply.statusText }));
  if (reply.status === 401) { by("asked").hidden = false; by("key").focus(); }
  if (!reply.ok) throw new Error(answer.detail);
  return { ...answer, milliseconds: performance.now() - began };
}

async function shown(work) {
  try {
    await work();
  } catch (problem) {
    by("about").textContent = problem.message;
  }
}

const named = (each) => each.title || each.item;
const titled = (each) => element("bdi", named(each));

function picks(answer) {
  if (version && answer.model.version !== version) start();
  const who = answer.user === "new" ? "you" : `user ${answer.user}`;
  by("about").textContent =
    (answer.known ? `For ${who}, ` : `Nothing is known of ${who}: what is popular, `) +
    `by version ${answer.model.version}, in ${answer.milliseconds.toFixed(0)} ms.`;
  by("list").replaceChildren(...answer.items.map((each) => {
    const like = element("button", "Similar", { className: "more", type: "button" });
    like.setAttribute("aria-label", `What is similar to ${named(each)}`);
    like.onclick = () => shown(() => similar(each));
    const [low, high] = scale;
    const digits = high - low <= 1 ? 2 : high - low >= 50 ? 0 : 1;
    const range = low < 0 ? `on ${low} to ${high}` : `of ${high}`;
    const stars = element("span", `${each.estimate.toFixed(digits)} ${range}`, { className: "stars" });
    const line = element("div", [titled(each), element("span", [stars, " ", like])], { className: "line" });
    const because = (each.because || []).flatMap((reason, at) => [at ? ", " : "because of ", titled(reason), ` (${reason.rating})`]);
    return element("li", because.length ? [line, element("p", because, { className: "why" })] : line);
  }));
  if (!answer.items.length) by("about").textContent = "Nothing is left to show: everything is rated already.";
}

async function similar(item) {
  const answer = await ask(`/v1/similar?k=10&item=${encodeURIComponent(item.item)}`);
  by("like").replaceChildren("Like ", titled(item));
  by("similar").replaceChildren(...answer.items.map((each) => element("li", titled(each))));
  if (!answer.items.length) by("similar").replaceChildren(element("li", "Nothing: too few people rated it."));
  by("near").showModal();
}

function rated() {
  by("mine").hidden = !mine.size;
  by("ratings").replaceChildren(...[...mine].map(([item, { title, rating }]) => {
    const away = element("button", "Remove", { className: "more", type: "button" });
    away.setAttribute("aria-label", `Remove your rating of ${title}`);
    away.onclick = () => { mine.delete(item); rated(); by(mine.size ? "mine" : "words").focus(); };
    return element("li", [element("bdi", title), element("span", [`${rating} `, away])]);
  }));
  if (!mine.size) {
    by("list").replaceChildren();
    by("about").textContent = "Choose a user, or rate something.";
    return;
  }
  const history = Object.fromEntries([...mine].map(([item, { rating }]) => [item, rating]));
  shown(async () => picks(await ask("/v1/recommend", { history, k: 10, reasons: 2 })));
}

function choices() {
  const [low, high] = scale;
  const width = high - low;
  const whole = Number.isInteger(low) && Number.isInteger(high);
  const step = whole ? Math.ceil(width / 20) : width < 1 ? width / 10 : width > 10 ? width / 20 : 0.5;
  const values = Array.from({ length: Math.floor(width / step + 1e-9) + 1 }, (_, at) => Math.max(low, Number((high - at * step).toFixed(4))));
  return values.at(-1) > low ? [...values, low] : values;
}

by("known").onsubmit = (event) => {
  event.preventDefault();
  const user = by("user").value.trim();
  shown(async () => {
    picks(await ask("/v1/recommend", { user, k: 10, reasons: 2 }));
    // The list is below the form there.
    if (matchMedia("(max-width: 44rem)").matches) by("listed").scrollIntoView();
  });
};

by("search").onsubmit = (event) => {
  event.preventDefault();
  shown(async () => {
    const answer = await ask(`/v1/items?k=8&search=${encodeURIComponent(by("words").value)}`);
    by("found").replaceChildren(...answer.items.map((each) => {
      const select = element("select", [element("option", "rate", { value: "" }), ...choices().map((value) => element("option", String(value), { value }))]);
      select.setAttribute("aria-label", `Your rating of ${named(each)}`);
      select.value = String(mine.get(each.item)?.rating ?? "");
      select.onchange = () => {
        if (select.value) mine.set(each.item, { title: named(each), rating: Number(select.value) });
        else mine.delete(each.item);
        rated();
      };
      return element("li", [titled(each), select]);
    }));
    by("hits").textContent = answer.items.length ? `${answer.items.length} found. Choose a rating.` : "No title has these words.";
  });
};

by("asked").onsubmit = (event) => {
  event.preventDefault();
  sessionStorage.setItem("bearer", by("key").value.trim());
  by("asked").hidden = true;
  start();
};

const start = () => shown(async () => {
  try {
    const { served } = await ask("/v1/models");
    scale = served.scale;
    version = served.version;
    document.title = `${served.name} ${version}`;
    by("served").textContent =
      `${served.name} version ${served.version}: ${served.users.toLocaleString("en")} people, ${served.items.toLocaleString("en")} items.`;
  } catch (problem) {
    by("served").textContent = problem.message;
  }
});
start();
