// A target plugin over an API that keeps JSON documents: a unit for each generation, and for each workload one document with
// its shares, which is also where fences are compared.

import { Endpoint, Fault, Plugin, exported, mainArtifact, mayWrite, weighted } from './sdk/holdfast.js';

const API = new Endpoint('api');
const STRANGERS_MAX = 50;

const unitPath = ({ name }) => `/units/${name}`;
const workloadPath = ({ key }) => `/workloads/${key}`;

/** Every verb that writes begins here: whose the workload is, and whether somebody newer is at work. */
function claim(ctx, generation, change = () => {}) {
  API.swap(workloadPath(generation), (there) => {
    const workload = there ?? { owner: ctx.owner, workload: generation.workload, fence: 0, shares: {}, applied: {} };
    mayWrite(ctx, 'the workload', workload.owner, workload.fence);
    workload.fence = Number(ctx.fence);
    change(workload);
    return workload;
  });
}

class Store extends Plugin {
  abilities() {
    return weighted();
  }

  observe(ctx, config, query) {
    const [units, strangers] = API.listByStamp('/units', ({ document }) => document.record?.owner === ctx.owner);
    const [workloads] = API.listByStamp('/workloads', ({ document }) => document.owner === ctx.owner);
    const fences = [...units.map(({ document }) => document.record.fence), ...workloads.map(({ document }) => document.fence)];
    const askedFor = (workload) => query.workload === undefined || query.workload === workload;
    return {
      owner: undefined,
      highFence: BigInt(Math.max(0, ...fences)),
      generations: units.filter(({ document }) => askedFor(document.record.workload)).map(({ document }) => state(document)),
      routes: workloads.filter(({ document }) => askedFor(document.workload)).map(({ document }) => routeState(document)),
      strangers: strangers.map(({ path }) => path).slice(0, STRANGERS_MAX),
      more: undefined,
    };
  }

  launch(ctx, config, subject, template, size) {
    claim(ctx, subject);
    const artifact = mainArtifact(subject);
    API.swap(unitPath(subject), (there) => {
      if (there && there.record.release_id !== subject.releaseId) {
        throw new Fault('conflict', `${subject.name} is there, of another release`);
      }
      const record = {
        owner: ctx.owner, workload: subject.workload, fence: Number(ctx.fence), number: subject.number,
        release_id: subject.releaseId, artifact: artifact.name, digest: artifact.digest,
      };
      return { record, size, running: there?.running ?? '' };
    });
  }

  scale(ctx, config, subject, template, size) {
    claim(ctx, subject);
    API.swap(unitPath(subject), (unit) => {
      if (!unit) throw new Fault('absent', `${subject.name} is not there`);
      unit.size = size;
      unit.record.fence = Number(ctx.fence);
      return unit;
    });
  }

  route(ctx, config, entries) {
    const shares = Object.fromEntries(entries.map(({ generation, live }) => [generation.number, live]));
    claim(ctx, entries[0].generation, (workload) => {
      workload.shares = shares;
    });
  }

  retire(ctx, config, subject, last) {
    const workload = API.find(workloadPath(subject));
    if (!workload) return;
    if (!last && workload.applied[subject.number] > 0) throw new Fault('conflict', `${subject.name} has traffic`);
    claim(ctx, subject, ({ shares }) => {
      delete shares[subject.number];
    });
    API.remove(unitPath(subject));
    if (last) API.remove(workloadPath(subject));
  }
}

function state({ record, size, running = '' }) {
  const phase = size === 0 ? 'parked' : running ? 'ready' : 'starting';
  const ready = phase === 'ready' ? size : 0;
  return {
    workload: record.workload,
    number: record.number,
    releaseId: record.release_id,
    fence: BigInt(record.fence),
    phase,
    reason: '',
    message: '',
    wanted: size,
    ready,
    restarts: 0,
    // What it was asked to run proves nothing.
    proofs: running ? [{ artifact: record.artifact, digest: running, by: 'reported', count: ready }] : [],
    fingerprint: '',
    objects: [`${record.workload} g${record.number}`],
    instances: [],
  };
}

function routeState({ workload, fence, shares, applied = {} }) {
  const inEffect = Object.entries(applied).map(([number, live]) => ({ number: Number(number), live }));
  return {
    workload,
    fence: BigInt(fence),
    shares: inEffect,
    settled: JSON.stringify(Object.entries(applied).sort()) === JSON.stringify(Object.entries(shares).sort()),
    fingerprint: '',
  };
}

export const target = exported(new Store());
