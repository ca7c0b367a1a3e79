"""Reports: the schema of run.json, and the tables and figures made from it alone.

Nothing here holds a number of its own; every value comes from run.json with its unit and kind.
"""
