"""Pictures as pure functions: numbers or a bank in, a matplotlib figure out; no file is written.

    from hast.report.figures.canvas import to_png, to_svg
    from hast.report.figures.samples import difficulty_histogram

    to_png(difficulty_histogram({"bank": difficulty}))

Needs the extra `report`. Figures have no background and one ink, so that a page can show them in
light and dark: `to_svg(figure, name)` draws the ink in CSS's `currentColor`.
"""
