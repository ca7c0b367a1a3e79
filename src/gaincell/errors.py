"""The exceptions a user meets.

Every message is one line and says what was given, what is allowed and what to do next. The command line
prints it and leaves with exit code 2 (with the traceback under ``--debug``). A defect of the program itself
is none of these: it stays an ordinary Python exception.
"""


class GaincellError(Exception):
    """Base of everything gaincell refuses on purpose; catch this one to catch them all."""


class DesignError(GaincellError):
    """A design or device file, or a change made to a design, is not acceptable."""


class InputError(GaincellError):
    """An argument, a text or a tensor given to gaincell is not acceptable."""


class ModelError(GaincellError):
    """A model cannot be found, read, or mapped onto gain-cell attention."""


class RunError(GaincellError):
    """A RUN directory cannot be written, read, or does not fit the model it was made from."""


class SimulationError(GaincellError):
    """A circuit simulation cannot be started, was stopped, or gave no usable result."""
