"""Texts that would run or build something if a page took them for markup; each leaves a mark on the page if it runs."""

MARK = "document.documentElement.dataset.ran=1"
PAYLOADS = [
    f"</script><script>{MARK}</script>",
    f"<img src=x onerror={MARK}>",
    f'"><svg onload="{MARK}">',
    f"'-{MARK}-'",
    f'<a href="javascript:{MARK}">x</a>',
    "<!--<script>",
    "]]>{{ 7 * 7 }}{% raw %}",
    "\u2028&lt;b&gt;\x00",
    "<b>x</b><br>%{y}%{customdata[0]}",
    "&amp;amp; &#60;i&#62;",
    "\u202eteews\u202c שלום مرحبا 🦊👩‍🔬",
    "layer." * 40,
]
