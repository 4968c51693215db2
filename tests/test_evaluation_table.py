"""README's table of the models that ship is docs/evaluation.json's, and holds what it should."""

import json
from pathlib import Path

import pytest

from pyengine.pipelines.loading import NAMED, find_checkpoint
from pyengine.training import evaluation_table

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def evaluations():
    return json.loads((ROOT / "docs" / "evaluation.json").read_text(encoding="utf-8"))


def test_readme_has_the_table_of_the_evaluations(evaluations):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert evaluation_table.put(readme, evaluations) == readme


def test_families_have_their_figures(evaluations):
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert evaluation_table.put(page, evaluations) == page
    named = [match["model"] for match in evaluation_table.FIGURES.finditer(page)]
    assert sorted(named) == sorted(evaluations)
    other = {**evaluations, "emoji": evaluations["emoji-flow"]}
    assert evaluation_table.put(page, other) != page
    with pytest.raises(ValueError, match="expected marks of emoji, given"):
        evaluation_table.put(page, {"emoji": evaluations["emoji"]})


def test_it_is_what_the_package_carries(evaluations):
    carried = ROOT / "pyengine" / "assets" / "evaluation.json"
    assert json.loads(carried.read_text(encoding="utf-8")) == evaluations


def test_evaluations_are_of_models_that_ship_and_beat_shuffled_prompts(evaluations):
    assert set(evaluations) <= set(NAMED)
    for model, found in evaluations.items():
        assert found["model"]["top5"] > 5 * found["floor"]["top5"], model
        assert found["asked"] == 200, model


def test_evaluations_are_of_the_weights_that_ship(evaluations):
    """Whoever trains a model anew measures it anew."""
    shipped = {model: find_checkpoint(model)[0].model_hash for model in evaluations}
    assert shipped == {model: found["weights"] for model, found in evaluations.items()}


def test_a_table_needs_its_marks():
    with pytest.raises(ValueError, match="expected <!-- evaluation -->"):
        evaluation_table.put("no marks", {})
