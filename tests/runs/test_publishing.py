"""An export on the Hugging Face hub: what would go there is told without a network, and what fails is one line."""

import socket
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.errors import (
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of its client, whichever that is
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from advdmd_ray.errors import HubError
from advdmd_ray.runs.publishing import Upload, push, told

NOWHERE = "http://127.0.0.1:1"


class Hub(HfApi):
    """Takes one repository and one commit, or fails as the hub does."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(endpoint=NOWHERE)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._error = error

    def create_repo(self, repo_id: str, **given: Any) -> Any:
        if self._error is not None:
            raise self._error
        self.calls.append(("create", {"repo_id": repo_id, **given}))

    def upload_folder(self, **given: Any) -> Any:
        assert self.calls, "a folder goes into a repository that is there"
        self.calls.append(("upload", given))
        return CommitInfo(
            commit_url="https://huggingface.co/me/it/commit/1",
            commit_message=given["commit_message"],
            commit_description="",
            oid="1",
        )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "student"
    (made / "transformer").mkdir(parents=True)
    (made / "README.md").write_text("1234")
    (made / "transformer" / "weights.safetensors").write_bytes(bytes(2000))
    return made


@pytest.mark.parametrize("private", [True, False])
def test_what_is_told_is_what_is_done(folder: Path, private: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a network was asked"))
    upload, hub = Upload("me/it", folder, private), Hub()
    said = told(upload)
    seen = "private" if private else "public"
    assert said[0].startswith(
        f"would make https://huggingface.co/me/it, a {seen} model, if there is none yet, and there is"
    )
    assert said[1:-1] == [
        "would upload README.md (4 bytes)",
        "would upload transformer/weights.safetensors (2,000 bytes)",
        f"2 files, 2,004 bytes, in one commit: {upload.message}",
    ]
    assert said[-1] == f"to do it by hand: hf upload me/it {folder} .{' --private' if private else ''}"
    assert push(upload, hub) == "https://huggingface.co/me/it/commit/1"
    assert hub.calls == [
        ("create", {"repo_id": "me/it", "private": private, "exist_ok": True}),
        ("upload", {"repo_id": "me/it", "folder_path": folder, "commit_message": upload.message}),
    ]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HTTPError("[Errno 111] Connection refused"), r"\[Errno 111\] Connection refused"),
        (TimeoutError(), "TimeoutError"),
        (
            OfflineModeIsEnabled("Cannot reach the hub: offline mode is enabled.\nMore"),
            "offline mode is",
        ),
        (LocalTokenNotFoundError("Token is required. Log in."), "Token is required"),
    ],
)
def test_a_hub_that_refuses_or_is_not_there_is_one_line_and_the_folder_stays(
    folder: Path, error: Exception, reason: str
) -> None:
    with pytest.raises(
        HubError, match=rf"me/it on the hub: not uploaded \(.*{reason}.*\); .*student is whole, upload"
    ) as said:
        push(Upload("me/it", folder), Hub(error))
    assert "\n" not in str(said.value)
    assert (folder / "README.md").read_text() == "1234"


def test_without_a_network_the_hubs_own_client_ends_in_that_line_too(folder: Path) -> None:
    with pytest.raises(HubError, match="not uploaded"):
        push(Upload("me/it", folder), HfApi(endpoint=NOWHERE, token=False))
