"""The app as a RayService runs it: an application that Serve imports and is given settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.errors import UserError
from feedback.service import listening_app


def test_a_wrong_setting_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^polices: unknown key, did you mean policies\?"):
        listening_app({"polices": "base=assets/tiny/policy"})
    with pytest.raises(UserError, match=r"^policies base: "):
        listening_app({"log.dir": str(tmp_path), "policies": f"base={tmp_path}"})
