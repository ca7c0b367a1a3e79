"""`gaincell serve`: a page on this machine that shows a model writing text in its arrays and in software.

    settings.py      what a page may ask for, checked
    pair.py          the two models, loaded once, and what is observed of the arrays
    software.py      the software model's tokens, with a cache of as many tokens as the ring has columns
    generation.py    one text: a turn is a piece of the prompt or one token of both models
    arrays.py        what one head's arrays hold and do at the last token
    sessions.py      the open pages, each with its own text; turns are taken one after the other
    application.py   the addresses; guard.py: who may call them
    server.py        runs it until Ctrl-C
    templates/       the page: HTML, style and scripts as they are, without a build step

Only application.py, guard.py and server.py know the web framework.
"""
