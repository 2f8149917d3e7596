// Node's own HTTP server: events by a schedule, as NDJSON. `node paced_node.js PORT`
"use strict";

const http = require("node:http");

const TEXT =
  "A crawl server reads pages and sends what is worth reading as soon as it is read. " +
  "Whoever listens should neither wait for the slowest page nor lose the quickest. ";
const HASH = "sha256:" + "0".repeat(64);

function result(index, total) {
  const timestamp = new Date().toISOString();
  const url = `http://site.example/page/${index}`;
  const scalars = {
    url, status: 200, from_cache: false, gate_decision: "raw",
    quality_score: 0.85, processing_time_ms: 12,
  };
  const document = {
    url, title: `Page ${index}`, markdown: TEXT, text: TEXT, word_count: 30, reading_time: 1,
    quality_score: 85, extracted_at: timestamp, content_hash: HASH, author: null, date: null,
    modified: null, site_name: null, description: null, language: null, canonical_url: null,
    image: null, favicon: null, page_type: null, tags: [], links: [], images: [],
  };
  return JSON.stringify({
    event: "result", timestamp, request_id: "req-peer", index,
    result: { ...scalars, document, error: null, cache_key: "crawl:v1:site:p:0" },
    progress: { completed: index + 1, total, success_rate: 1.0 },
    pipeline_metadata: {
      gate_decision_reason: "text ratio 0.6", extraction_method: "article",
      processing_stages: ["fetch", "decode", "parse", "extract"],
    },
    ...scalars, error: null, id: `epoch-${index + 1}`,
  }) + "\n";
}

// process.hrtime is CLOCK_MONOTONIC; a double holds its nanoseconds to a quarter of a microsecond.
const nowMs = () => Number(process.hrtime.bigint()) / 1e6;

function stream(response, asked) {
  response.writeHead(200, { "Content-Type": "application/x-ndjson" });
  const opening = { event: "metadata", timestamp: new Date().toISOString(),
    request_id: "req-peer", total_urls: asked.n };
  response.write(JSON.stringify(opening) + "\n");
  let index = 0;
  function step() {
    while (index < asked.n && !response.destroyed) {
      const wait = (asked.start_ns + index * asked.every_ns) / 1e6 - nowMs();
      if (wait > 0) {
        setTimeout(step, wait);
        return;
      }
      if (!response.write(result(index++, asked.n))) {
        response.once("drain", step);
        return;
      }
    }
    response.end();
  }
  step();
}

http.createServer((request, response) => {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => stream(response, JSON.parse(Buffer.concat(pieces))));
}).listen(Number(process.argv[2]), "127.0.0.1");
