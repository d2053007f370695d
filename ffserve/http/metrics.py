"""What Prometheus is told."""

from __future__ import annotations

from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    Summary,
)

from ffserve.http.protocol import STAGES

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = found = CollectorRegistry()
        ProcessCollector(registry=found)
        PlatformCollector(registry=found)
        self.requests = Counter(
            "ffserve_requests", "Requests answered.", ["protocol", "route", "status"], registry=found
        )
        self.seconds = Histogram(
            "ffserve_request_seconds",
            "From a request's head to the end of its answer.",
            ["protocol", "route"],
            buckets=SECONDS,
            registry=found,
        )
        self.in_flight = Gauge("ffserve_requests_in_flight", "Requests that are being answered.", registry=found)
        self.batch = Histogram(
            "ffserve_batch_images", "Images of a run of a model.", ["model"], buckets=IMAGES, registry=found
        )
        self.spent = Summary(
            "ffserve_infer_seconds",
            "Of a request to a model: in the queue, in the run, and both, where it ends well or fails.",
            ["model", "stage"],
            registry=found,
        )
        self.waiting = Gauge("ffserve_waiting_images", "Images that wait for a model.", ["model"], registry=found)
        self.loads = Counter(
            "ffserve_model_loads", "Model files taken up, or not.", ["model", "result"], registry=found
        )
        self.stale = Gauge(
            "ffserve_model_stale", "1 where a new file was refused and the old one answers.", ["model"], registry=found
        )

    def statistics(self, model: str) -> dict[str, Any]:
        """Returns what Triton's statistics tell of a model, with their names."""
        runs, spent = (
            {
                (of.name.rpartition("_")[2], of.labels.get("stage")): of.value
                for of in found.samples
                if of.labels["model"] == model
            }
            for metric in (self.batch, self.spent)
            for found in metric.collect()
        )
        return {
            "inference_count": int(runs["sum", None]),
            "execution_count": int(runs["count", None]),
            "inference_stats": {
                stage: {"count": int(spent["count", stage]), "ns": int(1e9 * spent["sum", stage])} for stage in STAGES
            },
        }
