"""Formulas as MathML, which browsers draw themselves: the pages need no script from elsewhere."""

import latex2mathml.converter
from docutils.nodes import SkipNode


def inline(self, node):
    """Write a formula within a line."""
    self.body.append(latex2mathml.converter.convert(node.astext()))
    raise SkipNode


def block(self, node):
    """Write a formula on a line of its own."""
    formula = latex2mathml.converter.convert(node.astext(), display="block")
    self.body.append(self.starttag(node, "div", CLASS="formula"))
    self.body.append(f"{formula}</div>\n")
    raise SkipNode


def setup(app):
    """Register the renderer."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "version": "1"}
