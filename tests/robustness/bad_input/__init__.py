"""Bad inputs by the thousand, from a seed: every command, kind of option and kind of file.

A case is a command that would work, of which one thing is made bad: an option's value, a file it reads, a
place it writes to. It is run in this process through the command line's `main`, and must end with exit code 2
and one short line, soon, and leave nothing behind.

    python -m tests.robustness.bad_input SEED COUNT        prints the cases that did not

In the order to read: `commands` that work; `cases`, bad values and files changed at random, with bad `files`;
`runner`; `judge`.
"""
