// The page: a picture that is drawn, dropped, pasted or chosen goes to every model that is ticked.

import { keep, models } from './ask.js';
import { Pad } from './pad.js';
import { Panel } from './panel.js';

const TICKED = 4; // models that are asked from the beginning
const get = id => document.getElementById(id);
const [pad, chosen, file, what, lock] = ['pad', 'chosen', 'file', 'what', 'lock'].map(get);
const panels = new Map();
let picture = null; // a file that was given, or null: what is drawn
let due = false;

const drawing = new Pad(pad, get('pen'), get('width'), () => { picture = null; ask(); });

function ask() { // once a frame at most
  if (due) return;
  due = true;
  requestAnimationFrame(async () => {
    due = false;
    const source = picture ?? (drawing.empty ? null : await drawing.png());
    for (const { panel, tick } of panels.values()) {
      if (!tick.checked) continue;
      if (source) panel.show(source); else panel.clear();
    }
  });
}

function take(given) {
  if (!given) return;
  drawing.clear();
  picture = given;
  what.textContent = given.name ?? 'pasted';
  URL.revokeObjectURL(chosen.src);
  chosen.src = URL.createObjectURL(given);
  chosen.alt = what.textContent;
  chosen.hidden = false;
  ask();
}

function clear() {
  picture = null;
  chosen.hidden = true;
  what.textContent = file.value = '';
  drawing.clear();
  ask();
}

async function save() {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(picture ?? await drawing.png());
  link.download = picture?.name ?? 'drawing.png';
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));
}

chosen.addEventListener('error', () => { chosen.hidden = true; }); // a picture that the server reads and a browser does not
get('clear').addEventListener('click', clear);
get('choose').addEventListener('click', () => file.click());
get('save').addEventListener('click', save);
file.addEventListener('change', () => take(file.files[0]));
document.addEventListener('paste', event => take([...event.clipboardData.files][0]));
document.addEventListener('dragover', event => { event.preventDefault(); document.body.classList.add('over'); });
document.addEventListener('dragleave', () => document.body.classList.remove('over'));
document.addEventListener('drop', event => {
  event.preventDefault();
  document.body.classList.remove('over');
  take(event.dataTransfer.files[0]);
});
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input[type="password"]')) return;
  const does = { Escape: clear, o: () => file.click(), s: save }[event.key];
  if (does) { event.preventDefault(); does(); }
});
lock.addEventListener('submit', event => { event.preventDefault(); keep(lock.querySelector('input').value); begin(); });

async function begin() {
  try {
    const found = await models();
    lock.hidden = true;
    what.textContent = '';
    for (const about of found) {
      const panel = new Panel(about);
      const tick = Object.assign(document.createElement('input'), { type: 'checkbox', checked: panels.size < TICKED });
      const label = document.createElement('label');
      label.append(tick, ` ${about.name}`);
      get('models').append(label);
      panel.element.hidden = !tick.checked;
      tick.addEventListener('change', () => { panel.element.hidden = !tick.checked; ask(); });
      get('panels').append(panel.element);
      panels.set(about.name, { panel, tick });
    }
    get('models').hidden = found.length < 2;
  } catch (error) {
    if (error.status === 401) lock.hidden = false;
    else what.textContent = error.message;
  }
}

begin();
