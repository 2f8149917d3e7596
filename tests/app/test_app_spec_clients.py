"""The clients that the specification shows work, their text unchanged, with the real server."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers.node import run_in_node
from tests.helpers.origin import Origin
from tests.helpers.proxy import open_proxy
from tests.helpers.servers import ServerProcess, open_server
from tests.helpers.specification import code_block, page_script

PAGES = 6


def given(server: ServerProcess, origin: Origin, **more: Any) -> dict[str, Any]:
    urls = [*origin.pages(PAGES), origin.url("/status/404")]
    return {"server": server.base_url, "origin": origin.url(""), "urls": urls, **more}


def texts(said: list[list[Any]]) -> list[str]:
    return [words[0] for words in said if isinstance(words[0], str)]


PAGE_FUNCTIONS = """
const urls = given.urls;
Object.assign(report, { bars: [], shown: [], summaries: [], adjusted: 0 });
const updateProgressBar = (completed, total) => report.bars.push([completed, total]);
const displayResult = (result) => report.shown.push(result);
const displaySummary = (summary) => report.summaries.push(summary);
const showFinalSummary = (summary) => report.summaries.push(summary);
const adjustRequestRate = () => { report.adjusted++; };
const handleStreamError = (error) => { report.streamError = error; };
"""


def test_the_javascript_stream_client_sees_every_result_and_the_summary(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    epilogue = """
    const { shown, bars } = report;
    report.first = { shown: shown.splice(0), bars: bars.splice(0), metrics: client.metrics };
    const kinds = [];
    const second = new EventMeshStreamClient();
    const flatly = (kind) => async (event) => { kinds.push(kind); await handleStreamEvent(event); };
    second.onMetadata = (event) => { kinds.push('metadata'); report.metadata = event; };
    second.onProgress = flatly('progress');
    second.onResult = flatly('result');
    second.onSummary = flatly('summary');
    second.onError = () => kinds.push('error');
    await second.streamCrawlResults(urls, { concurrency: 2, cache_mode: 'disabled' });
    Object.assign(report, { kinds, metrics: second.metrics });
    """
    client = code_block("javascript", "class EventMeshStreamClient")
    ours = given(server, origin)
    report = run_in_node(tmp_path, client, epilogue, ours, stand_ins=PAGE_FUNCTIONS)
    first = report["first"]
    assert sorted(result["url"] for result in first["shown"]) == sorted(ours["urls"])
    titles = {r["url"]: r["document"]["title"] for r in first["shown"] if r["document"]}
    assert titles == {url: f"Page {n}" for n, url in enumerate(ours["urls"][:PAGES])}
    assert first["bars"][-1] == [PAGES + 1, PAGES + 1]
    assert first["metrics"]["droppedEvents"] == 0
    log = texts(report["said"]["log"])
    assert log.count(f"Completed: {PAGES}/{PAGES + 1} successful") == 3  # once flatly, too
    initial = next(words[1] for words in report["said"]["log"] if words[0] == "Stream initialized:")
    pressure = initial["backpressureInfo"]
    assert (pressure["bufferCapacity"], pressure["threshold"]) == (2048, 1600)
    assert 0 <= pressure["currentBuffer"] <= 2  # metadata and start may wait in it already
    assert initial["requestId"]

    assert report["kinds"][0] == "metadata"
    assert report["kinds"][-1] == "summary"
    assert report["kinds"].count("result") == PAGES + 1
    assert report["kinds"].count("error") == 1  # the 404, just before its result
    assert report["metadata"]["total_urls"] == PAGES + 1
    assert sorted(event["url"] for event in report["shown"]) == sorted(ours["urls"])
    assert {event["status"] for event in report["shown"]} == {200, 404}
    assert report["summaries"][0]["failed"] == 1
    assert report["metrics"]["droppedEvents"] == 0
    complaints = [
        text for text in texts(report["said"]["error"]) if not text.startswith("Stream error")
    ]
    assert complaints == []


def test_the_shown_metrics_and_pressure_classes_read_our_events(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    stand_ins = f"""{PAGE_FUNCTIONS}
    report.pressure = [];
    const sendMetricsToMonitoring = (measured) => {{ report.measured = measured; }};
    let streamCrawlResults;
    """
    epilogue = """
    const watched = new EventMeshStreamClient();
    const detector = new BackpressureDetector();
    detector.onBackpressure = (level) => report.pressure.push(level);
    for (const name of ['onMetadata', 'onProgress', 'onResult', 'onSummary', 'onError'])
      watched[name] = (event) => { detector.recordEvent(event); return handleStreamEvent(event); };
    streamCrawlResults = (...given) => watched.streamCrawlResults(...given);
    await monitoredStreamProcessing(urls, { concurrency: 3, cache_mode: 'disabled' });
    """
    client = "\n".join(
        code_block("javascript", f"class {name} ")
        for name in ("EventMeshStreamClient", "StreamMetrics", "BackpressureDetector")
    )
    report = run_in_node(tmp_path, client, epilogue, given(server, origin), stand_ins=stand_ins)
    measured = report["measured"]
    assert measured["eventsByType"]["result"] == PAGES + 1
    assert measured["eventsByType"]["summary"] == 1
    assert {error["type"] for error in measured["errors"]} == {"http_error"}
    assert 0 <= measured["bufferStats"]["maxUsage"] <= 1
    assert measured["bufferStats"]["flushes"] > 0
    assert measured["avgProcessingTime"] > 0
    assert report["pressure"] == []


def test_the_javascript_sse_client_starts_a_crawl_and_follows_it_by_event_source(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    epilogue = """
    await until(() => report.summaries.length, 'the summary');
    await sleep(100);
    report.reconnects = sseClient.reconnectCount;
    """
    client = code_block("javascript", "class EventMeshSSEClient")
    ours = given(server, origin)
    report = run_in_node(tmp_path, client, epilogue, ours, stand_ins=PAGE_FUNCTIONS)
    assert sorted(result["url"] for result in report["shown"]) == sorted(ours["urls"])
    assert report["bars"][-1] == [PAGES + 1, PAGES + 1]
    (summary,) = report["summaries"]
    assert (summary["successful"], summary["failed"]) == (PAGES, 1)
    assert report["said"]["error"] == []  # a failed URL is no `error` event on SSE
    assert report["said"]["opened"] == 1
    assert report["reconnects"] == 0
    assert "Stream metadata:" in texts(report["said"]["log"])


def test_the_page_of_the_specification_fills_itself(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    document = """
    const history = [];
    const elements = { status: {}, progress: { innerHTML: '' }, results: { children: [] } };
    Object.defineProperty(elements.status, 'textContent', {
      get: () => history.at(-1), set: (text) => { history.push(text); } });
    elements.results.appendChild = (child) => elements.results.children.push(child);
    globalThis.document = {
      getElementById: (id) => elements[id], createElement: () => ({ innerHTML: '' }) };
    """
    epilogue = """
    await until(() => /^(Completed|Error|Connection)/.test(history.at(-1) ?? ''), 'the end');
    await sleep(100);
    Object.assign(report, { history, progress: elements.progress.innerHTML,
      results: elements.results.children.map((child) => child.innerHTML) });
    """
    script = page_script("RipTide SSE Example")
    report = run_in_node(tmp_path, script, epilogue, given(server, origin), stand_ins=document)
    assert report["history"][:2] == ["Connected", "Processing 3 URLs"]
    assert report["history"][-1].startswith("Completed: 3/3 successful (")
    assert "undefined" not in report["history"][-1]
    assert "Progress: 3/3 (100.0%)" in report["progress"]
    titles = [html.partition("<h3>")[2].partition("</h3>")[0] for html in report["results"]]
    assert sorted(titles) == ["Page 1", "Page 2", "Page 3"]
    for html in report["results"]:
        assert "undefined" not in html
        assert "NaN" not in html
    assert report["said"]["error"] == []
    assert report["said"]["opened"] == 1


def test_the_eventmesh_websocket_client_crawls_pauses_resumes_and_cancels(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    epilogue = """
    report.usage = { log: said.log.splice(0), error: said.error.splice(0) };
    const other = new EventMeshWebSocketClient();
    other.onWelcome = (data) => { report.welcome = data; };
    await other.connect();
    report.sessionId = other.sessionId;
    const acknowledged = async (word, act) => {
      const before = said.log.length, started = performance.now();
      act();
      await until(() => said.log.slice(before).some((words) => words[1] === word), word);
      return performance.now() - started;
    };
    let results = 0, progress = [];
    const slow = other.crawl(given.slow, { concurrency: 2, cache_mode: 'disabled',
      onResult: () => { results++; }, onProgress: (data) => progress.push(data.completed) });
    const slowId = [...other.activeRequests.keys()][0];
    await until(() => results >= 2, 'two results');
    report.pauseMilliseconds = await acknowledged('paused', () => other.pauseCrawl(slowId));
    const paused = results;
    await sleep(400);
    report.whilePaused = results - paused;
    report.leftWhilePaused = given.slow.length - results;
    report.resumeMilliseconds = await acknowledged('resumed', () => other.resumeCrawl(slowId));
    const all = await slow;
    report.slow = { summary: all.summary, progress,
      urls: all.results.map((data) => data.result.url) };

    const stalled = other.crawl(given.stalling, { concurrency: 4 });
    const stalledId = [...other.activeRequests.keys()][0];
    await sleep(150);
    report.cancelMilliseconds = await acknowledged('cancelled', () => other.cancelCrawl(stalledId));
    report.cancelled = (await stalled).summary;

    report.refused = await other.crawl(['file:///etc/passwd'])
      .then(() => 'no', (error) => error.message);
    other.disconnect();
    """
    client = code_block("javascript", "class EventMeshWebSocketClient")
    ours = given(server, origin, slow=origin.slow_pages(10, 100), stalling=origin.stalling(4))
    report = run_in_node(
        tmp_path, client, epilogue, ours, stand_ins="const urls = given.urls; report.said = said;"
    )
    usage = report["usage"]
    assert usage["error"] == []
    shown = [text for text in texts(usage["log"]) if text.startswith("Result: ")]
    assert sorted(shown) == sorted(f"Result: {url}" for url in ours["urls"])
    assert f"Progress: {PAGES + 1}/{PAGES + 1}" in texts(usage["log"])
    completed = next(words[1] for words in usage["log"] if words[0] == "Crawl completed:")
    assert (completed["successful"], completed["failed"]) == (PAGES, 1)

    assert report["welcome"]["session_id"] == report["sessionId"]
    assert report["whilePaused"] == 0
    assert report["leftWhilePaused"] > 0, "the crawl had ended before it was paused"
    assert sorted(report["slow"]["urls"]) == sorted(ours["slow"])
    assert report["slow"]["summary"]["status"] == "completed"
    assert report["slow"]["progress"][-1] == len(ours["slow"])
    assert report["cancelled"]["status"] == "cancelled"
    assert report["cancelled"]["cancelled"] == 4
    assert "scheme" in report["refused"]
    times = [round(report[f"{word}Milliseconds"]) for word in ("pause", "resume", "cancel")]
    print(f"{server.kind}: acknowledged in {times} ms")
    assert max(times) < 1000
    assert report["said"]["warn"] == []


def test_the_riptide_websocket_client_crawls_and_is_told_of_control(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    epilogue = """
    await webSocketExample();
    report.example = { log: said.log.splice(0), error: said.error.splice(0) };
    const client = new RipTideWebSocketClient();
    const starts = [], progress = [], acknowledged = [];
    client.on('start', (data) => starts.push(data));
    client.on('progress', (data) => progress.push(data.completed));
    for (const word of ['paused', 'resumed', 'cancelled'])
      client.on(word, (data) => acknowledged.push([word, data.requestId]));
    await client.connect();
    report.crawled = await client.crawl(given.urls, { concurrency: 3 });
    const sent = [];
    const send = client.send.bind(client);
    client.send = (message) => { sent.push(message.requestId); send(message); };
    const slow = client.crawl(given.slow, { concurrency: 2 });
    await until(() => starts.length > 1, 'start');
    client.send({ action: 'pause', requestId: sent[0] });
    await until(() => acknowledged.length === 1, 'paused');
    const from = progress.length;
    await sleep(300);
    report.whilePaused = progress.slice(from);
    client.send({ action: 'resume', requestId: sent[0] });
    await until(() => acknowledged.length === 2, 'resumed');
    client.send({ action: 'cancel', requestId: sent[0] });
    report.cancelled = (await slow).summary;
    await until(() => acknowledged.length === 3, 'cancelled');
    report.refused = await client.crawl([]).then(() => 'no', (error) => error.message);
    const { sessionId } = client;
    Object.assign(report, { starts, acknowledged, requestId: sent[0], sessionId });
    client.disconnect();
    """
    client = code_block("javascript", "class RipTideWebSocketClient")
    ours = given(server, origin, slow=origin.slow_pages(20, 100))
    report = run_in_node(tmp_path, client, epilogue, ours)
    example = report["example"]
    assert example["error"] == []
    assert [t for t in texts(example["log"]) if t.startswith("Crawl started")] == [
        "Crawl started: 3 URLs"
    ]
    completed = next(words[1] for words in example["log"] if words[0] == "Crawl completed:")
    assert completed["successful"] == 3

    results = report["crawled"]["results"]
    assert sorted(result["url"] for result in results) == sorted(ours["urls"])
    good = next(result for result in results if result["url"] == ours["urls"][0])
    assert (good["status"], good["document"]["title"]) == (200, "Page 0")
    assert good["sessionId"] == report["sessionId"]
    bad = next(result for result in results if result["url"] == ours["urls"][-1])
    assert (bad["status"], bad["document"], bad["error"]["error_code"]) == (404, None, "HTTP_404")
    assert report["crawled"]["summary"]["successful"] == PAGES
    assert report["starts"][0]["total_urls"] == PAGES + 1

    assert report["whilePaused"] == []
    assert report["acknowledged"] == [
        [word, report["requestId"]] for word in ("paused", "resumed", "cancelled")
    ]
    assert report["cancelled"]["status"] == "cancelled"
    assert "urls" in report["refused"]
    assert report["said"]["warn"] == []  # no message of another session


def test_the_reconnecting_client_gets_the_whole_stream_after_a_cut(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    epilogue = """
    const events = [];
    class Recorder extends ReconnectingStreamClient {
      handleEvent(event) { events.push([event.event, event.url, event.id]); }
    }
    const client = new Recorder(4, 150);
    await client.streamWithRetry('/crawl/stream', { urls: given.urls, options: { concurrency: 2 } },
      { sessionId: given.session });
    Object.assign(report, { events, left: client.currentRetry });
    """
    client = code_block("javascript", "class ReconnectingStreamClient")
    urls = origin.slow_pages(8, 60)
    with open_proxy(server.address, cuts=[5000]) as proxy:
        ours = {
            "server": proxy.base_url,
            "origin": origin.url(""),
            "urls": urls,
            "session": f"reconnecting-{server.kind}",
        }
        report = run_in_node(tmp_path, client, epilogue, ours)
        assert (proxy.cut, proxy.accepted >= 2) == (1, True)
    kinds = [kind for kind, _, _ in report["events"]]
    again = len(kinds) - 1 - kinds[::-1].index("metadata")
    assert again > 0, "the second stream did not begin at the run's start"
    # The second stream has every result once, and is of the same run: the cut one's ids return.
    second = report["events"][again:]
    assert sorted(url for kind, url, _ in second if kind == "result") == sorted(urls)
    assert second[-1][0] == "summary"
    before = {event_id for _, _, event_id in report["events"][:again] if event_id}
    assert before <= {event_id for _, _, event_id in second if event_id}
    assert report["left"] == 0


def test_a_search_that_cannot_be_served_is_refused_in_words_that_the_shown_clients_retry(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    settings = {
        "EVENTMESH_SEARCH__PROVIDER": "searxng",
        "EVENTMESH_SEARCH__SEARXNG_URL": "http://127.0.0.1:9/",  # nobody is there
        "EVENTMESH_SEARCH__FIRST_DELAY_SECONDS": "1ms",
    }
    with open_server(server.kind, settings) as searching:
        _is_refused_in_words_that_the_shown_clients_retry(searching, origin, tmp_path)


def _is_refused_in_words_that_the_shown_clients_retry(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    stand_ins = (
        "const handleStreamEvent = async (event) => { (report.events ??= []).push(event); };"
    )
    epilogue = """
    await streamDeepSearch('structured concurrency', { limit: 3 });
    const handler = new StreamErrorHandler({ maxRetries: 3, baseDelay: 5 });
    const attempt = (target, body) => handler.handleStreamWithRetry(async () => {
      report.attempts = (report.attempts ?? 0) + 1;
      const response = await fetch(target, { method: 'POST', body: JSON.stringify(body),
        headers: { 'Content-Type': 'application/json' } });
      if (!response.ok) throw new Error(await response.text());
    }).catch((error) => { (report.refusals ??= []).push([report.attempts, error.message]); });
    await attempt('/deepsearch/stream', { query: 'trio' });
    await attempt('/crawl/stream', { urls: [] });
    """
    client = code_block("javascript", "async function streamDeepSearch")
    client += code_block("javascript", "class StreamErrorHandler")
    report = run_in_node(tmp_path, client, epilogue, given(server, origin), stand_ins=stand_ins)
    (event,) = report["events"]
    assert event["error"]["type"] == "dependency_error"
    assert event["error"]["retryable"] is True
    (search_attempts, _), (all_attempts, refusal) = report["refusals"]
    assert search_attempts == 3  # retryable: tried as often as allowed
    assert all_attempts - search_attempts == 1  # a bad request is not retried
    assert json.loads(refusal)["error"]["type"] == "validation_error"
    assert report["said"]["error"] == []


PYTHON_DRIVER = """
import json, logging, sys
import shown_client
given = json.loads(sys.argv[1])
records = []
class Keep(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            records.append(record.getMessage())
logging.basicConfig(level=logging.INFO, handlers=[Keep()])
logging.getLogger('urllib3').setLevel(logging.ERROR)
seen = {'metadata': [], 'progress': [], 'result': [], 'summary': [], 'error': []}
client = shown_client.EventMeshStreamClient(base_url=given['server'], buffer_size=512)
for kind, kept in seen.items():
    client.register_handler(kind, kept.append)
metrics = client.stream_crawl_results(given['urls'], {'concurrency': 5, 'cache_mode': 'read_write'})
client.session.close()
print(json.dumps({'seen': seen, 'records': records, 'total_events': metrics.total_events,
    'dropped': metrics.dropped_events, 'parse_errors': metrics.parse_errors,
    'utilization': list(metrics.buffer_utilization_history)}))
"""


def test_the_python_stream_client_sees_every_result_and_the_summary(
    server: ServerProcess, origin: Origin, tmp_path: Path
) -> None:
    (tmp_path / "shown_client.py").write_text(code_block("python", "class EventMeshStreamClient"))
    ours = given(server, origin)
    done = subprocess.run(
        [sys.executable, "-c", PYTHON_DRIVER, json.dumps(ours)],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    seen = report["seen"]
    assert sorted(event["result"]["url"] for event in seen["result"]) == sorted(ours["urls"])
    assert seen["metadata"][0]["total_urls"] == PAGES + 1
    assert (seen["progress"][-1]["completed"], seen["progress"][-1]["total"]) == (
        PAGES + 1,
        PAGES + 1,
    )
    (summary,) = seen["summary"]
    assert (summary["successful"], summary["failed"]) == (PAGES, 1)
    assert summary["total_processing_time_ms"] >= 0
    assert len(seen["error"]) == 1
    assert (report["dropped"], report["parse_errors"]) == (0, 0)
    assert report["total_events"] >= PAGES + 4
    assert report["utilization"], "no event told of the buffer"
    assert [text for text in report["records"] if not text.startswith("Stream error")] == []
