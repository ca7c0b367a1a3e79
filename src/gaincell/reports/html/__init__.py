"""`gaincell report`: one self-contained HTML page, from result files alone.

    page.py                the page: reads, checks, puts sections together, fills the template
    sections.py            which sections there are, what they need of a result, and their titles
    result.py              a result, and a section on results of its kind
    summary.py quality.py mapping.py heads.py costs.py circuits.py sweeps.py codesign.py     the sections
    picture.py             a figure of matplotlib as SVG in the page's colours, with its numbers as tables
    theme.py               every colour, light and dark, as tokens of the style sheet
    markup.py tables.py    elements and tables; everything in them is escaped
    templates/             page.html, style.css, script.js (light and dark)

Figures, and the rows of tables, come from the other modules of `gaincell.reports`; nothing here holds a
number of its own but sizes.
"""
