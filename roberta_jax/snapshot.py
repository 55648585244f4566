"""Files of a repository on the Hugging Face hub, by way of its cache."""

import re
from collections.abc import Sequence
from pathlib import Path

from roberta_jax.errors import UserError


def is_name(source: str) -> bool:
    """Whether this can be a repository's name, such as roberta-base or me/my-model."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) is not None and not source.startswith(".")


def download(name: str, patterns: Sequence[str]) -> Path:
    """The folder of a snapshot with the files that these globs name, as many as there are; from the cache where it has them.

    Raises:
      UserError: the hub does not answer, or not with that repository.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns)))
    except errors.GatedRepoError:
        raise UserError(f"{name} on {where} asks to be allowed in: accept its terms there, then `hf auth login`.") from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise UserError(f"{name} is neither a folder here nor a repository on {where} that you may read.") from None
    except Exception as error:  # its HTTP library raises its own kinds
        raise UserError(
            f"the hub {where} did not give {name} and the cache lacks it ({type(error).__name__}): see to the network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE, or give a folder."
        ) from None
