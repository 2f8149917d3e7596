"""Run a client of the specification under Node, unchanged.

What surrounds its text is ours: a *prelude* that gives a page's relative URLs a base, leads
``localhost:8080`` and ``example.com`` to the loopback server and origin, and records the console;
and an *epilogue* that drives the client and sets ``report``.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.helpers.programs import require_program

RUN_SECONDS = 60
INSTALL = "apt-get install nodejs (20 or newer)"
_PRELUDE = """\
const given = JSON.parse(process.env.GIVEN);
const said = { log: [], warn: [], error: [], debug: [], opened: 0 };
for (const level of ['log', 'warn', 'error', 'debug'])
  console[level] = (...words) => { said[level].push(words); };
const report = { said };
const localise = (text) =>
  typeof text === 'string' ? text.replaceAll('https://example.com', given.origin) : text;
const { fetch: realFetch, EventSource: RealEventSource, WebSocket: RealWebSocket } = globalThis;
globalThis.fetch = (target, init) =>
  realFetch(new URL(target, given.server), { ...init, body: localise(init?.body) });
globalThis.EventSource = class extends RealEventSource {
  constructor(target) { super(new URL(target, given.server)); said.opened++; }
};
globalThis.WebSocket = class extends RealWebSocket {
  constructor(target) {
    super(String(target).replace('ws://localhost:8080', given.server.replace('http:', 'ws:')));
    said.opened++;
  }
  send(message) { super.send(localise(message)); }
};
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const until = async (holds, what) => {
  const deadline = Date.now() + 20000;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`waited in vain: ${what}`);
    await sleep(2);
  }
};
const plain = (word) => word instanceof Error ? { error: word.message } : word;
const finish = () => {
  for (const level of ['log', 'warn', 'error', 'debug'])
    said[level] = said[level].map((words) => words.map(plain));
  process.stdout.write(JSON.stringify(report), () => process.exit(0));
};
"""


def run_in_node(
    folder: Path, client: str, epilogue: str, given: Mapping[str, Any], *, stand_ins: str = ""
) -> Any:
    """Run ``client`` between the prelude and the epilogue.

    Args:
      stand_ins: what the client's page would define.
    Returns:
      What the epilogue put into ``report``, and under ``said`` the console.
    """
    node = require_program("node", INSTALL)
    program = folder / "program.mjs"
    program.write_text(f"{_PRELUDE}{stand_ins}\n{client}\n{epilogue}\nfinish();\n", "utf-8")
    done = subprocess.run(
        [
            node,
            "--experimental-websocket",
            "--experimental-eventsource",
            "--no-warnings",
            str(program),
        ],
        env={"GIVEN": json.dumps(given), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()[:2000]
    return json.loads(done.stdout)
