"""The log of a run's ServerApp: its records while the run goes on, Flower's too, and none of a simulation."""

from __future__ import annotations

import json
import logging

from fedsteph.server.run_log import LOG_FILE, run_log


def test_a_run_has_a_log_of_its_own_until_it_ends(tmp_path):
    log = logging.getLogger("fedsteph.server")
    with run_log(tmp_path, {"run": "run1", "log_format": "json"}):
        log.info("the run begins", extra={"secret": "x"})
        logging.getLogger("flwr").warning("of Flower")
    log.warning("later")
    lines = [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()]
    assert [(line["message"], line["run"]) for line in lines] == [("the run begins", "run1"), ("of Flower", "run1")]
    with run_log(tmp_path / "simulated", {"run": "run2"}):
        log.warning("in a simulation")
    assert not (tmp_path / "simulated").exists() and len((tmp_path / LOG_FILE).read_text().splitlines()) == 2
