"""Gain-cell attention in any decoder of Hugging Face transformers.

``support.py`` says which models can be mapped, ``masks.py`` numbers the tokens in the cache,
``interface.py`` holds the functions transformers calls, ``attach.py`` puts them into a model,
``sources.py`` finds models, ``completeness.py`` refuses those whose weights do not fit, ``checkpoint.py``
saves and loads adapted ones, ``models.py`` turns what a user types into a model.
"""
