# Copyright 2026 The rwkv7-world authors.
# SPDX-License-Identifier: Apache-2.0
"""A checked folder goes up: the repository is made if need be, and the Hub's client sends and resumes."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from ..configuration.configuration_rwkv7 import RWKV7Config
from ..configuration.source_code import CODE_FOLDER
from ..conversion import convert_to_hub
from ..conversion.folder import read_json
from ..modeling_rwkv7_world.checkpoint_layouts import is_checkpoint_file
from .contents import ADAPTER_CONFIG, CARD_FILE, CONFIG, Contents, Kind, find_problems, read_contents
from .model_card import REPO_NAME, Description, base_of_card, build_card, card_problems, is_hub_name
from .snippets import run_snippets


RESULT_FILES = "results*.json"
FOR_READERS = (CARD_FILE, RESULT_FILES, "LICENSE*", "NOTICE*")
UNWRITTEN = {".gitattributes", "README.md"}  # what a repository that nobody used yet may hold
UNAUTHORIZED, FORBIDDEN, CONFLICT = 401, 403, 409


@dataclass(frozen=True)
class Target:
    """Where the files go.

    Args:
        private: Whether a new repository is private.
        update: Whether files of a repository in use may be replaced.
        branch: Branch to write, made if there is none; `main` by default.
        pull_request: Whether a pull request is opened instead of writing.
    """

    private: bool = False
    update: bool = False
    branch: str | None = None
    pull_request: bool = False


@dataclass(frozen=True)
class Parcel:
    """A folder that holds just what goes up, the card among it.

    Args:
        folder: With links to the files.
        sizes: Bytes by path in the repository, sorted by path.
        card: Text of the model card.
        left_out: Files of the original folder that do not go.
    """

    folder: Path
    sizes: dict[str, int]
    card: str
    left_out: tuple[str, ...]


@contextmanager
def packed(folder: Path, description: Description, exclude: tuple[str, ...] = ()) -> Iterator[Parcel]:
    """Checks a folder, lets it say something, and packs it with its card.

    Args:
        folder: Of a model, an adapter or trained states; a text model in a file or of another layout goes in ours.
        description: What the card says besides; results default to `results*.json` of the folder.
        exclude: Patterns of files that stay here, beside those that are always left out.

    Raises:
        ValueError: If something in it must not be published, is missing, or does not run.
        ExceptionGroup: Of such errors, if there are several.
        OSError: If it cannot be read.
    """
    with _in_our_layout(folder) as ours:
        yield from _packed(ours, description, exclude)


def _packed(folder: Path, description: Description, exclude: tuple[str, ...]) -> Iterator[Parcel]:
    contents = read_contents(folder, exclude)
    description = _completed(contents, description)
    _refuse(
        [*_name_problems(description.repo), *find_problems(contents), *card_problems(contents, description)], folder
    )
    card = str(build_card(contents, description))
    run_snippets(contents, description.base_model)
    with tempfile.TemporaryDirectory() as place:
        staged = Path(place)
        for name in contents.files:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).symlink_to((folder / name).resolve())
        if contents.kind is Kind.ADAPTER:
            _write_base_model(staged / ADAPTER_CONFIG, contents.config, description.base_model)
        (staged / CARD_FILE).write_text(card, encoding="utf-8")
        files = sorted(file for file in staged.rglob("*") if file.is_file())
        sizes = {file.relative_to(staged).as_posix(): file.stat().st_size for file in files}
        yield Parcel(staged, sizes, card, contents.left_out)


@contextmanager
def _in_our_layout(source: Path) -> Iterator[Path]:
    """The folder itself, or for a text model in a file or in the layout of others a folder that is made of it.

    Strangers could not load these by our classes. What stands beside the weights for readers goes along.
    """
    config = read_json(source / CONFIG) if (source / CONFIG).is_file() else {}
    is_ours = CODE_FOLDER in str(config.get("auto_map")) or (source / CODE_FOLDER).is_dir()
    is_foreign = config.get("model_type") == RWKV7Config.model_type and not is_ours
    if not is_foreign and not is_checkpoint_file(source):
        yield source
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / source.stem
        convert_to_hub(source, folder, show_progress=True)
        for pattern in FOR_READERS if source.is_dir() else ():
            for file in source.glob(pattern):
                shutil.copyfile(file, folder / file.name)
        yield folder


def upload(parcel: Parcel, repo: str, target: Target) -> str:
    """Sends a parcel, and goes on where an interrupted upload of it stopped.

    Args:
        parcel: What goes.
        repo: Name on the Hub, `owner/name`.
        target: Where in it.

    Returns:
        The address of the commit or pull request.

    Raises:
        ValueError: If the Hub refuses; the message says what to do.
        OSError: If the connection breaks.
    """
    api = HfApi()
    with _explained(repo):
        api.whoami()
        if target.pull_request:
            api.repo_info(repo)
        else:
            _prepare(api, repo, target)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=parcel.folder,
            revision=target.branch,
            create_pr=target.pull_request,
            commit_message="Upload by rwkv7-world",
        )
    return commit.pr_url or commit.commit_url


def _name_problems(repo: str) -> Iterator[str]:
    if not REPO_NAME.fullmatch(repo):
        yield f"{repo!r} is no name of a repository; expected OWNER/NAME"


def _refuse(problems: list[str], folder: Path) -> None:
    """Raises all problems at once, so that nobody meets them one by one."""
    if len(problems) > 1:
        raise ExceptionGroup(f"{folder}: cannot be published", [ValueError(problem) for problem in problems])
    if problems:
        raise ValueError(problems[0])


def _completed(contents: Contents, description: Description) -> Description:
    """The description with results found in the folder and the base model that an adapter or the card names."""
    results = description.results or tuple(
        contents.folder / name for name in contents.files if fnmatch(name, RESULT_FILES)
    )
    base = description.base_model or contents.config.get("base_model_name_or_path")
    if contents.kind in (Kind.ADAPTER, Kind.STATE) and not is_hub_name(base):
        base = base_of_card(contents.folder) or base
    return replace(description, results=results, base_model=base)


def _write_base_model(path: Path, config: dict, base_model: str) -> None:
    """In place of the link: the same configuration with the name that others know the base model by."""
    path.unlink()
    path.write_text(json.dumps(config | {"base_model_name_or_path": base_model}, indent=2) + "\n", encoding="utf-8")


def _prepare(api: HfApi, repo: str, target: Target) -> None:
    """Makes repository and branch where they are missing.

    Raises:
        ValueError: If the repository is in use and shall not be updated.
    """
    try:
        files = {file.rfilename for file in api.repo_info(repo).siblings or []}
    except RepositoryNotFoundError:
        files = set()
        api.create_repo(repo, private=target.private, exist_ok=True)
    if files - UNWRITTEN and not (target.update or target.branch):
        raise ValueError(
            f"{repo}: in use already; --update replaces files and resumes, --branch or --pr leave main alone"
        )
    if target.branch:
        api.create_branch(repo, branch=target.branch, exist_ok=True)


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Errors of the Hub and of the connection in one line, which never holds a token."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ValueError("no token: set HF_TOKEN, or run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"{repo}: no such repository, or the token may not see it") from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{repo}: no such branch") from error
    except HfHubHTTPError as error:
        raise ValueError(_reason(repo, error)) from error
    except (httpx2.TransportError, RuntimeError) as error:
        cause = error if isinstance(error, httpx2.TransportError) else error.__cause__  # the client wraps some
        if isinstance(cause, HfHubHTTPError):
            raise ValueError(_reason(repo, cause)) from error
        reason = f"the upload was interrupted ({type(cause or error).__name__})"
        raise OSError(f"{repo}: {reason}; run it again with --update, what arrived is not sent twice") from error
    finally:
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()  # or the line of the error would begin behind it


def _reason(repo: str, error: HfHubHTTPError) -> str:
    status = getattr(error.response, "status_code", None)
    if status == UNAUTHORIZED:
        return "the Hub does not know this token; set another HF_TOKEN, or run `hf auth login`"
    if status == FORBIDDEN:
        return f"{repo}: the token may not write there"
    if status == CONFLICT:
        return f"{repo}: the name is taken, or somebody else changed the repository meanwhile"
    return f"{repo}: the Hub answers {status}: {error.server_message or 'no reason'}"
