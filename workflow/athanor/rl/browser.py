"""`samples.html`: questions and answers as one self-contained page that can be searched and filtered, without a server."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

SAMPLES_FILE = "samples.html"
SHOWN = 5_000  # answers on a page: more make it slow to open

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 72rem; margin: 2rem auto; padding: 0 1.2rem }
h1 { font-size: 1.4rem; margin-bottom: .2rem } p.lead { color: #4b5563; margin-top: 0 }
form { display: flex; gap: .6rem; position: sticky; top: 0; background: white; padding: .6rem 0 }
input { flex: 1 } input, select { font: inherit; padding: .3rem .5rem; border: 1px solid #d1d5db; border-radius: .3rem }
article { border-bottom: 1px solid #e5e7eb; padding: .6rem 0; display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.2rem }
article p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: 13px }
article small { grid-column: 1 / 3; color: #6b7280 } .right { color: #166534 } .wrong { color: #b5451b }
"""
SCRIPT = """
const rows = JSON.parse(document.getElementById("answers").textContent);
const list = document.getElementById("list"), count = document.getElementById("count"), form = document.querySelector("form");
const text = (kind, value, style) =>
  Object.assign(document.createElement(kind), { textContent: value, className: style });
function show() {
  const [words, task, verdict] = [form.words.value.toLowerCase(), form.task.value, form.verdict.value];
  const found = rows.filter(r => (!task || r.task === task) && (!verdict || String(r.right) === verdict)
    && (!words || (r.question + r.text + r.expected).toLowerCase().includes(words)));
  count.textContent = `${found.length} of ${rows.length} answers`;
  list.replaceChildren(...found.slice(0, 200).map(r => {
    const article = document.createElement("article");
    const facts = [r.task, r.prompt, `sample ${r.number}`, `${r.tokens} tokens`, r.finish, `${r.log_prob.toFixed(2)} nats`,
      ...Object.entries(r.scores ?? {}).map(([name, score]) => `${name} ${score.toFixed(2)}`)];
    article.append(text("small", facts.join(" · "), ""), text("p", r.question, ""),
      text("p", r.text + (r.right ? "" : `\\n\\nexpected: ${r.expected}`), r.right ? "right" : "wrong"));
    return article;
  }));
}
form.addEventListener("input", show); form.addEventListener("submit", e => e.preventDefault()); show();
"""


def write_samples(path: Path, title: str, answers: Sequence[Mapping[str, Any]]) -> None:
    """Write the page; of very many answers the first SHOWN. Each has the fields of answers, and perhaps `scores` by component."""
    data = json.dumps(answers[:SHOWN], ensure_ascii=False).replace("</", "<\\/")  # no text may end the script element
    tasks = "".join(f"<option>{escape(task)}</option>" for task in sorted({answer["task"] for answer in answers}))
    verdicts = '<option value="">right and wrong</option><option value="true">right</option><option value="false">wrong</option>'
    more = f" The first {SHOWN:,} of {len(answers):,}." if len(answers) > SHOWN else ""
    body = f"""<h1>{escape(title)}</h1><p class="lead"><span id="count"></span>, 200 at a time.{more}</p>
<form><input name="words" placeholder="search questions and answers">
<select name="task"><option value="">all tasks</option>{tasks}</select>
<select name="verdict">{verdicts}</select></form>
<div id="list"></div>
<script type="application/json" id="answers">{data}</script><script>{SCRIPT}</script>"""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    path.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n', encoding="utf-8")
