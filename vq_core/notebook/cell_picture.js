// A picture with a grid of cells laid over it. Clicking or dragging chooses cells; what is chosen goes to the kernel
// when the button is let go.
const CHOSEN = "rgba(255, 64, 64, 0.12)";

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
  let adding = null; // while the button is down: whether cells passed are added or taken away

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
    context.fillStyle = CHOSEN;
    context.strokeStyle = "rgb(220, 30, 30)";
    context.lineWidth = 1.5 * ratio;
    for (const cell of chosen) {
      const x = x0 + (cell % columns) * w, y = y0 + Math.floor(cell / columns) * h;
      context.fillRect(x, y, w, h);
      context.strokeRect(x, y, w, h);
    }
    if (!model.get("lines")) return;
    context.lineWidth = 1;
    context.strokeStyle = "rgba(128, 128, 128, 0.45)";
    context.beginPath();
    for (let i = 0; i <= columns; i++) { context.moveTo(x0 + i * w, y0); context.lineTo(x0 + i * w, y0 + rows * h); }
    for (let i = 0; i <= rows; i++) { context.moveTo(x0, y0 + i * h); context.lineTo(x0 + columns * w, y0 + i * h); }
    context.stroke();
  }

  function cellAt(event) {
    const frame = canvas.getBoundingClientRect();
    const [left, top, right, bottom] = model.get("box");
    const x = ((event.clientX - frame.left) / frame.width - left) / (right - left);
    const y = ((event.clientY - frame.top) / frame.height - top) / (bottom - top);
    if (x < 0 || x >= 1 || y < 0 || y >= 1) return null;
    return Math.floor(y * model.get("rows")) * model.get("columns") + Math.floor(x * model.get("columns"));
  }

  function take(event) {
    if (adding === null) return;
    // A quick drag comes as few events; the places passed in between are kept inside them.
    for (const passed of event.getCoalescedEvents?.().concat(event) ?? [event]) {
      const cell = cellAt(passed);
      if (cell === null) continue;
      if (!model.get("many")) chosen = new Set([cell]);
      else if (adding) chosen.add(cell);
      else chosen.delete(cell);
    }
    draw();
  }

  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    adding = !chosen.has(cellAt(event)) || !model.get("many");
    take(event);
  });
  canvas.addEventListener("pointermove", take);
  canvas.addEventListener("lostpointercapture", () => { // let go, or taken away by the system
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
