/* attach(root, onSelect): makes the figures inside `root` answer the pointer and the keyboard.
 *
 * A click or Enter on a node, an edge or a cell calls onSelect(id, kind); kind is "head", "mlp", "input",
 * "logits", "edge" or "cell". A node's paths up and down are lifted and the rest dimmed; Escape or a click on the
 * ground clears, and calls onSelect(null, null). Hovering a token or a cell of an attention pattern marks its row
 * and column. An <input type="range" class="wb-slider"> in `root` chooses how many edges are shown.
 *
 * Returns {select(id), show(n), detach()}: select lifts a node without calling onSelect (null clears), show keeps
 * the n strongest edges, detach removes all listeners. Everything is read from data attributes; no text is ever
 * turned into markup.
 */
function attach(root, onSelect) {
  const nodes = [...root.querySelectorAll(".wb-node")];
  const edges = [...root.querySelectorAll(".wb-edge")].map((mark) => ({
    mark,
    source: mark.dataset.source,
    target: mark.dataset.target,
    rank: Number(mark.dataset.rank),
  }));
  const slider = root.querySelector(".wb-slider");
  const count = root.querySelector(".wb-slider-count");
  let selected = null;
  let reported = null;

  const visible = () => edges.filter((edge) => edge.mark.getAttribute("display") !== "none");

  // The nodes that lead to `start` (from = "target", to = "source") or follow from it, and the edges on the way.
  function reach(start, from, to, among) {
    const leaving = new Map();
    for (const edge of among) {
      if (!leaving.has(edge[from])) leaving.set(edge[from], []);
      leaving.get(edge[from]).push(edge);
    }
    const found = new Set([start]);
    const path = new Set();
    const open = [start];
    while (open.length) {
      for (const edge of leaving.get(open.pop()) || []) {
        path.add(edge.mark);
        if (!found.has(edge[to])) {
          found.add(edge[to]);
          open.push(edge[to]);
        }
      }
    }
    return [found, path];
  }

  function paint() {
    if (selected === null) {
      for (const mark of root.querySelectorAll(".wb-dim, .wb-near, .wb-selected")) {
        mark.classList.remove("wb-dim", "wb-near", "wb-selected");
      }
      return;
    }
    const among = visible();
    const chosen = edges.find((edge) => edge.mark.dataset.id === selected);
    const [up, pathUp] = reach(chosen ? chosen.target : selected, "source", "target", among);
    const [down, pathDown] = reach(chosen ? chosen.source : selected, "target", "source", among);
    for (const node of nodes) {
      const id = node.dataset.id;
      node.classList.toggle("wb-dim", !up.has(id) && !down.has(id));
      node.classList.toggle("wb-selected", id === selected);
    }
    for (const { mark, source, target } of edges) {
      const own = mark.dataset.id === selected;
      mark.classList.toggle("wb-dim", !own && !pathUp.has(mark) && !pathDown.has(mark));
      mark.classList.toggle("wb-near", own || source === selected || target === selected);
    }
  }

  function select(id) {
    const known = nodes.some((node) => node.dataset.id === id) || edges.some((edge) => edge.mark.dataset.id === id);
    selected = known ? id : null;
    reported = id;
    paint();
  }

  function show(n) {
    for (const { mark, rank } of edges) {
      if (rank < n) mark.removeAttribute("display");
      else mark.setAttribute("display", "none");
    }
    for (const node of nodes) node.classList.toggle("wb-off", edges.length > 0 && Number(node.dataset.rank) >= n);
    if (slider) slider.value = String(n);
    const some = n < edges.length ? `the strongest ${n} of ${edges.length} edges are shown` : "";
    for (const note of root.querySelectorAll(".wb-shown")) note.textContent = some;
    if (count) count.textContent = `${Math.min(n, edges.length)} of ${edges.length} edges`;
    paint();
  }

  const hit = (event) => event.target.closest(".wb-node, .wb-edge, .wb-cell, .wb-cell-head");

  function choose(mark) {
    const kind = mark.dataset.kind || "edge";
    if (kind !== "cell") select(mark.dataset.id);
    reported = mark.dataset.id;
    onSelect(reported, kind);
  }

  function clear() {
    const was = reported;
    select(null);
    if (was !== null) onSelect(null, null);
  }

  // A hairline is hard to hit: a click beside an edge takes the nearest one within a few pixels.
  function near(event) {
    const page = root.getRootNode();
    for (const radius of [2, 4, 6]) {
      for (let i = 0; i < 12; i += 1) {
        const angle = (Math.PI * i) / 6;
        const x = event.clientX + radius * Math.cos(angle);
        const found = page.elementFromPoint(x, event.clientY + radius * Math.sin(angle));
        const edge = found && found.closest(".wb-edge");
        if (edge && root.contains(edge)) return edge;
      }
    }
    return null;
  }

  function onClick(event) {
    const mark = hit(event) || near(event);
    if (mark) choose(mark);
    else if (event.target.closest(".wb-figure")) clear();
  }

  function onKey(event) {
    if (event.key === "Escape") clear();
    const mark = event.key === "Enter" || event.key === " " ? hit(event) : null;
    if (mark) {
      event.preventDefault();
      choose(mark);
    }
  }

  // Row and column of the hovered token or cell.
  function onHover(event) {
    const token = event.target.closest(".wb-token");
    const cell = event.target.closest(".wb-cell");
    const figure = event.target.closest(".wb-figure");
    if (!figure) return;
    for (const mark of figure.querySelectorAll(".wb-mark")) {
      const axis = mark.dataset.axis;
      const side = axis === "query" ? "y" : "x";
      let at = null;
      if (cell) at = cell.getAttribute(side);
      else if (token && token.dataset.axis === axis) at = token.dataset.at;
      if (at === null) mark.setAttribute("display", "none");
      else {
        mark.setAttribute(side, at);
        mark.removeAttribute("display");
      }
    }
  }

  const onSlide = () => show(Number(slider.value));
  root.addEventListener("click", onClick);
  root.addEventListener("keydown", onKey);
  root.addEventListener("pointerover", onHover);
  if (slider) slider.addEventListener("input", onSlide);

  return {
    select,
    show,
    detach() {
      root.removeEventListener("click", onClick);
      root.removeEventListener("keydown", onKey);
      root.removeEventListener("pointerover", onHover);
      if (slider) slider.removeEventListener("input", onSlide);
    },
  };
}
