"""The report of a check as one HTML file: its tables, and pictures of the objects that were found."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping

from keylite.data.dataset import Dataset
from keylite.data.sheets import Shown, tile
from keylite.labels.findings import KINDS, ORDER, CheckReport, Finding, facts_rows, place_of, sentence_of, summary
from keylite.runtime.images import encoded_image
from keylite.runtime.progress import step
from keylite.runtime.tables import Table, as_html
from keylite.runtime.words import escaped

MOST = 24  # pictures of one kind; its table has more rows, and JSON has all findings
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .6em 0 1.4em; } caption { text-align: left; font-weight: 600; }
td, th { padding: .15em .9em .15em 0; vertical-align: top; border-bottom: 1px solid #e4e4e4; }
.tiles { display: flex; flex-wrap: wrap; gap: 14px; } figure { margin: 0; width: 256px; }
figure img { max-width: 256px; } figcaption { font-size: 13px; overflow-wrap: anywhere; }
h2 { border-left: 6px solid #bbb; padding-left: .6em; }
.error { border-color: #d55e00; } .warning { border-color: #e69f00; }
"""


def page_of(report: CheckReport, sets: Mapping[str, Dataset]) -> bytes:
    """The page. sets: the data sets by part; their pictures were read before."""
    drawn = [one for one in _chosen(report) if one.number is not None]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>keylite check</title>',
        f"<style>{STYLE}</style></head><body>",
        f"<h1>keylite check: {html.escape(summary(report))}</h1>",
        f"<p><b>This page embeds pictures of the data set</b> ({len(drawn)}): pass it on only to those who may see "
        "them. It loads nothing from elsewhere.</p>",
    ]
    chosen = set(map(id, drawn))
    parts += [as_html([Table((), facts_rows(part), title=part.name)]) for part in report.parts]
    with step("drawing objects", len(drawn)) as done:
        for kind, words in KINDS.items():
            for severity in ORDER:
                own = [one for one in report.findings if (one.kind, one.severity) == (kind, severity)]
                if not own:
                    continue
                parts.append(f'<h2 class="{severity}">{severity}: {html.escape(words)} ({len(own)})</h2>')
                rows = [(place_of(one), one.group or "", sentence_of(one)) for one in own]
                parts.append(as_html([Table(("where", "group", "what"), rows)]))
                parts.append('<div class="tiles">')
                for one in own:
                    if id(one) in chosen:
                        parts.append(_figure(one, sets[one.part]))
                        done(1)
                parts.append("</div>")
    if report.changes:
        parts.append(as_html([Table((), [(line,) for line in report.changes], title="changed in the corrected copy")]))
    parts.append("</body></html>")
    return "\n".join(parts).encode()


def _chosen(report: CheckReport) -> list[Finding]:
    """The findings whose objects are drawn: the first ones of each kind, unless they are notes."""
    drawn, counts = list[Finding](), dict[str, int]()
    for one in report.findings:
        counts[one.kind] = counts.get(one.kind, 0) + 1
        if one.severity != "note" and counts[one.kind] <= MOST:
            drawn.append(one)
    return drawn


def _figure(finding: Finding, data: Dataset) -> str:
    """An object with its labels, as it is in the file."""
    row = finding.number
    assert row is not None
    image = int(data.image_index[row])
    name = data.sample_name(row)
    drawn = tile(Shown(data.open_image(image), data.box[row], data.xy[row], name, data.checked), data.skeleton)
    pixels = base64.b64encode(encoded_image(".jpg", drawn)).decode()
    caption = html.escape(escaped(f"{place_of(finding)}: {finding.sentence}"))
    alt = html.escape(escaped(name), quote=True)
    picture = f'<img src="data:image/jpeg;base64,{pixels}" width="{drawn.shape[1]}" alt="{alt}">'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"
