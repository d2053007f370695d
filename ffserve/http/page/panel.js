// What one model answers: its classes as bars, the picture as it sees it, how long that took, and its card.

import { predict } from './ask.js';

const FEW = 12; // classes that all have a bar, in the model's order; of more the best have one
const BEST = 8;

function make(kind, name = '', text = '') {
  const found = document.createElement(kind);
  found.className = name;
  found.textContent = text;
  return found;
}

const size = bytes => bytes < 1e6 ? `${Math.round(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

export class Panel {
  constructor(about) {
    this.about = about;
    this.classes = about.class_names;
    this.few = this.classes && this.classes.length <= FEW;
    this.element = make('article');
    this.element.dataset.model = about.name;
    const head = make('div', 'head');
    const words = make('div');
    this.answer = make('div', 'answer');
    this.took = make('p', 'quiet', this.classes ? 'no picture yet' : 'gives features alone, no classes');
    words.append(make('h2', '', about.name), this.answer, this.took);
    this.seen = make('canvas', 'seen');
    const { channels, height, width } = about.image;
    Object.assign(this.seen, { width, height, title: `as the model sees it: ${channels} x ${height} x ${width}` });
    this.seen.setAttribute('role', 'img');
    this.seen.setAttribute('aria-label', 'The picture as the model sees it');
    head.append(words, this.seen);
    this.bars = make('ul', 'bars');
    this.notes = make('p', 'notes');
    const card = make('details');
    const facts = [about.precision, size(about.bytes), about.method, about.dataset, `on ${about.device}`];
    card.append(make('summary', '', 'Card'), make('p', 'notes', facts.filter(Boolean).join(', ')));
    if (about.card) card.append(make('pre', '', about.card));
    this.element.append(head, this.bars, this.notes, card);
    this.clear();
  }

  clear() {
    this.wanted = null;
    this.answer.textContent = '';
    if (this.classes) this.took.textContent = 'no picture yet';
    this.notes.textContent = '';
    this.seen.getContext('2d').clearRect(0, 0, this.seen.width, this.seen.height);
    this.#draw(this.few ? this.classes.map(name => [name, 0]) : []);
  }

  // Asks for the newest picture; those that come while one is asked for are passed over.
  async show(picture) {
    this.wanted = picture;
    if (!this.classes || this.asking) return;
    this.asking = true;
    while (this.wanted) {
      const asked = this.wanted;
      const found = await predict(this.about.name, asked, this.few ? this.classes.length : BEST).catch(error => ({ error }));
      if (this.wanted === asked) this.wanted = null;
      else if (!this.wanted) break; // cleared meanwhile
      this.#tell(found);
    }
    this.asking = false;
  }

  #tell(found) {
    this.notes.classList.toggle('bad', Boolean(found.error));
    if (found.error) {
      this.clear();
      this.notes.textContent = found.error.message;
      return;
    }
    const [best] = found.top;
    this.answer.textContent = best.class;
    this.took.textContent = `${found.ms.toFixed(0)} ms there and back`;
    this.notes.textContent = found.notes.map(note => note.split(' (--')[0].replace(/: [^:]*$/, '')).join('; ');
    const shares = new Map(found.top.map(each => [each.class, each.probability]));
    this.#draw(this.few ? this.classes.map(name => [name, shares.get(name) ?? 0]) : [...shares], best.class);
    this.#see(found.pixels);
  }

  #draw(shares, best) {
    while (this.bars.children.length > shares.length) this.bars.lastChild.remove();
    while (this.bars.children.length < shares.length) {
      const row = make('li');
      const track = make('span', 'track');
      track.append(make('span', 'bar'));
      row.append(make('span', 'name'), track, make('span', 'share'));
      this.bars.append(row);
    }
    shares.forEach(([name, share], i) => {
      const row = this.bars.children[i];
      row.classList.toggle('best', name === best);
      row.children[0].textContent = row.children[0].title = name;
      row.querySelector('.bar').style.width = `${100 * share}%`;
      row.children[2].textContent = best === undefined ? '' : `${(100 * share).toFixed(1)} %`;
    });
  }

  #see(pixels) {
    const [red, green = red, blue = red] = pixels;
    const image = new ImageData(red[0].length, red.length);
    red.forEach((row, y) => row.forEach((value, x) => {
      image.data.set([value, green[y][x], blue[y][x], 255], 4 * (y * row.length + x));
    }));
    this.seen.getContext('2d').putImageData(image, 0, 0);
  }
}
