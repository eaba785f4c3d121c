// An exported file's answers: what the server would say, from the data that the file holds.  It defines
// SELFPLAY_OFFLINE, which api.js asks instead of the network.  The filter language is that of docs/filters.md.

const OPERATORS = ["!=", "!~", "<=", ">=", "=", "<", ">", "~"];
const TOKEN = /(!=|!~|<=|>=|[=<>~&|()!,])|"((?:[^"\\]|\\[^])*)"|'((?:[^'\\]|\\[^])*)'|((?:[^\s&|()!=<>~,"]|!(?![=~]))+)/y;
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$/;
const DEPTH = 50;
const NUMBERS = ["turns", "tokens", "seconds", "step", "version", "seed", "reward", "advantage", "kl", "nll", "surprise", "disagreement", "cut", "repeats"];
const TEXTS = ["id", "env", "split", "scenario", "about", "status", "reason", "by", "error", "group"];
const SEVERAL = ["role", "player", "model", "flag", "tag"];
const CUT = ["length", "context_full", "token_limit"];
const MOST_ROWS = 200;

// ----- filter -----

// Returns what tells whether a conversation, {row, record}, fits; throws a sentence.
export function parseFilter(text, fields) {
  const tokens = tokensOf(text);
  if (!tokens.length) return () => true;
  const parser = new Parser(text, tokens, fields);
  return parser.filter();
}

function tokensOf(text) {
  const tokens = [];
  let isAfterSpace = true;
  for (let place = 0; place < text.length; ) {
    if (/\s/.test(text[place])) {
      [place, isAfterSpace] = [place + 1, true];
      continue;
    }
    TOKEN.lastIndex = place;
    const found = TOKEN.exec(text);
    if (!found) throw new Error(`filter '${text}': the quote at '${text.slice(place)}' is never closed`);
    const [whole, operator, double, single, word] = found;
    const quoted = double ?? single;
    if (quoted !== undefined) tokens.push({ kind: "quoted", text: quoted.replace(/\\([^])/g, "$1"), isAfterSpace });
    else tokens.push({ kind: word === undefined ? "operator" : "word", text: word ?? operator, isAfterSpace });
    [place, isAfterSpace] = [place + whole.length, false];
  }
  return tokens;
}

class Parser {
  constructor(text, tokens, fields) {
    Object.assign(this, { text, tokens, fields, place: 0, depth: 0 });
  }

  filter() {
    const test = this.either();
    if (this.place < this.tokens.length) throw this.error(`'${this.here()}' is not expected here; quote text that holds one of & | ! ( ) , = < > ~`);
    return test;
  }

  either() {
    const tests = [this.both()];
    while (this.takes("|")) tests.push(this.both());
    return (one) => tests.some((test) => test(one));
  }

  both() {
    const tests = [this.one()];
    while (this.takes("&") || this.here() === "(" || this.here() === "!" || this.isWord()) tests.push(this.one());
    return (one) => tests.every((test) => test(one));
  }

  one() {
    if (++this.depth > DEPTH) throw this.error(`it is nested more than ${DEPTH} deep`);
    const test = this.negatedOrComparison();
    this.depth -= 1;
    return test;
  }

  negatedOrComparison() {
    if (this.takes("!")) {
      const test = this.one();
      return (one) => !test(one);
    }
    if (this.takes("(")) {
      const test = this.either();
      if (!this.takes(")")) throw this.error("a parenthesis is never closed");
      return test;
    }
    if (!this.isWord()) throw this.error(`a field or a word is missing${this.place ? ` after '${this.tokens[this.place - 1].text}'` : ""}`);
    return this.comparison();
  }

  comparison() {
    const token = this.next();
    let name = token.text;
    if (token.kind === "word" && name.endsWith(".") && this.isWord("quoted", true)) name += this.next().text;
    const operator = this.here();
    if (!OPERATORS.includes(operator)) return says(token.text);
    const field = this.fields(name);
    if (!field) throw new Error(`unknown field '${name}'`);
    this.next();
    return this.compared(field, operator, this.values(field, operator));
  }

  values(field, operator) {
    const values = [];
    do {
      if (!this.isWord()) throw this.error(`a value is missing after ${field.name}${operator}`);
      const token = this.next();
      values.push(token.kind === "word" && token.text === "null" ? null : token.text);
    } while (this.takes(","));
    if (operator !== "=" && operator !== "!=" && (values.length > 1 || values.includes(null))) throw this.error(`${field.name}${operator} takes one value; lists and null go with = and !=`);
    return values;
  }

  compared(field, operator, values) {
    if (operator === "!=" || operator === "!~") {
      const test = this.compared(field, operator[1], values);
      return (one) => !test(one);
    }
    if (field.kind === "texts") {
      if (operator !== "~" || values[0] === null) throw this.error('what was said is searched with ~, as in text~"sorry"');
      return says(values[0]);
    }
    if (field.kind === "number") return this.number(field, operator, values);
    if (field.kind === "truth") return this.truth(field, operator, values);
    if ("<=>=".includes(operator) && operator !== "=") throw this.error(`${field.name} is text: compare it with =, !=, ~ or !~`);
    const lowered = values.map((value) => (value === null ? null : value.toLowerCase()));
    const isSame = operator === "=" ? (own, value) => own === value : (own, value) => own.includes(value);
    return (one) => {
      const own = field.of(one).map((text) => text.toLowerCase());
      return lowered.some((value) => (value === null ? !own.length : own.some((text) => isSame(text, value))));
    };
  }

  number(field, operator, values) {
    if (operator === "~") throw this.error(`${field.name} is a number: compare it with =, !=, <, <=, > or >=`);
    const numbers = values.map((value) => {
      if (value !== null && !(NUMBER.test(value) && Number.isFinite(Number(value)))) throw this.error(`${field.name} is a number, and '${value}' is none`);
      return value === null ? null : Number(value);
    });
    const tests = { "=": (a, b) => a === b, "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b };
    return (one) => {
      const own = field.of(one) ?? null;
      return numbers.some((value) => (value === null || own === null ? own === value : tests[operator](own, value)));
    };
  }

  truth(field, operator, values) {
    if (operator !== "=") throw this.error(`${field.name} is true or false: compare it with = or !=`);
    const wanted = values.map((value) => {
      if (!["true", "false", null].includes(value)) throw this.error(`${field.name} is true or false, not '${value}'`);
      return value === null ? null : value === "true";
    });
    return (one) => wanted.includes(field.of(one) ?? null);
  }

  here() {
    const token = this.tokens[this.place];
    return token?.kind === "operator" ? token.text : "";
  }

  isWord(kind = "", isNear = false) {
    const token = this.tokens[this.place];
    return token !== undefined && token.kind !== "operator" && (!kind || token.kind === kind) && !(isNear && token.isAfterSpace);
  }

  takes(operator) {
    if (this.here() !== operator) return false;
    this.place += 1;
    return true;
  }

  next() {
    return this.tokens[this.place++];
  }

  error(what) {
    return new Error(`filter '${this.text}': ${what}`);
  }
}

function says(text) {
  const lowered = text.toLowerCase();
  return (one) => textOf(one).includes(lowered);
}

function textOf(one) {
  one.text ??= one.record.turns.map((turn) => turn.text).join("\n").toLowerCase();
  return one.text;
}

// ----- fields -----

// Returns name -> field for a run's parts and roles; a field's `of` says what a conversation has.
export function fieldsOf({ parts = [], roles = [] }) {
  const fields = new Map();
  const add = (name, kind, of) => fields.set(name, { name, kind, of });
  const known = (value) => (value === null || value === undefined ? [] : [String(value)]);
  for (const name of NUMBERS) add(name, "number", ({ row }) => row[name]);
  add("seed", "number", ({ record }) => record.scenario.seed);
  add("cut", "number", ({ record }) => share(record, (turn) => CUT.includes(turn.finish)));
  add("repeats", "number", ({ record }) => share(record, (turn, k) => record.turns.slice(0, k).some((before) => before.text === turn.text)));
  for (const name of TEXTS) add(name, "text", ({ row }) => known(row[name]));
  add("env", "text", ({ record }) => known(record.scenario.env));
  add("by", "text", ({ record }) => known(record.outcome?.by));
  add("error", "text", ({ record }) => known(record.error));
  for (const name of SEVERAL) add(name, "words", ({ row }) => row[`${name}s`] ?? []);
  const called = (player) => [player.model ? `${player.policy}@${player.version}` : player.policy, player.policy];
  add("player", "words", ({ record }) => Object.values(record.players).flatMap(called));
  add("model", "words", ({ record }) => Object.values(record.players).flatMap((player) => (player.model ? [player.model] : [])));
  add("protocol", "truth", ({ record }) => record.outcome?.protocol_ok ?? null);
  add("success", "truth", ({ record }) => record.outcome?.facts?.success ?? null);
  add("payoff", "number", paid);
  add("labelled", "truth", ({ row }) => row.flags.includes("labelled"));
  add("text", "texts");
  add("brief", "briefs", ({ record }) => known(Object.values(record.players).map((player) => player.brief ?? "").join("\n").trim() || null));
  for (const name of parts) {
    add(`reward.${name}`, "number", ({ row }) => row.raw[name]);
    add(`value.${name}`, "number", ({ row }) => row.parts[name]);
  }
  for (const name of roles) {
    add(`role.${name}`, "number", ({ row }) => row.per_role[name]);
    add(`payoff.${name}`, "number", ({ record }) => record.outcome?.payoff?.[name]);
    add(`player.${name}`, "words", ({ record }) => (record.players[name] ? called(record.players[name]) : []));
  }
  return fields;
}

// The mean over the trained roles; over all, if none is trained.
function paid({ record: { players, outcome } }) {
  const all = Object.entries(outcome?.payoff ?? {});
  const trained = all.filter(([role]) => players[role]?.trained);
  const counted = trained.length ? trained : all;
  return counted.length ? counted.reduce((sum, [, value]) => sum + value, 0) / counted.length : null;
}

function share({ turns }, test) {
  return turns.length ? turns.filter(test).length / turns.length : 0;
}

// ----- answers -----

class Offline {
  constructor(data) {
    this.data = data;
    this.path = `/api/r/${encodeURIComponent(data.run)}`;
    this.info = data.answers[this.path].info;
    this.fields = fieldsOf(this.info);
    this.rows = data.rows.map((row, index) => ({ row, index, record: data.conversations[row.id].record }));
  }

  async get(url) {
    const { pathname, searchParams } = new URL(url, "http://page");
    if (pathname === "/api/runs") return this.runs();
    const known = pathname === "/api/compare" ? this.compared(searchParams) : this.data.answers[pathname];
    if (known) return known;
    const [kind, id, rest] = pathname.startsWith(`${this.path}/`) ? pathname.slice(this.path.length + 1).split("/").map(decodeURIComponent) : [];
    if (kind === "conversations") return this.conversations(searchParams);
    const held = kind === "c" ? (rest === "tokens" ? this.data.tokens : this.data.conversations)[id] : undefined;
    if (held) return held;
    throw new Error(kind === "c" ? `This file does not hold conversation ${id}${rest ? "'s tokens" : ""}.` : "This file does not hold that; `selfplay view` shows it.");
  }

  // Of one version with another, by the reward or by a part: those that are held.
  compared(params) {
    const isAsked = (path) => ["a", "b", "part"].every((name) => new URLSearchParams(path.split("?")[1]).get(name) === params.get(name));
    return this.data.answers[Object.keys(this.data.answers).find((path) => path.startsWith("/api/compare?") && isAsked(path))];
  }

  runs() {
    const { run, path, status, env, model, created_at, ended_at, since, step = null, steps } = this.data.answers[this.path];
    return { runs: [{ run, path, status, env, model, created_at, ended_at, since, step, steps, is_live: false, conversations: this.rows.length }], default: run, label_person: "" };
  }

  conversations(params) {
    const isFitting = parseFilter(params.get("q") ?? "", (name) => this.fields.get(name));
    const rows = this.sorted(this.rows.filter(isFitting), params);
    const [offset, limit] = [Number(params.get("offset") ?? 0), Math.min(Number(params.get("limit") ?? 50), MOST_ROWS)];
    const { parts = [], roles = [] } = this.info;
    const columns = ["id", "step", "split", "scenario", "about", "players", "turns", "tokens", "reward", "values", "per_role", "advantage", "kl", "reason", "status", "flags", "first_words", "surprise", "disagreement", "group_mean", "version"];
    const cellOf = (row) => (name) => {
      if (name === "values") return parts.map((part) => row.parts[part] ?? null);
      return name === "per_role" ? roles.map((role) => row.per_role[role] ?? null) : (row[name] ?? null);
    };
    const shown = rows.slice(offset, offset + limit).map(({ row }) => columns.map(cellOf(row)));
    return { total: rows.length, of: this.rows.length, offset, parts, roles, columns, rows: shown };
  }

  // As the index orders them: without the number last, equal ones newest first where the numbers fall.
  sorted(found, params) {
    const sort = params.get("sort") || "newest";
    const isAscending = params.get("order") === "asc";
    const isPlace = sort === "newest" || sort === "oldest";
    const field = isPlace ? { kind: "number", of: ({ index }) => index } : this.fields.get(sort);
    if (field?.kind !== "number") throw new Error(`nothing is sorted by '${sort}'`);
    const sign = (isPlace ? (sort === "oldest") !== isAscending : isAscending) ? 1 : -1;
    const byValue = (x, y) => (x === null || y === null ? (x === null) - (y === null) : sign * (x - y));
    const valueOf = (one) => field.of(one) ?? null;
    const each = (a, b) => byValue(valueOf(a), valueOf(b)) || sign * (a.index - b.index);
    const rows = [...found].sort(each);
    if (params.get("by_scenario") !== "1") return rows;
    // Scenarios, and groups within them, stand where their first conversation does.
    const gathered = (some, nameOf) => [...Map.groupBy(some, nameOf).values()];
    return gathered(rows, ({ row }) => `${row.split} ${row.scenario}`).flatMap((some) => gathered(some, ({ row }) => row.group)).flat();
  }
}

const data = globalThis.document?.getElementById("selfplay-data");
if (data) globalThis.SELFPLAY_OFFLINE = new Offline(JSON.parse(data.textContent));
