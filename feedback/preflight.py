"""Everything about the app that can be checked before anything starts."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from configs.errors import UserError
from configs.prompts import load_prompts
from configs.schema import Config
from feedback.preference_log import PreferenceLog
from feedback.prompt_rules import load_blocklist
from feedback.rating_desk import RatingDesk
from feedback.repertoire import folder_of
from feedback.restart import resume_study
from feedback.sessions import load_key
from feedback.settings import Settings
from learner.preflight import check_models

SHORTEST_TOKEN = 16


def preflight(settings: Settings) -> dict[str, str]:
    """Checks the settings -> policy name -> content hash. Opens the log, and brings its tables up to date.

    Raises UserError for the first thing found wrong.
    """
    check_port(settings)
    return check_parts(settings)


def check_parts(settings: Settings) -> dict[str, str]:
    """All but the port, which a Serve that runs already holds itself."""
    check_token(os.environ.get("FEEDBACK_ADMIN_TOKEN", ""))
    load_prompts(settings.prompts.suggestions, field="prompts.suggestions")
    load_blocklist(settings.prompts.blocklist)
    if settings.study.name:
        load_prompts(settings.study.prompts, field="study.prompts")
    for name, folder in settings.policy_folders.items():
        check_policy(settings, name, folder)
    versions = load_models(settings)
    check_log(settings, versions)
    return versions


def check_port(settings: Settings) -> None:
    """Nothing listens there, and the address is one of this machine's."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            field, got = ("host", settings.host) if isinstance(error, socket.gaierror) else ("port", settings.port)
            raise UserError(f"{field}: got {got}, which cannot be served: {error.strerror}") from None


def check_token(token: str) -> None:
    if token and len(token) < SHORTEST_TOKEN:
        raise UserError(
            f"FEEDBACK_ADMIN_TOKEN: got {len(token)} characters, allowed at least {SHORTEST_TOKEN}, or unset"
        )


def check_policy(settings: Settings, name: str, folder: str) -> None:
    """Policy and codec are whole, speak of the same tokens, and the clips are not too long."""
    config = Config()
    try:
        config.policy.checkpoint = config.policy.reference = str(folder_of(folder))
    except UserError as error:
        raise UserError(f"policies {name}: {error}") from None
    config.codec.checkpoint = settings.codec
    config.sampling.seconds = config.evaluation.seconds = settings.seconds
    try:
        check_models(config)
    except UserError as error:
        text = str(error).replace("policy.checkpoint", f"policies {name}").replace("codec.checkpoint", "codec")
        raise UserError(text.replace("sampling.seconds", "seconds")) from None


def load_models(settings: Settings) -> dict[str, str]:
    """Loads each model as a clip maker will -> content hashes of the policies."""
    from codec.checkpoint import load_codec
    from policy.checkpoint import load_policy, policy_version

    load_codec(settings.codec)
    folders = {name: folder_of(place) for name, place in settings.policy_folders.items()}
    for folder in folders.values():
        load_policy(folder)
    return {name: policy_version(folder) for name, folder in folders.items()}


def check_log(settings: Settings, versions: dict[str, str]) -> None:
    """The log opens, and a study in it is the one that is asked for."""
    try:
        Path(settings.log.dir).mkdir(parents=True, exist_ok=True)
        load_key(Path(settings.log.dir))
    except OSError as error:
        raise UserError(f"log.dir: got {settings.log.dir!r}: {error.strerror or error}") from None
    with PreferenceLog.open(settings.log_url, settings.audio_dir) as log:
        if settings.study.name:
            resume_study(RatingDesk(settings.study.raters), log, settings.study, versions)
