// A sheet of white paper and a dark pen: by pointer (mouse, finger, stylus) or by keyboard.

const STEP = 7; // pixels that an arrow key moves the pen
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  constructor(canvas, pen, width, changed) {
    Object.assign(this, { canvas, pen, width, changed });
    this.at = [canvas.width / 2, canvas.height / 2];
    this.context = canvas.getContext('2d');
    this.clear();
    canvas.addEventListener('pointerdown', event => this.#begin(event));
    canvas.addEventListener('pointermove', event => this.#move(event));
    for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, () => { this.drawing = false; });
    canvas.addEventListener('keydown', event => this.#key(event));
    canvas.addEventListener('focus', () => this.#showPen(canvas.matches(':focus-visible')));
    canvas.addEventListener('blur', () => this.#showPen(false));
  }

  clear() {
    this.drawing = this.down = false;
    this.empty = true;
    this.context.fillStyle = '#fff';
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.#showPen(!this.pen.hidden);
  }

  png() { return new Promise(done => this.canvas.toBlob(done, 'image/png')); }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) * this.canvas.width / box.width,
      (event.clientY - box.top) * this.canvas.height / box.height];
  }

  #begin(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.drawing = true;
    this.at = this.#place(event);
    this.#line(this.at);
  }

  #move(event) {
    if (!this.drawing) return;
    const between = event.getCoalescedEvents?.() ?? [];
    for (const each of between.length ? between : [event]) this.#line(this.#place(each));
  }

  #key(event) {
    if (event.key === ' ') {
      this.down = !this.down;
      if (this.down) this.#line(this.at);
    } else if (MOVES[event.key]) {
      const [x, y] = MOVES[event.key];
      const within = (value, size) => Math.min(Math.max(value, 0), size);
      const to = [within(this.at[0] + STEP * x, this.canvas.width), within(this.at[1] + STEP * y, this.canvas.height)];
      if (this.down) this.#line(to); else this.at = to;
    } else return;
    event.preventDefault();
    this.#showPen(true);
  }

  #line(to) {
    Object.assign(this.context, { strokeStyle: '#111', lineWidth: this.width.value, lineCap: 'round', lineJoin: 'round' });
    this.context.beginPath();
    this.context.moveTo(...this.at);
    this.context.lineTo(...to);
    this.context.stroke();
    this.at = to;
    this.empty = false;
    this.changed();
  }

  #showPen(shown) {
    this.pen.hidden = !shown;
    this.pen.classList.toggle('down', this.down);
    this.pen.style.left = `${100 * this.at[0] / this.canvas.width}%`;
    this.pen.style.top = `${100 * this.at[1] / this.canvas.height}%`;
  }
}
