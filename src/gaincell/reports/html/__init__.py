"""`gaincell report`: one self-contained HTML page, from result files alone.

    page.py                the page: reads, checks, puts sections together, fills the template
    sections.py            which sections there are, what they need of a result, and their titles
    result.py             a result, and what every section does with several of them
    summary.py quality.py mapping.py heads.py costs.py circuits.py     what stands in the sections
    theme.py               every colour, light and dark, as tokens of the style sheet
    markup.py tables.py    elements, figures and tables; everything in them is escaped
    scales.py              axes and ticks
    lines.py rows.py heat.py pie.py timeline.py histogram.py floorplan.py   a kind of chart each, as SVG
    templates/             page.html, style.css, script.js (hover, keyboard, light and dark)

A chart is a pure function from numbers to markup. The rows of tables come from the other modules of
`gaincell.reports`; nothing here holds a number of its own but sizes and colours of drawings.
"""
