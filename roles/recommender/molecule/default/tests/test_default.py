"""The job as it stands on the server, and the champion that the registry serves."""

import json

FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


def registry(host, path):
    return json.loads(host.check_output("python3 -c %s %s", FETCH, f"http://127.0.0.1:5000/api/2.0/mlflow/{path}"))


def test_champion_is_of_what_is_deployed(host):
    alias = registry(host, "registered-models/alias?name=dev.movie-recommender&alias=champion")["model_version"]
    tags = {tag["key"]: tag["value"] for tag in alias["tags"]}
    said = host.check_output(
        "make -C /srv/recommender/current -s said --eval "
        "'said: ; @echo $$RECOMMENDER_SOURCE_DIGEST $$RECOMMENDER_SOURCE_COMMIT'"
    )
    digest, _, commit = said.partition(" ")
    assert digest.endswith(":conf/default.yaml")
    assert (tags["source_digest"], tags.get("source_commit", "")) == (digest, commit)


def test_release_is_read_only_and_artifacts_are_the_groups(host):
    assert host.file("/srv/recommender/current/src/recommender/train.py").user == "root"
    artifacts = host.file("/srv/recommender/artifacts")
    assert (artifacts.user, artifacts.group, artifacts.mode) == ("recommender", "recommender", 0o2775)
    assert host.run("runuser -u recommender -- touch /srv/recommender/current/src/x").rc != 0


def test_report_names_films(host):
    report = json.loads(host.file("/srv/recommender/artifacts/report.json").content_string)
    assert report["dataset"]["ratings"] == 100836
    assert 0.80 < report["metrics"]["rmse"] < 0.83
    assert len(report["recommendations"]["items"]) == 10
    assert all(item["title"] for item in report["recommendations"]["items"])


def test_train_on_the_host_as_written_adds_a_version(host):
    def versions():
        found = registry(host, "model-versions/search?filter=name%3D%27dev.movie-recommender%27")
        return {int(version["version"]) for version in found["model_versions"]}

    before = versions()
    host.check_output("cd /srv/recommender/current && runuser -u recommender -- make train")
    assert versions() - before == {max(before) + 1}


def test_the_model_is_loaded_by_another_account_than_roots(host):
    job = "make -s -C /srv/recommender/current"
    assert len(host.check_output(f"{job} recommend USER_ID=1").splitlines()) == 10
    host.check_output(f"{job} run ARGS='recommend --user 1 -k 2 --output /root/lists.csv'")
    assert host.file("/root/lists.csv").content_string.count("\n") == 3
    load = host.run(
        "cd /srv/recommender && RECOMMENDER_ACCOUNT=recommender PYTHONPATH=current/src environments/*/bin/python -c %s",
        "from recommender.tracking import registry; registry.load('models:/x@y')",
    )
    assert "an account with sudo must not run" in load.stderr
