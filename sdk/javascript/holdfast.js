// Target plugins for Holdfast in JavaScript.
//
// Extend Plugin, and put `export const target = exported(new MyPlugin())` at the end of plugin.js. A plugin keeps no state:
// every call is a fresh instance. Throw a Fault to say no; any other error is logged and answered as `internal`, never a trap.
// u64 is BigInt here, and JSON.parse rounds beyond 2^53: fences stay below that.

import { send } from 'holdfast:target/endpoint@0.1.0';
import { write } from 'holdfast:target/log@0.1.0';

const PAGES_MAX = 1000;
const SWAPS_MAX = 5;
const MESSAGE_MAX = 300;

/** Why a verb did not do what was asked. `tag`: invalid, failed, conflict, denied, exhausted, absent, unavailable, internal. */
export class Fault extends Error {
  constructor(tag, message) {
    super(message);
    this.tag = tag;
  }

  payload() {
    return { tag: this.tag, val: cut(this.message) };
  }
}

/** The target has seen this higher fence. */
export class Fenced extends Fault {
  constructor(fence) {
    super('fenced', `the target has seen fence ${fence}`);
    this.fence = BigInt(fence);
  }

  payload() {
    return { tag: 'fenced', val: this.fence };
  }
}

/** Not done yet, and no failure: the host calls again with the same arguments. */
export class Pending extends Error {
  constructor(afterMs, message = '', resume = '') {
    super(message);
    this.wait = { resume, afterMs, message };
  }
}

export function log(message, level = 'info') {
  write(level, String(message));
}

function cut(text) {
  return String(text).slice(0, MESSAGE_MAX);
}

const FAULTS = {
  400: 'invalid', 405: 'invalid', 422: 'invalid', 401: 'denied', 403: 'denied', 404: 'absent', 410: 'absent',
  409: 'conflict', 412: 'conflict', 413: 'exhausted', 429: 'exhausted', 507: 'exhausted',
};

export class Answer {
  constructor(response) {
    this.status = response.status;
    this.headers = new Map(response.headers.map(({ name, value }) => [name.toLowerCase(), value]));
    this.body = response.body;
  }

  json() {
    try {
      return JSON.parse(new TextDecoder().decode(this.body));
    } catch (error) {
      throw new Fault('unavailable', `the endpoint's answer is not JSON: ${error.message}`);
    }
  }

  expectSuccess() {
    if (this.status >= 200 && this.status < 300) return this;
    const text = new TextDecoder().decode(this.body.slice(0, MESSAGE_MAX));
    throw new Fault(FAULTS[this.status] ?? 'unavailable', `HTTP ${this.status}: ${text}`);
  }
}

/** A client for one alias. Nothing is retried in the guest; a lost compare-and-swap is read again. */
export class Endpoint {
  constructor(alias) {
    this.alias = alias;
  }

  send(method, path, body, headers = []) {
    const wanted = [{ name: 'accept', value: 'application/json' }, ...headers];
    let content = { tag: 'empty' };
    if (body !== undefined) {
      wanted.push({ name: 'content-type', value: 'application/json' });
      content = { tag: 'bytes', val: new TextEncoder().encode(JSON.stringify(body)) };
    }
    try {
      return new Answer(send(this.alias, { method, path, headers: wanted, body: content, timeoutMs: 0 }));
    } catch (error) {
      const { tag, val = '' } = error.payload ?? {};
      if (tag === undefined) throw error;
      if (tag === 'denied') throw new Fault('denied', val);
      if (tag === 'too-large') throw new Fault('exhausted', val);
      throw new Fault('unavailable', tag === 'lost' ? `sent, but no answer came: ${val}` : val);
    }
  }

  get(path) {
    return this.send('GET', path).expectSuccess().json();
  }

  /** Undefined where there is nothing. */
  find(path) {
    return this.#read(path).there;
  }

  put(path, body) {
    return this.send('PUT', path, body).expectSuccess();
  }

  /** What is not there is gone already. */
  remove(path) {
    const answer = this.send('DELETE', path);
    if (answer.status !== 404 && answer.status !== 410) answer.expectSuccess();
  }

  /** Every item of a paged list. A short list would mean that the rest is gone, so too long a one is a fault. */
  list(first, { items = (page) => page.items, next = (page) => page.next } = {}) {
    const found = [];
    let path = first;
    for (let count = 0; count < PAGES_MAX; count += 1) {
      const page = this.get(path);
      const some = items(page);
      if (!Array.isArray(some)) throw new Fault('unavailable', `the list ${first} is not what was expected`);
      found.push(...some);
      path = next(page);
      if (!path) return found;
    }
    throw new Fault('unavailable', `the list ${first} has more than ${PAGES_MAX} pages`);
  }

  /** What carries our stamp, and what does not. */
  listByStamp(first, isOurs, how) {
    const all = this.list(first, how);
    return [all.filter((one) => isOurs(one)), all.filter((one) => !isOurs(one))];
  }

  /** Creates what is not there; what is there has to be the same thing. */
  createOrMatch(path, wanted, isSame) {
    const answer = this.send('PUT', path, wanted, [{ name: 'if-none-match', value: '*' }]);
    if (answer.status !== 409 && answer.status !== 412) answer.expectSuccess();
    else if (!isSame(this.get(path))) throw new Fault('conflict', `${path} is there already, and is something else`);
  }

  /** Compare-and-swap. `change` sees what is there (undefined: nothing), each time anew, and gives what shall be (undefined: leave it). */
  swap(path, change) {
    for (let count = 0; count < SWAPS_MAX; count += 1) {
      const { there, etag } = this.#read(path);
      const wanted = change(there);
      if (wanted === undefined) return;
      const absent = there === undefined ? [{ name: 'if-none-match', value: '*' }] : [];
      const answer = this.send('PUT', path, wanted, etag ? [{ name: 'if-match', value: etag }] : absent);
      if (answer.status !== 412) {
        answer.expectSuccess();
        return;
      }
    }
    throw new Fault('unavailable', `others wrote ${path} ${SWAPS_MAX} times in between`);
  }

  #read(path) {
    const answer = this.send('GET', path);
    if (answer.status === 404 || answer.status === 410) return {};
    const there = answer.expectSuccess().json();
    if (there === null || typeof there !== 'object') throw new Fault('unavailable', `${path} is not a JSON object`);
    return { there, etag: answer.headers.get('etag') };
  }
}

/** What a verb looks at first, on each object that it is about to write. */
export function mayWrite(ctx, what, owner, fence) {
  if (owner !== ctx.owner) throw new Fault('conflict', `${what} belongs to another installation`);
  if (BigInt(fence) > ctx.fence) throw new Fenced(fence);
}

export function mainArtifact(generation) {
  const main = generation.artifacts.find(({ name }) => name === 'main') ?? generation.artifacts[0];
  if (!main) throw new Fault('invalid', 'the release has no artifact');
  return main;
}

/** Generations side by side with any share, as many instances as planned, fenced by compare-and-swap. */
export function weighted(different = {}) {
  return {
    routing: 'weighted', mostLive: 16, finestShare: 1, sizing: 'planned', overlap: true, staged: true, seamless: true,
    guarded: true, probed: false, ...different,
  };
}

/** One document that says what runs: nothing beside what is live. */
export function document(different = {}) {
  return weighted({ routing: 'single', mostLive: 1, finestShare: 10000, sizing: 'unsized', overlap: false, staged: false, guarded: false, ...different });
}

function typeOf(value) {
  if (value === null) return 'null';
  if (Array.isArray(value)) return 'array';
  return typeof value;
}

function fits(type, value) {
  return type === 'integer' ? Number.isInteger(value) : typeOf(value) === type;
}

/** What does not fit, each at its JSON pointer. Of JSON Schema: type, properties, required, additionalProperties, items, enum. */
export function problemsOf(schema, value, at) {
  if (schema.type && !fits(schema.type, value)) return [{ at, message: `this has to be of type ${schema.type}`, hint: '' }];
  if (schema.enum && !schema.enum.includes(value)) return [{ at, message: `this has to be one of ${schema.enum.join(', ')}`, hint: '' }];
  const found = [];
  if (typeOf(value) === 'object') {
    const fields = schema.properties ?? {};
    for (const [name, field] of Object.entries(value)) {
      const place = `${at}/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;
      if (Object.hasOwn(fields, name)) found.push(...problemsOf(fields[name], field, place));
      else if (schema.additionalProperties === false) {
        found.push({ at: place, message: `unknown field ${name}`, hint: `known are ${Object.keys(fields).join(', ') || 'none'}` });
      }
    }
    for (const name of schema.required ?? []) if (!Object.hasOwn(value, name)) found.push({ at, message: `missing field ${name}`, hint: '' });
  }
  if (Array.isArray(value) && schema.items) value.forEach((item, index) => found.push(...problemsOf(schema.items, item, `${at}/${index}`)));
  return found;
}

/** What a target can do. Each method's promise stands in sdk/wit, in the comments of `interface target`. */
export class Plugin {
  /** JSON Schemas; `config` also stands in plugin.json. */
  config = { type: 'object', additionalProperties: false };
  template = { type: 'object', additionalProperties: false };

  /** What the schemas cannot say. */
  problems() {
    return [];
  }

  launch() {
    throw new Fault('invalid', 'nothing can be staged on this target');
  }

  scale() {
    throw new Fault('invalid', 'nothing can be sized on this target');
  }
}

/** An error is a fault, and never a trap. */
function answered(verb) {
  return (...given) => {
    try {
      return verb(...given);
    } catch (error) {
      if (error instanceof Fault) throw error.payload();
      log(`${error}\n${error?.stack ?? ''}`, 'error');
      throw { tag: 'internal', val: cut(error) };
    }
  };
}

function done(verb) {
  return answered((...given) => {
    try {
      verb(...given);
      return { tag: 'done' };
    } catch (error) {
      if (error instanceof Pending) return { tag: 'pending', val: error.wait };
      throw error;
    }
  });
}

/** What componentize-js looks for under the name `target`. */
export function exported(plugin) {
  const sized = (verb) => (ctx, subject, size) =>
    plugin[verb](ctx, JSON.parse(ctx.config), subject, JSON.parse(subject.template), size);
  return {
    check: answered((ctx, subject) => {
      const [config, template] = [JSON.parse(ctx.config), JSON.parse(subject.template)];
      const found = [...problemsOf(plugin.config, config, '/config'), ...problemsOf(plugin.template, template, '/template')];
      if (found.length > 0) return { problems: found, abilities: document() };
      return { problems: plugin.problems(ctx, config, subject, template), abilities: plugin.abilities(config, template) };
    }),
    observe: answered((ctx, query) => plugin.observe(ctx, JSON.parse(ctx.config), query)),
    launch: done(sized('launch')),
    scale: done(sized('scale')),
    route: done((ctx, entries) => plugin.route(ctx, JSON.parse(ctx.config), entries)),
    retire: done((ctx, subject, last) => plugin.retire(ctx, JSON.parse(ctx.config), subject, last)),
  };
}
