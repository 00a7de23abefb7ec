"""The generated page of settings, and --help."""

from __future__ import annotations

from configs.keys import all_keys
from configs.paths import PROJECT_ROOT
from configs.reference import markdown, usage


def test_the_page_in_docs_is_up_to_date():
    page = (PROJECT_ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == markdown(), "run: python -m configs.reference > docs/configuration.md"


def test_every_key_says_what_it_means():
    assert [key.path for key in all_keys().values() if len(key.meaning) < 5] == []


def test_help_names_every_key():
    text = usage()
    assert all(f"  {path}=" in text for path in all_keys())
