"""What a path, a folder or a glob names on this machine, where there are links and hidden files."""

import os
from collections import deque
from collections.abc import Iterator
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

# Why something that is there is not among the files that `find` gives.
HIDDEN, NOWHERE, AGAIN = "hidden", "a link that leads nowhere", "a link to what is read already"
UNREADABLE, NO_FILE = "a folder that cannot be read", "no file"


class Walk:
    """See `storage.find`."""

    def __init__(self, hidden: bool, passed_over: dict[str, str]):
        self._hidden, self._passed_over = hidden, passed_over

    def files(self, source: Path) -> tuple[list[Path], bool]:
        """The files that a path, a folder or a glob names, in any order, and whether it names a folder."""
        if os.path.lexists(source):
            named = [source]
        else:
            named = sorted(self._matching(Path(source.anchor), source.parts[bool(source.anchor) :]), key=os.path.islink)
        folders, files = set(), {}  # that were read, by the paths that no link is part of
        for each in (each for path in named for each in self._below(path, folders)):
            real = os.path.realpath(each)
            if os.path.isfile(each):
                if files.setdefault(real, each) != each:
                    self._passed_over[str(each)] = AGAIN
            elif not os.path.isdir(each):
                self._passed_over[str(each)] = NOWHERE if os.path.islink(each) else NO_FILE
        return list(files.values()), any(map(os.path.isdir, named))

    def _matching(self, folder: Path, parts: tuple[str, ...]) -> Iterator[Path]:
        """What a glob's parts name from a folder on; as ever, `**` stands for any number of folders."""
        if not parts:
            yield folder
        elif parts[0] == "**":
            for each in self._below(folder, set()):
                if len(parts) == 1 or os.path.isdir(each):
                    yield from self._matching(each, parts[1:])
        elif has_magic(parts[0]):
            for each in sorted(self._entries(folder), key=os.path.islink):  # by the name that no link is part of, if it has one
                if fnmatchcase(each.name, parts[0]) and (parts[0].startswith(".") or self._is_shown(each)):
                    yield from self._matching(each, parts[1:])
        elif os.path.lexists(folder / parts[0]):
            yield from self._matching(folder / parts[0], parts[1:])

    def _below(self, path: Path, known: set[str]) -> Iterator[Path]:
        """A path and, of a folder, all in it to its depths, what links lead to last.

        Args:
          known: the folders that need not be read again; takes those that are read.
        """
        waiting, links = deque([path]), deque()
        while waiting or links:
            each = waiting.popleft() if waiting else links.popleft()
            if os.path.isdir(each):
                if (real := os.path.realpath(each)) in known:
                    if os.path.islink(each):
                        self._passed_over[str(each)] = AGAIN
                    continue
                known.add(real)
                for inner in self._entries(each):
                    if self._is_shown(inner):
                        (links if os.path.islink(inner) else waiting).append(inner)
            yield each

    def _entries(self, folder: Path) -> list[Path]:
        try:
            return sorted(folder.iterdir())
        except NotADirectoryError:
            return []
        except OSError:
            self._passed_over[str(folder)] = UNREADABLE
            return []

    def _is_shown(self, path: Path) -> bool:
        shown = self._hidden or not path.name.startswith(".")
        if not shown:
            self._passed_over[str(path)] = HIDDEN
        return shown
