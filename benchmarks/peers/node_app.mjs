// Node's own http, and `ws`: the same synthetic stream as payload.py makes.
// node node_app.mjs PORT

import { once } from "node:events";
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const TEXT =
  "A crawl server reads pages and sends what is worth reading as soon as it is read. " +
  "Whoever listens should neither wait for the slowest page nor lose the quickest. ";
const LONG_TEXT = TEXT.repeat(60).slice(0, 9400);
const QUERY = "what a crawl server is for";
const HASH = "sha256:" + "0".repeat(64);
const REQUEST_ID = "req-00000000-0000-0000-0000-000000000000";
const EPOCH = "epoch-000000";
const SHARED_EVENTS = 64;

function small(index) {
  return {
    event: "search_start",
    timestamp: new Date().toISOString(),
    request_id: REQUEST_ID,
    id: `${EPOCH}-${index + 1}`,
    query: `${QUERY} ${index}`,
    limit: index + 1,
  };
}

function page(index, total, text) {
  const timestamp = new Date().toISOString();
  const url = `http://site.example/page/${index}`;
  const scalars = {
    url,
    status: 200,
    from_cache: false,
    gate_decision: "raw",
    quality_score: 0.85,
    processing_time_ms: 12,
  };
  return {
    event: "result",
    timestamp,
    request_id: REQUEST_ID,
    id: `${EPOCH}-${index + 1}`,
    index,
    result: {
      ...scalars,
      document: {
        url,
        title: `Page ${index}`,
        markdown: text,
        text,
        word_count: 30,
        reading_time: 1,
        quality_score: 85,
        extracted_at: timestamp,
        content_hash: HASH,
        author: null,
        date: null,
        modified: null,
        site_name: null,
        description: null,
        language: null,
        canonical_url: null,
        image: null,
        favicon: null,
        page_type: null,
        tags: [],
        links: [],
        images: [],
      },
      error: null,
      cache_key: "crawl:v1:site:p:0",
    },
    progress: { completed: index + 1, total, success_rate: 1.0 },
    pipeline_metadata: {
      gate_decision_reason: "text ratio 0.6",
      extraction_method: "article",
      processing_stages: ["fetch", "decode", "parse", "extract"],
    },
    ...scalars,
    error: null,
  };
}

const MAKERS = {
  200: small,
  1400: (index, total) => page(index, total, TEXT),
  20000: (index, total) => page(index, total, LONG_TEXT),
};

// A few events, built once for all streams of a case.
const sharedByTotal = new Map();
function sharedEvents(make, n) {
  if (!sharedByTotal.has(n)) {
    const length = Math.min(SHARED_EVENTS, n);
    sharedByTotal.set(n, Array.from({ length }, (_, index) => make(index, n)));
  }
  return sharedByTotal.get(n);
}

function* events({ n, size = 1400, shared = false }) {
  const make = MAKERS[size];
  const head = { timestamp: new Date().toISOString(), request_id: REQUEST_ID, total_urls: n };
  yield { event: "metadata", ...head, id: `${EPOCH}-0` };
  const few = shared ? sharedEvents(make, n) : null;
  for (let index = 0; index < n; index++) {
    yield few ? few[index % few.length] : make(index, n);
  }
  yield { event: "summary", ...head, id: `${EPOCH}-${n + 1}`, successful: n, status: "completed" };
}

const FRAMES = {
  "/ndjson": (event) => JSON.stringify(event) + "\n",
  "/sse": (event) => `id: ${event.id}\nevent: ${event.event}\ndata: ${JSON.stringify(event)}\n\n`,
};
const MEDIA_TYPES = { "/ndjson": "application/x-ndjson", "/sse": "text/event-stream" };

async function stream(request, response) {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  const asked = JSON.parse(Buffer.concat(pieces).toString());
  const frame = FRAMES[request.url];
  response.writeHead(200, { "Content-Type": MEDIA_TYPES[request.url] });
  for (const event of events(asked)) {
    if (!response.write(frame(event))) await once(response, "drain");
    if (response.destroyed) return;
    if (asked.idle) return; // and no end
  }
  response.end();
}

const HIGH_WATER_BYTES = 1 << 18; // of a socket's unsent messages; `ws` itself holds nobody up

async function socketStream(socket, asked) {
  for (const event of events(asked)) {
    socket.send(JSON.stringify(event));
    if (socket.bufferedAmount > HIGH_WATER_BYTES) await once(socket._socket, "drain");
    if (socket.readyState !== socket.OPEN) return;
  }
}

const server = createServer((request, response) => {
  stream(request, response).catch(() => response.destroy()); // the reader has left
});
const sockets = new WebSocketServer({ server, path: "/ws", perMessageDeflate: false });
sockets.on("connection", (socket) => {
  socket.on("message", (data) => socketStream(socket, JSON.parse(data)).catch(() => socket.terminate()));
  socket.on("error", () => socket.terminate());
});
server.listen(Number(process.argv[2]), "127.0.0.1");
