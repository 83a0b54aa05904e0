"""`through_training.html`: what the same held-out prompts were answered with, look by look, as one page without a server."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from athanor.rl.browser import STYLE
from athanor.rl.online.prompts import Pooled

THROUGH_TRAINING_FILE = "through_training.html"

MORE_STYLE = """
article { display: block }
table { border-collapse: collapse; width: 100% }
td { vertical-align: top; padding: .15rem .6rem .15rem 0; font-family: ui-monospace, monospace; font-size: 13px;
  white-space: pre-wrap; overflow-wrap: anywhere } td:first-child { color: #6b7280; white-space: nowrap; width: 7rem }
"""
SCRIPT = """
const form = document.querySelector("form"), count = document.getElementById("count");
function show() {
  const words = form.words.value.toLowerCase(), changed = form.changed.checked;
  let shown = 0;
  for (const article of document.querySelectorAll("article")) {
    const hit = article.textContent.toLowerCase().includes(words) && (!changed || article.dataset.changed === "1");
    article.hidden = !hit; shown += hit;
  }
  count.textContent = `${shown} prompts`;
}
form.addEventListener("input", show); form.addEventListener("submit", e => e.preventDefault()); show();
"""


def write_through_training(
    path: Path, title: str, prompts: Sequence[Pooled], looks: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> None:
    """Write the page. `looks`: by name, in their order, the answer to each prompt by its id, with `text` and `finish`."""
    articles = "".join(_article(prompt, looks) for prompt in prompts)
    body = f"""<h1>{escape(title)}</h1><p class="lead"><span id="count"></span>, the likeliest answer at every look.</p>
<form><input name="words" placeholder="search questions and answers">
<label><input type="checkbox" name="changed"> changed while training</label></form>
{articles}<script>{SCRIPT}</script>"""
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}{MORE_STYLE}</style>'
    path.write_text(f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n', encoding="utf-8")


def _article(prompt: Pooled, looks: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    said = {name: answers[prompt.id] for name, answers in looks.items() if prompt.id in answers}
    rows = "".join(_row(name, row, prompt.expected) for name, row in said.items())
    changed = len({row["text"] for row in said.values()}) > 1
    facts = " · ".join(dict.fromkeys([prompt.task, prompt.family, prompt.route.value, prompt.id]))
    return (
        f'<article data-changed="{int(changed)}"><small>{escape(facts)}</small>'
        f"<p>{escape(prompt.question)}</p><table>{rows}"
        f"<tr><td>on record</td><td>{escape(prompt.expected)}</td></tr></table></article>\n"
    )


def _row(name: str, row: Mapping[str, Any], expected: str) -> str:
    style = "right" if row["text"].strip() == expected.strip() else ""
    ended = "" if row["finish"] == "stop" else f" ({row['finish']})"
    return f'<tr><td>{escape(name)}</td><td class="{style}">{escape(row["text"])}{escape(ended)}</td></tr>'
