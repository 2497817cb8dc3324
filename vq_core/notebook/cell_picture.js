// A picture with a grid of cells laid over it. Clicking or dragging chooses cells; the choice is sent to the kernel when
// the button is released.
const CHOSEN = "rgba(255, 255, 255, 0.18)";

function render({ model, el }) {
  const root = document.createElement("div");
  root.className = "vq-cells";
  root.style.cssText = "position: relative; display: inline-block; line-height: 0; max-width: 100%";
  const image = document.createElement("img");
  image.draggable = false;
  image.style.cssText = `width: ${model.get("width")}px; max-width: 100%; user-select: none`;
  if (model.get("pixelated")) image.style.imageRendering = "pixelated";
  const canvas = document.createElement("canvas");
  canvas.style.cssText = "position: absolute; inset: 0; width: 100%; height: 100%; cursor: crosshair; touch-action: none";
  root.append(image, canvas);
  el.append(root);

  let chosen = new Set(model.get("selected"));
  let adding = null; // while the button is down: whether the cells under the pointer are added or removed
  let last = [0, 0]; // the pointer's last position while the button is down

  function show() {
    const url = URL.createObjectURL(new Blob([model.get("picture")], { type: "image/png" }));
    const old = image.src;
    image.onload = () => { if (old) URL.revokeObjectURL(old); draw(); };
    image.src = url;
    image.alt = model.get("title");
    canvas.title = model.get("title");
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = image.clientWidth * ratio;
    canvas.height = image.clientHeight * ratio;
    const context = canvas.getContext("2d");
    const [left, top, right, bottom] = model.get("box");
    const columns = model.get("columns"), rows = model.get("rows");
    const w = ((right - left) * canvas.width) / columns, h = ((bottom - top) * canvas.height) / rows;
    const x0 = left * canvas.width, y0 = top * canvas.height;
    const line = (...ends) => { context.moveTo(ends[0], ends[1]); context.lineTo(ends[2], ends[3]); };
    if (model.get("lines")) {
      context.lineWidth = 1;
      context.strokeStyle = "rgba(128, 128, 128, 0.45)";
      context.beginPath();
      for (let i = 0; i <= columns; i++) line(x0 + i * w, y0, x0 + i * w, y0 + rows * h);
      for (let i = 0; i <= rows; i++) line(x0, y0 + i * h, x0 + columns * w, y0 + i * h);
      context.stroke();
    }
    context.fillStyle = CHOSEN;
    context.beginPath(); // the outline of the choice: edges towards neighbours that are not chosen
    for (const cell of chosen) {
      const column = cell % columns, x = x0 + column * w, y = y0 + Math.floor(cell / columns) * h;
      context.fillRect(x, y, w, h);
      if (!chosen.has(cell - columns)) line(x, y, x + w, y);
      if (!chosen.has(cell + columns)) line(x, y + h, x + w, y + h);
      if (column === 0 || !chosen.has(cell - 1)) line(x, y, x, y + h);
      if (column === columns - 1 || !chosen.has(cell + 1)) line(x + w, y, x + w, y + h);
    }
    context.lineCap = "square";
    for (const [colour, width] of [["white", 3.5], ["black", 1.5]]) { // visible on light and on dark
      context.strokeStyle = colour;
      context.lineWidth = width * ratio;
      context.stroke();
    }
  }

  function placeOf(event) { // in cells: [column, row], with fractions
    const frame = canvas.getBoundingClientRect();
    const [left, top, right, bottom] = model.get("box");
    const x = ((event.clientX - frame.left) / frame.width - left) / (right - left);
    const y = ((event.clientY - frame.top) / frame.height - top) / (bottom - top);
    return [x * model.get("columns"), y * model.get("rows")];
  }

  function cellAt([x, y]) {
    const columns = model.get("columns");
    if (x < 0 || x >= columns || y < 0 || y >= model.get("rows")) return null;
    return Math.floor(y) * columns + Math.floor(x);
  }

  function take(event) {
    if (adding === null) return;
    const [x, y] = placeOf(event), [fromX, fromY] = last;
    const steps = Math.ceil(4 * Math.max(Math.abs(x - fromX), Math.abs(y - fromY), 0.25));
    for (let i = 1; i <= steps; i++) { // a quick drag gives few events: take all cells between them
      const cell = cellAt([fromX + ((x - fromX) * i) / steps, fromY + ((y - fromY) * i) / steps]);
      if (cell === null) continue;
      if (!model.get("many")) chosen = new Set([cell]);
      else if (adding) chosen.add(cell);
      else chosen.delete(cell);
    }
    last = [x, y];
    draw();
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    last = placeOf(event);
    adding = !chosen.has(cellAt(last)) || !model.get("many");
    take(event);
  });
  canvas.addEventListener("pointermove", take);
  canvas.addEventListener("lostpointercapture", () => { // released, or taken over by the system
    adding = null;
    model.set("selected", [...chosen].sort((a, b) => a - b));
    model.save_changes();
  });

  model.on("change:picture", show);
  model.on("change:selected", () => { chosen = new Set(model.get("selected")); draw(); });
  model.on("change:box change:rows change:columns", draw);
  const watcher = new ResizeObserver(draw);
  watcher.observe(image);
  show();
  return () => { watcher.disconnect(); URL.revokeObjectURL(image.src); };
}

export default { render };
