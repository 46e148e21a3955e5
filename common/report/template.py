"""The HTML template of all pages; its content security policy forbids the browser to load anything.

A page has no script but what it brings itself (``Page.script``), and the policy names that one by its digest.

The template is a string in a module, because Flower's app bundles contain Python files but no template files.
"""

from __future__ import annotations

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --soft: #555; --line: #d8d8d8; --mark: #005a8c; --page: #fff;
  --tint: #f4f6f8; --better: #00664b; --not-shown: #4d4d4d; --worse: #9c3f00; --failed: #a3003c; --flag: #9c3f00; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #ececec; --soft: #b4b4b4; --line: #454545;
  --mark: #7cc4f5; --page: #16181b; --tint: #22262b; --better: #4fd0a5; --not-shown: #c4c4c4; --worse: #ffab70;
  --failed: #ff86ab; --flag: #ffab70; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem; color: var(--ink);
  background: var(--page); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
ul { margin: .5rem 0; padding-left: 1.2rem; max-width: 46rem; }
.audience { display: inline-block; font-size: .8rem; color: var(--soft); border: 1px solid var(--line);
  border-radius: .25rem; padding: .1rem .5rem; }
.verdict { border-left: .3rem solid var(--mark); padding: .1rem 0 .1rem .9rem; font-size: 1.08rem; }
.answer { border-left: .4rem solid var(--state); background: var(--tint); padding: .5rem 1rem; margin: .75rem 0;
  max-width: 52rem; }
.answer.better { --state: var(--better); }
.answer.not-shown { --state: var(--not-shown); }
.answer.worse { --state: var(--worse); }
.answer.failed { --state: var(--failed); }
.answer p { margin: .15rem 0; }
.answer .state { color: var(--state); font-weight: 700; font-size: 1.2rem; line-height: 1.3; }
.answer .figure { font-variant-numeric: tabular-nums; }
.flags { list-style: none; padding: 0; }
.flags li { padding-left: 1.3em; text-indent: -1.3em; }
.flags span { color: var(--flag); }
.fact { font-size: .88rem; color: var(--soft); margin: .2rem 0; max-width: none; }
nav { font-size: .9rem; display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: 1rem 0; }
a { color: var(--mark); }
nav a { padding: .2rem 0; }
.pictures { display: grid; gap: 1.25rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
figure { margin: .5rem 0; min-width: 0; break-inside: avoid; }
figure img, figure > svg { display: block; width: 100%; max-width: 36rem; height: auto; background: #fff;
  border-radius: .25rem; }
figcaption { font-size: .82rem; color: var(--soft); max-width: 36rem; }
figcaption strong { color: var(--ink); }
.instead { border: 1px dashed var(--line); border-radius: .25rem; padding: .75rem; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .25rem 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .25rem; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th { vertical-align: bottom; }
.number { text-align: right; }
td.interval { min-width: 8.6em; }
td.long { overflow-wrap: anywhere; min-width: 16rem; }
details { margin: .25rem 0; font-size: .9rem; }
summary { cursor: pointer; color: var(--mark); font-size: .82rem; padding: .2rem 0; }
.part { font-size: 1rem; border-top: 1px solid var(--line); margin-top: 2.25rem; }
.part summary h2 { display: inline-block; border: 0; margin: 0; color: var(--mark); }
.apart { content-visibility: auto; contain-intrinsic-size: auto 36rem; }
.find { display: flex; flex-wrap: wrap; gap: .4rem 1rem; align-items: center; margin: .75rem 0; font-size: .9rem; }
.find input, .find select { font: inherit; max-width: 100%; }
pre { overflow-x: auto; font-size: .78rem; background: var(--tint); padding: .6rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .5rem; font-size: .85rem;
  color: var(--soft); }
@media screen and (max-width: 40rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
  table, tbody, caption { display: block; }
  tr { display: block; border: 1px solid var(--line); border-radius: .25rem; margin: .4rem 0; padding: .3rem .6rem; }
  td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; text-align: right;
    overflow-wrap: anywhere; }
  td::before { content: attr(data-label); color: var(--soft); text-align: left; overflow-wrap: normal; }
  td:first-child { font-weight: 600; }
  td:first-child::before { content: none; }
  td.number { overflow-wrap: normal; }
  td.long { min-width: 0; }
}
@media print {
  body { max-width: none; font-size: 10pt; padding: 0; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  .answer, .flags { break-inside: avoid; }
  .pictures { grid-template-columns: 1fr 1fr; }
  .scroll { overflow: visible; }
  pre { white-space: pre-wrap; }
  details:not([open]) { display: none; }
  tr { break-inside: avoid; }
  .apart { content-visibility: visible; break-before: page; break-after: page; }
  .apart .pictures { grid-template-columns: 1fr; }
  .apart figure { display: grid; grid-template-columns: 9fr 11fr; gap: 1rem; }
  .apart table { font-size: .7rem; }
  .find, .apart details:has(pre) { display: none; }
}
@page { margin: 15mm; }
"""

TEMPLATE = (
    """\
{% macro table(block) %}
<div class="scroll" tabindex="0" role="group" aria-label="{{ block.title or "table" }}"><table role="table">
{% if block.title and not block.folded %}<caption>{{ block.title }}</caption>{% endif %}

{% set numeric = block.numeric %}
<thead role="rowgroup"><tr role="row">{% for cell in block.header %}
<th role="columnheader" scope="col"{% if numeric[loop.index0] %} class="number"{% endif %}>{{ cell }}</th>
{% endfor %}</tr></thead>
<tbody role="rowgroup">
{% for row in block.rows %}
<tr role="row">{% for cell in row %}
{% set look = "long" if cell|length > 40 else "" %}
{% if numeric[loop.index0] %}{% set look = "number interval" if "(" in cell else "number" %}{% endif %}
<td role="cell" data-label="{{ block.header[loop.index0] }}"{% if look %} class="{{ look }}"{% endif %}>{{ cell }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro shown(block) %}
{% if kind(block) == "text" %}
<p>{{ block.text }}</p>
{% elif kind(block) == "answer" %}
{{ answered(block) }}
{% elif kind(block) == "points" %}
<ul>{% for sentence in block.sentences %}<li>{{ sentence }}</li>{% endfor %}</ul>
{% elif kind(block) == "link" %}
<p><a href="{{ block.href }}">{{ block.text }}</a></p>
{% elif kind(block) == "code" %}
<details><summary>{{ block.title }}</summary><pre tabindex="0">{{ block.text }}</pre></details>
{% elif kind(block) == "table" and block.folded %}
<details><summary>{{ block.title or "numbers" }}</summary>{{ table(block) }}</details>
{% elif kind(block) == "table" %}
{{ table(block) }}
{% else %}
<figure id="figure-{{ block.name }}">
{% if block.figure is none %}
<p class="instead"><strong>{{ block.title }}.</strong> {{ block.instead }}</p>
{% else %}
{% if block.inline %}
{{ block.inline|safe }}
{% else %}
<img src="{{ block.source }}" alt="{{ block.alt }}">
{% endif %}
<figcaption>{% if block.finding %}<strong>{{ block.finding }}</strong> {% endif %}{{ block.note }}
{% if block.numbers is not none %}<details><summary>numbers</summary>{{ table(block.numbers) }}</details>{% endif %}
</figcaption>
{% endif %}
</figure>
{% endif %}
{% endmacro %}
{% macro blocks(section) %}
{% for block in section.blocks %}
{% set is_picture = kind(block) == "picture" %}
{% if is_picture and (loop.first or kind(loop.previtem) != "picture") %}<div class="pictures">
{% endif %}
{{ shown(block) }}
{% if is_picture and (loop.last or kind(loop.nextitem) != "picture") %}</div>
{% endif %}
{% endfor %}
{% endmacro %}
{% macro answered(block) %}
<div class="answer {{ block.state|replace(" ", "-") }}">
<p class="state"><span aria-hidden="true">{{ block.mark }}</span> {{ block.sentence }}</p>
{% if block.number %}<p class="figure">{{ block.number }}</p>{% endif %}

</div>
{% if block.flags %}<ul class="flags" aria-label="red flags">
{% for flag in block.flags %}<li><span aria-hidden="true">\u2691</span> {{ flag }}</li>
{% endfor %}
</ul>{% endif %}

{% for fact in block.facts %}<p class="fact">{{ fact }}</p>
{% endfor %}
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ page.policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{{ page.title }}</title>
<style>"""
    + _STYLE
    + """</style>
</head>
<body>
<header>
<span class="audience">{{ page.audience }}</span>
<h1>{{ page.title }}</h1>
{% if page.answer %}{{ answered(page.answer) }}{% endif %}
{% if page.verdict %}<div class="verdict">
{% for sentence in page.verdict %}<p>{{ sentence }}</p>
{% endfor %}
</div>{% endif %}

<nav aria-label="sections">
{% for part in page.parts if part[0].level == 2 %}
<a href="#section-{{ loop.index }}">{{ part[0].title }}</a>
{% endfor %}
</nav>
</header>
<main>
{% for part in page.parts %}
{% set first, number = part[0], loop.index %}
{% if first.closed %}<details class="part"><summary><h2 id="section-{{ number }}">{{ first.title }}</h2></summary>
{% endif %}
{% for section in part %}
{% if section.apart %}<section class="apart">
{% endif %}
{% if section.level == 3 %}<h3>{{ section.title }}</h3>
{% elif not section.closed %}<h2 id="section-{{ number }}">{{ section.title }}</h2>
{% endif %}
{{ blocks(section) }}
{% if section.apart %}</section>
{% endif %}
{% endfor %}
{% if first.closed %}</details>
{% endif %}
{% endfor %}
</main>
<footer>{{ page.footer }}</footer>
{% if page.script %}<script>{{ page.script|safe }}</script>
{% endif %}
</body>
</html>
"""
)
