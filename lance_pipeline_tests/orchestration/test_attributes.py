"""A wrong defs.yaml fails at load, with the file, the key and the expected value."""

import traceback

import dagster as dg
import pytest
from dagster.components.testing import create_defs_folder_sandbox
from pydantic import ValidationError

from lance_pipeline.orchestration.attributes import ImageClassifierAttributes, Keep, Maintenance
from lance_pipeline.orchestration.resources import default_resources

SOURCE = "  source: {folder: data/raw/flowers}\n"
ARCHIVE = "  source: {archive: {url: 'https://flowers.org/all.zip', "


def load(text: str) -> dg.Definitions:
    """The definitions of a project with these attributes in its only defs.yaml."""
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.defs_folder_path / "flowers"
        folder.mkdir()
        (folder / "defs.yaml").write_text(f"type: lance_pipeline.ImageClassifier\nattributes:\n{text}")
        with sandbox.build_all_defs() as definitions:
            return definitions


def test_five_lines_define_a_dataset():
    definitions = load(SOURCE + "  image_size: 64\n  recipe: {weights: imagenet}\n")
    assets = [asset for asset in definitions.assets or [] if isinstance(asset, dg.AssetsDefinition)]
    made = [
        "raw_images",
        "lance_train",
        "lance_val",
        "lance_test",
        "resnet34",
        "metrics_val",
        "metrics_test",
        "maintenance",
    ]
    assert {key.to_user_string() for asset in assets for key in asset.keys} == {f"flowers/{asset}" for asset in made}


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        (SOURCE + "  imagesize: 32\n", "attributes.imagesize", "Extra inputs are not permitted"),
        (SOURCE + "  image_size: large\n", "attributes.image_size", "valid integer"),
        (SOURCE + "  image_size: 4\n", "attributes.image_size", "greater than or equal to 8"),
        ("  image_size: 32\n", "attributes.source", "Field required"),
        ("  source: {sample: letters}\n", "attributes.source.sample", "'digits'"),
        ("  source: {}\n", "attributes.source", "exactly one of `folder`, `sample` and `archive`"),
        (ARCHIVE + "checksum: md5:6ee4}}\n", "attributes.source.archive.checksum", "Expected `sha256:` and 64"),
        (ARCHIVE + "sha256: 6ee4}}\n", "attributes.source.archive.sha256", "Extra inputs are not permitted"),
        ("  source: {archive: {url: a.zip}}\n", "attributes.source.archive.url", "Expected https://"),
        (SOURCE + "  recipe: {epoch: 3}\n", "attributes.recipe.epoch", "Extra inputs are not permitted"),
        (SOURCE + "  recipe: {epochs: three}\n", "attributes.recipe.epochs", "valid integer"),
        (SOURCE + "  recipe: {stem: tiny}\n", "attributes.recipe.stem", "'imagenet' or 'small'"),
        (SOURCE + "  recipe: {mean: [0.5, 0.5, 0.5]}\n", "attributes.recipe", "both `mean` and `std`"),
        (SOURCE + "  recipe: {preset: papers}\n", "attributes.recipe.preset", "'article'"),
        (SOURCE + "  recipe: {crop_padding: 32}\n", "attributes", "`recipe.crop_padding` must be smaller"),
        (SOURCE + "  splits: {fractions: {train: 0.9}}\n", "attributes.splits.fractions", "add up to 1.2, expected 1"),
        (SOURCE + "  splits: {val: valid, fractions: {}}\n", "attributes.splits", "folders or `fractions`, not both"),
        (SOURCE + "  retrain: {}\n", "attributes.retrain.cron", "Field required"),
        (SOURCE + "  retrain: {cron: often}\n", "attributes.retrain.cron", "not a cron expression"),
        (SOURCE + "  retrain: {cron: '0 3 * * 1', timezone: Mars}\n", "attributes.retrain.timezone", "not a time zone"),
        (SOURCE + "  splits: {test: train}\n", "attributes.splits", "train and another split are both"),
        (SOURCE + "  recipe: {epochs: true}\n", "attributes.recipe.epochs", "not of the expected kind"),
        (SOURCE + '  recipe: {flip: "yes"}\n', "attributes.recipe.flip", "not true or false"),
        (SOURCE + "  device: gpu\n", "attributes.device", "`device: gpu` is not known. Expected auto, cpu, mps, cuda"),
        (SOURCE + "  device: [cuda:0, cuda1]\n", "attributes.device", "`device: cuda1` is not known"),
        (SOURCE + "  device: []\n", "attributes.device", "`device: ` is not known"),
        (SOURCE + "  device: true\n", "attributes.device", "not of the expected kind"),
        (SOURCE + "  owners: [nobody]\n", "attributes.owners", "`team:<name>`"),
        (SOURCE + "  name: my-flowers\n", "attributes.name", "match pattern"),
        (SOURCE + "  image_size: 32\n  image_size: 64\n", "attributes.image_size", "twice"),
        (SOURCE + "  recipe: {weights: resnet34}\n", "attributes.recipe.weights", "none, imagenet"),
    ],
)
def test_wrong_attribute_is_named_with_its_file(text: str, key: str, expected: str):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Dagster wraps it differently in each version
        load(text)
    message = _messages(caught.value)
    assert f"`{key}" in message
    assert "flowers/defs.yaml:" in message
    assert expected in message


def _messages(error: BaseException | None) -> str:
    return "" if error is None else f"{error}\n{_messages(error.__cause__ or error.__context__)}"


def test_environment_variables_are_filled_in(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLOWERS_FROM", "the botanical garden")
    definitions = load(SOURCE + '  description: "From {{ env.FLOWERS_FROM }}"\n')
    assets = [asset for asset in definitions.assets or [] if isinstance(asset, dg.AssetsDefinition)]
    for spec in (spec for asset in assets for spec in asset.specs):
        assert (spec.description or "").endswith("From the botanical garden")


def shown(definitions: dg.Definitions) -> str:
    """Everything that Dagster shows and stores of the definitions."""
    with_resources = dg.Definitions.merge(definitions, dg.Definitions(resources=default_resources()))
    repository = with_resources.get_repository_def()
    snapshots = [dg.serialize_value(job.get_job_snapshot()) for job in repository.get_all_jobs()]
    assets = [asset for asset in definitions.assets or [] if isinstance(asset, dg.AssetsDefinition)]
    specs = [(spec.description, spec.metadata, spec.code_version) for asset in assets for spec in asset.specs]
    return f"{snapshots} {specs}"


def test_a_secret_in_an_address_is_in_no_definition(monkeypatch: pytest.MonkeyPatch):
    text = (
        "  source: {archive: {url: \"https://me:{{ env.ONE }}@host/{{ env('TWO') }}/x.zip?sig={{ env.THREE }}\"}}\n"
        '  description: "From {{ env.TWO }}"\n'
    )
    found = []
    for turn in ("first", "other"):
        for name in ("ONE", "TWO", "THREE"):
            monkeypatch.setenv(name, f"{turn}-secret-{name}")
        definitions = load(text)
        assert "-secret-" not in shown(definitions)
        found.append(definitions.get_assets_def(["flowers", "raw_images"]).code_versions_by_key)
    # Another password does not make another source.
    assert found[0] == found[1]


@pytest.mark.parametrize("url", ["ftp://me:letmein1@host/x.zip", "s3://me:letmein1@bucket/x", "{{ env.URL }}"])
def test_a_secret_in_an_address_that_is_wrong_is_not_quoted(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("URL", "ftp://me:letmein1@host/x.zip")
    source = f'folder: "{url}"' if url.startswith("s3") else f'archive: {{url: "{url}"}}'
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Dagster wraps it differently in each version
        load(f"  source: {{{source}}}\n")
    assert "://host/x.zip" in _messages(caught.value) or "://bucket/x" in _messages(caught.value)
    assert "letmein1" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("device", ["cuda:0, cuda:1", "[cuda:0, cuda:1]", "auto", '"{{ env.FLOWERS_DEVICE }}"'])
def test_one_device_or_several(device: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLOWERS_DEVICE", "cuda:1,cpu")
    assert load(SOURCE + f"  device: {device}\n").assets


def test_a_device_from_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLOWERS_DEVICE", "gpu")
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Dagster wraps it differently in each version
        load(SOURCE + '  device: "{{ env.FLOWERS_DEVICE }}"\n')
    assert "`device: gpu` is not known" in _messages(caught.value)


def test_every_field_has_a_description():
    def undescribed(schema: dict, definitions: dict) -> list[str]:
        return [name for name, field in schema.get("properties", {}).items() if not field.get("description")]

    schema = ImageClassifierAttributes.model_json_schema()
    found = {name: undescribed(one, schema) for name, one in schema["$defs"].items()}
    assert not undescribed(schema, schema)
    assert not any(found.values()), found


@pytest.mark.parametrize("keep", [{"models": 0}, {"days": -1}, {"weeks": 3}])
def test_limits_that_would_keep_nothing_are_refused(keep: dict[str, int]):
    with pytest.raises(ValidationError) as failure:
        Maintenance.model_validate({"keep": keep})
    assert failure.value.errors()[0]["loc"] == ("keep", *keep)


def test_models_are_kept_long_by_default():
    assert Maintenance().keep == Keep(models=20, days=90)
