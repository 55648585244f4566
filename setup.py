"""pyproject.toml has it all, but this: configs/, at the top of the repository, travels inside the package."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    def run(self):
        super().run()
        if not self.editable_mode:  # which finds them where they are
            to = Path(self.build_lib, "roberta_jax", "configs")
            to.mkdir(parents=True, exist_ok=True)
            for file in sorted(Path("configs").glob("*.py")):
                self.copy_file(str(file), str(to / file.name))


setup(cmdclass={"build_py": BuildWithConfigs})
