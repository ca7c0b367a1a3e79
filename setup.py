"""Builds the compiled attention (src/gaincell/native) and puts adapters and recipes into wheels; everything
else is in pyproject.toml.

The kernels are compiled once for every instruction level. Where there is no compiler the package installs
without. GAINCELL_PURE=1 leaves the kernel out, for a wheel that serves everywhere. GAINCELL_SANITIZE=1 builds
it with address and undefined-behaviour sanitizers, GAINCELL_EMULATE_AMX=1 with the level amx computed in
plain code, for tests on a processor that has no tiles.
"""

import glob
import os
import platform
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

REPOSITORY = "https://github.com/gaincell/gaincell"
FOLDER = "src/gaincell/native/"
COMPILED_PER_LEVEL = ("forward.cpp", "backward.cpp", "decode.cpp", "level.cpp")
X86 = platform.machine().lower() in ("x86_64", "amd64")
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [
    *AVX2,
    "-mavx512f",
    "-mavx512bw",
    "-mavx512vl",
    "-mavx512dq",
    "-mavx512vnni",
    "-mprefer-vector-width=512",
]
AMX = [*AVX512, "-mamx-tile", "-mamx-int8", "-mamx-bf16"]
LEVELS = {"portable": [], "avx2": AVX2, "avx512": AVX512} if X86 else {"portable": []}
EMULATE_AMX = os.environ.get("GAINCELL_EMULATE_AMX") == "1"
PURE = os.environ.get("GAINCELL_PURE") == "1"
SANITIZE = os.environ.get("GAINCELL_SANITIZE") == "1"
OPTIMISED = "-O1" if SANITIZE else "-O3"  # with sanitizers -O3 takes four times as long to compile
FLAGS = [OPTIMISED, "-std=c++17", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra"]
if SANITIZE:
    FLAGS += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]


class BuildNative(build_ext):
    """Compiles the kernel for every level, and links all."""

    def build_extension(self, ext: Extension) -> None:
        levels, common = dict(LEVELS), ["-DGC_X86"] if X86 else []
        if X86 and EMULATE_AMX:
            levels["amx"] = [*AVX512, "-DGC_EMULATED_TILES"]
            common += ["-DGC_AMX", "-DGC_EMULATED_TILES"]
        elif X86 and platform.system() == "Linux" and self.understands(AMX):
            levels["amx"] = AMX
            common += ["-DGC_AMX"]
        units = [
            (source, [*flags, f"-DGC_LEVEL={level}"])
            for level, flags in levels.items()
            for source in COMPILED_PER_LEVEL
        ]
        units.append(("dispatch.cpp", common))

        def compiled(number: int) -> list[str]:
            source, flags = units[number]
            return self.compiler.compile(
                [FOLDER + source],
                output_dir=os.path.join(self.build_temp, str(number)),
                extra_postargs=[*FLAGS, *flags],
                depends=ext.depends,
            )

        with ThreadPoolExecutor(os.cpu_count()) as compilers:
            objects = [name for found in compilers.map(compiled, range(len(units))) for name in found]
        target = self.get_ext_fullpath(ext.name)
        link = ["-pthread", *(["-fsanitize=address,undefined"] if SANITIZE else [])]
        self.compiler.link_shared_object(objects, target, extra_postargs=link, target_lang="c++")

    def understands(self, flags: list[str]) -> bool:
        """Whether the compiler has these options."""
        with tempfile.TemporaryDirectory() as folder:
            source = os.path.join(folder, "probe.cpp")
            with open(source, "w") as file:
                file.write("#include <immintrin.h>\n")
                file.write("void probe() { _tile_dpbsud(0, 1, 2); _tile_dpbf16ps(0, 1, 2); }\n")
            try:
                self.compiler.compile([source], output_dir=folder, extra_postargs=flags)
            except CompileError:
                return False
        return True


REPOSITORY_ONLY = (os.path.join("adapters", "smollm2-135m-extended"),)
"""With it a wheel would have more than the 100 MB that a package index takes."""


class BuildPackage(build_py):
    """Copies adapters, recipes, data, results into gaincell/assets: found without a checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self.shipped():
                self.mkpath(os.path.dirname(target))
                shutil.copyfile(source, target)

    def shipped(self) -> list[tuple[str, str]]:
        """Files of the repository, and where they go."""
        found = [
            os.path.join(folder, name)
            for root in ("adapters", "recipes", "docs/data", "docs/results")
            for folder, _, names in sorted(os.walk(root))
            for name in sorted(names)
            if name.endswith((".csv", ".json", ".md", ".py", ".safetensors", ".toml"))
            and folder not in REPOSITORY_ONLY
        ]
        place = os.path.join(self.build_lib, "gaincell", "assets")
        return [(source, os.path.join(place, source)) for source in found]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        shipped = [] if self.editable_mode else [target for _, target in self.shipped()]
        return [*super().get_outputs(include_bytecode), *shipped]


class BuildWheel(bdist_wheel):
    """The kernel is loaded by ctypes and is no module of Python: one wheel serves every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def description() -> str:
    """README.md for a package index, where its links would lead nowhere."""
    with open("README.md", encoding="utf-8") as file:
        text = re.sub(r"(!\[[^]]*\]\()(?!http)", rf"\1{REPOSITORY}/raw/main/", file.read())
    return re.sub(r"\]\((?!http)", f"]({REPOSITORY}/blob/main/", text)


headers = sorted(glob.glob(FOLDER + "*.h"))
sources = [FOLDER + name for name in (*COMPILED_PER_LEVEL, "dispatch.cpp")]
extension = Extension(
    "gaincell.native._native", sources, depends=headers, optional=True, language="c++", py_limited_api=True
)
commands = {"build_ext": BuildNative, "build_py": BuildPackage, "bdist_wheel": BuildWheel}
setup(
    ext_modules=[] if PURE else [extension],
    cmdclass=commands,
    long_description=description(),
    long_description_content_type="text/markdown",
)
