"""`gaincell report`: one self-contained HTML page, from result files alone.

    page.py                the page: reads, checks, puts sections together in their order, fills the template;
                           each section is made beside figures and tables of its results
    parts.py               what sections are put together of; a result on its way into the page
    picture.py             a figure of matplotlib as SVG in the page's colours, with its numbers as tables
    theme.py               every colour, light and dark, as tokens of the style sheet
    markup.py              elements and tables; everything in them is escaped
    templates/             page.html, style.css, script.js (light and dark)

Nothing here holds a number of its own but sizes.
"""
