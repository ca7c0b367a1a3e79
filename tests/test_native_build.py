"""Where there is a compiler, installing the package builds the compiled attention."""

import os
import shutil

import pytest

from gaincell.ops.gain_cell_attention import native_library

COMPILER = shutil.which(os.environ.get("CXX", "c++"))


@pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")
def test_the_kernel_is_built_where_there_is_a_compiler() -> None:
    assert native_library.compiled_library() is not None
    assert "portable" in native_library.levels()
