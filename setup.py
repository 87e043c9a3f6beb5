"""What pyproject.toml can't say: the C extension, and files from outside the package.

The extension is the firmware's feature extraction (DESIGN D1). The firmware's sources
and the data sets' manifests are in the repository, beside the package; an installed
package carries a copy in kws/_files, where kws/paths.py finds them.
"""

import re
import shutil
from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

CARRIED = ("firmware", "datasets", "LICENSE")
# Sources alone: a checkout's folders may hold objects and recordings as well.
KINDS = re.compile(
    r"[^.].*\.(S|c|cc|conf|h|ino|json|ld|md|overlay|properties|toml|txt|yaml|yml)"
    r"|LICENSE|Kconfig"
)


class BuildFiles(Command):
    """Copy what is carried into the package; part of every build."""

    def initialize_options(self) -> None:
        self.build_lib = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        if self.editable_mode:
            return
        # What an earlier build left there, of files that are gone by now.
        shutil.rmtree(Path(self.build_lib, "kws"), ignore_errors=True)
        for target, source in self.get_output_mapping().items():
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    def get_source_files(self) -> list[str]:
        inside = [path for name in CARRIED for path in Path(name).rglob("*")]
        found = [*map(Path, CARRIED), *sorted(inside)]
        return [str(p) for p in found if p.is_file() and KINDS.fullmatch(p.name)]

    def get_output_mapping(self) -> dict[str, str]:
        folder = Path(self.build_lib, "kws", "_files")
        return {str(folder / name): name for name in self.get_source_files()}

    def get_outputs(self) -> list[str]:
        return list(self.get_output_mapping())


build.sub_commands.insert(0, ("build_files", None))

setup(
    cffi_modules=["kws/features/build_extension.py:ffibuilder"],
    cmdclass={"build_files": BuildFiles},
    # One wheel for every Python that is supported: the extension is abi3.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
