"""Reports: tables, figures and sections of the page `gaincell report`, made from results alone.

Nothing here holds a number of its own; every value comes from a result with its unit and kind.
"""
