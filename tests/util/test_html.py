"""Pages are rendered from templates, and text in them is shown as it is."""

from __future__ import annotations

import jinja2

from lmsteer.util.html import render_template


def test_text_is_escaped(monkeypatch):
    monkeypatch.setattr(jinja2, "PackageLoader", lambda *_: jinja2.DictLoader({"page": "<p>{{ text }}</p>"}))
    assert render_template("page", text="<b> & 'c'") == "<p>&lt;b&gt; &amp; &#39;c&#39;</p>"
