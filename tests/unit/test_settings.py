from __future__ import annotations

from datetime import timedelta

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.example import EXAMPLE, example
from understudy.errors import InvalidConfig
from understudy.settings import Settings, load_settings, longest_gap, other, parse_duration, parse_every


def written(tmp_path, document):
    path = tmp_path / "understudy.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def line_of(path, text):
    return 1 + next(i for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()) if text in line)


@given(st.integers(0, 10_000), st.sampled_from([("s", 1), ("m", 60), ("h", 3600), ("d", 86400)]))
def test_a_duration_is_a_number_and_a_unit(count, unit):
    assert timedelta(seconds=count * unit[1]) == parse_duration(f"{count}{unit[0]}")


def test_the_example_is_understood(tmp_path):
    settings = load_settings(written(tmp_path, EXAMPLE))
    assert timedelta(minutes=5) == settings.components["feature_store"].rpo
    assert settings.components["inference"].rpo is None
    assert "02:00,14:00" == settings.pair("training").every


def test_a_duration_without_a_unit_is_named_with_its_line_and_what_to_write(tmp_path):
    path = written(tmp_path, example(**{"components.feature_store.rpo": "5"}))
    with pytest.raises(InvalidConfig) as caught:
        load_settings(path)
    line = line_of(path, "rpo: '5'")
    assert f'{path}:{line} components.feature_store.rpo: "5" has no unit; write 5m' == str(caught.value)
    assert 3 == caught.value.exit_code


def test_all_that_is_wrong_is_said_at_once(tmp_path):
    document = example(**{"components.feature_store.rpo": "5", "capacity.warm": -1, "trafic": {}})
    del document["vault"]
    with pytest.raises(InvalidConfig) as caught:
        load_settings(written(tmp_path, document))
    text = str(caught.value)
    assert 4 == len(text.splitlines())
    for words in ("components.feature_store.rpo", "capacity.warm", "trafic: is not a setting", "vault: is missing"):
        assert words in text


@pytest.mark.parametrize("change", [{"offline": None}, {}], ids=["null", "absent"])
def test_a_feature_pair_without_its_offline_store_is_refused_with_its_line(tmp_path, change):
    document = example()
    pair = document["components"]["feature_store"]["pairs"][0]
    del pair["offline"]
    pair |= change
    path = written(tmp_path, document)
    line = line_of(path, "offline: null" if change else "- name: user_features")
    with pytest.raises(InvalidConfig) as caught:
        load_settings(path)
    words = "is missing; write where the service keeps its features: s3://bucket/prefix or gs://bucket/prefix"
    assert str(caught.value).startswith(f"{path}:{line} components.feature_store.pairs.0.offline: {words}")
    assert 1 == len(str(caught.value).splitlines())


def test_a_password_in_a_url_is_refused_and_not_repeated(tmp_path):
    for url in ("pgvector://u:hunter2@10.0.0.1/db?table=t", "redis://:hunter2@10.0.0.1"):
        with pytest.raises(InvalidConfig) as caught:
            load_settings(written(tmp_path, example(**{"components.vector_index.pairs.0.home": url})))
        assert "has a password in it" in str(caught.value)
        assert "hunter2" not in str(caught.value)


def test_a_balancer_of_one_site_only_is_refused(tmp_path):
    with pytest.raises(InvalidConfig, match="names one site only"):
        load_settings(written(tmp_path, example(**{"traffic.addresses": {"home": "192.0.2.1"}})))


@pytest.mark.parametrize(
    ("every", "hours"), [("02:00", 24), ("02:00,14:00", 12), ("14:00, 02:00", 12), ("00:00,01:00,23:00", 22)]
)
def test_the_longest_gap_between_times_of_day_counts(every, hours):
    assert timedelta(hours=hours) == longest_gap(parse_every(every))


def test_a_secret_in_the_config_is_refused_and_not_repeated(tmp_path):
    document = example(**{"components.vector_index.pairs.0.password": "hunter2"})
    with pytest.raises(InvalidConfig) as caught:
        load_settings(written(tmp_path, document))
    assert "never the secret itself" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_variable_is_taken_from_the_environment_and_a_missing_one_is_named(tmp_path, monkeypatch):
    path = written(tmp_path, example(**{"vault.url": "gs://${VAULT_BUCKET}/recommender"}))
    monkeypatch.setenv("VAULT_BUCKET", "mine")
    assert "gs://mine/recommender" == load_settings(path).vault.url
    monkeypatch.delenv("VAULT_BUCKET")
    with pytest.raises(InvalidConfig, match="VAULT_BUCKET"):
        load_settings(path)


def test_a_missing_or_broken_file_is_one_sentence(tmp_path):
    with pytest.raises(InvalidConfig, match="cannot be read"):
        load_settings(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("service: [", encoding="utf-8")
    with pytest.raises(InvalidConfig, match="is not YAML"):
        load_settings(broken)


def test_two_pairs_of_one_name_are_refused():
    document = example(**{"components.training.pairs.0.name": "products"})
    with pytest.raises(ValueError, match="two pairs are named products"):
        Settings.model_validate(document)


def test_the_address_of_a_cluster_needs_a_runner_that_has_one():
    assert "dask" == Settings.model_validate(example(runner="dask", runner_address="tcp://10.0.0.1:8786")).runner
    with pytest.raises(ValueError, match="runner: threads has no cluster"):
        Settings.model_validate(example(runner_address="tcp://10.0.0.1:8786"))


def test_sites_are_found_by_name_and_by_place():
    settings = Settings.model_validate(EXAMPLE)
    assert "away" == settings.role_of("gcp-usc1")
    assert "home" == other(settings.role_of("away"))
    with pytest.raises(InvalidConfig, match="there is no site 'mars'"):
        settings.role_of("mars")
