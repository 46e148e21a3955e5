"""``/healthz`` and ``/metrics`` over real HTTP: what is on the one list alone, at a chosen address alone."""

from __future__ import annotations

import importlib.util
import math
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from each_case import each
from loopback import free_port

from fedsteph.common.deployment.flower_app import config_folder
from fedsteph.common.deployment.health_endpoint import HealthEndpoint, exposition, require_prometheus
from fedsteph.common.deployment.health_list import EPSILONS, METRICS, REASONS, Health, Sample, bucket
from fedsteph.common.deployment.health_settings import HealthSettings
from fedsteph.common.errors import ConfigError, DeploymentError

MONITORING = config_folder() / "deploy" / "monitoring"


def get(url: str) -> tuple[int, str, dict[str, str]]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), dict(error.headers)


def test_it_answers_with_the_last_look_and_nothing_else() -> None:
    endpoint = HealthEndpoint(HealthSettings(port=0))
    with endpoint.serving():
        assert endpoint.url.startswith("http://127.0.0.1:")
        assert get(f"{endpoint.url}/healthz")[:2] == (503, f"{REASONS['start']}\n")
        endpoint.show(Health([Sample("fedsteph_up", 1), Sample("fedsteph_site_connected", 0, {"site": "kirp"})]))
        assert get(f"{endpoint.url}/healthz")[:2] == (200, "ok\n")
        status, text, headers = get(f"{endpoint.url}/metrics")
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
        values = [line for line in text.splitlines() if not line.startswith("#")]
        assert values == ["fedsteph_up 1.0", 'fedsteph_site_connected{site="kirp"} 0.0']
        assert f"# HELP fedsteph_up {METRICS['fedsteph_up'].help}" in text
        assert "Server" not in headers, "no version of Python or of a server"
        for reason, phrase in REASONS.items():
            endpoint.show(Health(reason=reason))
            assert get(f"{endpoint.url}/healthz?x=1")[:2] == (503, f"{phrase}\n")
        for path in ("/", "/metrics/", "/../etc/passwd", "/healthz/x"):
            assert get(endpoint.url + path)[0] == 404
        request = urllib.request.Request(f"{endpoint.url}/metrics", data=b"x", method="POST")
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(request, timeout=10)


def test_what_is_not_on_the_list_cannot_be_told() -> None:
    for name, labels in (
        ("fedsteph_patients", {}),
        ("fedsteph_up", {"site": "kirp"}),
        ("fedsteph_site_connected", {}),
        ("fedsteph_site_connected", {"site": "P 017"}),
        ("fedsteph_run_phase", {"phase": "train.secret"}),
        ("fedsteph_last_run_outcome", {"outcome": "failed: kirp has 3 patients"}),
    ):
        with pytest.raises(ValueError, match="fedsteph_"):
            Sample(name, 1.0, labels)
    with pytest.raises(ValueError, match="list of reasons"):
        Health(reason="kirp: /hospital/labels.csv is damaged")
    assert exposition([]) == b""


def test_an_epsilon_is_told_as_a_bucket() -> None:
    assert [bucket(value) for value in (0.0, 0.01, 1.0, 1.01, 7.3, 32.0)] == [0.0, 1.0, 1.0, 2.0, 8.0, 32.0]
    assert math.isinf(bucket(32.1)) and math.isinf(bucket(math.inf)) and [*EPSILONS] == sorted(EPSILONS)


@each(
    ("settings", "told"),
    [
        ({"address": "0.0.0.0"}, "expose"),
        ({"address": "::"}, "expose"),
        ({"address": "::ffff:0.0.0.0"}, "expose"),
        ({"address": "0"}, "IP address"),
        ({"address": ""}, "IP address"),
        ({"address": "fl.example.org"}, "IP address"),
        ({"port": 80}, "port"),
        ({"port": 65_536}, "port"),
        ({"every": 1.0}, "every"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        HealthSettings(**settings)


def test_every_network_only_where_it_is_meant() -> None:
    assert HealthSettings().address == "127.0.0.1" and HealthSettings(address="10.0.0.7").expose is False
    endpoint = HealthEndpoint(HealthSettings(address="0.0.0.0", port=0, expose=True))
    with endpoint.serving():
        assert endpoint.url.startswith("http://0.0.0.0:")


def test_an_address_that_is_taken_or_not_this_machine_s() -> None:
    port = free_port()
    first, taken = HealthEndpoint(HealthSettings(port=port)), pytest.raises(DeploymentError, match="cannot be listened")
    with first.serving(), taken:
        HealthEndpoint(HealthSettings(port=port))
    with pytest.raises(DeploymentError, match=r"192\.0\.2\.1, port 9464"):
        HealthEndpoint(HealthSettings(address="192.0.2.1"))


def test_without_prometheus_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"fedsteph\[metrics\]"):
        require_prometheus(Path("site.yaml"))


def test_the_document_lists_every_metric_and_no_other() -> None:
    text = (Path(__file__).parents[3] / "docs" / "deployment.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(fedsteph_\w+)(?:\{(.*)\})?` \| (?:both|coordinator|site) \| (.*) \|$", text, re.MULTILINE)
    listed = [(metric.name, ", ".join(metric.labels), metric.help) for metric in METRICS.values()]
    assert sorted(rows) == sorted(listed)


def test_the_examples_name_metrics_that_exist() -> None:
    scrape = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    [job] = scrape["scrape_configs"]
    default = HealthSettings()
    assert job["static_configs"] == [{"targets": [f"{default.address}:{default.port}"]}]
    assert job["scrape_interval"] == f"{default.every:.0f}s" and scrape["rule_files"] == ["alerts.yaml"]
    [group] = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    assert len(group["rules"]) == 3
    for rule in group["rules"]:
        [name] = re.findall(r"fedsteph_\w+", rule["expr"])
        assert re.fullmatch(rf"{name} [<>] [\d.e]+", rule["expr"]) and name in METRICS
        labels = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        assert {*labels} <= METRICS[name].labels.keys()
        assert {"alert", "expr", "for", "annotations"} == rule.keys()
