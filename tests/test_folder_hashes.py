"""What was changed in a folder since it was saved is noticed, here and behind a URL."""

import pytest

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.folder_hashes import check_hashes, write_hashes


@pytest.mark.parametrize("where", ["{tmp}", "file://{tmp}", "memory://hashes{tmp}"])
def test_a_changed_file_of_a_folder_is_noticed(tmp_path, where):
    place = where.format(tmp=tmp_path)
    for name in ("a.txt", "b.txt"):
        storage.write_text(f"{place}/folder/{name}", name)
    check_hashes(f"{place}/folder")  # nothing was noted
    write_hashes(f"{place}/folder")
    check_hashes(f"{place}/folder")
    storage.write_text(f"{place}/folder/b.txt", "a.txt")
    with pytest.raises(UserError, match=r"b\.txt: it is not what was saved there, by folder\.hashes\.json beside"):
        check_hashes(f"{place}/folder")
    storage.write_json(f"{place}/folder.hashes.json", {"../escape": "0"})
    with pytest.raises(UserError, match=r"folder\.hashes\.json names '\.\./escape', which is no plain name"):
        check_hashes(f"{place}/folder")
