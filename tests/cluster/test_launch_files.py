"""Launch files: ours are right, and each planted mistake is found in one line that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.launch.check import FOLDER, check_file, main, shipped_files
from cluster.launch.constraints import installed_versions, read_constraints
from cluster.launch.copy_run import copy_run
from cluster.launch.host_role import own_addresses, resources_of
from configs.errors import UserError
from feedback.main import SERVE_TUNING
from feedback.settings import all_settings

AWS, SERVICE = "aws.yaml", "kubernetes/ray-service.yaml"
MISTAKES = yaml.safe_load(Path(__file__).with_name("launch_mistakes.yaml").read_text())


@pytest.mark.parametrize("path", shipped_files(), ids=lambda path: path.name)
def test_ours_are_right(path: Path) -> None:
    assert check_file(path, filled=False) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake['file']} {mistake['field']}")
def test_a_mistake_is_found_and_named(tmp_path: Path, mistake: dict[str, str]) -> None:
    text = (FOLDER / mistake["file"]).read_text()
    assert mistake["right"] in text
    path = tmp_path / Path(mistake["file"]).name
    path.write_text(text.replace(mistake["right"], mistake["wrong"], 1))
    try:
        lines = [str(finding) for finding in check_file(path, filled=False)]
    except UserError as error:
        lines = [str(error)]
    assert any(mistake["field"] in line and mistake["words"] in line for line in lines), lines
    assert not any("\n" in line for line in lines)


def test_the_command_checks_all_of_ours_and_refuses_what_is_not_filled_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.count("ok ") == len(shipped_files())
    assert main([f"path={FOLDER / AWS}"]) == 2
    assert "head.node_config.ImageId: got 'FILL_IN', allowed your own value" in capsys.readouterr().err
    assert main(["path=nowhere.yaml"]) == 2
    assert "path: got 'nowhere.yaml'" in capsys.readouterr().err


def test_a_host_finds_its_role_by_its_address() -> None:
    config = {"metadata": {"roles": {"10.0.0.1": "learner", "127.0.0.1": "generator"}}}
    assert resources_of(config, own_addresses()) == {"generator": 1}
    with pytest.raises(UserError, match=r"metadata\.roles: got 0 roles for this host"):
        resources_of({"metadata": {"roles": {"10.255.255.1": "learner"}}}, own_addresses())


def test_the_listening_app_is_given_settings_that_it_knows() -> None:
    document = yaml.safe_load((FOLDER / SERVICE).read_text())
    known = {key.path for key in all_settings()}
    (application,) = yaml.safe_load(document["spec"]["serveConfigV2"])["applications"]
    assert set(application["args"]) <= known
    head = document["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert {(each["name"], each["value"]) for each in head["env"]} >= set(SERVE_TUNING.items())


def test_the_pins_cover_all_that_is_installed() -> None:
    assert set(installed_versions()) <= set(read_constraints())


def test_a_run_folder_is_copied_once_and_what_changed_again(tmp_path: Path) -> None:
    run, goal = tmp_path / "run", tmp_path / "bucket" / "run"
    (run / "checkpoints" / "step_2").mkdir(parents=True)
    for name, text in (("config.yaml", "a: 1"), ("checkpoints/step_2/manifest.json", "{}"), ("metrics.jsonl", "{}\n")):
        (run / name).write_text(text)
    assert copy_run(run, f"file://{goal}") == 3
    assert (goal / "checkpoints" / "step_2" / "manifest.json").read_text() == "{}"
    (run / "metrics.jsonl").write_text("{}\n{}\n")
    assert copy_run(run, str(goal)) == 1
    assert (goal / "metrics.jsonl").read_text() == "{}\n{}\n"
    with pytest.raises(UserError, match=r"^run: got .*, allowed a run folder"):
        copy_run(tmp_path, str(goal))
    with pytest.raises(UserError, match=r"^to: got 'ftq://x'"):
        copy_run(run, "ftq://x")
