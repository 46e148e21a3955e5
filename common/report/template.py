"""The HTML template of all pages, without scripts; its content security policy forbids the browser to load anything.

The template is a string in a module, because Flower's app bundles contain Python files but no template files.
"""

from __future__ import annotations

_STYLE = """
:root { color-scheme: light; --ink: #1b1b1b; --soft: #5a5a5a; --line: #d8d8d8; --mark: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem clamp(.75rem, 3vw, 2rem) 3rem; color: var(--ink);
  background: #fff; font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.25rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
ul { margin: .5rem 0; padding-left: 1.2rem; max-width: 46rem; }
.audience { display: inline-block; font-size: .8rem; color: var(--soft); border: 1px solid var(--line);
  border-radius: .25rem; padding: .1rem .5rem; }
.verdict { border-left: .3rem solid var(--mark); padding: .1rem 0 .1rem .9rem; font-size: 1.08rem; }
nav { font-size: .9rem; display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: 1rem 0; }
nav a { color: var(--mark); }
.pictures { display: grid; gap: 1.25rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); }
figure { margin: .5rem 0; min-width: 0; break-inside: avoid; }
figure img { display: block; width: 100%; max-width: 36rem; height: auto; }
figcaption { font-size: .82rem; color: var(--soft); max-width: 36rem; }
figcaption strong { color: var(--ink); }
.instead { border: 1px dashed var(--line); border-radius: .25rem; padding: .75rem; font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .25rem 0; }
caption { text-align: left; font-weight: 600; padding-bottom: .25rem; }
th, td { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
.number { text-align: right; }
td.long { white-space: normal; overflow-wrap: anywhere; min-width: 16rem; }
details { margin: .25rem 0; font-size: .9rem; }
summary { cursor: pointer; color: var(--mark); font-size: .82rem; }
pre { overflow-x: auto; font-size: .78rem; background: #f6f6f6; padding: .6rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .5rem; font-size: .85rem;
  color: var(--soft); }
@media print {
  body { max-width: none; font-size: 10pt; padding: 0; }
  nav { display: none; }
  h2, h3 { break-after: avoid; }
  .pictures { grid-template-columns: 1fr 1fr; }
  .scroll { overflow: visible; }
  pre { white-space: pre-wrap; }
  details::details-content { content-visibility: visible; }
  tr { break-inside: avoid; }
}
@page { margin: 15mm; }
"""

TEMPLATE = (
    """\
{% macro table(block) %}
<div class="scroll"><table>
{% if block.title and not block.folded %}<caption>{{ block.title }}</caption>{% endif %}

{% set numeric = block.numeric %}
<thead><tr>{% for cell in block.header %}
<th scope="col"{% if numeric[loop.index0] %} class="number"{% endif %}>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in block.rows %}
<tr>{% for cell in row %}
<td{% if numeric[loop.index0] %} class="number"{% elif cell|length > 40 %} class="long"{% endif %}>{{ cell }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
{% macro shown(block) %}
{% if kind(block) == "text" %}
<p>{{ block.text }}</p>
{% elif kind(block) == "points" %}
<ul>{% for sentence in block.sentences %}<li>{{ sentence }}</li>{% endfor %}</ul>
{% elif kind(block) == "code" %}
<details><summary>show</summary><pre>{{ block.text }}</pre></details>
{% elif kind(block) == "table" and block.folded %}
<details><summary>{{ block.title or "numbers" }}</summary>{{ table(block) }}</details>
{% elif kind(block) == "table" %}
{{ table(block) }}
{% else %}
<figure id="figure-{{ block.name }}">
{% if block.figure is none %}
<p class="instead"><strong>{{ block.title }}.</strong> {{ block.instead }}</p>
{% else %}
<img src="{{ block.source }}" alt="{{ block.title }}. {{ block.note }}">
<figcaption>{{ block.note }}
{% if block.numbers is not none %}<details><summary>numbers</summary>{{ table(block.numbers) }}</details>{% endif %}
</figcaption>
{% endif %}
</figure>
{% endif %}
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
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
{% if page.verdict %}<div class="verdict">
{% for sentence in page.verdict %}<p>{{ sentence }}</p>
{% endfor %}
</div>{% endif %}

<nav aria-label="sections">
{% for section in page.sections if section.level == 2 %}
<a href="#section-{{ loop.index }}">{{ section.title }}</a>
{% endfor %}
</nav>
</header>
<main>
{% set place = namespace(n=0) %}
{% for section in page.sections %}
{% if section.level == 2 %}{% set place.n = place.n + 1 %}<h2 id="section-{{ place.n }}">{{ section.title }}</h2>
{% else %}<h3>{{ section.title }}</h3>
{% endif %}
{% for block in section.blocks %}
{% set is_picture = kind(block) == "picture" %}
{% if is_picture and (loop.first or kind(loop.previtem) != "picture") %}<div class="pictures">
{% endif %}
{{ shown(block) }}
{% if is_picture and (loop.last or kind(loop.nextitem) != "picture") %}</div>
{% endif %}
{% endfor %}
{% endfor %}
</main>
<footer>{{ page.footer }}</footer>
</body>
</html>
"""
)
