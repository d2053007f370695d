// What the page asks the server. The token, where the server wants one, is kept while the tab is open.

const KEY = 'ffserve token';

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

export const keep = token => sessionStorage.setItem(KEY, token);

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused(0, 'the server does not answer');
  }
  const found = await answer.json().catch(() => ({ error: `the server answers ${answer.status}` }));
  if (!answer.ok) throw new Refused(answer.status, found.error);
  return found;
}

export async function models() {
  const { models: names } = await ask('/v1/models');
  return Promise.all(names.map(name => ask(`/v1/models/${encodeURIComponent(name)}`)));
}

export async function predict(model, picture, topK) {
  const query = new URLSearchParams({ model, top_k: topK, pixels: true });
  const began = performance.now();
  const found = await ask(`/v1/predict?${query}`, { method: 'POST', body: picture });
  return { ...found.predictions[0], notes: found.notes, ms: performance.now() - began };
}
