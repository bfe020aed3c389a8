"""An exported folder on the Hugging Face hub: what it would take, and the upload."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from advdmd_ray import __version__
from advdmd_ray.errors import HubError, UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LIBRARY = "advdmd-ray"


@dataclass(frozen=True, slots=True)
class Upload:
    """What goes to the hub.

    Attributes:
        repo: `owner/name`.
        folder: An exported folder.
        private: Whether only its owner may see the repository, if there is none yet.
    """

    repo: str
    folder: Path
    private: bool = True

    @property
    def files(self) -> dict[str, int]:
        """Bytes of each file, by its name in the repository."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): path.stat().st_size for path in found}

    @property
    def message(self) -> str:
        """Of the commit."""
        return f"Upload of {LIBRARY} {__version__}"

    @property
    def by_hand(self) -> str:
        """The hub's own command for it."""
        private = " --private" if self.private else ""
        return f"hf upload {self.repo} {self.folder} .{private}"


def check_repo(repo: str) -> None:
    """Make sure that a name can be one of a repository; nothing is asked of a network.

    Raises:
        UserError: if it cannot.
    """
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415 - takes a moment
    from huggingface_hub.utils import validate_repo_id  # noqa: PLC0415

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"--push-to-hub {repo!r}: is no name of a repository ({reason}); give OWNER/NAME") from None
    if "/" not in repo:
        raise UserError(f"--push-to-hub {repo!r}: names no owner; give OWNER/NAME")


def told(upload: Upload) -> list[str]:
    """What an upload would do, line by line; nothing is asked of a network."""
    from huggingface_hub import constants, get_token  # noqa: PLC0415 - takes a moment

    files = upload.files
    seen = "private" if upload.private else "public"
    who = "with the token that is logged in" if get_token() else "and there is no token: log in by `hf auth login`"
    return [
        f"would make {constants.ENDPOINT}/{upload.repo}, a {seen} model, if there is none yet, {who}",
        *(f"would upload {name} ({size:,} bytes)" for name, size in files.items()),
        f"{len(files)} files, {sum(files.values()):,} bytes, in one commit: {upload.message}",
        f"to do it by hand: {upload.by_hand}",
    ]


def push(upload: Upload, api: "HfApi | None" = None) -> str:
    """Makes the repository if there is none, and uploads the folder in one commit.

    Args:
        upload: What.
        api: The hub; None: that of the environment, with its token.

    Returns:
        The address of the commit.

    Raises:
        HubError: if the hub refuses or is not reached. The folder stays.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - takes a moment
    from huggingface_hub.errors import (  # noqa: PLC0415
        HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of its client, whichever that is
    )

    hub = HfApi(library_name=LIBRARY, library_version=__version__) if api is None else api
    try:
        hub.create_repo(upload.repo, private=upload.private, exist_ok=True)
        commit = hub.upload_folder(repo_id=upload.repo, folder_path=upload.folder, commit_message=upload.message)
    except (HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        raise HubError(
            f"{upload.repo} on the hub: not uploaded ({reason}); {upload.folder} is whole, upload it by "
            f"`{upload.by_hand}`"
        ) from error
    return str(commit.commit_url)
